"""The page of two runs side by side."""

from collections.abc import Sequence
from math import comb
from typing import Any

from harness.errors import printable
from reports import answer_sections, class_figures
from reports.answer_sections import EVERYTHING, Choices
from reports.curves import COLOURS, curve_figures, new_figure
from reports.evaluation import Evaluation, TrainedRun
from reports.page import Block, Cell, Figure, Page, Table, Text, metric, number, percent, plain
from reports.recipe import changes
from reports.run_record import RunRecord
from reports.run_sections import described, duration, section
from workdirs.config_file import read_config


def comparison_page(runs: tuple[RunRecord, RunRecord], choices: Choices = EVERYTHING) -> Page:
    """Returns the page of two runs; differences are of the second from the first."""
    names = named(runs)
    evaluations, sentences = {}, []
    for name, run in zip(names, runs, strict=True):
        trained = TrainedRun(run.workdir, choices.checkpoint, ema=choices.ema)
        found, sentence = answer_sections.evaluation_of(run, trained, choices)
        if found is not None:
            evaluations[name] = found
        elif sentence:
            sentences.append(f"{name}: {sentence}")
    parts = [
        ("Summary", lambda: summary(names, runs)),
        ("Config", lambda: config(names, runs)),
        ("Curves", lambda: curve_figures(dict(zip(names, runs, strict=True)))),
        ("Classes", lambda: classes(names, evaluations, sentences)),
        ("Answers", lambda: answers(names, evaluations)),
        ("Calibration", lambda: calibration(evaluations)),
    ]
    return Page(
        title=f"{names[0]} and {names[1]}",
        subtitle="two runs side by side",
        status="",
        sections=[section(title, blocks) for title, blocks in parts],
        made=printable(", ".join(str(run.workdir) for run in runs)),
    )


def named(runs: Sequence[RunRecord]) -> tuple[str, str]:
    """Returns what to call two runs: their folders, with those above where both are the same."""
    first, second = (run.workdir for run in runs)
    depth = 1
    while first.parts[-depth:] == second.parts[-depth:] and depth < len(first.parts):
        depth += 1
    return tuple(printable("/".join(path.parts[-depth:])) for path in (first, second))


def summary(names: Sequence[str], runs: Sequence[RunRecord]) -> list[Block]:
    """Metrics and facts of both, and their difference."""
    rows = [
        [Cell(title), *(Cell(text) for text in texts), Cell("")]
        for title, texts in (
            ("run", [described(run) for run in runs]),
            ("status", [run.status for run in runs]),
        )
    ]
    steps = [run.step for run in runs]
    rows.append(_line("steps", steps, lambda value: f"{value:,}"))
    seconds = [run.training_seconds for run in runs]
    rows.append(_line("time in training steps", seconds, duration))
    for name in dict.fromkeys(name for run in runs for name in run.metrics):
        values = [run.metrics.get(name) for run in runs]
        rows.append(_line(name.replace("_", " "), values, lambda v, name=name: metric(name, v)))
    best = [run.best for run in runs]
    if None not in best and best[0][0] == best[1][0]:
        name = best[0][0]
        values = [value for _, value, _ in best]
        title = f"best {name.replace('_', ' ')}"
        rows.append(_line(title, values, lambda value: metric(name, value)))
    problems = [f"{name}: {p}" for name, run in zip(names, runs, strict=True) for p in run.problems]
    notes = [Text(printable(problem), "note") for problem in problems]
    return [Table(["", *names, "difference"], rows), *notes]


def _line(title: str, values: Sequence[Any], shown) -> list[Cell]:
    """Returns a line of the summary, with the difference of the second value from the first."""
    cells = [Cell("–" if value is None else shown(value), value) for value in values]
    difference = Cell("–")
    if None not in values:
        change = values[1] - values[0]
        sign = "+" if change > 0 else "\N{MINUS SIGN}" if change < 0 else ""
        difference = Cell(f"{sign}{shown(abs(change))}", change)
    return [Cell(title), *cells, difference]


def config(names: Sequence[str], runs: Sequence[RunRecord]) -> list[Block]:
    """The keys in which the configs differ."""
    if not all(run.config for run in runs):
        return [Text("A config is missing, so there is no comparison.", "note")]
    found = changes(*(read_config(run.workdir) for run in runs))
    if not found:
        return [Text("Both have the same config, but for where they ran.")]
    rows = [[Cell(key), *(Cell(printable(text)) for text in texts)] for key, texts in found.items()]
    return [Table(["key", *names], rows)]


def signed(points: float) -> str:
    """Returns a difference with its sign: "+0.3", "−1.2", "0.0"."""
    text = f"{points:+.1f}".replace("-", "\N{MINUS SIGN}")
    return text[1:] if float(f"{points:.1f}") == 0 else text


def classes(
    names: Sequence[str], evaluations: dict[str, Evaluation], sentences: Sequence[str]
) -> list[Block]:
    """Accuracy of each class in both, and its difference."""
    notes: list[Block] = [Text(printable(sentence), "note") for sentence in sentences]
    if len(evaluations) < 2:
        return notes
    first, second = evaluations.values()
    if [row["name"] for row in first.classes] != [row["name"] for row in second.classes]:
        return [Text("The runs have other classes, so these are not compared.", "note")]
    pairs = [
        (one["label"], one["recall"], other["recall"], one["count"])
        for one, other in zip(first.classes, second.classes, strict=True)
        if None not in (one["recall"], other["recall"])
    ]
    pairs.sort(key=lambda pair: pair[2] - pair[1])
    rows = []
    for label, one, other, count in pairs:
        rows.append(
            [
                Cell(printable(first.names[label])),
                Cell(f"{count:,}", count),
                Cell(percent(one, 1), one),
                Cell(percent(other, 1), other),
                Cell(signed(100 * (other - one)), other - one),
            ]
        )
    figure = new_figure("", "points")
    shown = pairs if len(pairs) <= class_figures.MOST_BARS else [*pairs[:20], *pairs[-20:]]
    figure.add_bar(
        x=list(range(len(shown))),
        y=[100 * (other - one) for _, one, other, _ in shown],
        marker={"color": [COLOURS[4] if other < one else COLOURS[2] for _, one, other, _ in shown]},
        customdata=[
            [plain(first.names[label]), percent(one, 1), percent(other, 1)]
            for label, one, other, _ in shown
        ],
        hovertemplate="%{customdata[0]}: %{customdata[1]}, then %{customdata[2]}<extra></extra>",
    )
    figure.update_xaxes(
        tickvals=list(range(len(shown))),
        ticktext=[class_figures.label_of(first.names[label]) for label, *_ in shown],
        showgrid=False,
    )
    title = f"accuracy of each class: {names[1]} less {names[0]}"
    if len(shown) < len(pairs):
        title += f"; the 20 lowest and highest of {len(pairs):,}"
    table = Table(
        ["class", "images", *names, "difference"],
        rows,
        "Accuracy of each class",
        folded=len(rows) > 15,
    )
    return [Figure(figure, printable(title), is_wide=True), table]


def answers(names: Sequence[str], evaluations: dict[str, Evaluation]) -> list[Block]:
    """On how many images one is right and the other wrong, and whether that may be chance."""
    if len(evaluations) < 2:
        return []
    first, second = evaluations.values()
    same = [
        (one.is_right, other.is_right)
        for one, other in zip(first.predictions, second.predictions, strict=False)
        if (one.index, one.image, len(one.labels)) == (other.index, other.image, len(other.labels))
    ]
    if len(same) < max(len(first.predictions), len(second.predictions)):
        return [Text("The runs were evaluated on other images, so these are not compared.", "note")]
    only = [sum(a and not b for a, b in same), sum(b and not a for a, b in same)]
    rows = [
        ("both are right", sum(a and b for a, b in same)),
        (f"only {names[0]} is right", only[0]),
        (f"only {names[1]} is right", only[1]),
        ("both are wrong", sum(not a and not b for a, b in same)),
    ]
    table = [
        [Cell(title), Cell(f"{n:,}", n), Cell(percent(n / len(same)), n / len(same))]
        for title, n in rows
    ]
    text = (
        f"Exact McNemar test: p = {number(sign_test(*only), 2)}, the chance that two equally good "
        "models differ as much or more on such images. How much seeds vary is not in it."
    )
    return [Table(["", "images", "share"], table), Text(text)]


def sign_test(first: int, second: int) -> float:
    """Returns the two-sided chance of a split at least as uneven under a fair coin."""
    total = first + second
    if not total:
        return 1.0
    tail = sum(comb(total, k) for k in range(min(first, second) + 1))
    return min(1.0, 2 * tail / 2**total)


def calibration(evaluations: dict[str, Evaluation]) -> list[Block]:
    """Both reliability diagrams."""
    known = {name: e for name, e in evaluations.items() if e.numbers["calibration"]}
    if not known:
        return []
    errors = ", ".join(
        f"{percent(e.numbers['calibration']['expected_calibration_error'])} of {name}"
        for name, e in known.items()
    )
    text = Text(printable(f"Expected calibration error: {errors}."))
    return [text, *class_figures.calibration_figures(known)]
