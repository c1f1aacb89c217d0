"""Strict configs: each section is the keyword arguments of exactly one function.

The function's signature is the schema, so there is no second place to keep in step with it: an
unknown key, a missing one or a wrong type is an error before any device is touched.
"""

import difflib
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import typeguard

from harness.errors import ConfigError


def unknown_name(what: str, name: str, allowed: Iterable[str]) -> str:
    """Returns "what: unknown; did you mean 'x'? Allowed: a, b"."""
    allowed = sorted(allowed)
    close = difflib.get_close_matches(name, allowed, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"{what}: unknown{hint} Allowed: {', '.join(allowed) or 'none'}"


def check_keys(section: Mapping[str, Any], allowed: Iterable[str], path: str) -> None:
    """Raises ConfigError for keys of `section` that are not in `allowed`."""
    allowed = list(allowed)
    for key in section:
        if key not in allowed:
            raise ConfigError(unknown_name(f"{path}.{key}", key, allowed))


def wrong_type(value: Any, expected: Any) -> str | None:
    """Returns "is of type str, expected float", or None if the type is right.

    Args:
        value: any value.
        expected: an annotation.
    """
    try:
        typeguard.check_type(value, expected)
        # bool is an int to Python, hardly ever to the author of a config.
        is_wrong = isinstance(value, bool) and expected in (int, float, int | None, float | None)
    except typeguard.TypeCheckError:
        is_wrong = True
    if not is_wrong:
        return None
    name = expected.__name__ if inspect.isclass(expected) else str(expected)
    return f"is of type {type(value).__name__}, expected {name.replace('typing.', '')}"


def check_model_section(
    section: Mapping[str, Any], path: str, *, provided: Iterable[str] = ("num_classes",)
) -> None:
    """Checks the keys of a section that names a model, whose fields are the rest of it.

    Args:
        section: the section.
        path: of the section, for messages: "config.model".
        provided: fields that the code gives, which the config must not.

    Raises:
        ConfigError: there is no name, or one of those fields.
    """
    if "name" not in section:
        raise ConfigError(f"{path} lacks name")
    for key in provided:
        if key in section:
            raise ConfigError(
                f"{path}.{key}={section[key]!r}: leave it out, it follows from config.data and "
                "config.task"
            )


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
        ConfigError: unknown key, missing key, or a value of another type than annotated.
    """
    target = function.__init__ if inspect.isclass(function) else function
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(target).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in set(provided)
    }
    check_keys(section, parameters, path)
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and name not in section
    ]
    if missing:
        raise ConfigError(f"{path} lacks {', '.join(missing)}")
    hints = typing.get_type_hints(target)
    for key, value in section.items():
        if key not in hints:
            continue
        if problem := wrong_type(value, hints[key]):
            raise ConfigError(f"{path}.{key}={value!r} {problem}")
    defaults = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    return defaults | dict(section)


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
            raise ConfigError(f"{path}.{name}={options!r} must be a section of keys, or None: off")
        if options is not None:
            options = check_section(options, functions[name], f"{path}.{name}", provided=provided)
        checked[name] = options
    return checked
