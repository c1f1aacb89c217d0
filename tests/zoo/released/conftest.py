"""A server on this machine for released weights, and a cache that is empty."""

import hashlib
import http.server
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from zoo.released import download as downloads
from zoo.released.locate import FOLDER_VARIABLE
from zoo.released.table import RELEASED, File, Released

CONTENT = np.random.default_rng(0).bytes(300_000)
NAME = "nest_tiny_s196_224.test"


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the server's `files`; its `breaks` are bytes after which the next answers end."""

    def do_GET(self):
        server = self.server
        content = server.files.get(self.path)
        server.asked.append((self.path, self.headers.get("Range")))
        if content is None or server.busy:
            server.busy = max(0, server.busy - 1)
            self.send_error(503 if content is not None else 404)
            return
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        asked, start = self.headers.get("Range"), 0
        if asked and server.knows_ranges and self.headers.get("If-Range") == etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", etag)
        self.send_header("Content-Type", server.kind)
        self.end_headers()
        end = start + server.breaks.pop(0) if server.breaks else len(content)
        self.wfile.write(content[start:end])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server, the only one that the table of released weights leads to, and an empty cache."""
    monkeypatch.setattr(downloads, "PAUSES", (0.0, 0.0))
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.files, running.asked, running.breaks, running.busy = {}, [], [], 0
        running.knows_ranges, running.kind = True, "application/octet-stream"
        running.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def release(server, monkeypatch):
    """Makes a name stand for files on the server."""

    def add(name=NAME, contents=None, sha256=None, **more):
        files = {"weights.bin": CONTENT} if contents is None else contents
        server.files |= {f"/{name}/{file}": content for file, content in files.items()}
        listed = tuple(File(f"{server.url}/{name}/{n}", n, sha256=sha256) for n in files)
        model = name.partition(".")[0]
        more = {"files": listed, **more}
        monkeypatch.setitem(RELEASED, name, Released(model, licence="?", source="?", **more))
        return name

    return add


def cached(*parts):
    return Path(os.environ[FOLDER_VARIABLE]).joinpath(*parts)
