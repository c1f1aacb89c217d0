"""What an evaluation says of the classes, as figures, tables and pictures."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.errors import printable
from reports.curves import COLOURS, new_figure
from reports.evaluation import Evaluation, Prediction, TrainedRun
from reports.page import Cell, Figure, Image, Picture, Pictures, Table, data_uri, percent, plain

MOST_BARS = 60  # classes in a figure; more have a histogram, and all are in the table
MOST_CELLS = 40  # classes of the confusion matrix
MOST_SIDE = 160  # pixels of a picture on the page


def label_of(name: str, most: int = 22) -> str:
    """Returns the name of a class as the label of an axis: long ones are cut."""
    name = printable(name)
    return plain(name if len(name) <= most else f"{name[: most - 1]}…")


def class_figure(evaluation: Evaluation) -> Figure:
    """Draws the accuracy of each class; of many classes how many have which."""
    rows = [row for row in evaluation.classes if row["recall"] is not None]
    if len(rows) > MOST_BARS:
        figure = new_figure("accuracy of a class", "classes")
        figure.add_histogram(
            x=[row["recall"] for row in rows],
            xbins={"start": 0, "end": 1.0001, "size": 0.05},
            marker={"color": COLOURS[0]},
        )
        figure.update_xaxes(tickformat=".0%", range=[0, 1])
        return Figure(figure, f"accuracy of {len(rows):,} classes", is_wide=True)
    rows.sort(key=lambda row: row["recall"])
    names, places = evaluation.names, list(range(len(rows)))
    figure = new_figure("")
    figure.add_bar(
        x=places,
        y=[row["recall"] for row in rows],
        marker={"color": COLOURS[0]},
        customdata=[
            [plain(names[row["label"]]), row["count"], percent(row["precision"], 1)] for row in rows
        ],
        hovertemplate="%{customdata[0]}: %{y:.1%} of %{customdata[1]} images<br>"
        "precision %{customdata[2]}<extra></extra>",
    )
    lowest = min((row["recall"] for row in rows), default=0)
    figure.update_yaxes(tickformat=".0%", range=[0 if lowest < 0.7 else lowest - 0.1, 1.005])
    _name_axis(figure.layout.xaxis, [names[row["label"]] for row in rows])
    return Figure(figure, "accuracy of each class, the lowest first", is_wide=True)


def _name_axis(axis: Any, names: Sequence[str]) -> None:
    """Puts names of classes at 0, 1, ... of an axis; names that are numbers are no places."""
    axis.update(
        tickmode="array",
        tickvals=list(range(len(names))),
        ticktext=[label_of(name) for name in names],
        showgrid=False,
    )


def class_table(evaluation: Evaluation) -> Table:
    """Lists the numbers of each class."""
    more = [key for key in ("top5_accuracy", "average_precision") if key in evaluation.classes[0]]
    titles = ["class", "images", "accuracy", "precision", "F1"]
    titles += [key.replace("_", " ") for key in more]
    rows = []
    for row in evaluation.classes:
        shares = [row[key] for key in ("recall", "precision", "f1", *more)]
        confused = ""
        if row["confused_with"] is not None:
            other = evaluation.names[row["confused_with"]]
            confused = f"{other} ({row['confused_count']:,})"
        rows.append(
            [
                Cell(printable(evaluation.names[row["label"]])),
                Cell(f"{row['count']:,}", row["count"]),
                *(Cell(percent(share, 1), share) for share in shares),
                Cell(printable(confused) or "–"),
            ]
        )
    return Table([*titles, "most often taken for"], rows)


def confusion_figure(evaluation: Evaluation) -> Figure:
    """Draws what is taken for what; of many classes those with the most confusions."""
    rows = np.array(evaluation.numbers["confusions"], np.int64).reshape(-1, 3)
    wrong = rows[rows[:, 0] != rows[:, 1]]
    labels = [row["label"] for row in evaluation.classes]
    title = "rows: the class of the image; columns: what was said"
    if len(labels) > MOST_CELLS:
        size = max(labels) + 1
        counts = sum(np.bincount(wrong[:, side], wrong[:, 2], size) for side in (0, 1))
        most = np.argsort(-counts[labels], kind="stable")[:MOST_CELLS]
        title += f"; the {MOST_CELLS} of {len(labels):,} classes with the most confusions"
        labels = sorted(labels[i] for i in most)
    place = {label: i for i, label in enumerate(labels)}
    matrix = np.zeros((len(labels), len(labels)), np.int64)
    for label, other, count in rows.tolist():
        if label in place and other in place:
            matrix[place[label], place[other]] = count
    totals = {row["label"]: row["count"] for row in evaluation.classes}
    shares = matrix / np.maximum([totals[label] for label in labels], 1)[:, None]
    names = [evaluation.names[label] for label in labels]
    figure = new_figure("said", "class")
    figure.add_heatmap(
        z=shares.tolist(),
        text=[[f"{count:,}" if count else "" for count in row] for row in matrix.tolist()],
        texttemplate="%{text}" if len(labels) <= 20 else None,
        customdata=[[[plain(own), plain(said)] for said in names] for own in names],
        hovertemplate="%{customdata[0]} taken for %{customdata[1]}:<br>%{text} images, %{z:.1%}"
        "<extra></extra>",
        colorscale=[[0, "rgba(47,134,201,0)"], [0.02, "rgba(47,134,201,0.14)"], [1, "#2f86c9"]],
        zmin=0,
        zmax=1,
        xgap=1,
        ygap=1,
        colorbar={"thickness": 10, "tickformat": ".0%", "outlinewidth": 0},
    )
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        _name_axis(axis, names)
    figure.update_yaxes(autorange="reversed")
    is_small = len(labels) <= 12
    height = 150 + 30 * len(labels) if len(labels) <= 20 else 760
    return Figure(figure, title, is_wide=not is_small, height=max(height, 330))


def confusion_table(evaluation: Evaluation, at_most: int = 30) -> Table:
    """Lists the most frequent confusions."""
    wrong = [row for row in evaluation.numbers["confusions"] if row[0] != row[1]]
    wrong.sort(key=lambda row: -row[2])
    totals = {row["label"]: row["count"] for row in evaluation.classes}
    names = evaluation.names
    rows = [
        [
            Cell(printable(names[label])),
            Cell(printable(names[other])),
            Cell(f"{count:,}", count),
            Cell(percent(count / totals[label], 1), count / totals[label]),
        ]
        for label, other, count in wrong[:at_most]
    ]
    titles = ["class", "taken for", "images", "of the class"]
    is_beside = len(evaluation.classes) <= 12  # the matrix is small
    return Table(titles, rows, "The most frequent confusions", is_wide=not is_beside)


def calibration_figures(evaluations: dict[str, Evaluation]) -> list[Figure]:
    """Draws the reliability diagram of one or several runs, and how sure they are how often."""
    diagram, counts = new_figure("confidence", "accuracy"), new_figure("confidence", "images")
    diagram.add_scatter(
        x=[0, 1],
        y=[0, 1],
        mode="lines",
        line={"dash": "dot", "color": "#8a929c", "width": 1},
        name="calibrated",
        hoverinfo="skip",
    )
    for i, (name, evaluation) in enumerate(evaluations.items()):
        bins = evaluation.numbers["calibration"]["bins"]
        filled = [one for one in bins if one["count"]]
        most = max((one["count"] for one in filled), default=1)
        diagram.add_scatter(
            x=[one["confidence"] for one in filled],
            y=[one["accuracy"] for one in filled],
            mode="lines+markers",
            line={"color": COLOURS[i]},
            marker={"size": [5 + 13 * (one["count"] / most) ** 0.5 for one in filled]},
            name=plain(name or "this run"),
            customdata=[one["count"] for one in filled],
            hovertemplate="said %{x:.1%}, right %{y:.1%}<br>%{customdata:,} images<extra></extra>",
        )
        counts.add_bar(
            x=[(one["low"] + one["high"]) / 2 for one in bins],
            y=[one["count"] for one in bins],
            marker={"color": COLOURS[i]},
            name=plain(name or "this run"),
            hovertemplate="%{y:,} images<extra></extra>",
        )
    diagram.update_xaxes(range=[0, 1], tickformat=".0%")
    diagram.update_yaxes(range=[0, 1.02], tickformat=".0%")
    counts.update_xaxes(range=[0, 1], tickformat=".0%")
    for figure in (diagram, counts):
        figure.update_layout(showlegend=len(evaluations) > 1)
    return [
        Figure(diagram, "how often the answer is right, by how sure it is"),
        Figure(counts, "how many images have which confidence"),
    ]


def mistake_pictures(
    evaluation: Evaluation, trained: TrainedRun, mistakes: Sequence[Prediction]
) -> Pictures:
    """Shows images that were answered wrongly, as the model sees them."""
    images = trained.images([one.index for one in mistakes])
    return Pictures(
        [
            Picture(
                images=[Image(data_uri(shrunk(image)))],
                size=shrunk(image).shape[:2],
                lines=answer_lines(evaluation, one),
                hint=f"{printable(one.image)} (number {one.index})",
            )
            for one, image in zip(mistakes, images, strict=True)
        ]
    )


def answer_lines(evaluation: Evaluation, one: Prediction) -> list[str]:
    """Returns what was said about an image, and what it is."""
    names = evaluation.names
    own = "; ".join(printable(names[label]) for label in one.labels) or "no class"
    said = "; ".join(printable(names[label]) for label in one.named) or "no class"
    if evaluation.numbers["multi_label"]:
        missed = [printable(names[label]) for label in one.labels if label not in one.named]
        lines = [f"said {said}", f"has {own}"]
        return lines + ([f"missed {'; '.join(missed)}"] if missed else [])
    lines = [f"said {said}, {percent(one.confidence, 1)}"]
    return lines if one.is_right else [*lines, f"is {own}, {percent(one.label_probability, 1)}"]


def shrunk(image: np.ndarray) -> np.ndarray:
    """Returns uint8 [h, w, c] with no side longer than a picture of the page has pixels."""
    import cv2

    height, width = image.shape[:2]
    factor = MOST_SIDE / max(height, width)
    if factor >= 1:
        return image
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return small.reshape(*small.shape[:2], image.shape[-1])
