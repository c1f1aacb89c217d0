"""The command line of train.py, evaluate.py and the tools: absl flags, clear errors, exit codes."""

import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

from absl import app, flags, logging

from harness.errors import ConfigError, RunError, printable
from harness.files import local_path
from process.compilation_cache import keep_compiled_programs
from process.memory import keep_freed_memory
from process.signals import CtrlC
from process.streams import flush_streams, go_on_without_output
from process.terminal import escape_streams

_for_stored: list[tuple[str, str]] | None = None  # overrides without a recipe; None: an error


def with_overrides(config):
    """Returns the config of a run, changed as --config.section.key=value beside --workdir says."""
    from harness.overrides import apply_overrides

    apply_overrides(config, _for_stored or ())
    return config


def define_config_flag(*, or_stored: bool = False) -> None:
    """Defines --config=FILE.py[:argument] with --config.section.key=value overrides.

    With `or_stored` they may stand beside --workdir without --config, see `with_overrides`.

    None is a value for every key: --config.augment.flip=None leaves the flip out, and
    --config.augment.flip.probability=0.5 switches it on again.

    Keys that the recipe does not list are accepted here, as its sections list only what differs
    from the defaults; harness/strict_config.py then refuses misspelt ones.
    """
    global _for_stored
    _for_stored = [] if or_stored else None
    try:
        from ml_collections import config_flags
    except ImportError:  # tools that also run without a recipe do so on a bare machine
        flags.DEFINE_string("config", None, "Recipe; needs ml-collections.")
        return
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Recipe, e.g. configs/digits_nest.py or configs/imagenet_nest.py:tiny",
        lock_config=False,
        sys_argv=[],  # the overrides are ours: config_flags goes by the type of the present value
    )


def _define_common_flags() -> None:
    flags.DEFINE_bool("traceback", False, "Also show where an error came from.")
    flags.DEFINE_string(
        "compilation_cache",
        None,
        "Folder for compiled programs, so that the next start is quicker; by default in the user's "
        "cache folder; empty for none.",
    )


class Keyed(list):
    """(name, key, text) of flags with keys, such as --sweep.model.depth=1,2, in their order."""

    def of(self, name: str) -> list[tuple[str, str]]:
        """Returns (key, text) of one name."""
        return [(key, text) for given, key, text in self if given == name]


def take_keyed(argv: list[str], names: tuple[str, ...]) -> tuple[list[str], Keyed]:
    """Takes the flags with keys out of a command line.

    Args:
        argv: the command line.
        names: that such flags begin with.

    Returns:
        The other arguments, and the flags.

    Raises:
        ConfigError: one has no value.
    """
    if not names:
        return argv, Keyed()
    pattern = re.compile(rf"--?({'|'.join(names)})\.([\w.]+)(?:=(.*))?", re.DOTALL)
    rest, keyed, arguments = [], Keyed(), list(argv)
    while arguments:
        argument = arguments.pop(0)
        if argument == "--":
            return [*rest, argument, *arguments], keyed
        if match := pattern.fullmatch(argument):
            name, key, text = match.groups()
            if text is None:
                if not arguments or arguments[0].startswith("--"):
                    raise ConfigError(f"{argument} needs a value: {argument}=VALUE")
                text = arguments.pop(0)
            keyed.append((name, key, text))
        else:
            rest.append(argument)
    return rest, keyed


def _parse(argv: list[str], keyed: Keyed | None = None, names: tuple[str, ...] = ()) -> list[str]:
    try:
        argv, taken = take_keyed(argv, names)
        if keyed is not None:
            keyed.extend(taken)
        if "config" not in flags.FLAGS or "config" in names:
            return flags.FLAGS(argv)
        argv = [_with_home(argument) for argument in argv]
        argv = flags.FLAGS(argv, known_only=True)  # loads the recipe
        config = flags.FLAGS.config
        if isinstance(config, str):
            raise ConfigError("--config needs ml-collections: pip install -r requirements.txt")
        if sys.modules.get("ml_collections") is None:
            return flags.FLAGS(argv)
        from harness.overrides import apply_overrides, split_overrides

        if config is not None:
            config.to_dict()  # a recipe that failed to load says so only here
        argv, overrides = split_overrides(argv, config)
        rest = flags.FLAGS(argv)
        if flags.FLAGS.config is not None:  # also where a flag before it ended the first look
            apply_overrides(flags.FLAGS.config, overrides)
        elif overrides and _for_stored is not None and flags.FLAGS.workdir:
            _for_stored.extend(overrides)
        elif overrides:
            raise ConfigError(f"--config.{overrides[0][0]} needs --config=FILE.py before it")
        return rest
    except (AttributeError, KeyError, OSError, TypeError, ValueError, flags.Error) as error:
        _fail(ConfigError(_essence(error)))
    except ConfigError as error:
        _fail(error)


def _with_home(argument: str) -> str:
    """Returns an argument, --config with the home folder in the place of ~."""
    if not (match := re.fullmatch("(--?config=)(.+)", argument, re.DOTALL)):
        return argument
    path = local_path("--config", match[2])
    return f"{match[1]}{path}" if match[2].startswith("~") else argument


def _essence(error: Exception) -> str:
    """Returns what a person needs of an error of absl or config_flags, which may be pages long."""
    text = str(error)
    if isinstance(error, KeyError) and error.args:
        text = f"the config has no key {error.args[0]}"
    if "Traceback" in text or isinstance(error, OSError):  # of a recipe: the last line says it
        last = text.strip().splitlines()[-1].strip()
        places = re.findall(r'File "([^"]*configs/[^"]*)", line (\d+)', text)
        # A recipe's own ValueError explains itself; other errors need the place.
        if last.startswith("ValueError: ") or not places:
            return last.removeprefix("ValueError: ")
        return f"{last} ({':'.join(places[-1])})"
    return " ".join(text.split())


def _of_storage(error: Exception) -> RunError | None:
    """Returns what ends a script if a bucket caused an error, through whatever library."""
    if "harness.buckets" not in sys.modules:
        return None
    from harness.buckets import as_run_error

    return as_run_error(error)


def _fail(error: RunError):
    if "traceback" in flags.FLAGS and flags.FLAGS["traceback"].value:
        traceback.print_exception(error)
    print(f"{sys.argv[0]}: {printable(str(error))}", file=sys.stderr)
    sys.exit(error.exit_code)


def choose_command(command: str, commands: Mapping[str, Callable]) -> Callable:
    """Returns the function of a script's command.

    Args:
        command: as given.
        commands: name -> function, whose docstring's first line is its help.
    """
    if command in commands:
        return commands[command]
    allowed = "; ".join(f"{name}: {f.__doc__.splitlines()[0]}" for name, f in commands.items())
    raise ConfigError(f"unknown command {command!r}; allowed: {allowed}")


def _match(given: list[str], names: tuple[str, ...]) -> list:
    """Returns the positional arguments as `run` describes them."""
    last, num_others = "".join(names[-1:]), len(names) - 1
    if last.endswith("...]") and len(given) >= num_others:
        return [*given[:num_others], given[num_others:]]
    if last.startswith("[") and len(given) == num_others:
        given = [*given, None]
    if len(given) < len(names):
        raise ConfigError(f"{names[len(given)]} is missing; see --help")
    if last.endswith("..."):
        return [*given[:num_others], given[num_others:]]
    if len(given) > len(names):
        unexpected = given[len(names)]
        raise ConfigError(f"unexpected argument {unexpected!r}; flags look like --name=value")
    return given


def run(
    define_flags: Callable[[], None],
    main: Callable[..., None],
    arguments: tuple[str, ...] = (),
    keyed: tuple[str, ...] = (),
    within: Callable[[flags.FlagValues], AbstractContextManager] = nullcontext,
) -> None:
    """Runs a script: a RunError is one line on stderr and its exit code, Ctrl-C a line and 130.

    Args:
        define_flags: defines the script's flags. Called here rather than at import, so that tests
            and notebooks can import several scripts.
        main: gets the parsed flags and the positional arguments.
        arguments: names of the positional arguments, all required. As the last, "file..." stands
            for one or more, which main gets as a list, "[file...]" for any number, and "[name]" for
            one or None.
        keyed: names of flags with keys, as "sweep" of --sweep.model.depth=1,2. If there are any,
            main gets them after the parsed flags, as Keyed.
        within: gives what main runs in, for the parsed flags.
    """
    with_keys = Keyed()

    def checked_main(argv: list[str]) -> None:
        try:
            given = _match(argv[1:], arguments)
            keep_compiled_programs(flags.FLAGS.compilation_cache)
            keep_freed_memory()
            with within(flags.FLAGS):
                main(flags.FLAGS, *([with_keys] if keyed else []), *given)
            flush_streams()
        except RunError as error:
            _fail(_of_storage(error) or error)
        except Exception as error:
            if isinstance(error, BrokenPipeError) or (end := _of_storage(error)) is None:
                raise
            _fail(end)

    escape_streams()
    before = set(flags.FLAGS)
    define_flags()
    _define_common_flags()
    # --help shows the flags that the script itself defines; those of other rooms count as its own.
    for name in set(flags.FLAGS) - before:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    logging.set_verbosity(logging.WARNING)
    with CtrlC() as ctrl_c:
        try:
            app.run(checked_main, flags_parser=lambda argv: _parse(argv, with_keys, keyed))
        except (Exception, KeyboardInterrupt) as error:
            if not ctrl_c.received() and not isinstance(error, KeyboardInterrupt):
                raise
            print(f"{sys.argv[0]}: stopped", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)
        finally:
            go_on_without_output()  # what is said on the way out ends nothing
