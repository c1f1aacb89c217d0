"""Names the classes of images, or finds what lies where in them.

    python tools/predict.py --workdir=runs/birds photo.jpg
    python tools/predict.py --workdir=runs/birds --checkpoint=best --ema --top_k=1 folder/ more.png
    python tools/predict.py --config=configs/imagenet_nest.py:base --weights=nest-b_imagenet/ a.jpg
    python tools/predict.py --workdir=runs/birds --explain=gradcat photo.jpg
    python tools/predict.py --exported=birds.jax photo.jpg
    python tools/predict.py --workdir=runs/digits_detr --min_score=0.3 scenes/

Images are prepared as in the recipe's evaluation; a model of grey images gets grey ones. A folder
stands for all images in and below it, sorted; a note says what is left out. Prints a table, or
with --json one JSON object per line. Class names are those of --classes, those stored with the
weights, the data set's, or ImageNet's; the data set itself is not needed.

With --explain, a picture of what speaks for the likeliest class is written for each image into
--explain_folder, as NAME.METHOD.png.

A run of detection or segmentation draws what it finds on each image, into --annotated_folder, as
NAME.annotated.png, and writes all of it there as predictions.json, in COCO's form; boxes that are
less certain than --min_score are in the file alone. Categories and images are counted from 1, or
have the ids of --ids, a data set's own JSON file. Of these runs --workdir is needed; --json and
--top_k are for classes of whole images.

Exit codes: 0 done; 2 wrong input, or an image could not be read: it is named on stderr, and the
others are predicted.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

import process.first  # noqa: F401

# isort: split

import jax
import tqdm
from absl import flags
from PIL import Image

from data.class_names import short_name
from harness import commandline
from harness.errors import ConfigError, escaped, input_errors, printable
from harness.files import check_folder, local_path, run_path, write_text
from inference.annotating.annotator import Annotator, Found, is_annotated
from inference.annotating.coco_form import Ids, coco_form
from inference.explain import METHODS, check_method
from inference.export import Exported, load_exported
from inference.flags import check_recipe_flags, define_predictor_flags, load_predictor
from inference.given_images import find_files
from inference.prediction import Guess, Prediction
from inference.predictor import Predictor
from workdirs.config_file import stored_config


def as_json(path: Path, rows: list[Guess], picture: Path | None = None) -> str:
    line = {"image": str(path), "predictions": [row._asdict() for row in rows]}
    text = json.dumps(line | ({"explanation": str(picture)} if picture else {}), ensure_ascii=False)
    return escaped(text)  # JSON has the same escapes for what it leaves


def named(row: Guess) -> str:
    return f"class {row.label}" if row.name is None else row.name


def as_table(path: Path, rows: list[Guess], width: int, picture: Path | None = None) -> str:
    """Returns one line per class, the path in the first, and one for the picture, if any."""
    lines = []
    for number, row in enumerate(rows):
        shown = printable(str(path)) if number == 0 else ""
        lines.append(f"{shown:<{width}}  {row.probability:7.2%}  {printable(named(row))}")
    lines += [f"{'':<{width}}  {'':7}  {picture}"] if picture else []
    return "\n".join(lines)


def writable_folder(flag: str, folder: str) -> Path:
    """Returns the path that a flag names; raises ConfigError if no folder can be written there."""
    path = local_path(flag, folder)
    check_folder(flag, path)
    return path


class PictureFolder:
    """Where pictures go, one name for each image."""

    def __init__(self, flag: str, folder: str, suffix: str):
        """Makes the folder, which a flag names, if it is not there."""
        self._folder = writable_folder(flag, folder)
        self._shown = self._folder if folder.startswith("~") else Path(folder)
        self._suffix = f".{suffix}.png"
        self._taken: set[str] = set()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{flag}={folder}: {error.strerror}") from None

    def place(self, path: Path) -> tuple[Path, Path]:
        """Returns where the picture of an image goes, and the path to show."""
        file, number = f"{path.name}{self._suffix}", 1
        while file in self._taken:  # images of one name in several folders
            number += 1
            file = f"{path.name}-{number}{self._suffix}"
        self._taken.add(file)
        return self._folder / file, self._shown / file

    def write(self, prediction: Prediction, row: Guess) -> Path:
        """Draws an explanation, `row` is the likeliest class; returns the path to show."""
        # Only now: matplotlib takes a second to import.
        from inference.pictures import style
        from inference.pictures.overlay import draw_explanation

        path, shown = self.place(prediction.path)
        title = f"{short_name(named(row))}, {row.probability:.1%}"
        style.save(draw_explanation(prediction.explanation, title), path)
        return shown


def predict_all(
    predictor: Predictor | Exported,
    files: list[Path],
    *,
    top_k: int,
    batch_size: int,
    as_lines: bool,
    explain: str | None = None,
    folder: str = "",
) -> int:
    """Prints one prediction per file, and names on stderr the files that cannot be read.

    Returns:
        How many cannot be read.
    """
    width = max(len(printable(str(file))) for file in files)
    bad = 0
    options = {"explain": explain} if explain else {}
    pictures = PictureFolder("--explain_folder", folder, explain) if explain else None
    bar = tqdm.tqdm(total=len(files), unit="image", leave=False, disable=not sys.stderr.isatty())
    with bar:
        for prediction in predictor.iterate(files, batch_size=batch_size, **options):
            if prediction.probabilities is None:
                bad += 1
                what = printable(f"{prediction.path}: {prediction.problem}")
                bar.write(f"{sys.argv[0]}: {what}", sys.stderr)
            else:
                rows = prediction.best(top_k)
                picture = pictures and pictures.write(prediction, rows[0])
                text = as_json(prediction.path, rows, picture)
                if not as_lines:
                    text = as_table(prediction.path, rows, width, picture)
                bar.write(text, sys.stdout)
            bar.update()
    return bad


def annotate_all(annotator: Annotator, files: list[Path], args: flags.FlagValues) -> int:
    """Draws what is found in each file, writes all of it as JSON, and names what cannot be read.

    Returns:
        How many cannot be read.
    """
    pictures = PictureFolder("--annotated_folder", args.annotated_folder, "annotated")
    names, bad, ids = annotator.class_names, 0, None
    if args.ids is not None:
        with input_errors():
            ids = Ids.read(local_path("--ids", args.ids), names, files)
    bar = tqdm.tqdm(total=len(files), unit="image", leave=False, disable=not sys.stderr.isatty())

    def drawn() -> Iterator[Found]:  # one after the other: pixels of all may be too many
        nonlocal bad
        for one in annotator.iterate(files, batch_size=args.batch_size):
            if one.problem:
                bad += 1
                what = printable(f"{one.path}: {one.problem}")
                bar.write(f"{sys.argv[0]}: {what}", sys.stderr)
            else:
                path, shown = pictures.place(one.path)
                Image.fromarray(one.drawn(names, args.min_score)).save(path)
                text = one.in_words(names, args.min_score)
                bar.write(printable(f"{one.path}  {text}  {shown}"), sys.stdout)
                yield one
            bar.update()

    with bar:
        content = coco_form(drawn(), names, ids)
    folder = writable_folder("--annotated_folder", args.annotated_folder)
    text = escaped(json.dumps(content, ensure_ascii=False))
    with input_errors():
        write_text(folder / "predictions.json", f"{text}\n")
    print(f"written: {Path(args.annotated_folder) / 'predictions.json'}", file=sys.stderr)
    return bad


def define_flags() -> None:
    define_predictor_flags()
    flags.DEFINE_string("exported", None, "File of tools/export.py, instead of all these.")
    flags.DEFINE_integer("top_k", None, "Classes to name per image; 5 if not given.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 32, "Images that are predicted at once.", lower_bound=1)
    flags.DEFINE_enum(
        "explain", None, METHODS, "Also draw what speaks for the likeliest class, by this method."
    )
    flags.DEFINE_string("explain_folder", "explained", "Where the pictures are written.")
    flags.DEFINE_string("annotated_folder", "annotated", "Where what is found is written.")
    flags.DEFINE_string("ids", None, "COCO-style JSON file whose ids predictions.json takes.")
    flags.DEFINE_float("min_score", 0.5, "Of boxes that are drawn.", 0.0, 1.0)
    flags.DEFINE_bool("json", False, "Print one JSON object per image, not a table.")


def _annotator(args: flags.FlagValues) -> Annotator | None:
    """Returns what the flags name, if it is a run of detection or segmentation."""
    if args.exported is not None or jax.process_count() > 1:
        return None
    check_recipe_flags(args)
    config = args.config
    if config is None:
        config = stored_config(run_path("--workdir", args.workdir), mesh={"data": -1, "fsdp": 1})
    if not is_annotated(str(config.task.name)):
        return None
    for name in ("weights", "classes", "explain", "json", "top_k"):
        if getattr(args, name) not in (None, False):
            raise ConfigError(f"--{name} is for classification; config.task.name says otherwise")
    writable_folder("--annotated_folder", args.annotated_folder)  # before the model is loaded
    if args.ids is not None and not local_path("--ids", args.ids).is_file():
        raise ConfigError(f"--ids={args.ids}: there is no such file")
    workdir = run_path("--workdir", args.workdir)
    return Annotator.load(workdir, config, checkpoint=args.checkpoint, ema=args.ema)


def _predictor(args: flags.FlagValues) -> Predictor | Exported:
    if jax.process_count() > 1:
        raise ConfigError("predict.py runs in one process; split the images instead")
    if args.ids is not None:
        raise ConfigError("--ids is for a run of detection or segmentation")
    if args.exported is None:
        return load_predictor(args)
    if args.explain:
        raise ConfigError("--explain needs gradients, which an exported model no longer has")
    for name in ("config", "workdir", "weights", "classes"):
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name} does not go with --exported, which has it inside")
    return load_exported(args.exported)


def main(args: flags.FlagValues, images: list[str]) -> None:
    if args.explain:
        writable_folder("--explain_folder", args.explain_folder)  # before the model is loaded
    annotator = _annotator(args)
    predictor = annotator or _predictor(args)
    files, problems, notes = find_files(images)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    for problem in problems:
        print(f"{sys.argv[0]}: {problem}", file=sys.stderr)
    bad = 0
    if files and annotator:
        bad = annotate_all(annotator, files, args)
    elif files:
        with input_errors():
            if args.explain:
                check_method(args.explain, predictor.model, predictor.data.height_and_width)
        bad = predict_all(
            predictor,
            files,
            top_k=args.top_k or 5,
            batch_size=args.batch_size,
            as_lines=args.json,
            explain=args.explain,
            folder=args.explain_folder,
        )
    if failed := bad + len(problems):
        total = len(files) + len(problems)
        raise ConfigError(f"{failed} of {total} could not be predicted, see above")


if __name__ == "__main__":
    commandline.run(define_flags, main, arguments=("IMAGE|FOLDER...",))
