"""Paths in a bucket, against a storage server on this machine; and URLs that are no paths."""

import concurrent.futures
import inspect
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness import leases
from harness.errors import ConfigError, Unavailable
from harness.files import (
    Appended,
    WrongPath,
    local_path,
    must_be_local,
    read_lines,
    replacing,
    run_path,
    write_text,
)
from harness.leases import LostLock, take_lease
from harness.locks import is_locked, take_lock
from tests import storage

ROOT = Path(__file__).parents[2]
buckets_only = pytest.mark.buckets


@pytest.fixture(scope="module")
def server():
    with storage.server() as url, storage.Proxy(url) as proxy, storage.environment(proxy.url):
        yield proxy


@pytest.fixture
def folder(server, request, monkeypatch):
    from harness import buckets

    monkeypatch.setattr(buckets, "RETRY_SECONDS", 6.0)
    server.set("ok")
    name = re.sub(r"\W", "_", request.node.name)
    yield run_path("--workdir", f"gs://{storage.BUCKET}/{name}")
    server.set("ok")


@pytest.mark.parametrize(
    "text", ["s3://b/run", "s3:/b/run", "http://h/x", "hdfs://h/x", "file:///tmp/x", "az://b/r"]
)
def test_other_schemes_are_refused(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WrongPath, match=r"allowed: a path, gs://bucket/folder$"):
        run_path("--workdir", text)
    with pytest.raises(WrongPath, match="a URL"):
        local_path("--workdir", text)


@pytest.mark.parametrize(
    "text",
    "gs:// gs://b gs://bucket/ gs://bucket/a#b gs://bucket/a?b gs://BAD/a gs://bucket/../a "
    "gs://bucket/a//b gs://bucket/a%b gs://bucket/[1] gs:///run".split(),
)
def test_what_no_folder_in_a_bucket_is(text):
    with pytest.raises(ConfigError, match=r"--workdir='gs:.*not a folder in a bucket; allowed: gs"):
        run_path("--workdir", text)


def test_local_paths_are_as_before(tmp_path):
    assert run_path("--workdir", "~/x") == local_path("--workdir", "~/x") == Path.home() / "x"
    assert run_path("--workdir", "gs/x") == Path.cwd() / "gs/x"
    with pytest.raises(WrongPath, match="empty"):
        run_path("--workdir", "")
    must_be_local("--workdir", tmp_path, "here")


def test_missing_packages_are_named_in_one_line():
    code = (
        "import sys; sys.modules['gcsfs'] = None; from harness.files import run_path;"
        "run_path('--workdir', 'gs://bucket/run').exists()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.endswith("gs://... needs gcsfs: pip install -r requirements-buckets.txt")


@buckets_only
def test_a_path_in_a_bucket_has_what_a_path_has(folder):
    assert not folder.exists()
    write_text(folder / "a.txt", "ä\n\udcff\n")
    assert (folder / "a.txt").read_bytes() == b"\xc3\xa4\n\xff\n"
    assert read_lines(folder / "a.txt") == ["ä", "\udcff"]
    assert (folder / "a.txt").read_text(encoding="utf-8", errors="replace") == "ä\n\ufffd\n"
    assert folder.is_dir() and not folder.is_file() and (folder / "a.txt").is_file()
    write_text(folder / "a.txt", "new")
    assert (folder / "a.txt").read_text() == "new"
    with replacing(folder / "b" / "c.png") as temporary:
        temporary.write_bytes(b"picture")
    with pytest.raises(ZeroDivisionError), replacing(folder / "d") as temporary:
        temporary.write_bytes(b"half")
        _ = 1 / 0
    assert sorted(str(path) for path in folder.iterdir()) == [f"{folder}/a.txt", f"{folder}/b"]
    assert [path.name for path in folder.glob("*.txt")] == ["a.txt"]
    (folder / "a.txt").unlink()
    (folder / "a.txt").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (folder / "a.txt").read_bytes()
    assert run_path("x", folder) == folder and not folder.is_symlink()
    assert [str(path) for path in (folder / "b").parents] == [str(folder), "gs://bucket"]
    with pytest.raises(WrongPath, match="in a bucket, here"):
        must_be_local("--workdir", folder, "here")


@buckets_only
def test_what_another_process_writes_is_seen(folder):
    assert list(folder.glob("*")) == []
    code = f"from harness.files import *; write_text(run_path('x', '{folder}/new'), 'text')"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert [path.name for path in folder.glob("*")] == ["new"]


@buckets_only
def test_appended_lines_are_there_after_a_flush(folder, monkeypatch):
    path = folder / "metrics.jsonl"
    file = Appended(path)
    for number in range(100):
        file.write(f"{number}\n")
    assert path.read_text() == "0\n"  # the others wait: an upload is the whole file
    file.flush()
    assert path.read_text() == "".join(f"{number}\n" for number in range(100))
    file.write("100\n")
    file.close()
    monkeypatch.setattr(Appended, "_SECONDS", 0.0)
    file = Appended(path)
    file.write("101\n")
    assert read_lines(path)[-2:] == ["100", "101"]
    Appended(path).write("102\n")  # somebody else's
    with pytest.raises(OSError, match="another process has written it"):
        file.write("103\n")
    assert read_lines(path)[-2:] == ["101", "102"]


@buckets_only
def test_a_bucket_that_is_not_there(server):
    started = time.monotonic()
    with pytest.raises(ConfigError, match=r"^gs://no-such: there is no such bucket") as caught:
        run_path("--workdir", "gs://no-such/run").exists()
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    assert time.monotonic() - started < 5


@buckets_only
def test_no_right_to_it(server, folder):
    from harness import buckets

    buckets._reach.cache_clear()
    server.set("403")
    with pytest.raises(ConfigError, match="these credentials may not list"):
        folder.exists()
    server.set("ok")
    assert not folder.exists()


@buckets_only
def test_no_credentials(tmp_path):
    code = "from harness.files import run_path; run_path('x', 'gs://bucket/run').exists()"
    names = {"PATH": "/usr/bin", "HOME": str(tmp_path), "NO_GCE_CHECK": "true"}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=names, capture_output=True, text=True
    )
    assert (
        "gs://bucket: no credentials; gcloud auth application-def" in done.stderr.splitlines()[-1]
    )
    assert time.monotonic() - started < 20


@buckets_only
@pytest.mark.parametrize("mode", ["503", "429", "reset"])
def test_what_passes_is_tried_again(server, folder, mode):
    file = Appended(folder / "log")
    server.set(mode)
    threading.Timer(1.0, server.set, ["ok"]).start()
    broken = server.broken
    file.write("a\n")
    assert server.broken > broken
    server.set(mode, every=2)
    for _ in range(5):
        file.write("b\n")
        file.flush()
        assert (folder / "log").is_file()
    server.set("ok")
    assert (folder / "log").read_text() == "a\n" + 5 * "b\n"
    server.set(mode)
    file.write("c\n")
    started = time.monotonic()
    with pytest.raises(OSError, match="/log: ") as caught:
        file.flush()
    assert caught.value.passing and time.monotonic() - started < 14
    file.close()  # does not wait again
    assert time.monotonic() - started < 14


@buckets_only
def test_a_storage_that_does_not_answer_at_the_start(server, folder):
    from harness import buckets

    buckets._reach.cache_clear()
    server.set("reset")
    with pytest.raises(Unavailable, match="gs://bucket does not answer") as caught:
        folder.exists()
    assert caught.value.exit_code == 75


@buckets_only
def test_a_lease_in_a_bucket(server, folder, monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT", 0.1)
    monkeypatch.setattr(leases, "EXPIRY", 1.0)
    path = folder / ".lock"
    with take_lock(path):
        assert is_locked(path) and take_lock(path, seconds=0.2) is None
        time.sleep(0.3)
    assert not is_locked(path) and not path.exists()
    write_text(path, '{"machine": "other", "pid": 1, "host": "h", "token": "t"}')
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        got = list(pool.map(take_lease, [path] * 6, [0.0] * 6))
    (lease,) = [lease for lease in got if lease is not None]
    lease.check()
    (path).write_bytes(b"{}")  # taken
    with pytest.raises(LostLock):
        time.sleep(0.3)
        lease.check()
    lease.close()
    assert path.read_bytes() == b"{}"


@buckets_only
def test_a_lease_that_cannot_be_renewed_is_no_longer_trusted(server, folder, monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT", 0.2)
    monkeypatch.setattr(leases, "EXPIRY", 2.0)
    monkeypatch.setattr("harness.buckets.RETRY_SECONDS", 0.5)
    with take_lease(folder / ".lock", 0.0) as lease:
        server.set("503")
        time.sleep(0.7)
        lease.check()  # it holds still
        time.sleep(2.5)
        with pytest.raises(Unavailable, match="has not been renewed"):
            lease.check()
        server.set("ok")
        time.sleep(2.5)
        lease.check()  # nobody has taken it meanwhile


@buckets_only
def test_methods_take_what_those_of_other_paths_take():
    """Orbax calls them by whatever it knows of etils' paths."""
    from harness.buckets import BucketPath

    base = BucketPath.__mro__[1]
    for name, method in vars(BucketPath).items():
        if callable(method) and hasattr(base, name) and not name.startswith("_"):
            takes, asked = (inspect.signature(f).parameters for f in (method, getattr(base, name)))
            assert list(takes)[: len(asked)] == list(asked), name
            for key, parameter in asked.items():
                assert takes[key].kind == parameter.kind, (name, key)


@buckets_only
def test_a_folder_is_removed_with_what_is_in_it(folder):
    for options in ({}, {"missing_ok": True}, {"missing_ok": False}):
        write_text(folder / "below" / "file", "a")
        folder.rmtree(**options)
        assert not folder.exists()
    folder.rmtree(missing_ok=True)
