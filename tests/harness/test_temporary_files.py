"""Several who write one file, and what killed ones leave."""

import concurrent.futures
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.files import is_temporary, remove_stale, replacing, write_text
from workdirs.claims import claimed
from workdirs.records import read_text, write_record
from workdirs.verification import verify_files

ROOT = Path(__file__).parents[2]
KILLED = """
import os, signal, sys
from pathlib import Path
from harness.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
WRITER = """
import sys
from pathlib import Path
from workdirs.records import write_record
for number in range(60):
    write_record(Path(sys.argv[1]), f"{sys.argv[2]} {number}\\n")
"""


def test_threads_that_write_one_file(tmp_path):
    path = tmp_path / "file"
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: write_text(path, str(n) * 1000), range(200)))
    assert len(set(path.read_text())) <= 3 and list(tmp_path.iterdir()) == [path]


def test_processes_that_write_one_record(tmp_path):
    """Two evaluate.py of one split: one of both results stays, with its checksum."""
    path = tmp_path / "file"
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, path, name], cwd=ROOT) for name in "ab"
    ]
    assert [process.wait() for process in processes] == [0, 0]
    assert read_text(path, "") in ("a 59\n", "b 59\n")
    assert {finding.state for finding in verify_files(tmp_path)} == {"sound"}


@pytest.mark.parametrize("name", ["a" * 250, "\u00e4" * 125, "\U0001f333" * 62, "\udcff" * 255])
def test_long_names(tmp_path, name):
    with replacing(tmp_path / name) as temporary:
        assert is_temporary(temporary)
        temporary.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_block_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), replacing(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.linux
def test_what_a_killed_process_leaves_goes_with_the_next_claim(tmp_path):
    write_record(tmp_path / "DONE", "{}\n")
    for place in (tmp_path, tmp_path / "checksums", tmp_path / "evaluation_latest" / "checksums"):
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-c", KILLED, place / "DONE"], cwd=ROOT)
        assert any(map(is_temporary, place.iterdir()))
    assert [finding.path.name for finding in verify_files(tmp_path)] == ["DONE"]
    (tmp_path / "mine.tmp").write_text("of a person")
    with claimed(tmp_path, {}, None):
        assert not any(map(is_temporary, tmp_path.rglob("*")))
    assert (tmp_path / "mine.tmp").exists()


@pytest.mark.linux
def test_temporary_files_of_living_processes_stay(tmp_path):
    with replacing(tmp_path / "file") as temporary:
        temporary.write_text("x")
        elsewhere = tmp_path / f"file.00000000-{2**30}-00000000.tmp"
        elsewhere.write_text("half")
        remove_stale(tmp_path)
        assert temporary.exists() and elsewhere.exists()
        os.utime(elsewhere, (time.time() - 4000,) * 2)
        remove_stale(tmp_path)
        assert not elsewhere.exists()
