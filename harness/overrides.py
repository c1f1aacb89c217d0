"""--config=RECIPE, and values of it that the command line replaces: --config.section.key=value.

What the recipe has there does not decide how the text is read: the annotation of the key does, once
the strict checker (harness/strict_config.py) knows it. Until then the text is kept as an Override.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, FieldReference

from harness.arguments import Override, problem
from harness.errors import ConfigError
from harness.recipes import call_recipe

_OVERRIDE = re.compile(r"--?(?P<no>no)?config\.(?P<key>[\w.]+)(?:=(?P<text>.*))?", re.DOTALL)


def split_overrides(
    argv: Iterable[str], config: ConfigDict | None
) -> tuple[list[str], list[tuple[str, str]]]:
    """Takes the overrides out of a command line.

    A key without "=" takes the next argument, "--config.data.batch_size 8", unless that is a flag
    or the recipe has a bool there, which is switched on, or off as "--noconfig.key".

    Args:
        argv: the command line.
        config: the recipe.

    Returns:
        The other arguments, and (key, text) of each override.
    """
    rest, overrides, arguments = [], [], list(argv)
    while arguments:
        argument = arguments.pop(0)
        if argument == "--":  # what follows is no flag
            return [*rest, argument, *arguments], overrides
        match = _OVERRIDE.fullmatch(argument)
        if match is None:
            rest.append(argument)
            continue
        text = match["text"]
        if text is None:
            value, text = _value(config, match["key"]), str(not match["no"])
            if not match["no"] and not isinstance(value, bool):
                has_value = bool(arguments) and not arguments[0].startswith("--")
                if not has_value and value is not None:
                    raise ConfigError(f"{argument} needs a value: {argument}=VALUE")
                text = arguments.pop(0) if has_value else text
        overrides.append((match["key"], text))
    return rest, overrides


def _value(config: ConfigDict | None, key: str) -> Any:
    for name in key.split("."):
        config = config[name] if isinstance(config, ConfigDict) and name in config else None
    return config


def apply_overrides(config: ConfigDict, overrides: Iterable[tuple[str, str]]) -> None:
    """Sets values of a recipe; sections that it lacks, or that are switched off, are made.

    Args:
        config: the recipe.
        overrides: (key, text), the later ones last.

    Raises:
        ConfigError: a key leads into a value that is no section.
    """
    config.unlock()  # a recipe may have locked it against itself; the strict checker follows
    for key, text in overrides:
        *sections, last = key.split(".")
        place = config
        for number, name in enumerate(sections, start=1):
            if _value(place, name) is None:
                _set(place, name, ConfigDict(type_safe=False))
            place = place[name]
            if not isinstance(place, ConfigDict):
                path = ".".join(["config", *sections[:number]])
                raise ConfigError(problem(path, place, f"has no keys such as {last!r}"))
        value = Override(text)
        is_plain = value.literal is None or isinstance(value.literal, dict)  # off, or a section
        _set(place, last, value.literal if is_plain else value)


def _set(section: ConfigDict, name: str, value: Any) -> None:
    field = dict(section.items(preserve_field_references=True)).get(name)
    if isinstance(field, FieldReference) and isinstance(value, Override):
        # What the recipe computes from it follows, and needs the value itself.
        field.set(str(value) if field.get_type() is str else value.literal, type_safe=False)
        return
    if name in section:
        del section[name]  # with the type that it had
    section[name] = value


class ConfigFlag(flags.Flag):
    """--config=RECIPE, whose value is the config, with --config.section.key=value overrides.

    None is a value for every key: --config.augment.flip=None leaves the flip out, and
    --config.augment.flip.probability=0.5 switches it on again.

    Keys that the recipe does not list are accepted here, as its sections list only what differs
    from the defaults; harness/strict_config.py then refuses misspelt ones.

    Args:
        load: name of a recipe -> its config; raises ConfigError.
        or_stored: whether overrides may stand beside --workdir, without a recipe: they are then for
            the run's own config, see `override_stored`.
        list_sections: config -> its sections for --help, see help_text; raises ConfigError.

    Attributes:
        recipe: as given.
        overrides: (key, text) of each, in their order.
    """

    def __init__(
        self,
        load: Callable[[str], Any],
        list_sections: Callable[[Any], Sequence],
        or_stored: bool = False,
    ):
        self.list_sections, self._load, self.or_stored = list_sections, load, or_stored
        self.recipe, self.overrides = "", []
        super().__init__(
            flags.ArgumentParser(),
            None,
            "config",
            None,
            "Recipe, such as configs/imagenet_nest.py:tiny, or RUN/config.json; "
            "--config.SECTION.KEY=VALUE sets a value of it.",
        )

    def _parse(self, value: str | None) -> Any:
        if value is None:
            return None
        self.recipe, self.overrides = value, []
        return self._load(value)

    def override(self, overrides: Sequence[tuple[str, str]]) -> None:
        """Sets values of the config, (key, text).

        Raises:
            ConfigError: a key leads into a value that is no section, or the recipe cannot compute
                another value from what it is.
        """
        apply_overrides(self.value, overrides)
        self.overrides += overrides
        call_recipe(self.recipe, None, self.value.to_dict)


def override_stored(config: Any) -> Any:
    """Returns the config of a run, changed as --config.section.key=value beside --workdir says.

    A script without --config (convert_weights.py) changes nothing.
    """
    flag = flags.FLAGS["config"] if "config" in flags.FLAGS else None
    if isinstance(flag, ConfigFlag) and flag.value is None:
        apply_overrides(config, flag.overrides)
    return config
