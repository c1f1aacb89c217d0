"""stdout and stderr in one pipe that nobody reads: signals and the watchdog end the run."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Threads that print into both streams, as a loop and its progress bar do.
PROGRAM = """
import itertools, sys, threading, time
sys.path.insert(0, {root!r})
import process.first
from process.streams import guard_streams
from training.interrupts import Interrupts
from parallel.watchdog import Watchdog
guard_streams()
def chatter():
    while {deaf} or not interrupts.requested():
        print("word " * 50, file=sys.stderr, flush=True)
with Interrupts() as interrupts, Watchdog({seconds}, lambda text: time.sleep(0.1)):
    threading.Thread(target=chatter).start()
    while {deaf} or not interrupts.requested():
        print("step " * 50)
    sys.exit(75)
"""


@pytest.mark.parametrize(
    ("seconds", "deaf", "numbers", "code"),
    [
        (0.0, False, [signal.SIGTERM], 75),  # it comes to its end, and what it prints is dropped
        (0.0, True, [signal.SIGTERM, signal.SIGTERM], 143),
        (0.0, True, [signal.SIGUSR1, signal.SIGINT], 130),
        (2.0, True, [], 70),
    ],
)
def test_nobody_reads(seconds, deaf, numbers, code, one_device):
    program = PROGRAM.format(root=str(ROOT), seconds=seconds, deaf=deaf)
    command = [sys.executable, "-c", program]
    reader = subprocess.PIPE
    process = subprocess.Popen(command, stdout=reader, stderr=subprocess.STDOUT, env=one_device)
    try:
        assert process.stdout.read(1)  # it has begun; nothing more is read
        time.sleep(1.0)
        for number in numbers:
            process.send_signal(number)
            time.sleep(1.0)
        assert process.wait(30) == code
    finally:
        process.kill()
        process.stdout.close()
