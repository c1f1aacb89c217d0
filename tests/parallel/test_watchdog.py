"""What moves is left alone; what hangs says where, and ends."""

import math
import threading
import time

import pytest

from harness.errors import ConfigError
from parallel import peers, watchdog
from parallel.watchdog import Watchdog, all_stacks, stacks_path


@pytest.fixture
def ends(monkeypatch):
    calls = []
    monkeypatch.setattr(watchdog, "end_now", lambda code, line: calls.append((code, line)))
    return calls


class FakePeers:
    index, code, left = 3, 0, None

    def code_of_others(self):
        return self.code

    def leave(self, code, why):
        self.left = code, why


@pytest.fixture
def others(monkeypatch):
    fake = FakePeers()
    monkeypatch.setattr(peers, "_current", fake)
    return fake


def wait_until_ended(ends):
    deadline = time.monotonic() + 10
    while not ends and time.monotonic() < deadline:
        time.sleep(0.01)


def hang_here(event):
    event.wait(20)


def test_a_hang_is_told_and_ends(ends, capfd):
    written, event = [], threading.Event()
    threading.Thread(target=hang_here, args=(event,), name="loader").start()
    with Watchdog(0.3, written.append) as dog:
        dog.progress("step 7")
        wait_until_ended(ends)
    event.set()
    code, line = ends[0]
    assert code == 70
    assert line.startswith("nothing has moved for ") and line.endswith("; the last was step 7")
    for text in (written[0], capfd.readouterr().err):
        assert "in hang_here" in text and "in wait_until_ended" in text
        assert "loader" in text and "MainThread" in text


def test_progress_keeps_it_quiet(ends):
    with Watchdog(0.6, lambda _: None) as dog:
        for step in range(12):
            time.sleep(0.1)
            dog.progress(f"step {step}")
    assert ends == []


def test_what_was_itself_stopped_has_not_hung(ends, monkeypatch):
    """Ctrl-Z, fg: the clock went on."""
    clock = [0.0]
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: clock[0])
    dog = Watchdog(60.0, lambda _: None)
    dog.progress("step 7")
    for waits, is_hung in (([1, 1, 500, 1, 1], False), ([1] * 70, True)):
        monkeypatch.setattr(dog, "_stop", Looks(clock, waits))
        dog._watch()
        assert bool(ends) == is_hung


class Looks:
    """A stop event whose waits take these times, until it is set."""

    def __init__(self, clock, seconds):
        self._clock, self._seconds = clock, seconds

    def wait(self, _):
        self._clock[0] += self._seconds.pop(0) if self._seconds else 0
        return not self._seconds


def test_a_time_that_is_none_is_refused():
    for seconds in (math.nan, -1.0):
        with pytest.raises(ConfigError, match="--watchdog_seconds=.*out of range"):
            Watchdog(seconds, lambda _: None)


@pytest.mark.parametrize("seconds", [0.0, 0.2])
def test_it_is_over_with_its_block_and_0_is_never(ends, seconds):
    with Watchdog(seconds, lambda _: None):
        if not seconds:
            time.sleep(0.4)
    time.sleep(0.4)
    assert ends == []


def test_a_disk_that_hangs_does_not_keep_it(ends, monkeypatch):
    monkeypatch.setattr(watchdog, "WRITING_SECONDS", 0.2)
    started, event = time.monotonic(), threading.Event()
    with Watchdog(0.2, lambda _: event.wait(30)):
        wait_until_ended(ends)
    assert ends and time.monotonic() - started < 5
    event.set()


def test_another_process_that_hangs_is_followed(ends, others, tmp_path):
    assert stacks_path(tmp_path) == tmp_path / "stacks_3.txt"
    with Watchdog(3600.0, lambda _: None):
        others.code = 75
        time.sleep(1.2)
        assert ends == []
        others.code = 70
        wait_until_ended(ends)
    code, line = ends[0]
    assert code == 70 and line.startswith("another process hangs; nothing has moved for ")
    assert others.left == (70, line)


def test_stacks_of_all_threads():
    assert "in test_stacks_of_all_threads" in all_stacks()
