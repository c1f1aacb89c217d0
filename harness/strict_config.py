"""Strict configs: each section is the keyword arguments of exactly one function.

The function's signature is the schema, so there is no second place to keep in step with it: an
unknown key, a missing one, a wrong type or a wrong choice is an error before any device is touched.
"""

import contextlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any

try:
    import typeguard
except ImportError:  # a bare machine, where models are measured: types stay unchecked
    typeguard = None

from harness.arguments import Override, problem, unknown
from harness.errors import ConfigError, input_errors


def unknown_name(what: str, name: Any, allowed: Iterable[str]) -> str:
    """Returns "what: unknown; did you mean 'x'? allowed: x, y"."""
    return f"{what}: {unknown(name, allowed)}"


def check_keys(
    section: Mapping[str, Any], allowed: Iterable[str], path: str, required: Iterable[str] = ()
) -> None:
    """Raises ConfigError unless `section` is one, with allowed keys and all that are required."""
    if not isinstance(section, Mapping):
        raise ConfigError(problem(path, section, "not a section", "its keys"))
    allowed = list(allowed)
    for key in section:
        if key not in allowed:
            raise ConfigError(unknown_name(f"{path}.{key}", key, allowed))
    if missing := [key for key in required if key not in section]:
        raise ConfigError(f"{path}: missing {', '.join(missing)}")


def _alternatives(expected: Any) -> tuple[Any, ...]:
    """Returns the members of a union, or the annotation as the only one."""
    is_union = typing.get_origin(expected) in (typing.Union, types.UnionType)
    return typing.get_args(expected) if is_union else (expected,)


def _choices(expected: Any) -> list[str]:
    """Returns the names that the Literals in an annotation allow, at any depth."""
    if typing.get_origin(expected) is typing.Literal:
        return list(typing.get_args(expected))
    return list(dict.fromkeys(c for part in typing.get_args(expected) for c in _choices(part)))


def _in_words(kind: Any) -> str:
    """Returns "float", "None", "tuple[str, ...]", or the names that a Literal allows."""
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(_choices(kind))
    if _choices(kind):
        return f"a tuple of {', '.join(_choices(kind))}"
    if kind is type(None):
        return "None"
    plain = inspect.isclass(kind) and not typing.get_args(kind)
    return kind.__name__ if plain else str(kind).replace("typing.", "")


def wrong_type(value: Any, expected: Any) -> str | None:
    """Returns what is wrong with a value, e.g. "of type str; allowed: float"; None if it is right.

    Args:
        value: any value.
        expected: an annotation. Of a Literal the choices are listed, with the nearest one.
    """
    if typeguard is None:
        return None
    try:
        every = typeguard.CollectionCheckStrategy.ALL_ITEMS
        typeguard.check_type(value, expected, collection_check_strategy=every)
        # bool is an int to Python, hardly ever to the author of a config.
        kinds = set(_alternatives(expected))
        if not isinstance(value, bool) or bool in kinds or not kinds & {int, float}:
            return None
    except typeguard.TypeCheckError:
        pass
    choices = _choices(expected)
    for name in value if isinstance(value, tuple | list) else (value,):
        if isinstance(name, str) and choices and name not in choices:
            return unknown(name, choices)
    allowed = " or ".join(map(_in_words, _alternatives(expected)))
    return f"of type {type(value).__name__}; allowed: {allowed}"


def check_arguments(function: Callable, **arguments: Any) -> None:
    """Checks arguments that a caller passes on from a person, such as names of choices.

    Args:
        function: whose annotations say what is allowed.
        **arguments: some of its arguments.

    Raises:
        ValueError: one is of another type or an unknown name.
    """
    hints = typing.get_type_hints(function)
    for name, value in arguments.items():
        if wrong := wrong_type(value, hints[name]):
            raise ValueError(problem(name, value, wrong))


def as_annotated(value: Any, expected: Any) -> Any:
    """Returns a value of the annotated type that plainly means the same, or the value itself.

    Of the command line's text the literal counts, such as 1, None or ("a", "b"), and otherwise the
    text where a string is allowed: 2024_01 is a name. Of a literal, 1 may stand for a float or a
    bool, a list for a tuple, one item for a tuple of any length.

    Args:
        value: from a recipe, a config.json or, as an Override, the command line.
        expected: an annotation.
    """
    if isinstance(value, Override):
        text, value = str(value), value.literal
        converted = as_annotated(value, expected)
        is_string = value is not None and wrong_type(text, expected) is None
        return text if is_string and wrong_type(converted, expected) else converted
    kinds = _alternatives(expected)
    if wrong_type(value, expected) is None and not (type(value) is int and int not in kinds):
        return value
    if type(value) is int and float in kinds:
        return float(value)
    if value in (0, 1) and bool in kinds:
        return bool(value)
    for kind in kinds:
        if typing.get_origin(kind) is tuple:
            if isinstance(value, bool):
                break
            items = tuple(value) if isinstance(value, list | tuple) else (value,) * (value != "")
            wanted = typing.get_args(kind)
            if wanted[1:] == (...,):
                wanted = wanted[:1] * len(items)
            if len(wanted) == len(items):
                converted = tuple(map(as_annotated, items, wanted))
                if len(kinds) == 1 or wrong_type(converted, kind) is None:
                    return converted
    return value


def checked_value(key: str, value: Any, expected: Any) -> Any:
    """Returns `as_annotated`; raises a ValueError that names the key if it is of another type."""
    checked = as_annotated(value, expected)
    if wrong_type(checked, expected) is None:
        return checked
    given = value.literal if isinstance(value, Override) else value
    raise ValueError(problem(key, given, wrong_type(given, expected)))


@contextlib.contextmanager
def field_errors(path: str, provided: Container[str] = ()) -> Iterator[None]:
    """Names the section in a ValueError that begins with a field: "gelu='x': unknown; ...".

    Args:
        path: of the section that has the field: "config.model".
        provided: fields that follow from config.data instead.
    """
    try:
        yield
    except ValueError as error:
        if field := re.match(r"(\w+)[=:]", str(error)):
            path = "config.data" if field[1] in provided else path
            raise ConfigError(f"{path}.{error}") from error
        raise


def check_model_section(
    section: Mapping[str, Any], path: str, create: Callable, **provided: Any
) -> dict[str, Any]:
    """Checks a section that names a model by building it: a module without parameters costs little.

    Args:
        section: the section: the name, and fields of the model.
        path: of the section, for messages: "config.model".
        create: what builds the model from the section and from `provided`.
        **provided: fields that the code gives, which the config must not.

    Returns:
        The section, its values as the fields are annotated.

    Raises:
        ConfigError: there is no name, one of those fields, or what `create` does not take.
    """
    check_keys(section, section, path, required=("name",))
    for key in provided:
        if key in section:
            what = "leave it out, it follows from config.data and config.task"
            raise ConfigError(problem(f"{path}.{key}", section[key], what))
    with field_errors(path, provided):
        hints = typing.get_type_hints(type(create(**section, **provided)))
    return {
        key: value if value is None else as_annotated(value, hints[key] if key != "name" else str)
        for key, value in section.items()
    }


def check_section(
    section: Mapping[str, Any],
    function: Callable,
    path: str,
    *,
    provided: Iterable[str] = (),
) -> dict[str, Any]:
    """Checks a config section against the keyword arguments of its function.

    Args:
        section: the section.
        function: what will be called with it; a class stands for its __init__.
        path: of the section, for messages: "config.optimizer".
        provided: arguments that the code gives, which the config must not.

    Returns:
        The section with the defaults of the keys that it leaves out.

    Raises:
        ConfigError: unknown key, missing key, or a value that its annotation does not allow.
    """
    target = function.__init__ if inspect.isclass(function) else function
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(target).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in set(provided)
    }
    defaults = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    check_keys(section, parameters, path, required=[n for n in parameters if n not in defaults])
    hints = typing.get_type_hints(target)
    checked = {}
    for key, value in section.items():
        with input_errors():
            checked[key] = checked_value(f"{path}.{key}", value, hints[key])
    return defaults | checked


def check_subsections(
    section: Mapping[str, Any],
    functions: Mapping[str, Callable],
    path: str,
    *,
    provided: Iterable[str] = (),
) -> dict[str, Any]:
    """Checks a section whose keys name functions and whose values are their keyword arguments.

    Args:
        section: name in `functions` -> its section, or None for one that is switched off.
        functions: name -> function.
        path: of the section, for messages: "config.device_augment".
        provided: arguments that the code gives, which the config must not.

    Returns:
        The section with the defaults of the keys that its parts leave out.

    Raises:
        ConfigError: an unknown name, or what check_section raises.
    """
    check_keys(section, functions, path)
    checked = {}
    for name, options in section.items():
        if options is not None and not isinstance(options, Mapping):
            allowed = "its keys, {} for their defaults, or None to switch it off"
            raise ConfigError(problem(f"{path}.{name}", options, "not a section", allowed))
        if options is not None:
            options = check_section(options, functions[name], f"{path}.{name}", provided=provided)
        checked[name] = options
    return checked
