"""Signals in this process; tests/training/test_stops.py sends them to real runs."""

import os
import signal
import time

import pytest

from process import signals
from process.signals import STOPPING, CtrlC
from training.interrupts import Interrupts


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def ended(monkeypatch):
    """What would have ended the process at once."""
    found = []
    monkeypatch.setattr(signals, "end", lambda number, words="stopped": found.append(number))
    return found


def until(condition):
    for _ in range(500):
        if condition():
            return True
        time.sleep(0.01)
    return False


def send(number, times):
    """Sends a signal; returns once the watching thread has seen it."""
    seen = len(times)
    os.kill(os.getpid(), number)
    assert until(lambda: len(times) > seen)


@pytest.fixture
def times(monkeypatch):
    """The signals that the watching thread has seen."""
    seen, note = [], signals.StopSignals._note

    def noted(self, number):
        note(self, number)
        seen.append(number)

    monkeypatch.setattr(signals.StopSignals, "_note", noted)
    return seen


@pytest.mark.parametrize("number", STOPPING)
def test_each_asks_to_stop_and_leaves_what_was_there(number, capfd, times):
    before = [signal.getsignal(each) for each in STOPPING]
    with Interrupts() as requests:
        assert not requests.requested()
        send(number, times)
        assert requests.requested()
    assert f"{signal.Signals(number).name}: finishing the step and saving" in capfd.readouterr().err
    assert [signal.getsignal(each) for each in STOPPING] == before


def test_a_signal_that_a_scheduler_sends_twice_is_one(clock, capfd, ended, times):
    """To a process and to its group; the later one of a person ends it at once."""
    with Interrupts() as requests:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            send(number, times)
            assert requests.requested()
            clock[0] += 0.2
        assert capfd.readouterr().err.count("finishing the step") == 1
        assert ended == []
        clock[0] += 1.0
        send(signal.SIGTERM, times)
        assert ended == [signal.SIGTERM]


def test_what_the_system_repeats_is_no_hurry(clock, ended, times):
    with Interrupts():
        for number in (signal.SIGXCPU, signal.SIGXCPU, signal.SIGHUP, signal.SIGHUP):
            send(number, times)
            clock[0] += 1.0
        assert ended == []
        send(signal.SIGUSR1, times)
        assert ended == [signal.SIGUSR1]


def test_what_is_ignored_stays_so():
    """As nohup leaves SIGHUP, and a shell's "&" SIGINT."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as requests:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.05)
            assert not requests.requested()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_raises_once(clock, ended, times):
    with CtrlC() as ctrl_c:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1.0)
        assert ctrl_c.received()
        assert until(lambda: times)
        clock[0] += 1.0
        send(signal.SIGINT, times)  # while cleaning up: no second exception
        assert ended == [signal.SIGINT]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_in_a_callback_that_swallows_it_ends_the_process(ended):
    """As in those of the garbage collector, where Python would show it and go on."""

    class Finalized:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    with CtrlC():
        Finalized()
        assert ended == [signal.SIGINT]


def test_another_s_handler_counts_alone(clock, ended):
    """The launcher of a sweep counts Ctrl-C itself, and ends its runs."""
    received = []
    with CtrlC():
        before = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            clock[0] += 1.0
        signal.signal(signal.SIGINT, before)
    assert received == [signal.SIGINT] * 2 and ended == []
