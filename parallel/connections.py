"""Sockets between the processes of a run: one port of process 0 takes them all."""

import contextlib
import socket
import threading
from collections.abc import Callable

# First line of a connection that belongs to JAX's coordination service.
JAX = b"jax\n"
LONGEST_LINE = 1 << 20


def tune(connection: socket.socket, seconds: float) -> socket.socket:
    """Makes a connection break once the other machine has been silent for so many seconds.

    The other system's kernel answers for it, so that a process which is only busy or stopped is not
    taken for dead, and one which is dead is seen at once.
    """
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    probe = max(1, round(seconds / 4))
    options = {  # not every system has all of them
        "TCP_KEEPIDLE": probe,
        "TCP_KEEPINTVL": probe,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": round(1000 * seconds),
    }
    for name, value in options.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return connection


def parse_address(address: str) -> tuple[str, int]:
    """Returns host and port of "host:port"; raises ValueError."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError("not HOST:PORT")
    return host, int(port)


def listen(port: int) -> socket.socket:
    """Returns a listening socket on all addresses of this machine."""
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def free_port() -> int:
    """Returns a port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def accept_all(server: socket.socket, handle: Callable[[socket.socket], None]) -> None:
    """Calls `handle` in a thread of its own for each connection, for as long as the server is."""

    def accept() -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = server.accept()
                in_background(handle, connection)

    in_background(accept)


def in_background(function: Callable[..., None], *arguments) -> None:
    """Calls a function in a thread that ends with the process."""
    threading.Thread(target=function, args=arguments, daemon=True).start()


def first_line(connection: socket.socket, seconds: float = 10.0) -> bytes:
    """Returns the first line, and takes nothing after it; b"" if there is none in time."""
    connection.settimeout(seconds)
    line = b""
    with contextlib.suppress(OSError):
        while not line.endswith(b"\n") and len(line) < LONGEST_LINE:
            if not (byte := connection.recv(1)):
                break
            line += byte
    connection.settimeout(None)
    return line if line.endswith(b"\n") else b""


def join(one: socket.socket, other: socket.socket, *, keep_open: bool = False) -> None:
    """Passes bytes on between two connections until one ends, then closes both.

    Args:
        one, other: connections.
        keep_open: `one` never hears that `other` has ended.
    """

    def pass_on(source: socket.socket, sink: socket.socket, shield_source: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                try:
                    sink.sendall(data)
                except OSError:
                    if not shield_source:
                        break
        if not (keep_open and sink is one):
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_RDWR)

    in_background(pass_on, other, one, False)
    pass_on(one, other, keep_open)


def shielded(host: str, port: int) -> int:
    """Returns a port of this machine that leads to JAX's coordination service in process 0.

    JAX's client ends its process with SIGABRT and a stack trace as soon as it loses the service.
    Here it only hears nothing any more, and what a dead process 0 means is for Peers to say.
    """
    server = socket.create_server(("127.0.0.1", 0))

    def handle(client: socket.socket) -> None:
        with client:
            try:
                service = socket.create_connection((host, port), timeout=10.0)
            except OSError:
                return  # not there yet: the client comes again
            with service:
                service.settimeout(None)
                for connection in (client, service):
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                service.sendall(JAX)
                join(client, service, keep_open=True)

    accept_all(server, handle)
    return server.getsockname()[1]
