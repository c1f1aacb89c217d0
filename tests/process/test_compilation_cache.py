"""process/compilation_cache.py: where compiled programs are kept."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from harness.errors import ConfigError
from process.compilation_cache import KEEP_DAYS, keep_compiled_programs


@pytest.fixture(autouse=True)
def own_setting():
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def kept():
    return jax.config.jax_compilation_cache_dir


def test_the_users_own_choice_stays():
    jax.config.update("jax_compilation_cache_dir", "/chosen")
    keep_compiled_programs(None)
    assert kept() == "/chosen"


def test_by_default_in_the_users_cache_folder_apart_for_each_processor(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    keep_compiled_programs(None)
    folder = Path(kept())
    assert folder.parent == tmp_path / "nest_tnt_jax" and folder.is_dir()
    monkeypatch.setattr("process.compilation_cache._processor", lambda: "other")
    jax.config.update("jax_compilation_cache_dir", None)
    keep_compiled_programs(None)
    assert Path(kept()) == tmp_path / "nest_tnt_jax" / "other"


def test_a_home_that_cannot_be_written_to_is_no_error(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    jax.config.update("jax_compilation_cache_dir", None)
    keep_compiled_programs(None)
    assert kept() is None


def test_the_flag(tmp_path):
    keep_compiled_programs(str(tmp_path / "mine"))
    assert Path(kept()).parent == tmp_path / "mine"
    keep_compiled_programs("")
    assert kept() is None
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--compilation_cache=.*file"):
        keep_compiled_programs(str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="--compilation_cache='gs://bucket'"):
        keep_compiled_programs("gs://bucket")


def test_old_programs_are_removed(tmp_path):
    keep_compiled_programs(str(tmp_path))
    old, new = (Path(kept()) / name for name in ("old", "new"))
    for path, days in ((old, KEEP_DAYS + 1), (new, KEEP_DAYS - 1)):
        path.write_bytes(b"")
        os.utime(path, (time.time() - days * 24 * 3600,) * 2)
    keep_compiled_programs(str(tmp_path))
    assert not old.exists() and new.exists()


PROGRAM = """
import json, sys
import jax, jax.numpy as jnp
from process.compilation_cache import keep_compiled_programs
keep_compiled_programs(sys.argv[1])
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((64, 64)))
print(json.dumps(sum(name.endswith("/cache_hits") for name in hits)))
"""


def hits(environment, folder):
    """Compiles something in a new process; returns how much it found, and what it said."""
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(ended.stdout), ended.stderr


def test_the_next_start_compiles_nothing(one_device, tmp_path):
    """Two processes of one command: the second reads what the first wrote."""
    found = [hits(one_device, tmp_path)[0] for _ in range(2)]
    assert found[0] == 0 < found[1]


@pytest.mark.parametrize("length", [0, 100, -1])
def test_programs_that_a_killed_process_left_incomplete_are_written_again(
    one_device, tmp_path, length
):
    hits(one_device, tmp_path)
    programs = list(tmp_path.rglob("*-cache"))
    contents = {path: path.read_bytes() for path in programs}
    for path, content in contents.items():
        path.write_bytes(content[:length])
    assert hits(one_device, tmp_path) == (0, "")
    assert hits(one_device, tmp_path) == (len(programs), "")
