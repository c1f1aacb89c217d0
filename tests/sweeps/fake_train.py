"""Stands in for train.py: writes the same files, in a second, with numbers that its flags decide.

Each step is a line; a rerun goes on after the last one. --config.fail=N ends with exit code N, half
way; --config.fails_above=LR does so where --config.lr is higher.
"""

import fcntl
import hashlib
import json
import math
import signal
import sys
import time
from pathlib import Path

flags = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
workdir = Path(flags["workdir"])
workdir.mkdir(exist_ok=True)
print(f"training in {workdir}", flush=True)
with (workdir / "starts").open("a") as starts:
    starts.write("x")
lock = (workdir / ".lock").open("w")
for _ in range(10):  # as workdirs/claims.py: another process may look whether it is locked
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        break
    except BlockingIOError:
        time.sleep(0.02)
else:
    sys.exit(2)
if (workdir / "DONE").exists():
    (workdir / "trained_again").touch()
    sys.exit(0)


def save(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as training/interrupts.py, of the same again
    sys.exit(75)


signal.signal(signal.SIGTERM, save)
num_steps = int(flags.get("config.steps", 10))
config = {"checkpoint": {"best_metric": "top1_accuracy", "best_mode": "max"}}
config |= {"loop": {"num_epochs": 1.0}, "data": {"batch_size": 1}}
(workdir / "config.json").write_text(json.dumps({"config": config, "num_examples": num_steps}))
metrics = workdir / "metrics.jsonl"
lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
lines = [line for line in lines if line.endswith("\n")]  # kill -9 may cut the last one
metrics.write_text("".join(lines))
for step in range(len(lines) + 1, num_steps + 1):
    time.sleep(float(flags.get("config.seconds", 0.05)))
    is_too_high = float(flags.get("config.lr", 0)) > float(flags.get("config.fails_above", "inf"))
    fails = "config.fail" in flags and ("config.fails_above" not in flags or is_too_high)
    if step == num_steps // 2 and fails:
        print("it cannot go on", file=sys.stderr)
        sys.exit(int(flags["config.fail"]))
    drawn_from = repr((workdir.name, sorted(flags.items() - {("workdir", flags["workdir"])}), step))
    digest = hashlib.sha256(drawn_from.encode()).hexdigest()
    value = int(digest[:8], 16) / 16**8
    if "config.lr" in flags:  # best at 1e-3, and better with every step
        value = (1 - (math.log10(float(flags["config.lr"])) + 3) ** 2 / 4) * step / num_steps
    with metrics.open("a") as file:
        file.write(json.dumps({"kind": "eval", "step": step, "top1_accuracy": value}) + "\n")
records = [json.loads(line) for line in metrics.read_text().splitlines()]
total = sum(record["top1_accuracy"] for record in records)
(workdir / "DONE").write_text(json.dumps({"top1_accuracy": total / num_steps}))
