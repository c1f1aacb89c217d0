import os
import signal

import pytest

from training import interrupts
from training.interrupts import Interrupts


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(interrupts.time, "monotonic", lambda: now[0])
    return now


def test_a_signal_that_a_scheduler_sends_twice_is_one(clock, capsys):
    """To a process and to its group; the later one of a person has the usual effect."""
    with Interrupts() as requests:
        assert not requests.requested()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            assert requests.requested()
            clock[0] += 0.2
        assert capsys.readouterr().err.count("finishing the step") == 1
        clock[0] += 1.0
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_later_sigterm_does_what_it_did_before(clock):
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        with Interrupts():
            os.kill(os.getpid(), signal.SIGTERM)
            clock[0] += 1.0
            assert received == []
            os.kill(os.getpid(), signal.SIGTERM)
            assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
