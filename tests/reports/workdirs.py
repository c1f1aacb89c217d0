"""Workdirs and sweeps written by hand: what a run leaves, without training one."""

import json

from configs import digits_nest
from training.experiment import check_config

RECIPE = "configs/digits_nest.py:debug"


def records(steps=20, accuracy=0.9):
    """Lines of metrics.jsonl of a run of 20 steps that is evaluated every 5."""
    lines = []
    for step in range(1, steps + 1):
        line = {"kind": "train", "step": step, "loss": 3 / step, "learning_rate": 1e-3 / step}
        lines.append(line | {"grad_norm": 1.0, "images_per_second": 64.0, "input_wait": 0.25})
        if step % 5 == 0:
            value = accuracy - (step - 10) ** 2 / 1000  # the best at step 10
            line = {"kind": "eval", "step": step, "loss": 2 / step, "num_examples": 101}
            line |= {"top1_accuracy": value, "top5_accuracy": 1.0}
            lines.append(line | {"ema_loss": 2.5 / step, "ema_top1_accuracy": value - 0.1})
    return lines


def write_run(workdir, *, done=True, lines=None, classes=None, changes=None, command=None):
    """Writes a workdir without checkpoints; `changes` are of the config, dotted."""
    config = digits_nest.get_config("debug")
    config.loop.num_epochs = 4.0
    config.data.update(batch_size=32, train_split="train[:160]")
    for key, value in (changes or {}).items():
        *sections, last = key.split(".")
        place = config
        for name in sections:
            place = place[name]
        place[last] = value
    workdir.mkdir(parents=True, exist_ok=True)
    command = command or ["train.py", f"--config={RECIPE}", f"--workdir={workdir}"]
    record = {
        "config": check_config(config, needs_data=False),
        "num_examples": 160,
        "command": command,
        "git_commit": "0123456789abcdef",
        "versions": {"python": "3.11.7", "jax": "0.10.2"},
        "devices": "1 x cpu, 1 process",
    }
    (workdir / "config.json").write_text(json.dumps(record))
    lines = records() if lines is None else lines
    text = "".join(line if isinstance(line, str) else f"{json.dumps(line)}\n" for line in lines)
    (workdir / "metrics.jsonl").write_text(text)
    if classes:
        (workdir / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    if done:
        last = [line for line in lines if isinstance(line, dict) and line["kind"] == "eval"][-1]
        metrics = {key: value for key, value in last.items() if key not in ("kind", "step")}
        (workdir / "DONE").write_text(json.dumps(metrics | {"best_epoch": 2.0}))
    return workdir


def write_evaluation(workdir, predictions, names, *, step=20, weights="raw"):
    """Writes what evaluate.py --per_class would, of (label, answer, confidence) of each image."""
    import numpy as np

    from inference.answers import PerClass, evaluation_path
    from inference.per_class import Answers, per_class

    own, said, confidence = (np.array(column) for column in zip(*predictions, strict=True))
    rows = np.arange(len(own))
    answers = Answers(
        indices=rows,
        truth=np.stack([rows, own], axis=1),
        named=np.stack([rows, said], axis=1),
        likeliest=said,
        confidence=confidence,
        probability=np.where(own == said, confidence, (1 - confidence) / 2),
        rank=(own != said).astype(int),
        labels=np.arange(len(names)),
    )
    numbers = {"split": "test", "weights": weights, "loss": "softmax", "multi_label": False}
    numbers |= per_class(answers, names)

    class Source:
        @staticmethod
        def describe(index):
            return f"{names[own[index]]}/{index}.png"

    folder = workdir / "checkpoints" / "latest" / str(step)
    (folder / "state").mkdir(parents=True, exist_ok=True)
    path = evaluation_path(workdir / "evaluation_latest", "test")
    PerClass(numbers, answers, names, Source()).write(path, {"step": step})


def write_sweep(folder, runs):
    """Writes the manifest of a sweep, from name -> values of the swept keys."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, values in runs.items():
        run = {"name": name, "config": RECIPE, "overrides": values, "values": values}
        lines.append(json.dumps(run) + "\n")
    (folder / "runs.jsonl").write_text("".join(lines))
    return folder
