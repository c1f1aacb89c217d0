"""From a command line to the runs of a sweep."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from harness.errors import ConfigError
from harness.recipes import call_recipe, load_recipe
from sweeps.runs import Run, name_runs, product, zipped
from sweeps.values import parse_recipes, parse_values


def plan(
    *,
    recipes: Iterable[str],
    names: Iterable[str] = (),
    fixed: Iterable[tuple[str, str]] = (),
    swept: Iterable[tuple[str, str]] = (),
    is_zip: bool = False,
) -> list[Run]:
    """Returns the runs of a sweep.

    Args:
        recipes: of --config; each may list several.
        names: of sweeps that the recipe defines, each as `sweep(name)`, which yields a dict of
            overrides per run.
        fixed: (key, text) of all runs.
        swept: (key, texts); the last key changes fastest.
        is_zip: whether the values of `swept` go together, instead of every combination.

    Raises:
        ConfigError: there is nothing to sweep, or the values do not make sense.
    """
    fixed = {config_key(key): text for key, text in fixed}
    lists: dict[str, list[str]] = {}
    recipes = list(recipes)
    for key, text in swept:
        key = config_key(key)
        if key in lists or key in fixed:
            raise ConfigError(f"--sweep.{key}: the key is given twice")
        if key != "config":
            lists[key] = parse_values(key, text)
        elif text.startswith(":") and len(recipes) == 1:  # arguments of the one recipe
            file = recipes[0].partition(":")[0]
            lists[key] = parse_recipes([file, text])[1:]
        else:
            lists[key] = parse_recipes([text])
    several = parse_recipes(recipes or lists.get("config", []))
    if len(several) > 1 and "config" not in lists:
        lists = {"config": several, **lists}
    combinations = zipped(lists) if is_zip else product(lists)
    for name in names:
        combinations = [
            {**combination, **values}
            for combination in combinations
            for values in _named(name, combination.get("config", several[0]), fixed)
        ]
    if combinations == [{}]:
        raise ConfigError("nothing is swept: give --sweep.KEY=VALUES, or --sweep=NAME; see --help")
    return name_runs(several[0], fixed, combinations)


def config_key(key: str) -> str:
    """Returns the key of a config: --sweep.config.seed means what --config.seed does."""
    key = key.removeprefix("config.")
    if not all(key.split(".")):
        raise ConfigError(f"--sweep.{key}: not a key of the config, such as optimizer.base_lr")
    return key


def _named(name: str, recipe: str, fixed: Collection[str]) -> list[dict[str, str]]:
    """Returns the overrides of a sweep that a recipe defines."""
    module, _ = load_recipe(recipe)
    if not hasattr(module, "sweep"):
        raise ConfigError(f"--sweep={name}: {recipe} defines no sweep(name)")
    path = Path(module.__file__)
    combinations = call_recipe(f"{recipe} --sweep={name}", path, lambda: list(module.sweep(name)))
    for values in combinations:
        if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
            raise ConfigError(f"--sweep={name}: {values!r} is not a dict of overrides")
        if both := values.keys() & fixed:
            raise ConfigError(f"--sweep={name}: it sets {min(both)}, and so does --config")
    if not combinations:
        raise ConfigError(f"--sweep={name}: {recipe} yields no runs")
    return [
        {key: value if isinstance(value, str) else repr(value) for key, value in values.items()}
        for values in combinations
    ]
