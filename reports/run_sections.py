"""The sections of a run's page."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from harness.errors import ConfigError, printable
from reports import answer_sections
from reports.annotated import best_and_worst
from reports.answer_sections import EVERYTHING, Choices
from reports.curves import curve_figures, speed_figures
from reports.evaluation import Evaluation, TrainedRun
from reports.page import (
    Block,
    Cell,
    Image,
    Page,
    Picture,
    Pictures,
    Section,
    Table,
    Text,
    Tile,
    Tiles,
    as_cell,
    data_uri,
    metric,
    number,
    percent,
)
from reports.recipe import command_line, from_recipe
from reports.run_record import SAMPLES, RunRecord
from workdirs.comparison import flatten
from workdirs.config_file import read_config

SAMPLES_SHOWN = 4
SHOWN_FIRST = (
    *("top1_accuracy", "set_accuracy", "classes_named", "top5_accuracy"),
    *("ap", "ap50", "ap75", "mean_iou", "pixel_accuracy"),
    *("frechet_distance", "inception_score", "loss"),
)


def run_page(run: RunRecord, choices: Choices = EVERYTHING) -> Page:
    """Returns the page of a run; what fails is left out with a sentence."""
    trained = TrainedRun(run.workdir, choices.checkpoint, ema=choices.ema)
    evaluation, sentence = answer_sections.evaluation_of(run, trained, choices)
    parts: list[tuple[str, Callable[[], Sequence[Block]]]] = [
        ("Summary", lambda: summary(run, evaluation)),
        ("Curves", lambda: curve_figures({"": run})),
        ("Speed", lambda: speed_figures(run)),
        ("Samples", lambda: samples(run)),
        ("Classes", lambda: answer_sections.classes(evaluation, sentence)),
        ("Mistakes", lambda: answer_sections.mistakes(evaluation, trained)),
        ("Best and worst", lambda: best_and_worst(run, trained, choices)),
        ("Calibration", lambda: answer_sections.calibration(evaluation)),
        ("Explanations", lambda: answer_sections.explanations(evaluation, trained, choices)),
        ("Config", lambda: config(run)),
        ("Environment", lambda: environment(run)),
    ]
    return Page(
        title=run.name,
        subtitle=described(run),
        status=run.status,
        sections=[section(title, blocks) for title, blocks in parts],
        made=f"{printable(str(run.workdir))}",
    )


def section(title: str, blocks: Callable[[], Sequence[Block]]) -> Section:
    """Returns a section, or one that says why it is left out: damage costs one part of a page."""
    try:
        return Section(title, list(blocks()))
    except Exception as error:
        logging.debug("%s", title, exc_info=True)
        what = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        what = " ".join(what.split()) or type(error).__name__
        return Section(title, [Text(f"This part is left out: {printable(what)}", "note")])


def described(run: RunRecord) -> str:
    """Returns what a run is, in a line: "nest_tiny on cifar10, 300 epochs, batch 128, seed 0"."""
    data, loop = run.section("data"), run.section("loop")
    model = run.section("model").get("name") or run.section("generator").get("name")
    parts = {
        "": " on ".join(str(name) for name in (model, data.get("name")) if name),
        "epochs": loop.get("num_epochs"),
        "batch": data.get("batch_size"),
        "seed": run.config["seed"] if "seed" in run.config else None,
        "devices": run.record.get("devices"),
    }
    known = {word: as_cell(value).text for word, value in parts.items() if value not in (None, "")}
    words = {"epochs": "{} epochs", "batch": "batch {}", "seed": "seed {}"}
    return printable(", ".join(words.get(word, "{}").format(text) for word, text in known.items()))


def summary(run: RunRecord, evaluation: Evaluation | None) -> list[Block]:
    """Result, best epoch, length and speed, and what is missing."""
    tiles, steps = [], run.steps
    shown = [name for name in SHOWN_FIRST if name in run.metrics]
    for name in shown[:3]:
        ema = run.metrics.get(f"ema_{name}")
        note = f"EMA {metric(name, ema)}" if ema is not None else ""
        tiles.append(Tile(name.replace("_", " "), metric(name, run.metrics[name]), note))
    if run.best:
        name, value, step = run.best
        where = f"epoch {step / steps.per_epoch:.1f}" if steps else f"step {step:,}"
        tiles.append(Tile(f"best {name.replace('_', ' ')}", metric(name, value), where))
    if evaluation and evaluation.numbers["calibration"]:
        error = evaluation.numbers["calibration"]["expected_calibration_error"]
        tiles.append(Tile("calibration error", percent(error), "expected (ECE)"))
    total = f" of {steps.total:,}" if steps else ""
    epochs = f"{run.step / steps.per_epoch:.1f} epochs" if steps else ""
    tiles.append(Tile("steps", f"{run.step:,}{total}", epochs))
    if seconds := run.training_seconds:
        tiles.append(Tile("time in training steps", duration(seconds)))
    speeds = [r["images_per_second"] for r in run.train if r.get("images_per_second")]
    if speeds:
        waits = [r["input_wait"] for r in run.train if "input_wait" in r]
        note = f"{percent(statistics.fmean(waits), 1)} of it waiting for input" if waits else ""
        tiles.append(Tile("images per second", number(round(statistics.median(speeds), 1)), note))
    blocks: list[Block] = [Tiles(tiles)]
    if run.status in ("interrupted", "failed", "diverged"):
        blocks.append(Text(ended(run), "note"))
    blocks += [Text(printable(problem), "note") for problem in run.problems]
    return [*blocks, *metrics_table(run)]


def ended(run: RunRecord) -> str:
    """Says how a run ended that is not done."""
    words = {
        "interrupted": "The run is not done, and no process is at it: it was interrupted or it "
        "failed. The same command resumes it.",
        "failed": "The run failed.",
        "diverged": "The run diverged: a number was not finite, or a GAN collapsed.",
    }
    last = f" Its last words: {run.last_line}" if run.last_line else ""
    return printable(words[run.status] + last)


def metrics_table(run: RunRecord) -> list[Block]:
    """The last evaluation's metrics, of the weights and of their average."""
    names = dict.fromkeys(name.removeprefix("ema_") for name in run.metrics)
    has_ema = any(name.startswith("ema_") for name in run.metrics)
    rows = []
    for name in names:
        values = [run.metrics.get(key) for key in ((name, f"ema_{name}") if has_ema else (name,))]
        cells = [Cell(metric(name, value), value) for value in values]
        rows.append([Cell(name.replace("_", " ")), *cells])
    split = str(run.section("data").get("eval_split", ""))
    titles = ["metric", "weights", "their average (EMA)"] if has_ema else ["metric", "value"]
    return [Table(titles, rows, f"The last evaluation, on {printable(split)}")] if rows else []


def duration(seconds: float) -> str:
    """Returns "42 s", "3 min 20 s", "5 h 12 min"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600:,} h {seconds % 3600 // 60} min"


def samples(run: RunRecord) -> list[Block]:
    """What evaluations drew, such as a GAN's samples: the newest of each kind first."""
    kinds: dict[str, list[Path]] = {}
    for path in run.samples:
        kinds.setdefault(SAMPLES.fullmatch(path.name)["kind"], []).append(path)
    pictures, notes = [], []
    for kind, paths in kinds.items():
        places = np.unique(np.linspace(0, len(paths) - 1, SAMPLES_SHOWN).round().astype(int))
        for path in [paths[i] for i in places[::-1]]:
            step = int(SAMPLES.fullmatch(path.name)["step"])
            try:
                pictures.append(_sample(path, f"{printable(kind)}, step {step:,}"))
            except (OSError, ValueError) as error:
                notes.append(Text(f"{printable(path.name)} is left out: {error}", "note"))
    return [Pictures(pictures), *notes] if pictures else notes


def _sample(path: Path, line: str) -> Picture:
    from PIL import Image as PillowImage

    with PillowImage.open(path) as file:
        image = np.asarray(file.convert("RGB"))
    return Picture([Image(data_uri(image))], image.shape[:2], [line], is_large=True)


def config(run: RunRecord) -> list[Block]:
    """What the run changed of its recipe, and all values."""
    if not run.config:
        return []
    found = from_recipe(run.record.get("command"), read_config(run.workdir), run.workdir)
    blocks: list[Block] = []
    if found.changes is None:
        blocks.append(Text(printable(found.problem), "note"))
    elif not found.changes:
        blocks.append(Text(f"As the recipe {printable(found.recipe)} has it."))
    else:
        rows = [
            [Cell(key), Cell(printable(before)), Cell(printable(now))]
            for key, (before, now) in found.changes.items()
        ]
        title = f"Changed from {printable(found.recipe)}"
        blocks.append(Table(["key", "recipe", "this run"], rows, title))
    every = [
        [Cell(key), dataclasses.replace(as_cell(value), value=None)]
        for key, value in flatten(dict(run.config)).items()
    ]
    return [*blocks, Table(["key", "value"], every, f"All {len(every)} values", folded=True)]


def environment(run: RunRecord) -> list[Block]:
    """Command, commit, versions, devices, and images that could not be read."""
    record: dict[str, Any] = dict(run.record)
    blocks: list[Block] = []
    if line := command_line(record.get("command")):
        blocks.append(Text(printable(line), "code"))
    versions = record.get("versions")
    pairs = {"devices": record.get("devices"), "git commit": record.get("git_commit")}
    pairs |= versions if isinstance(versions, dict) else {}
    pairs |= {"training images": record.get("num_examples")}
    rows = [
        [Cell(key), Cell(f"{value:,}" if isinstance(value, int) else printable(str(value)))]
        for key, value in pairs.items()
        if value is not None
    ]
    blocks += [Table(["what", "value"], rows)] if rows else []
    if run.bad_images:
        keys = ("split", "index", "name", "reason")
        bad = [
            [Cell(printable(str(entry.get(key, "")))) for key in keys] for entry in run.bad_images
        ]
        title = f"{len(bad):,} images could not be read"
        blocks.append(Table(keys, bad, title, folded=len(bad) > 10))
    return blocks
