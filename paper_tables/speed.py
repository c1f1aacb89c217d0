"""Throughput of a table's rows on the device at hand."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax

from benchmarks import compare_models, generators
from harness.errors import ConfigError, input_errors
from harness.files import write_text
from paper_tables.computed import config_of, generator_of
from paper_tables.tables import Row, Table
from paper_tables.training import choose_rows
from workdirs.records import read_text


def measure(
    table: Table,
    folder: Path,
    *,
    only: Collection[str] = (),
    batch_size: int,
    dtype: str,
    seconds: float,
    rounds: int,
) -> None:
    """Measures the rows one after the other and adds each to FOLDER/speed.jsonl at once.

    Args:
        table: one with a measured column.
        folder: of its runs.
        only: names of rows; none: all.
        batch_size: images of a step.
        dtype: what is computed in.
        seconds: length of a measurement.
        rounds: measurements of each; the median counts.

    Raises:
        ConfigError: the table has no such column or row, or a recipe is wrong.
    """
    if not any(column.measured for column in table.columns):
        raise ConfigError(f"{table.label} has no speed to measure")
    path = folder / "speed.jsonl"
    with input_errors():
        folder.mkdir(parents=True, exist_ok=True)
        lines = (read_text(path, "restore it or delete it") or "").splitlines()
    for row in (row for row in choose_rows(table, only).rows if row.config):
        print(f"-- {row.name}", flush=True)
        line = _measure(row, batch_size, dtype, seconds, rounds)
        device = jax.devices()[0].device_kind
        lines.append(json.dumps({"row": row.name, "device": device} | line))
        write_text(path, "".join(f"{text}\n" for text in lines))


def _measure(row: Row, batch_size: int, dtype: str, seconds: float, rounds: int) -> dict[str, Any]:
    options = {"seconds": seconds, "rounds": rounds, "say": print}
    config = config_of(row.config, row.overrides)
    if "generator" in config:
        generator = generator_of(row).clone(dtype=dtype)
        ours, full = generators.run(generator, batch_size=batch_size, **options)
        return full if row.record else ours
    config.data.batch_size = batch_size
    config.model.dtype = dtype
    with compare_models.of_recipe(config, "forward", made=True) as (work, fields, recipe):
        (record,) = compare_models.run(
            work, fields, against=(), official=None, recipe=recipe, **options
        )
    return record
