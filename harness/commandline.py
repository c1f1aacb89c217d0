"""The command line of train.py, evaluate.py and the tools: absl flags, clear errors, exit codes."""

import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from absl import app, flags, logging

from harness.arguments import unknown
from harness.errors import ConfigError, RunError, printable
from harness.help import asks_for_help, help_text
from process.compilation_cache import keep_compiled_programs
from process.memory import keep_freed_memory
from process.signals import CtrlC
from process.streams import end_starting, flush_streams, go_on_without_output
from process.terminal import escape_streams


class _OneOf(flags.ArgumentParser):
    def __init__(self, choices: tuple[str, ...]):
        self.choices = choices

    def parse(self, argument: str) -> str | None:
        if argument in ("true", "false"):  # of a flag without a value
            return self.choices[0] if argument == "true" else None
        if argument not in self.choices:
            raise ValueError(unknown(argument, self.choices))
        return argument


def define_switch(name: str, choices: tuple[str, ...], text: str) -> None:
    """Defines a flag that is None, or one of some words: the first one if it is given alone."""
    flag = flags.Flag(_OneOf(choices), None, name, None, text, boolean=True)
    flags.DEFINE_flag(flag)


def _define_common_flags() -> None:
    flags.DEFINE_bool("traceback", False, "Also show where an error came from.")
    flags.DEFINE_string(
        "compilation_cache",
        None,
        "Folder for compiled programs; None: the user's cache folder; empty: nothing is kept.",
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
        if (flag := _config_flag()) is None:
            return flags.FLAGS(argv)
        from harness.overrides import split_overrides

        argv = flags.FLAGS(argv, known_only=True)  # loads the recipe
        argv, overrides = split_overrides(argv, flag.value)
        rest = flags.FLAGS(argv)
        if flag.value is not None:  # also where a flag before it ended the first look
            flag.override(overrides)
        elif overrides and flag.or_stored and flags.FLAGS.workdir:
            flag.overrides += overrides
        elif overrides:
            raise ConfigError(f"--config.{overrides[0][0]} needs --config=FILE.py before it")
        return rest
    except (OSError, ValueError, flags.Error) as error:
        _fail(ConfigError(" ".join(str(error).split())))
    except ConfigError as error:
        _fail(error)


def _config_flag() -> Any | None:
    """Returns the flag of harness/overrides.py if the script has it."""
    if "config" not in flags.FLAGS or "harness.overrides" not in sys.modules:
        return None  # without ml-collections, tools go on that also run without a recipe
    from harness.overrides import ConfigFlag

    flag = flags.FLAGS["config"]
    return flag if isinstance(flag, ConfigFlag) else None


def _print_help(argv: list[str], own: list[flags.Flag], docstring: str, arguments: tuple) -> None:
    """Prints the help that a command line asks for; of a config on it, also the sections."""
    asked, sections, wrong = asks_for_help(argv), (), None
    if (flag := _config_flag()) is not None:
        try:
            for number, argument in enumerate(argv):
                if argument in ("--config", "-config"):
                    flags.FLAGS([argv[0], *argv[number : number + 2]])
                elif argument.startswith(("--config=", "-config=")):
                    flags.FLAGS([argv[0], argument])
            sections = flag.list_sections(flag.value) if flag.value is not None else ()
        except (ConfigError, flags.Error) as error:
            wrong = error
    print(help_text(docstring, arguments, own, whole=asked == "whole", sections=sections))
    flush_streams()
    if wrong:
        _fail(ConfigError(str(wrong)))
    sys.exit(0)


def _of_storage(error: Exception) -> RunError | None:
    """Returns what ends a script if a bucket caused an error, through any library."""
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
    own = [flags.FLAGS[name] for name in flags.FLAGS if name not in before]
    logging.set_verbosity(logging.WARNING)

    def parse(argv: list[str]) -> list[str]:
        if asks_for_help(argv):
            _print_help(argv, own, main.__globals__["__doc__"] or "", arguments)
        return _parse(argv, with_keys, keyed)

    with CtrlC() as ctrl_c:
        try:
            app.run(checked_main, flags_parser=parse)
        except (Exception, KeyboardInterrupt) as error:
            if not ctrl_c.received() and not isinstance(error, KeyboardInterrupt):
                raise
            print(f"{sys.argv[0]}: stopped", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)
        finally:
            end_starting()
            go_on_without_output()  # what is said on the way out ends nothing
