"""What --help prints: how a script is called, and its flags, those that people need first.

Flags stand in the order in which the script defines them. What does not fit in LINES is left to
--helpfull: first the ends of long descriptions, then all examples but the first ones.
"""

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from absl import flags

SHORT, WHOLE = ("-h", "--h", "-help", "--help", "-helpshort", "--helpshort"), ("--helpfull",)
LINES, MOST_COLUMNS = 40, 100
_ROOM_FOR_EXAMPLES = 3  # lines
_NAMES = 26  # columns; after a longer one, the description begins further right
_FOOTER = "--flag=value; what follows = is the default, ... that there is none. More: --helpfull"


def asks_for_help(argv: Iterable[str]) -> str:
    """Returns "short", "whole" or "": which help a command line asks for."""
    for argument in argv:
        if argument == "--":
            break
        if argument in (*SHORT, *WHOLE):
            return "whole" if argument in WHOLE else "short"
    return ""


def help_text(
    docstring: str,
    arguments: Sequence[str],
    own: Sequence[flags.Flag],
    *,
    whole: bool = False,
    sections: Sequence[tuple[str, str]] = (),
) -> str:
    """Returns the help of a script.

    Args:
        docstring: of the script: a sentence, and a paragraph of commands.
        arguments: names of the positional ones.
        own: its flags.
        whole: all that is known, however long.
        sections: of the given config: name, and the function that documents it.
    """
    columns = min(shutil.get_terminal_size().columns, MOST_COLUMNS)
    usage = _wrapped(" ".join(["usage:", _command(), "[flags]", *arguments]), columns, indent=4)
    docstring, entries = docstring.strip("\n"), _entries(own)
    listed = _list_sections(sections)
    if whole:
        rows = [line for entry in entries for line in _rows(*entry, columns)]
        return "\n".join([*usage, "", docstring, "", *rows, *listed])
    first, *others = docstring.split("\n\n")
    top = [*usage, "", *_wrapped(" ".join(first.split()), columns)]
    bottom = ["", *_wrapped(_FOOTER, columns)]
    examples = next((text for text in others if text.startswith("    ")), "")
    room = LINES - len(top) - len(bottom) - 1
    for shorten in (_first_sentence, _one_line):
        for number in reversed(range(len(entries))):  # those that people need last
            rows = [line for entry in entries for line in _rows(*entry, columns)]
            if len(rows) + _ROOM_FOR_EXAMPLES <= room:
                break
            names, text = entries[number]
            entries[number] = names, shorten(text, columns - len(_start(names)))
    shown = _first_commands(examples, room - len(rows) - 1, columns)
    return "\n".join([*top, *([""] * bool(shown)), *shown, "", *rows, *bottom, *listed])


def _command() -> str:
    script = Path(sys.argv[0])
    if script.suffix != ".py":
        return script.name
    shown = os.path.relpath(script) if script.is_absolute() else str(script)
    return f"python {shown if len(shown) < len(str(script)) else script}"


def _wrapped(text: str, columns: int, indent: int = 0) -> list[str]:
    return textwrap.wrap(text, columns, subsequent_indent=" " * indent, break_on_hyphens=False)


def _entries(own: Sequence[flags.Flag]) -> list[tuple[str, str]]:
    """Returns (flags, description); those that have the same one are one entry."""
    entries = {}
    for flag in own:
        entries.setdefault(_described(flag), []).append(_with_default(flag))
    return [(" ".join(names), text) for text, names in entries.items()]


def _start(names: str) -> str:
    return f"  {names}".ljust(_NAMES) + "  "


def _rows(names: str, text: str, columns: int) -> list[str]:
    return _wrapped(_start(names) + text, columns, indent=_NAMES + 2)


def _with_default(flag: flags.Flag) -> str:
    if isinstance(flag.default, bool) or flag.boolean:
        return f"--{'no' if flag.default else ''}{flag.name}"
    default = flag.default
    if isinstance(default, list):
        default = ",".join(map(str, default))
    if isinstance(default, float):
        default = f"{default:g}"
    return f"--{flag.name}={'...' if default in (None, '') else default}"


def _described(flag: flags.Flag) -> str:
    text = " ".join((flag.help or "").split())
    if isinstance(flag, flags.EnumFlag):
        text = re.sub(r"^<[^>]*>: ", "", text)  # absl's list of the choices
        text = f"{text.rstrip('.')} ({', '.join(flag.parser.enum_values)})."
    if isinstance(flag, flags.MultiFlag):
        text = text.split(";\n")[0].replace("; repeat this option to specify a list of values", "")
        text = f"{text.rstrip('.;')}; may be repeated."
    return text


def _first_sentence(text: str, _: int) -> str:
    return re.split(r"(?<=\.) (?=[A-Z])", text, maxsplit=1)[0]


def _one_line(text: str, columns: int) -> str:
    return textwrap.shorten(text, max(columns, 20), placeholder=" ...")


def _first_commands(examples: str, room: int, columns: int) -> list[str]:
    """Returns the first commands that fit."""
    shown = []
    for command in re.split(r"(?<!\\)\n", examples) if examples else []:
        lines = [command]
        if len(command) > columns:
            command = " ".join(command.replace("\\\n", " ").split())
            lines = textwrap.wrap(
                *(command, columns - 2),
                initial_indent="    ",
                subsequent_indent=" " * 8,
                break_long_words=False,
                break_on_hyphens=False,
            )
            lines = [*(f"{line} \\" for line in lines[:-1]), lines[-1]]
        if len(shown) + len(lines) > room:
            break
        shown += lines
    return shown


def _list_sections(sections: Sequence[tuple[str, str]]) -> list[str]:
    if not sections:
        return []
    width = max(len(f"--config.{name}") for name, _ in sections)
    rows = [f"  {f'--config.{name}':<{width}}  {where}" for name, where in sections]
    return ["", "The config's sections, and whose keyword arguments their keys are:", *rows]
