"""The processes of a run: they meet, compare what they have, and hear when one of them ends.

Process 0 has a connection to each of the others. Small messages go through it: they need no device,
and work while the devices wait for a process that will never come.
"""

import contextlib
import json
import os
import queue
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

from harness.errors import ConfigError, Interrupted, one_line
from parallel import connections
from parallel.endings import end_now

GONE = "has died, or its machine cannot be reached"
# After the end of another process: the time to come to the same end ourselves. Who has agreed on
# an end may have metrics to send; who waits for a process that failed would wait for ever.
GRACE = {Interrupted.exit_code: 60.0, 3: 60.0}
GRACE_OF_OTHERS = 5.0
LEAVING_SECONDS = 120.0  # the most that a process takes to end after `leave`


class Peers:
    """The other processes of the run, from the time that all of them are there.

    Args:
        address: host and port at which process 0 listens.
        index: of this process.
        count: of processes.
        join_seconds: the most to wait for the others.
        heartbeat_seconds: after which a machine that is silent counts as dead. A process that dies
            is noticed at once.
        service_port: of JAX's coordination service, on the machine of process 0.

    Raises:
        Interrupted: not all have come in time.
        ConfigError: the port is taken, or the processes do not fit together.
    """

    def __init__(
        self,
        address: tuple[str, int],
        index: int,
        count: int,
        *,
        join_seconds: float = 300.0,
        heartbeat_seconds: float = 60.0,
        service_port: int = 0,
    ):
        self.index, self.count = index, count
        self._address, self._service_port = address, service_port
        self._heartbeat = heartbeat_seconds
        self._connections: dict[int, socket.socket] = {}
        self._sending: dict[int, threading.Lock] = {}
        self._changed = threading.Condition()
        self._complete = False
        self._ended: dict[int, tuple[int, str]] = {}  # process: exit code, why
        self._left: int | None = None  # our own exit code
        self._round, self._values = 0, {}
        self._answers: queue.Queue[dict] = queue.Queue()
        deadline = time.monotonic() + join_seconds
        if index == 0:
            self._wait_for_others(deadline, join_seconds)
        else:
            self._find_first(deadline, join_seconds)

    # Meeting.

    def _wait_for_others(self, deadline: float, seconds: float) -> None:
        host, port = self._address
        try:
            server = connections.listen(port)
        except OSError as error:
            raise ConfigError(f"--coordinator={host}:{port}: {one_line(error)}") from None
        connections.accept_all(server, self._welcome)
        with self._changed:
            while not (self._complete or self._ended):
                self._complete = len(self._connections) == self.count - 1
                left = deadline - time.monotonic()
                if not self._complete and (left <= 0 or not self._changed.wait(left)):
                    missing = sorted(set(range(1, self.count)) - set(self._connections))
                    what = f"did not come within {seconds:.0f} s"
                    self._ended[missing[0]] = (75, f"of {self.count} {what}")
            if self._ended:
                code, why = next(iter(self._ended.values()))
                why = f"process {next(iter(self._ended))} {why}"
                self._broadcast({"kind": "end", "process": 0, "code": code, "why": why})
                raise (ConfigError if code == 2 else Interrupted)(why)
        self._broadcast({"kind": "complete"})

    def _welcome(self, connection: socket.socket) -> None:
        """Takes a connection to process 0: of JAX, or of another process."""
        line = connections.first_line(connection)
        if line == connections.JAX:
            with connection, contextlib.suppress(OSError):
                with socket.create_connection(("127.0.0.1", self._service_port)) as service:
                    service.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    connections.join(connection, service)
            return
        try:
            hello = json.loads(line)
            other, count = hello["process"], hello["count"]
            if type(other) is not int:
                raise TypeError(other)
        except (ValueError, TypeError, KeyError):  # not one of ours
            connection.close()
            return
        with self._changed:
            if self._complete:  # it is of another attempt, which this one is still in the way of
                connection.close()
                return
            if count != self.count:
                self._ended[other] = (
                    2,
                    f"was told of {count} processes, process 0 of {self.count}",
                )
            elif other in self._connections or not 0 < other < count:
                self._ended[other] = (2, "is there twice (--process_id)")
                other = -other  # an own place, to be told
            self._connections[other] = connections.tune(connection, self._heartbeat)
            connections.in_background(self._listen, other, connection)
            self._changed.notify_all()

    def _find_first(self, deadline: float, seconds: float) -> None:
        host, port = self._address
        hello = {"process": self.index, "count": self.count}
        why = ""
        while time.monotonic() < deadline:
            try:
                connection = socket.create_connection((host, port), timeout=5.0)
                connection.sendall(json.dumps(hello).encode() + b"\n")
                line = connections.first_line(connection, deadline - time.monotonic() + 5.0)
                answer = json.loads(line) if line else {}
            except (OSError, ValueError) as error:
                answer, why = {}, f": {one_line(error)}"
            if answer.get("kind") == "end":
                raise (ConfigError if answer["code"] == 2 else Interrupted)(answer["why"])
            if answer:
                self._connections[0] = connections.tune(connection, self._heartbeat)
                self._complete = True
                connections.in_background(self._listen, 0, connection)
                return
            time.sleep(0.3)
        raise Interrupted(f"process 0 at {host}:{port} did not answer within {seconds:.0f} s{why}")

    # Messages.

    def _send(self, other: int, message: dict[str, Any]) -> None:
        # Of several threads, whose messages must not mix. _listen sees a broken connection.
        with self._sending.setdefault(other, threading.Lock()), contextlib.suppress(OSError):
            self._connections[other].sendall(json.dumps(message).encode() + b"\n")

    def _broadcast(self, message: dict[str, Any]) -> None:
        for other in list(self._connections):
            self._send(other, message)

    def _listen(self, other: int, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection.makefile("rb") as lines:
            for line in lines:
                self._take(other, json.loads(line))
        with self._changed:
            if not self._complete and self._connections.get(other) is connection:
                del self._connections[other]  # it may come again
                return
        self._take(other, {"kind": "end", "process": other, "code": 75, "why": GONE})

    def _take(self, other: int, message: dict[str, Any]) -> None:
        if message["kind"] == "end":
            process, code, why = message["process"], message["code"], message["why"]
            with self._changed:
                if process in self._ended or process == self.index:
                    return
                self._ended[process] = (code, why)
                self._changed.notify_all()
            if self.index == 0 and self._complete:
                self._broadcast(message)
            if code and self._left is None:
                if why == GONE:
                    self._follow(process, code, why)  # before anybody else's end can be read
                else:
                    connections.in_background(self._follow, process, code, why)
        elif message["kind"] == "value":
            self._collect(other, message)
        elif message["kind"] == "values":
            self._answers.put(message)

    def _collect(self, process: int, message: dict[str, Any]) -> None:
        with self._changed:
            of_all = self._values.setdefault(message["round"], {})
            of_all[process] = message
            if len(of_all) < self.count:
                return
            del self._values[message["round"]]
        answer = {
            "kind": "values",
            "about": [of_all[i]["about"] for i in range(self.count)],
            "values": [of_all[i]["value"] for i in range(self.count)],
        }
        self._answers.put(answer)
        self._broadcast(answer)

    def gather(self, about: str, value: Any) -> list[Any]:
        """Returns the value of every process, in their order; all of them have to call this.

        Args:
            about: what this is, the same in all processes.
            value: ready for JSON.
        """
        self._round += 1
        message = {"kind": "value", "round": self._round, "about": about, "value": value}
        if self.index == 0:
            self._collect(0, message)
        else:
            self._send(0, message)
        answer = self._answers.get()
        if len(set(answer["about"])) > 1:
            raise RuntimeError(f"the processes have come apart: they are at {answer['about']}")
        return answer["values"]

    # The end.

    def _follow(self, process: int, code: int, why: str) -> None:
        """Ends this process because of another, unless it comes to its end itself."""
        seconds = 0.0 if why == GONE else GRACE.get(code, GRACE_OF_OTHERS)
        with self._changed:
            if self._changed.wait_for(lambda: self._left is not None, seconds):
                return
        _end_with(process, code, why)

    def end_if_another_has(self, seconds: float) -> None:
        """Ends this process if another one ends within some seconds: that explains an error."""
        with self._changed:
            self._changed.wait_for(lambda: any(code for code, _ in self._ended.values()), seconds)
            failed = [(i, *end) for i, end in self._ended.items() if end[0]]
        if self._left is not None:  # another thread is about to end this process
            time.sleep(LEAVING_SECONDS)
        for failure in failed:
            _end_with(*failure)

    def code_of_others(self) -> int:
        """Returns the exit code of a process that has ended with an error, 0 if none has."""
        return next((code for code, _ in list(self._ended.values()) if code), 0)

    def leave(self, code: int, why: str = "") -> None:
        """Tells the others how this process ends; with an error, process 0 lets them end first."""
        with self._changed:
            self._left = code
            self._changed.notify_all()
        if code:
            connections.in_background(_end_later, code)
        why = f"has ended with exit code {code}{': ' if why else ''}{why}"
        self._broadcast({"kind": "end", "process": self.index, "code": code, "why": why})
        if code and self.index == 0:
            with self._changed:
                waiting = GRACE.get(code, GRACE_OF_OTHERS) + 2.0
                self._changed.wait_for(lambda: len(self._ended) == self.count - 1, waiting)


def _end_with(process: int, code: int, why: str) -> None:
    again = "; run the same command again" if code == Interrupted.exit_code else ""
    end_now(code, f"process {process} {why}{again}")


def _end_later(code: int) -> None:
    time.sleep(LEAVING_SECONDS)
    os._exit(code)


_current: Peers | None = None


def set_current(peers: Peers | None) -> None:
    """Makes these the peers of this process; None: it is alone."""
    global _current
    _current = peers


def current() -> Peers | None:
    """Returns the peers of this process, None if it is alone."""
    return _current


def gather(about: str, value: Any) -> Sequence[Any]:
    """Returns the values of all processes, as Peers.gather; of this one if it is alone."""
    return _current.gather(about, value) if _current else [value]
