"""Writes one HTML page about a run or a sweep, or about two runs side by side.

    python tools/report.py runs/digits_nest
    python tools/report.py runs/digits_nest --checkpoint=best --ema --explain=all
    python tools/report.py runs/sweep --each
    python tools/report.py --compare runs/digits_nest runs/digits_tnt

The page needs no network and no other file. A run's checkpoint is evaluated on the run's own split
if that has not been done (what evaluate.py --per_class writes); --no_evaluate leaves it out. A
sweep's page has its runs in a table; --each also writes the page of each run. Without --output, the
page is report.html in the folder, and A_and_B.html, of two runs, in the current one.

Exit codes: 0 done, even if a part had to be left out; 2 wrong input.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

import process.first  # noqa: F401

# isort: split

from absl import flags

from harness import commandline
from harness.errors import ConfigError, input_errors
from harness.files import check_writable, local_path, run_path
from reports import page
from reports.answer_sections import Choices
from reports.comparison import comparison_page
from reports.run_record import read_run
from reports.run_sections import run_page
from reports.sweep_sections import sweep_page
from sweeps.runs import MANIFEST, read_runs
from zoo.find import CHECKPOINTS


def define_flags() -> None:
    flags.DEFINE_enum("checkpoint", "latest", CHECKPOINTS, "Which of a run's to evaluate.")
    flags.DEFINE_bool("ema", False, "Evaluate the moving average of the weights.")
    flags.DEFINE_bool("no_evaluate", False, "Leave out what has not been evaluated yet.")
    flags.DEFINE_string(
        "explain",
        "auto",
        "What speaks for an answer: auto (GradCAT, or Grad-CAM of other models), all, none, or "
        "methods of inference/explain.py joined by commas.",
    )
    flags.DEFINE_bool("compare", False, "Two runs side by side.")
    flags.DEFINE_bool("each", False, "Of a sweep, also write a page for each run, into its folder.")
    flags.DEFINE_string("metric", None, "To compare a sweep by; None: checkpoint.best_metric.")
    flags.DEFINE_string("output", None, "HTML file to write.")


def main(args: flags.FlagValues, folders: list[str]) -> None:
    choices = Choices(
        checkpoint=args.checkpoint,
        ema=args.ema,
        evaluate=not args.no_evaluate,
        explain=args.explain,
    )
    paths = [run_path("folder", folder) for folder in folders]
    if len(paths) != (2 if args.compare else 1):
        raise ConfigError("give one folder, or two with --compare; see --help")
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"{path}: there is no such folder")
    output = local_path("--output", args.output) if args.output else default_output(args, paths)
    check_writable("--output", output)
    if args.compare:
        made = comparison_page((read_run(paths[0]), read_run(paths[1])), choices)
    elif (paths[0] / MANIFEST).is_file():
        if args.each:
            write_each(paths[0], choices)
        made = sweep_page(paths[0], args.metric, page_folder=output.parent)
    else:
        made = run_page(read_run(paths[0]), choices)
    with input_errors():
        page.write(made, output)
    print(f"wrote {output}")


def default_output(args: flags.FlagValues, paths: list[Path]) -> Path:
    if args.compare:
        return Path.cwd() / f"{paths[0].name}_and_{paths[1].name}.html"
    return paths[0] / "report.html"


def write_each(folder: Path, choices: Choices) -> None:
    """Writes the page of each run of a sweep that has begun."""
    for run in read_runs(folder):
        workdir = folder / run.name
        try:
            made = run_page(read_run(workdir), choices)
        except ConfigError:  # nothing there yet
            continue
        with input_errors():
            page.write(made, workdir / "report.html")
        print(f"wrote {workdir / 'report.html'}")


if __name__ == "__main__":
    commandline.run(define_flags, main, arguments=("folder...",))
