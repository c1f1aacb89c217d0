"""Starting several processes of one run on this machine, for tests."""

import os
import subprocess
import sys
import time
from pathlib import Path

from parallel.connections import free_port

ROOT = Path(__file__).parents[2]


def start(script, arguments, num_processes, *, num_devices=4, of_each=()):
    """Starts processes that together hold `num_devices`; returns them.

    Args:
        script: path in the checkout.
        arguments: of all of them.
        num_processes: 1 starts the script without flags of several.
        num_devices: simulated.
        of_each: more arguments, a list for each process.
    """
    count = f"device_count={num_devices // num_processes}"
    environment = os.environ | {
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", count)
    }
    meeting = [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={num_processes}"]
    processes = []
    for index in range(num_processes):
        own = [*meeting, f"--process_id={index}"] if num_processes > 1 else []
        more = of_each[index] if of_each else []
        processes.append(
            subprocess.Popen(
                [sys.executable, script, *arguments, *own, *more],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return processes


def finish(processes, seconds=240):
    """Returns the exit codes and the outputs; kills what is left after the time."""
    outputs = []
    for process in processes:
        try:
            outputs.append(process.communicate(timeout=seconds)[0])
        except subprocess.TimeoutExpired:
            process.kill()
            outputs.append(process.communicate()[0] + "\nKILLED BY THE TEST")
    return [process.returncode for process in processes], outputs


def wait_for(condition, processes, seconds=180):
    """Returns once the condition holds; fails when a process ends or the time is over."""
    deadline = time.monotonic() + seconds
    while not condition():
        ended = [p.communicate()[0] for p in processes if p.poll() is not None]
        assert not ended, ended[0]
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.05)
