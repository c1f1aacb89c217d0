r"""Runs a recipe with every combination of some values, and compares the results.

    python tools/sweep.py --config=configs/digits_nest.py --workdir=runs/sweep \
        --sweep.model.aggregation=conv_norm_maxpool,maxpool --sweep.seed=0:3
    python tools/sweep.py --workdir=runs/sweep               # starts what is not done
    python tools/sweep.py status --workdir=runs/sweep
    python tools/sweep.py collect --workdir=runs/sweep       # CSV, Markdown, plots

    python tools/sweep.py --config=configs/digits_nest.py --workdir=runs/search \
        --search=optuna --trials=20 --sweep.optimizer.base_lr=log:1e-4:1e-2

--sweep.KEY=VALUES   values of a key between commas; 0:5 stands for 0,1,2,3,4; of a search also
                     log:LOW:HIGH, uniform:LOW:HIGH and int:LOW:HIGH
--sweep.config=...   recipes, or arguments of the one: --sweep.config=:tiny,:small
--config.KEY=VALUE   the same for all runs
--launch.KEY=VALUE   options of the launcher: --launch.parallel=2

Each run has a folder of its own in --workdir, which "python tools/predict.py" and the others take.
All runs are checked before the first one starts. The same command again starts only what is not
done. Exit codes: 0 all is done; 1 some runs failed; 2 something is wrong, and nothing was started;
75 interrupted, run again.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

import process.first  # noqa: F401

# isort: split

import jax
from absl import flags

from harness import commandline
from harness.commandline import Keyed
from harness.errors import ConfigError
from harness.files import local_path
from process.streams import go_on_without_output
from sweeps import collect, status
from sweeps.launchers.local import Local
from sweeps.metric import metric_of
from sweeps.plan import plan
from sweeps.runs import Run, read_runs
from sweeps.search import search
from sweeps.search_plan import plan_search, read_plan
from sweeps.search_results import in_words, results
from sweeps.start import LAUNCHERS, Launcher, RunsFailed, create_launcher, start

COMMANDS = ("start", "status", "collect")


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Folder of the sweep.")
    flags.DEFINE_multi_string("config", [], "Recipe; --config.KEY=VALUE: for all runs.")
    flags.DEFINE_multi_string(
        "sweep", [], "A sweep that the recipe defines; --sweep.KEY=VALUES: values to try."
    )
    flags.DEFINE_bool("zip", False, "The first values together, then the second ones, and so on.")
    flags.DEFINE_string(
        "launch", "local", f"{', '.join(LAUNCHERS)}; --launch.KEY=VALUE: its options."
    )
    flags.DEFINE_bool("retry_failed", False, "Start those again that failed before.")
    flags.DEFINE_string("metric", None, "To compare by; None: the recipe's checkpoint.best_metric.")
    flags.DEFINE_enum("search", None, ["optuna"], "Search for good values instead of trying all.")
    flags.DEFINE_integer("trials", None, "search: how many in all, by default 20.")
    flags.DEFINE_bool("prune", True, "search: end trials early that look worse than most.")
    flags.DEFINE_bool("watch", None, "status: keep up while runs run; None: on a terminal.")


def _is_search(args: flags.FlagValues, keyed: Keyed, folder: Path) -> bool:
    is_same_again = not (args.config or args.sweep or keyed.of("config") or keyed.of("sweep"))
    return args.search is not None or (is_same_again and read_plan(folder) is not None)


def _search(args: flags.FlagValues, keyed: Keyed, folder: Path, launcher: Launcher) -> None:
    if not isinstance(launcher, Local):
        hint = "several of these commands may be at one search, on machines that share the folder"
        raise ConfigError(f"--search needs --launch=local; {hint}")
    if args.zip or args.sweep:
        raise ConfigError("--search takes neither --zip nor --sweep=NAME")
    fixed, swept = keyed.of("config"), keyed.of("sweep")
    is_same_again = not (args.config or fixed or swept)
    before = read_plan(folder) if is_same_again else None
    search(
        folder,
        before or plan_search(args.config, fixed, swept, args.metric),
        launcher,
        num_trials=args.trials,
        prune=args.prune,
        retry_failed=args.retry_failed,
    )
    found = results(folder)
    print(in_words(found, folder))
    _raise_if_failed({trial.run.name: trial.status for trial in found.history})


def _raise_if_failed(statuses: Mapping[str, str]) -> None:
    if failed := [name for name, status in statuses.items() if status == "failed"]:
        raise RunsFailed(
            f"{len(failed)} of {len(statuses)} runs failed: {failed[0]}"
            f"{' and others' * (len(failed) > 1)}; --retry_failed starts them again"
        )


def _runs(args: flags.FlagValues, keyed: Keyed, folder: Path) -> list[Run]:
    """Returns the runs of the command line, or if it names none, those of the folder."""
    fixed, swept = keyed.of("config"), keyed.of("sweep")
    if not (args.config or args.sweep or fixed or swept):
        return read_runs(folder)
    return plan(recipes=args.config, names=args.sweep, fixed=fixed, swept=swept, is_zip=args.zip)


def main(args: flags.FlagValues, keyed: Keyed, command: str | None) -> None:
    command = command or "start"
    if command not in COMMANDS:
        raise ConfigError(f"unknown command {command!r}; allowed: {', '.join(COMMANDS)}")
    if not args.workdir:
        raise ConfigError("--workdir=FOLDER of the sweep is needed; see --help")
    folder = local_path("--workdir", args.workdir)
    if command == "status":
        watch = sys.stdout.isatty() if args.watch is None else args.watch
        status.show(folder, args.metric, watch=watch)
    elif command == "collect":
        for path in collect.collect(folder, args.metric):
            print(f"wrote {path}")
        print((folder / "results.md").read_text(), end="")
    else:
        go_on_without_output()
        jax.config.update("jax_platforms", "cpu")  # devices are for the runs; here they are built
        launcher = create_launcher(args.launch, dict(keyed.of("launch")))
        if _is_search(args, keyed, folder):
            _search(args, keyed, folder, launcher)
            return
        if args.trials is not None:
            raise ConfigError("--trials is of --search=optuna")
        runs = _runs(args, keyed, folder)
        states = start(folder, runs, launcher, retry_failed=args.retry_failed)
        if args.launch == "local":
            print(collect.as_markdown(collect.read_rows(folder), metric_of(folder, runs)))
        _raise_if_failed({name: state.status for name, state in states.items()})


if __name__ == "__main__":
    commandline.run(
        define_flags, main, (f"[{'|'.join(COMMANDS)}]",), keyed=("config", "sweep", "launch")
    )
