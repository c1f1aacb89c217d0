"""A command that takes steps with others until something ends it; tests start several of it."""

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from harness import commandline
from harness.errors import ConfigError
from parallel import joining, peers
from parallel.watchdog import Watchdog


def define_flags() -> None:
    joining.define_flags()
    flags.DEFINE_string("fails", "", "kind of error:process")
    flags.DEFINE_float("watchdog_seconds", 0.0, "as in train.py")
    flags.DEFINE_string("mark", None, "file to make at step 3")
    flags.DEFINE_integer("steps", 1000, "to take")


def main(args) -> None:
    kind, _, which = args.fails.partition(":")
    here = str(jax.process_index()) == which
    values = peers.gather("start", {"process": jax.process_index()})
    print("together", [value["process"] for value in values], flush=True)
    with Watchdog(args.watchdog_seconds, lambda _: None) as dog:
        for step in range(args.steps):
            if step == 3 and here and kind == "config":
                raise ConfigError("config.data.name='x': wrong here")
            if step == 3 and here and kind == "bug":
                raise TypeError("a bug")
            total = multihost_utils.process_allgather(np.ones(3)).sum()
            dog.progress(f"step {step}")
            if step == 3:
                print("stepping", total, flush=True)
                if args.mark:
                    Path(args.mark).touch()
            time.sleep(0.01)
    if here and kind == "sleeps":
        os.kill(os.getpid(), signal.SIGSTOP)
    print("done", flush=True)


if __name__ == "__main__":
    commandline.run(define_flags, main, within=joining.joined)
