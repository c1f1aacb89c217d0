"""What can go wrong when a run takes its workdir."""

import errno
import os
from pathlib import Path

import pytest

from harness.errors import ConfigError, RecordError
from workdirs.claims import claimed

TODO = "choose another or change its permissions"


def fail(monkeypatch, code, where, number):
    """Lets a method of paths fail when it is called for this time."""
    calls, original = [], getattr(Path, where)

    def failing(path, *args, **options):
        calls.append(path)
        if len(calls) == number:
            raise OSError(code, os.strerror(code))
        return original(path, *args, **options)

    monkeypatch.setattr(Path, where, failing)


PLACES = {
    ("mkdir", 1): ".lock",  # of the workdir
    ("open", 1): ".lock",
    ("mkdir", 2): "config.json",  # of checksums/
    ("write_bytes", 1): "config.json",
    ("write_bytes", 2): "config.json",  # its checksum
    ("write_bytes", 3): "classes.txt",
    ("replace", 3): "classes.txt",
    ("write_bytes", 4): "classes.txt",
}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("place", PLACES)
def test_a_full_disk_at_the_start_may_pass(tmp_path, monkeypatch, place, code):
    fail(monkeypatch, code, *place)
    with pytest.raises(RecordError) as error, claimed(tmp_path / "run", {}, ("a", "b")):
        pass
    text = f"{tmp_path / 'run' / PLACES[place]} cannot be written: {os.strerror(code)}"
    assert error.value.exit_code == 74 and str(error.value) == text


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG])
def test_a_wrong_path_is_the_users(tmp_path, monkeypatch, code):
    fail(monkeypatch, code, "mkdir", 1)
    with pytest.raises(ConfigError) as error, claimed(tmp_path / "run", {}, None):
        pass
    assert error.value.exit_code == 2
    assert str(error.value) == f"--workdir={tmp_path / 'run'}: {os.strerror(code)}; {TODO}"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_workdir_that_one_may_not_write_to(tmp_path, monkeypatch, code):
    fail(monkeypatch, code, "open", 1)
    with pytest.raises(ConfigError) as error, claimed(tmp_path, {}, None):
        pass
    assert error.value.exit_code == 2
    assert str(error.value) == f"--workdir={tmp_path}: .lock: {os.strerror(code)}; {TODO}"


def test_what_stands_in_the_place_of_a_workdir_or_its_lock(tmp_path):
    (tmp_path / "run" / ".lock").mkdir(parents=True)
    (tmp_path / "file").touch()
    found = {
        tmp_path / "run": ".lock: Is a directory",
        tmp_path / "file": "no folder",
        Path("/dev/null"): "no folder",
        tmp_path / "file" / "run": "Not a directory",
    }
    for workdir, what in found.items():
        with pytest.raises(ConfigError) as error, claimed(workdir, {}, None):
            pass
        assert error.value.exit_code == 2
        assert str(error.value) == f"--workdir={workdir}: {what}; {TODO}"
