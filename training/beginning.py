"""From a config and a workdir to a run at work: checked, built, restored."""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from data.digest import data_digest, digest_differences
from harness.errors import ConfigError, input_errors, printable
from harness.files import must_be_local, write_text
from parallel.watchdog import Watchdog, stacks_path
from saving.checkpoints import Checkpoints, can_resume
from saving.restoring import from_first
from training import experiment
from training.interrupts import Interrupts
from training.metric_logs import check_services
from training.numeric_faults import NumericFaults
from training.profiling import parse_steps, profiled
from training.reporting import Reporter
from training.running import Running
from training.same_everywhere import compare
from training.stops import Stops
from training.trained_run import as_begun, check_same_config
from workdirs.claims import claimed
from workdirs.class_file import own_classes
from workdirs.comparison import LENGTH, measured_with
from workdirs.config_file import read_record
from workdirs.progress import check_not_lost, check_places
from workdirs.restart import check_not_half_moved, set_aside_run
from workdirs.results import BadImagesFile, bad_images_path, read_done
from zoo.released.locate import is_released, locate
from zoo.start import unfinished


@dataclasses.dataclass(frozen=True)
class Start:
    """What a run starts with.

    Attributes:
        config: the recipe, and of a run that goes on what it began with.
        plain: the same, checked.
        changed: keys of it that are others than in the workdir, as a resumed run may have them.
    """

    config: ConfigDict
    plain: dict[str, Any]
    changed: tuple[str, ...] = ()


def check_start(
    config: ConfigDict,
    workdir: Path,
    *,
    profile_steps: str | None,
    log_to: Sequence[str],
    restart: bool,
    extend: bool,
) -> Start:
    """Finds everything that can be wrong before anything is written.

    Raises:
        ConfigError: something in the config or the workdir is wrong.
    """
    changed = ()
    if restart and extend:
        raise ConfigError("--extend goes on with a run, --restart starts over: give one of them")
    if not restart:
        check_not_half_moved(workdir)
        check_places(workdir)
        config = as_begun(config, workdir)
    plain = experiment.check_config(config)
    if not restart:
        changed = check_same_config(workdir, config, extend=extend)
    if is_released(plain["init_from"] or "") and (restart or not can_resume(workdir)):
        with input_errors():
            locate(plain["init_from"])  # here, because it may take longer than the watchdog waits
    check_services(log_to, workdir)
    if profile_steps is not None:
        must_be_local("--workdir", workdir, "where --profile_steps cannot write its traces")
    return Start(config, plain, changed)


def read_finished(start: Start, workdir: Path) -> dict[str, float] | None:
    """Returns the metrics of a finished run, and says so; None for others, and to extend it.

    Raises:
        ConfigError: it is not finished, and the steps that it had saved are gone.
    """
    if (metrics := read_done(workdir)) is None or LENGTH in start.changed:
        check_not_lost(workdir)
        return None
    more = "More epochs with --extend go on from there; another --workdir starts a new run."
    print(printable(f"{workdir} is finished: {metrics}. {more}"))
    if not can_resume(workdir):
        print(printable(f"note: {workdir} has no checkpoint any more"), file=sys.stderr)
    return metrics


@contextlib.contextmanager
def begun(
    start: Start,
    workdir: Path,
    *,
    profile_steps: str | None,
    log_to: Sequence[str],
    restart: bool,
    watchdog_seconds: float,
    print_parameters: bool,
) -> Iterator[Running]:
    """Yields a run that is ready for its next step; closes all that belongs to it afterwards.

    Args:
        start: from check_start.
        workdir: made if absent.
        profile_steps, log_to, restart, watchdog_seconds, print_parameters: as train_and_evaluate
            has them.
    """
    plain = start.plain
    dog = Watchdog(watchdog_seconds, functools.partial(write_text, stacks_path(workdir)))
    with contextlib.ExitStack() as stack:
        stack.enter_context(dog)  # ends last: opening and closing may hang as well
        interrupts = stack.enter_context(Interrupts())
        names = None if restart else own_classes(workdir)
        built = experiment.build(start.config, plain=plain, class_names=names)
        dog.progress("opening the data")
        profile = parse_steps(profile_steps, built.steps.total)
        resumes = can_resume(workdir) and not restart
        compare("workdirs", {"--workdir": str(workdir), "can resume": resumes})
        weights = None if resumes else built.read_weights()  # config.init_from
        if restart and (aside := from_first(set_aside_run, workdir)):
            print(printable(f"starts over; what was there is now in {aside}"))

        check_there = stack.enter_context(
            claimed(
                workdir,
                plain,
                built.data.dataset.class_names,
                built.data.num_train_examples,
                digest=data_digest(built.data),
                differences=digest_differences,
                changed=start.changed,
                notes=[unfinished(weights[1])] if weights and unfinished(weights[1]) else [],
            )
        )
        built.data.bad.keep_in(BadImagesFile(bad_images_path(workdir)))
        saved = stack.enter_context(
            Checkpoints(
                workdir=workdir,
                is_good=built.task.is_good,
                measured_with=measured_with(plain),
                **plain["checkpoint"],
            )
        )
        batches = stack.enter_context(contextlib.closing(built.data.train_batches()))
        faults = NumericFaults(**plain["faults"], records_of=built.records_of, workdir=workdir)

        # The newest checkpoint or a fresh state; each array goes straight to its own devices.
        restored = saved.restore(built.shapes)
        if restored is None:
            first_step, state, window = 0, built.init(weights), []
        else:
            first_step, state, loop = restored
            batches.set_state(loop["data"])
            window = loop["window"]
            faults = faults.resumed(loop.get("faults", {}))
        dog.progress("restoring the state")
        compare("place to resume from", {"step to resume from": first_step})

        report = stack.enter_context(
            Reporter(
                workdir,
                first_step=first_step,
                steps=built.steps,
                batches=batches,
                config=plain,
                log_to=log_to,
            )
        )
        parameters = built.task.parameters(built.shapes)
        report.show_parameters(parameters, printed=print_parameters)
        notes = [*built.notes(weights), *_extension(start, built, first_step, workdir)]
        report.start(built.mesh, notes)
        train_step = stack.enter_context(
            profiled(built.train_step, profile, first_step=first_step, folder=workdir / "profile")
        )
        dog.progress("getting ready for the first step")
        yield Running(
            built=built,
            first_step=first_step,
            state=state,
            window=window,
            faults=faults,
            batches=batches,
            saved=saved,
            report=report,
            stops=Stops(interrupts.requested, built.data.bad),
            dog=dog,
            train_step=train_step,
            check_there=check_there,
        )


def _extension(
    start: Start, built: experiment.Experiment, first_step: int, workdir: Path
) -> list[str]:
    """Returns what a person should know of a run that goes on for longer than it was to."""
    if LENGTH not in start.changed:
        return []
    loop, schedules = start.plain["loop"], built.task.schedules
    notes = [f"extended to {loop['num_epochs']:g} epochs, from step {first_step} on"]
    ending = {name: s for name, s in schedules.items() if s.ends}
    for name, schedule in ending.items():
        notes.append(
            f"{name}.schedule={schedule.kind!r} is that of the new length from here on: the next "
            f"learning rate is {float(schedule(first_step)):.3g}, and a run that was so long from "
            "the start would differ"
        )
    if ending:
        return notes
    # A length that the warm-up did not fit into had another one, and other rates for it.
    lengths = [each[LENGTH] for each in read_record(workdir).get("before", ()) if LENGTH in each]
    for length in lengths:
        plain = start.plain | {"loop": loop | {"num_epochs": length}}
        then = experiment.assemble(plain, built.mesh, built.data, built.key).task.schedules
        if any(then[name].numbers != schedule.numbers for name, schedule in schedules.items()):
            what = f"the warm-up was shortened to fit {length:g} epochs"
            return [*notes, f"{what}: a run that was so long from the start would differ"]
    return [*notes, "as a run that was so long from the start"]
