"""From the flags of tools/explain.py to a figure: one function per picture."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from absl import flags
from matplotlib.figure import Figure

from harness.errors import ConfigError
from inference.pictures import attention as attentions
from inference.pictures import attention_maps, choices, maps
from inference.pictures import features as sheets
from inference.pictures import filters as stems
from inference.pictures import gradcat as paths
from inference.pictures import positions as tables
from inference.pictures import tsne as scatter
from inference.pictures import words as embeddings
from inference.pictures.images import join, prepare
from inference.pictures.subjects import Subject
from nest.gradcat import GradCat, check_traversable
from nest.gradcat import gradcat as traverse

_MOST_ROWS = 8  # images in one figure


def gradcat(args: flags.FlagValues, images: list[str]) -> Figure:
    """Which block speaks for the class, level by level: a row per image."""
    subject, chosen = (
        choices.choose_subject(args),
        choices.choose_images(args, images, most=_MOST_ROWS),
    )
    pixels = prepare(chosen, subject)
    classes = choices.choose_classes(args, subject, len(chosen))
    found = _traverse(args, subject, pixels, classes)
    names = [subject.class_name(label) for label in np.asarray(found.classes)]
    if classes is None:
        names = [f"{name} (predicted)" for name in names]
    scores, path, boxes = map(np.asarray, (found.scores, found.path, found.boxes))
    return paths.draw(pixels, scores, path, boxes, names, subject.name)


def mosaic(args: flags.FlagValues, images: list[str]) -> Figure:
    """Four images in one, or one image of several classes, and the path for each class."""
    subject, chosen = choices.choose_subject(args), choices.choose_images(args, images, most=4)
    if len(chosen) not in (1, 4):
        raise ConfigError(f"mosaic needs four images, or one of several classes; not {len(chosen)}")
    height, width = subject.predictor.image_shape[:2]
    check_traversable(subject.predictor.model, (height, width))
    of_examples = chosen.labels(subject)
    own: list[int | None] = list(range(4))
    if len(chosen) == 1:
        (whole,) = prepare(chosen, subject)
        classes = choices.choose_classes(args, subject, None)
        if classes is None and of_examples is None:
            raise ConfigError("one image has no classes of its own: --labels says which to explain")
        classes = list(of_examples[0]) if classes is None else classes
        own = [None] * len(classes)
    else:
        if height % 2 or width % 2:
            raise ConfigError(f"an image of {height} x {width} pixels cannot hold four")
        whole = join(prepare(chosen, subject, size=(height // 2, width // 2)))
        classes = choices.choose_classes(args, subject, 4)
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
    for subject, (image,) in choices.each_model(args, images):
        found = maps.feature_maps(subject, image[None], choices.numbers(args, "blocks"))
        pixels.append(image)
        planes[subject.name] = {depth: plane[0] for depth, plane in found.items()}
        numbers[subject.name] = {
            depth: sheets.choose_channels(
                args.num_channels, plane.shape[-1], args.seed, choices.numbers(args, "channels")
            )
            for depth, plane in found.items()
        }
    return sheets.draw(pixels, planes, numbers)


def words(args: flags.FlagValues, images: list[str]) -> Figure:
    """The word embeddings over the image, mean over channels: a row per image."""
    subject = choices.choose_subject(args)
    pixels = prepare(choices.choose_images(args, images, most=_MOST_ROWS), subject)
    found = maps.word_maps(subject, pixels, choices.numbers(args, "blocks"))
    return embeddings.draw(pixels, found, subject.name)


def tsne(args: flags.FlagValues, images: list[str]) -> Figure:
    """All channels of the last block, one point each."""
    planes, depths = {}, {}
    for subject, pixels in choices.each_model(args, images):
        found = maps.feature_maps(subject, pixels, choices.numbers(args, "blocks"))
        depth, plane = list(found.items())[-1]
        planes[subject.name], depths[subject.name] = plane[0], depth
    return scatter.draw(scatter.embed(planes, seed=args.seed), depths)


def attention(args: flags.FlagValues, images: list[str]) -> Figure:
    """Attention of words, patches or the class token, see --kind."""
    blocks = choices.numbers(args, "blocks")
    if args.kind == "words":
        subject = choices.choose_subject(args)
        (image,) = prepare(choices.choose_images(args, images, most=1), subject)
        patch, *rest = choices.places(args, [(0.5, 0.5)])
        if rest:
            raise ConfigError("--queries: one place, whose patch is drawn, for --kind=words")
        queries = attention_maps.spread_words(subject)
        found, box = attention_maps.word_attention(subject, image, blocks, patch, queries)
        return attentions.draw_words(image, box, found, queries, subject.name)
    if args.kind == "class_token":
        drawn = {
            subject.name: (pixels, attention_maps.class_token_attention(subject, pixels, blocks))
            for subject, pixels in choices.each_model(args, images, most=_MOST_ROWS)
        }
        shown, found = ([x[i] for x in drawn.values()] for i in range(2))
        return attentions.draw_class_token(shown, dict(zip(drawn, found, strict=True)))
    queries, shown, by_model = choices.places(args, [(0.3, 0.3), (0.55, 0.55), (0.8, 0.7)]), [], {}
    for subject, pixels in choices.each_model(args, images):
        found = attention_maps.patch_attention(subject, pixels, blocks, queries)
        shown.append(pixels[0])
        by_model[subject.name] = {depth: weights[0] for depth, weights in found.items()}
    return attentions.draw_patches(shown, by_model, queries)


def positions(args: flags.FlagValues, images: list[str]) -> Figure:
    """Similarity of position embeddings, per level."""
    choices.check_no_images(images)
    subject = choices.choose_subject(args)
    return tables.draw(maps.position_planes(subject), subject.name)


def filters(args: flags.FlagValues, images: list[str]) -> Figure:
    """The filters of the first layer."""
    choices.check_no_images(images)
    subject = choices.choose_subject(args)
    found = maps.stem_filters(subject)
    chosen = choices.numbers(args, "channels")
    if chosen:
        chosen = sheets.choose_channels(0, len(found), 0, chosen)
    return stems.draw(found[chosen or slice(stems.MOST)], subject.name, chosen)


Command = Callable[[flags.FlagValues, list[str]], Figure]
COMMANDS: dict[str, Command] = {
    function.__name__: function
    for function in (gradcat, mosaic, features, words, tsne, attention, positions, filters)
}


def _traverse(args, subject: Subject, pixels: np.ndarray, classes: list[int] | None) -> GradCat:
    """Goes down the tree of each image."""
    asked = None if classes is None else jnp.asarray(classes, jnp.int32)
    options = {"sign": 1 if args.sign == "+" else -1} | ({"rule": args.rule} if args.rule else {})
    predictor = subject.predictor
    return traverse(
        predictor.model, predictor.variables, subject.normalized(pixels), asked, **options
    )
