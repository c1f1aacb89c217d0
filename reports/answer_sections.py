"""The sections of a run's page that are about what its checkpoint answers."""

import contextlib
import dataclasses

from absl import logging

from harness.errors import ConfigError, one_line, printable
from reports import class_figures, explained
from reports.evaluation import Evaluation, TrainedRun, evaluate, find_evaluation
from reports.page import Block, Cell, Table, Text, percent
from reports.run_record import RunRecord

MISTAKES = 24


@dataclasses.dataclass(frozen=True)
class Choices:
    """What a person chose of a run's page.

    Attributes:
        checkpoint: "latest" or "best", which is evaluated.
        ema: whether the average of the weights is.
        evaluate: whether to evaluate what has not been; a run under way is left alone in any case.
        explain: see explained.chosen_methods.
    """

    checkpoint: str = "latest"
    ema: bool = False
    evaluate: bool = True
    explain: str = "auto"


EVERYTHING = Choices()


def evaluation_of(
    run: RunRecord, trained: TrainedRun, choices: Choices
) -> tuple[Evaluation | None, str]:
    """Returns the answers of the run's checkpoint, or None and a sentence on why there are none."""
    if run.section("task").get("name", "classification") != "classification":
        return None, ""
    command = f"python evaluate.py --workdir={run.workdir} --per_class"
    try:
        found = None
        with contextlib.suppress(ConfigError):  # no checkpoint
            found = find_evaluation(trained, str(run.section("data").get("eval_split")))
        if found is not None:
            return found, ""
        if run.status == "running":
            return None, f"The run is under way, so it is not evaluated here; {command} does it."
        if not choices.evaluate:
            return None, f"The run has not been evaluated by class; {command} does it."
        return evaluate(trained), ""
    except Exception as error:  # of the run's data, model or weights, each of which may be gone
        logging.debug("evaluation", exc_info=True)
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        return None, f"The run is not evaluated: {kind}{one_line(error)}"


def classes(evaluation: Evaluation | None, sentence: str) -> list[Block]:
    """Accuracy of each class, and what is taken for what."""
    if evaluation is None:
        return [Text(printable(sentence), "note")] if sentence else []
    numbers = evaluation.numbers
    weights = {"raw": "the weights", "ema": "their average (EMA)"}[numbers["weights"]]
    text = (
        f"{numbers['num_examples']:,} images of {numbers['split']}, each once, at step "
        f"{numbers['step']:,}, with {weights}. Mean over the classes: "
        f"{percent(numbers['mean_recall'])}."
    )
    if numbers["multi_label"]:
        text += (
            " An image with k classes is said to have its k likeliest; a class that is missed "
            "counts as taken for those that are said wrongly."
        )
    table = class_figures.class_table(evaluation)
    if len(table.rows) > 15:
        title = f"All {len(table.rows):,} classes"
        table = dataclasses.replace(table, caption=title, folded=True)
    blocks: list[Block] = [Text(printable(text)), class_figures.class_figure(evaluation), table]
    blocks.append(class_figures.confusion_figure(evaluation))
    confusions = class_figures.confusion_table(evaluation)
    none = Text("No image is taken for another class.")
    return [*blocks, confusions if confusions.rows else none]


def mistakes(evaluation: Evaluation | None, trained: TrainedRun) -> list[Block]:
    """The wrong answers that were surest."""
    if evaluation is None:
        return []
    wrong = sum(not one.is_right for one in evaluation.predictions)
    chosen = evaluation.mistakes(MISTAKES)
    if not chosen:
        return [Text("There are none.")]
    order = (
        "the least likely class first" if evaluation.numbers["multi_label"] else "the surest first"
    )
    text = Text(f"{len(chosen)} of {wrong:,} wrong answers, {order}.")
    try:
        return [text, class_figures.mistake_pictures(evaluation, trained, chosen)]
    except (ConfigError, ValueError, OSError) as error:  # the data are no longer there
        rows = [
            [
                Cell(printable(one.image)),
                *map(Cell, class_figures.answer_lines(evaluation, one)[:2]),
            ]
            for one in chosen
        ]
        note = Text(f"The pictures are left out: {printable(one_line(error))}", "note")
        return [text, note, Table(["image", "answer", "truth"], rows)]


def calibration(evaluation: Evaluation | None) -> list[Block]:
    """How sure the answers are, and how often they are right."""
    if evaluation is None:
        return []
    numbers = evaluation.numbers["calibration"]
    if numbers is None:
        return [
            Text(
                "With several labels an image, the classes of a softmax share one: its numbers are "
                "no probabilities to compare with an accuracy."
            )
        ]
    expected, most = (
        percent(numbers[f"{kind}_calibration_error"]) for kind in ("expected", "maximum")
    )
    text = (
        f"Expected calibration error {expected}, at most {most} in a bin, in "
        f"{len(numbers['bins'])} bins of equal width (Guo et al. 2017). Below the dotted line the "
        "answers are too sure, above it not sure enough. Larger dots are of more images."
    )
    return [Text(text), *class_figures.calibration_figures({"": evaluation})]


def explanations(
    evaluation: Evaluation | None, trained: TrainedRun, choices: Choices
) -> list[Block]:
    """What speaks for some answers."""
    if evaluation is None or choices.explain == "none":
        return []
    methods = explained.chosen_methods(trained, choices.explain)
    chosen = explained.chosen_images(evaluation)
    text = (
        "Images that were answered rightly, after the surest mistakes if there are any; yellow "
        "speaks most for the class below."
    )
    if "gradcat" in methods:
        text += " Frames are the blocks that GradCAT chooses, level by level."
    return [Text(text), explained.explained_pictures(evaluation, trained, methods, chosen)]
