"""Processes that meet, compare and hear of each other's end: here, threads of one process."""

import functools
import json
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.errors import ConfigError, Interrupted
from parallel import connections, joining, peers
from parallel.peers import Peers

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ends(monkeypatch):
    """What would have ended the process, instead of ending it."""
    calls = []
    monkeypatch.setattr(peers, "end_now", lambda code, line="": calls.append((code, line)))
    monkeypatch.setattr(peers, "GRACE_OF_OTHERS", 0.3)
    monkeypatch.setattr(peers, "LEAVING_SECONDS", 3600.0)
    return calls


def in_threads(*functions):
    """Returns what each returns or raises."""

    def call(function):
        try:
            return function()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(functions)) as pool:
        return list(pool.map(call, functions))


def meet(*members, seconds=20.0):
    """Returns Peers, or what they raised, for (index, count) of each member."""
    address = ("127.0.0.1", connections.free_port())
    return in_threads(
        *(
            lambda m=m: Peers(address, *m, join_seconds=seconds, heartbeat_seconds=2)
            for m in members
        )
    )


def wait_until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_values_come_in_the_order_of_the_processes(ends):
    three = meet((2, 3), (0, 3), (1, 3))
    assert [peer.index for peer in three] == [2, 0, 1]
    for about in ("first", "second"):
        values = in_threads(*(functools.partial(p.gather, about, [p.index]) for p in three))
        assert values == [[[0], [1], [2]]] * 3
    for peer in three:
        peer.leave(0)
    time.sleep(0.5)
    assert ends == []  # an end in good order ends nobody else


def test_messages_of_several_threads_do_not_mix():
    """Sendall hands over what the socket has room for, and may be overtaken in between."""

    class Slow:
        def __init__(self):
            self.sent = b""

        def sendall(self, data):
            for byte in data:
                self.sent += bytes([byte])
                if byte == ord(","):
                    time.sleep(0.001)

    member, socket_ = Peers.__new__(Peers), Slow()
    member._connections, member._sending = {0: socket_}, {}
    message = {"kind": "value", "round": 1, "about": "a", "value": 2}
    send = functools.partial(member._send, 0, message)
    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [json.loads(line) for line in socket_.sent.splitlines()] == [message] * 8


def test_processes_at_different_places_say_so(ends):
    two = meet((0, 2), (1, 2))
    errors = in_threads(*(lambda p=p: p.gather(f"place {p.index}", 0) for p in two))
    assert [str(error) for error in errors] == [
        "the processes have come apart: they are at ['place 0', 'place 1']"
    ] * 2


def test_one_that_fails_ends_the_others_with_its_code(ends):
    three = meet((0, 3), (1, 3), (2, 3))
    three[1].leave(2, "config.seed=x: wrong")
    wait_until(lambda: len(ends) == 2)
    line = "process 1 has ended with exit code 2: config.seed=x: wrong"
    assert ends == [(2, line)] * 2
    assert three[0].code_of_others() == three[2].code_of_others() == 2


def test_who_comes_to_the_same_end_is_left_alone(ends):
    two = meet((0, 2), (1, 2))
    in_threads(lambda: two[0].leave(2, "wrong"), lambda: two[1].leave(2, "wrong"))
    time.sleep(0.6)
    assert ends == []


@pytest.mark.parametrize("dead", [0, 1])
def test_one_that_dies_ends_the_others_with_75(ends, dead):
    two = meet((0, 2), (1, 2))
    two[dead]._left = 137  # it has no thread any more that would notice
    for connection in two[dead]._connections.values():  # as the system does for a dead process
        connection.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: ends)
    ((code, line),) = ends
    assert code == 75
    assert line == (
        f"process {dead} has died, or its machine cannot be reached; run the same command again"
    )


def test_who_does_not_come_is_named(ends):
    started = time.monotonic()
    first, second, alone = [
        *meet((0, 3), (1, 3), seconds=1.0),
        *meet((1, 2), seconds=1.0),
    ]
    assert isinstance(first, Interrupted) and isinstance(second, Interrupted)
    assert str(first) == str(second) == "process 2 of 3 did not come within 1 s"
    assert isinstance(alone, Interrupted) and "did not answer within 1 s: [Errno" in str(alone)
    assert time.monotonic() - started < 10


def test_processes_that_do_not_fit_together(ends):
    for members, message in [
        (((0, 2), (1, 3)), "process 1 was told of 3 processes, process 0 of 2"),
        (((0, 3), (1, 3), (1, 3)), "process 1 is there twice (--process_id)"),
    ]:
        errors = meet(*members)
        assert [type(error) for error in errors] == [ConfigError] * len(members)
        assert {str(error) for error in errors} == {message}


def test_strangers_at_the_port_are_ignored(ends):
    port = connections.free_port()

    def stranger():
        time.sleep(0.3)
        for words in (b"GET / HTTP/1.1\r\n\r\n", b"\xff\n", b'{"process": "1"}\n', b"[]\n", b"\n"):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(words)
        return Peers(("127.0.0.1", port), 1, 2, join_seconds=20)

    first, second = in_threads(lambda: Peers(("127.0.0.1", port), 0, 2, join_seconds=20), stranger)
    values = in_threads(lambda: first.gather("x", 1), lambda: second.gather("x", 2))
    assert values == [[1, 2]] * 2


def test_a_port_that_is_taken(ends):
    with connections.listen(0) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--coordinator=127.0.0.1:{port}: .*in use"):
            Peers(("127.0.0.1", port), 0, 2, join_seconds=5)


def test_jax_does_not_hear_that_its_service_is_gone():
    """Its client would end the process with SIGABRT."""
    server, received = connections.listen(0), []

    def serve(connection):
        received.append(connections.first_line(connection))
        connection.sendall(connection.recv(100).upper())
        time.sleep(0.2)
        connection.shutdown(socket.SHUT_RDWR)

    connections.accept_all(server, serve)
    port = connections.shielded("127.0.0.1", server.getsockname()[1])
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"HELLO"
        client.settimeout(0.5)
        for _ in range(3):
            client.sendall(b"anybody?")
            with pytest.raises(TimeoutError):
                client.recv(100)  # b"" would be the end
    assert received == [connections.JAX]


def arguments(**changes):
    defaults = {"distributed": False, "coordinator": None, "num_processes": None}
    defaults |= {"process_id": None, "join_seconds": 1.0, "heartbeat_seconds": 60.0}
    return SimpleNamespace(**defaults | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(coordinator="h:1", num_processes=2), "belong together"),
        (dict(process_id=0), "belong together"),
        (dict(coordinator="h:1", num_processes=2, process_id=0, distributed=True), "one of them"),
        (dict(coordinator="h", num_processes=2, process_id=0), "allowed: HOST:PORT"),
        (dict(coordinator="h:0", num_processes=2, process_id=0), "allowed: HOST:PORT"),
        (dict(coordinator="h:1", num_processes=0, process_id=0), "--num_processes=0"),
        (dict(coordinator="h:1", num_processes=2, process_id=2), "--process_id=2: .*0 to 1"),
        (dict(join_seconds=0.0), "--join_seconds=0.0: out of range"),
        (dict(heartbeat_seconds=float("nan")), "--heartbeat_seconds=nan"),
        (dict(distributed=True), "this is none of TPU pods, Slurm, Open MPI and Kubernetes"),
    ],
)
def test_wrong_flags(changes, message):
    with pytest.raises(ConfigError, match=message) as error, joining.joined(arguments(**changes)):
        raise AssertionError("it must not get here")
    assert "\n" not in str(error.value)


def test_one_process_is_alone():
    for alone in ({}, dict(coordinator="h:1", num_processes=1, process_id=0)):
        with joining.joined(arguments(**alone)):
            assert peers.current() is None
            assert peers.gather("x", 5) == [5]


CLUSTERS = {
    "slurm": {
        "SLURM_JOB_ID": "77",
        "SLURM_STEP_NODELIST": "node[003-004]",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "0",
    },
    "open mpi": {
        "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": "1",
        "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    },
}


@pytest.mark.parametrize("cluster", ["slurm", "open mpi"])
def test_clusters_are_detected(monkeypatch, cluster):
    for name, value in CLUSTERS[cluster].items():
        monkeypatch.setenv(name, value)
    address, count, index, devices = joining._detected(5.0)
    host = {"slurm": "node003", "open mpi": "10.96.0.1"}[cluster]
    assert connections.parse_address(address)[0] == host
    assert (count, index, devices) == (2, 1, [0])


def test_all_threads_are_those_of_daemons():
    """None of them keeps a process that has come to its end."""
    before = set(threading.enumerate())
    two = meet((0, 2), (1, 2))
    assert all(thread.daemon for thread in set(threading.enumerate()) - before)
    for peer in two:
        peer.leave(0)


# A stranger says hello to process 0, which waits for another.
_STRANGER = """
import json, socket, sys, threading
from parallel import connections
from parallel.peers import Peers
port, ended = connections.free_port(), []
def wait():
    try:
        Peers(("127.0.0.1", port), 0, 2, join_seconds=4, heartbeat_seconds=2)
    except Exception as error:
        ended.append(str(error))
thread = threading.Thread(target=wait)
thread.start()
while True:
    try:
        stranger = socket.create_connection(("127.0.0.1", port))
        break
    except OSError:
        pass
stranger.sendall(sys.argv[1].encode() + b"\\n")
stranger.settimeout(3)
print(stranger.recv(1))
thread.join()
print(ended[0])
"""


@pytest.mark.parametrize("process", ["1", True], ids=repr)
def test_a_number_that_is_none_is_not_let_in_under_python_O(process):
    hello = json.dumps({"process": process, "count": 2})
    command = [sys.executable, "-O", "-c", _STRANGER, hello]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["b''", "process 1 of 2 did not come within 4 s"]
    assert "Traceback" not in done.stderr
