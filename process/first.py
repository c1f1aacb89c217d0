"""Imported first by every script: signals and closed streams are quiet while the rest is imported.

A terminal shows meanwhile that the script has started; a file or a pipe gets a line that says so
after a second. Something is done only where a script of this checkout is the process, not in
notebooks, tests or the loader's worker processes.
"""

import os
import signal
import sys
from pathlib import Path

from process.signals import NothingToSave, end
from process.streams import guard_streams, say_starting

ROOT = Path(__file__).resolve().parents[1]


def _is_script() -> bool:
    file = getattr(sys.modules["__main__"], "__file__", None)
    is_ours = file is not None and Path(file).resolve().parent in (ROOT, ROOT / "tools")
    return is_ours and not hasattr(sys, "ps1")


def guard(script: str) -> None:
    """Makes signals and closed streams quiet in this process, a script of that name."""
    # nest_tnt.py says how it was called; not for the processes that this one starts.
    sys.argv[0] = os.environ.pop("NEST_TNT_COMMAND", sys.argv[0])
    guard_streams()
    say_starting(f"{sys.argv[0]}: starting ...")
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Until harness/commandline.py takes over, and again once it is done.
        signal.signal(signal.SIGINT, lambda number, _: end(number))
    if script == "train.py":
        # While it imports, meets others, or ends: training/interrupts.py has what is between.
        NothingToSave().__enter__()


if _is_script():
    guard(Path(sys.modules["__main__"].__file__).name)
