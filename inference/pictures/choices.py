"""What the flags of tools/explain.py choose: models, images, classes and places."""

import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import numpy as np
from absl import flags

from harness.arguments import problem, unknown
from harness.errors import ConfigError
from harness.files import run_path
from inference.flags import as_image_size
from inference.given_images import find_files
from inference.pictures import subjects
from inference.pictures.attention_maps import Point
from inference.pictures.images import Chosen, prepare
from inference.pictures.subjects import Subject
from nest.gradcat import Rule
from workdirs.config_file import stored_config

KINDS = ("words", "patches", "class_token")


def define_picture_flags() -> None:
    """Defines the flags of tools/explain.py that say what to draw, and of what."""
    flags.DEFINE_string("model", None, "Variant to draw with random weights (zoo/registry.py).")
    flags.DEFINE_string(
        "against", None, "Second model: a workdir, RECIPE.py[:argument] or variant."
    )
    flags.DEFINE_string("against_weights", None, "Weights of --against=RECIPE.py.")
    flags.DEFINE_list("image_size", None, "Side or height,width in pixels; None: the model's.")
    flags.DEFINE_list("examples", None, "Numbers of the evaluation split's examples to draw.")
    flags.DEFINE_list("labels", None, "Classes to explain, numbers or names; None: predicted.")
    flags.DEFINE_enum("rule", None, get_args(Rule), "GradCAT's; None: the default.")
    flags.DEFINE_enum("sign", "+", ("+", "-"), "GradCAT's: +, or the paper's -.")
    flags.DEFINE_list("blocks", None, "Blocks to draw, from 1; None: first, middle and last.")
    flags.DEFINE_list("channels", None, "Channels to draw; None: --num_channels by --seed.")
    flags.DEFINE_integer("num_channels", 12, "Channels that are drawn by lot.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of that lot and of t-SNE.", lower_bound=0)
    flags.DEFINE_enum("kind", None, KINDS, "Attention of what; None: of patches.")
    flags.DEFINE_list("queries", None, "Y:X of the patches that attend, in fractions of the image.")


def choose_subject(args: flags.FlagValues) -> Subject:
    """Returns the first model of the flags."""
    size = _size(args)
    options = {"checkpoint": args.checkpoint, "ema": args.ema, "classes_file": args.classes}
    if args.model:
        if args.workdir or args.weights or args.config:
            raise ConfigError("--model has random weights: leave --workdir, --config and --weights")
        return subjects.from_name(args.model, size)
    if args.workdir:
        if args.weights:
            raise ConfigError("give one of --workdir=FOLDER and --weights=PATH; see --help")
        config = args.config or stored_config(run_path("--workdir", args.workdir))
        return _noted(subjects.from_workdir(args.workdir, size, config, **options))
    if args.config:
        return _noted(subjects.from_recipe(args.config, args.weights, size, **options))
    raise ConfigError("name a model: --workdir, --config with --weights, or --model; see --help")


def _noted(subject: Subject) -> Subject:
    report = subject.predictor.report
    if report.resized or report.notes:
        print(report, file=sys.stderr)
    return subject


def each_model(
    args: flags.FlagValues, images: list[str], most: int = 1
) -> Iterator[tuple[Subject, np.ndarray]]:
    """Yields the model, and --against, each with the images as it sees them."""
    chosen, first = choose_images(args, images, most), choose_subject(args)
    yield first, prepare(chosen, first)
    if args.against:
        second = _noted(subjects.from_text(args.against, args.against_weights, _size(args)))
        if second.name == first.name:
            raise ConfigError(f"--against={args.against}: the same model again")
        yield second, prepare(chosen, second, of=first)


def _size(args: flags.FlagValues) -> tuple[int, int] | None:
    return as_image_size(args.image_size, "") if args.image_size else None


def choose_images(args: flags.FlagValues, images: list[str], most: int) -> Chosen:
    """Returns the images of the command line, at most so many."""
    if images and args.examples:
        raise ConfigError("give images or --examples, not both")
    if args.examples:
        chosen = Chosen(examples=numbers(args, "examples"))
    else:
        files, problems, notes = find_files(images or _photographs()[:most])
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        if problems:
            raise ConfigError(problems[0])
        chosen = Chosen(files=tuple(files))
    if len(chosen) > most:
        raise ConfigError(f"{len(chosen)} images; this picture shows {most} at most")
    return chosen


def _photographs() -> list[str]:
    """Returns scikit-learn's photographs: a temple in China, and a flower."""
    folder = Path(find_spec("sklearn").origin).parent / "datasets" / "images"
    return [str(folder / name) for name in ("china.jpg", "flower.jpg")]


def check_no_images(images: list[str]) -> None:
    """Raises ConfigError if images are given for a picture of weights."""
    if images:
        raise ConfigError(f"{images[0]}: this picture shows weights alone, no image")


def numbers(args: flags.FlagValues, name: str) -> tuple[int, ...] | None:
    """Returns a list of whole numbers, None if it was not given."""
    values = getattr(args, name)
    if wrong := [value for value in values or () if not value.strip().isdecimal()]:
        raise ConfigError(problem(f"--{name}", wrong[0], "not a whole number"))
    return tuple(map(int, values)) if values else None


def places(args: flags.FlagValues, default: Sequence[Point]) -> list[Point]:
    """Returns the places of --queries, or the default."""
    found = []
    for text in args.queries or ():
        try:
            y, x = map(float, text.split(":"))
        except ValueError:
            y = x = -1.0
        if not (0 <= y <= 1 and 0 <= x <= 1):
            raise ConfigError(problem("--queries", text, "no place", "Y:X, both 0 to 1"))
        found.append((y, x))
    return found or list(default)


def choose_classes(args: flags.FlagValues, subject: Subject, count: int | None) -> list[int] | None:
    """Returns the classes of --labels, one for all or one per image; None: not given."""
    if not args.labels:
        return None
    predictor, labels = subject.predictor, []
    total, names = predictor.model.num_classes, list(predictor.class_names or ())
    for text in args.labels:
        if not text.isdecimal() and text not in names:
            raise ConfigError(f"--labels={text}: {unknown(text, names)}")
        label = names.index(text) if text in names else int(text)
        if label >= total:
            raise ConfigError(problem("--labels", label, "out of range", f"0 to {total - 1}"))
        labels.append(label)
    if count and len(labels) == 1:
        labels *= count
    if count and len(labels) != count:
        raise ConfigError(f"--labels: {len(labels)} classes for {count} images")
    return labels
