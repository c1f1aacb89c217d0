"""From the flags of tools/explain.py to a figure: one function per picture."""

import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import jax.numpy as jnp
import numpy as np
from absl import flags
from matplotlib.figure import Figure

from harness.arguments import problem, unknown
from harness.errors import ConfigError
from inference.flags import as_image_size
from inference.image_files import find_files
from inference.pictures import attention as attentions
from inference.pictures import features as sheets
from inference.pictures import filters as stems
from inference.pictures import gradcat as paths
from inference.pictures import maps, subjects
from inference.pictures import positions as tables
from inference.pictures import tsne as scatter
from inference.pictures import words as embeddings
from inference.pictures.images import Chosen, join, prepare
from inference.pictures.subjects import Subject
from nest.gradcat import GradCat, Rule, check_traversable
from nest.gradcat import gradcat as traverse

KINDS = ("words", "patches", "class_token")
_MOST_ROWS = 8  # images in one figure


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


def gradcat(args: flags.FlagValues, images: list[str]) -> Figure:
    """Which block speaks for the class, level by level: a row per image."""
    subject, chosen = _subject(args), _chosen(args, images, most=_MOST_ROWS)
    pixels = prepare(chosen, subject)
    classes = _classes(args, subject, len(chosen))
    found = _traverse(args, subject, pixels, classes)
    names = [subject.class_name(label) for label in np.asarray(found.classes)]
    if classes is None:
        names = [f"{name} (predicted)" for name in names]
    scores, path, boxes = map(np.asarray, (found.scores, found.path, found.boxes))
    return paths.draw(pixels, scores, path, boxes, names, subject.name)


def mosaic(args: flags.FlagValues, images: list[str]) -> Figure:
    """Four images in one, or one image of several classes, and the path for each class."""
    subject, chosen = _subject(args), _chosen(args, images, most=4)
    if len(chosen) not in (1, 4):
        raise ConfigError(f"mosaic needs four images, or one of several classes; not {len(chosen)}")
    height, width = subject.predictor.image_shape[:2]
    check_traversable(subject.predictor.model, (height, width))
    of_examples = chosen.labels(subject)
    own: list[int | None] = list(range(4))
    if len(chosen) == 1:
        (whole,) = prepare(chosen, subject)
        classes = _classes(args, subject, None)
        if classes is None and of_examples is None:
            raise ConfigError("one image has no classes of its own: --labels says which to explain")
        classes = list(of_examples[0]) if classes is None else classes
        own = [None] * len(classes)
    else:
        if height % 2 or width % 2:
            raise ConfigError(f"an image of {height} x {width} pixels cannot hold four")
        whole = join(prepare(chosen, subject, size=(height // 2, width // 2)))
        classes = _classes(args, subject, 4)
        if classes is None and of_examples is not None:
            classes = [labels[0] for labels in of_examples]
        if classes is None:  # what the model sees in each image alone
            alone = prepare(chosen, subject)
            classes = np.asarray(_traverse(args, subject, alone, None).classes).tolist()
    pixels = np.repeat(whole[None], len(classes), axis=0)
    boxes = np.asarray(_traverse(args, subject, pixels, classes).boxes)
    names = [subject.class_name(label) for label in classes]
    return paths.draw_mosaic(whole, boxes, names, subject.name, own)


def features(args: flags.FlagValues, images: list[str]) -> Figure:
    """Channels of several blocks, drawn by a seed or chosen."""
    pixels, planes, numbers = [], {}, {}
    for subject, (image,) in _each_model(args, images):
        found = maps.feature_maps(subject, image[None], _numbers(args, "blocks"))
        pixels.append(image)
        planes[subject.name] = {depth: plane[0] for depth, plane in found.items()}
        numbers[subject.name] = {
            depth: sheets.choose_channels(
                args.num_channels, plane.shape[-1], args.seed, _numbers(args, "channels")
            )
            for depth, plane in found.items()
        }
    return sheets.draw(pixels, planes, numbers)


def words(args: flags.FlagValues, images: list[str]) -> Figure:
    """The word embeddings over the image, mean over channels: a row per image."""
    subject = _subject(args)
    pixels = prepare(_chosen(args, images, most=_MOST_ROWS), subject)
    found = maps.word_maps(subject, pixels, _numbers(args, "blocks"))
    return embeddings.draw(pixels, found, subject.name)


def tsne(args: flags.FlagValues, images: list[str]) -> Figure:
    """All channels of the last block, one point each."""
    planes, depths = {}, {}
    for subject, pixels in _each_model(args, images):
        found = maps.feature_maps(subject, pixels, _numbers(args, "blocks"))
        depth, plane = list(found.items())[-1]
        planes[subject.name], depths[subject.name] = plane[0], depth
    return scatter.draw(scatter.embed(planes, seed=args.seed), depths)


def attention(args: flags.FlagValues, images: list[str]) -> Figure:
    """Attention of words, patches or the class token, see --kind."""
    blocks = _numbers(args, "blocks")
    if args.kind == "words":
        subject = _subject(args)
        (image,) = prepare(_chosen(args, images, most=1), subject)
        patch, *rest = _places(args, [(0.5, 0.5)])
        if rest:
            raise ConfigError("--queries: one place, whose patch is drawn, for --kind=words")
        queries = maps.spread_words(subject)
        found, box = maps.word_attention(subject, image, blocks, patch, queries)
        return attentions.draw_words(image, box, found, queries, subject.name)
    if args.kind == "class_token":
        drawn = {
            subject.name: (pixels, maps.class_token_attention(subject, pixels, blocks))
            for subject, pixels in _each_model(args, images, most=_MOST_ROWS)
        }
        shown, found = ([x[i] for x in drawn.values()] for i in range(2))
        return attentions.draw_class_token(shown, dict(zip(drawn, found, strict=True)))
    places, shown, by_model = _places(args, [(0.3, 0.3), (0.5, 0.5), (0.8, 0.7)]), [], {}
    for subject, pixels in _each_model(args, images):
        found = maps.patch_attention(subject, pixels, blocks, places)
        shown.append(pixels[0])
        by_model[subject.name] = {depth: weights[0] for depth, weights in found.items()}
    return attentions.draw_patches(shown, by_model, places)


def positions(args: flags.FlagValues, images: list[str]) -> Figure:
    """Similarity of position embeddings, per level."""
    _check_no_images(images)
    subject = _subject(args)
    return tables.draw(maps.position_planes(subject), subject.name)


def filters(args: flags.FlagValues, images: list[str]) -> Figure:
    """The filters of the first layer."""
    _check_no_images(images)
    subject = _subject(args)
    found = maps.stem_filters(subject)
    chosen = _numbers(args, "channels")
    if chosen:
        chosen = sheets.choose_channels(0, len(found), 0, chosen)
    return stems.draw(found[chosen or slice(stems.MOST)], subject.name, chosen)


Command = Callable[[flags.FlagValues, list[str]], Figure]
COMMANDS: dict[str, Command] = {
    function.__name__: function
    for function in (gradcat, mosaic, features, words, tsne, attention, positions, filters)
}


def _subject(args: flags.FlagValues) -> Subject:
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
        return _noted(subjects.from_workdir(args.workdir, size, args.config, **options))
    if args.config:
        return _noted(subjects.from_recipe(args.config, args.weights, size, **options))
    raise ConfigError("name a model: --workdir, --config with --weights, or --model; see --help")


def _noted(subject: Subject) -> Subject:
    report = subject.predictor.report
    if report.resized or report.notes:
        print(report, file=sys.stderr)
    return subject


def _each_model(args: flags.FlagValues, images: list[str], most: int = 1):
    """Yields the model, and --against, each with the images as it sees them."""
    chosen, first = _chosen(args, images, most), _subject(args)
    yield first, prepare(chosen, first)
    if args.against:
        second = _noted(subjects.from_text(args.against, args.against_weights, _size(args)))
        if second.name == first.name:
            raise ConfigError(f"--against={args.against}: the same model again")
        yield second, prepare(chosen, second, of=first)


def _size(args: flags.FlagValues) -> tuple[int, int] | None:
    return as_image_size(args.image_size, "") if args.image_size else None


def _chosen(args: flags.FlagValues, images: list[str], most: int) -> Chosen:
    """Returns the images of the command line, at most so many."""
    if images and args.examples:
        raise ConfigError("give images or --examples, not both")
    if args.examples:
        chosen = Chosen(examples=_numbers(args, "examples"))
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


def _check_no_images(images: list[str]) -> None:
    if images:
        raise ConfigError(f"{images[0]}: this picture shows weights alone, no image")


def _numbers(args: flags.FlagValues, name: str) -> tuple[int, ...] | None:
    """Returns a list of whole numbers, None if it was not given."""
    values = getattr(args, name)
    if wrong := [value for value in values or () if not value.strip().isdecimal()]:
        raise ConfigError(problem(f"--{name}", wrong[0], "not a whole number"))
    return tuple(map(int, values)) if values else None


def _places(args: flags.FlagValues, default: Sequence[maps.Point]) -> list[maps.Point]:
    places = []
    for text in args.queries or ():
        try:
            y, x = map(float, text.split(":"))
        except ValueError:
            y = x = -1.0
        if not (0 <= y <= 1 and 0 <= x <= 1):
            raise ConfigError(problem("--queries", text, "no place", "Y:X, both 0 to 1"))
        places.append((y, x))
    return places or list(default)


def _classes(args: flags.FlagValues, subject: Subject, count: int | None) -> list[int] | None:
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


def _traverse(args, subject: Subject, pixels: np.ndarray, classes: list[int] | None) -> GradCat:
    """Goes down the tree of each image."""
    asked = None if classes is None else jnp.asarray(classes, jnp.int32)
    options = {"sign": 1 if args.sign == "+" else -1} | ({"rule": args.rule} if args.rule else {})
    predictor = subject.predictor
    return traverse(
        predictor.model, predictor.variables, subject.normalized(pixels), asked, **options
    )
