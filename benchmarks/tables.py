"""The tables of docs/performance.md: which commands measure their rows, and how they are written.

results/performance/NAME.jsonl holds the records of a table, each with the `row` it is of. The page
has each table between two comments; what stands there is written from the records alone.
"""

import dataclasses
import json
import re
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, slices
from layers.remat import Remat

Record = dict[str, Any]
NAMES = {
    "nest_tiny_s196_224": "NesT-T",
    "nest_base_s196_224": "NesT-B",
    "tnt_s_patch16_224": "TNT-S",
    "tnt_b_patch16_224": "TNT-B",
    "deit_s_patch16_224": "DeiT-S",
}
WITH_OFFICIAL = "nest_tiny_s196_224"
MARKS = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        rows: name of a row -> the arguments of the tool that measures it, the script first. What
            is written {official} is the folder of the official NesT's checkout.
        render: records -> the table in Markdown.
    """

    rows: dict[str, list[str]]
    render: Callable[[Sequence[Record]], str]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _compiled_rows(topology: str, batches: dict[str, int]) -> dict[str, list[str]]:
    rows = {}
    for model, images in batches.items():
        against = "plain,official" if model == WITH_OFFICIAL else "plain"
        arguments = ["compile_for.py", f"--topology={topology}", f"--model={model}"]
        arguments += [f"--batch_size={images}", f"--against={against}", "--top=0"]
        official = ["--official={official}"] if "official" in against else []
        rows[f"{topology} {model} {images}"] = arguments + official
    return rows


def _gb(size: int | None) -> str:
    return "–" if size is None else f"{size / 1e9:.2f}"


def _mb(size: float | None) -> str:
    return "–" if size is None else f"{size / 1e6:,.0f}"


CODES = {"ours": "ours", "plain": "ours, `kernels=plain`", "official": "official"}


def render_compiled(records: Sequence[Record]) -> str:
    """Returns bytes and memory of compiled train steps."""
    rows = []
    for record in records:
        size = record.get("bytes_per_image") or {}
        bounds = record.get("images_per_second_at_most") or {}
        name = record["model"]["name"]
        temporaries = _gb(record["memory"]["temporaries"])
        rows.append(
            [
                NAMES.get(name, name),
                CODES["plain" if record["model"].get("kernels") == "plain" else record["code"]],
                str(record["images_per_device"]),
                _mb(size.get("whole")),
                _mb(size.get("workspace")),
                _mb(size.get("moved")),
                _mb(size.get("xla")),
                temporaries if record["fits"] else f"{temporaries}, does not fit",
                f"{bounds['memory']:,.0f}" if bounds else "–",
            ]
        )
    header = [
        "model",
        "code",
        "images",
        "MB an image",
        "of it workspace",
        "seen by memory",
        "XLA's count",
    ]
    return markdown([*header, "temporary GB", "images/s at most"], rows)


def render_speed(records: Sequence[Record]) -> str:
    """Returns images/s of ours and of others, a line per model and kind."""
    groups: dict[tuple, dict[str, Record]] = {}
    for record in records:
        if "check" in record:  # of benchmarks/measure_gpu.py, not a speed
            continue
        key = record["model"], record["kind"], record["batch_size"], record["dtype"]
        groups.setdefault(key, {})[record["code"]] = record
    codes = ["ours, plain", "official", "timm eager", "timm compiled"]
    codes = [code for code in codes if any(code in group for group in groups.values())]
    rows = []
    for (model, kind, batch_size, dtype), group in groups.items():
        speeds = {code: record["images_per_second"] for code, record in group.items()}
        cells = [f"{speeds[code]:,.1f}" if code in speeds else "–" for code in codes]
        others = [speed for code, speed in speeds.items() if not code.startswith("ours")]
        ratio = f"{speeds['ours'] / max(others):.2f}" if others else "–"
        rows.append(
            [
                *(NAMES.get(model, model), kind, f"{dtype}, {batch_size}"),
                *(f"**{speeds['ours']:,.1f}**", *cells, ratio),
            ]
        )
    return markdown(["model", "", "type, batch", "ours", *codes, "ours / best of others"], rows)


def render_input(records: Sequence[Record]) -> str:
    """Returns images/s of the stages of the input pipeline, and what they were measured on."""
    rows, machines = [], {}
    for record in records:
        low, high = min(record["rounds"]), max(record["rounds"])
        row = [record["row"], record["stage"], f"{record['images_per_second']:,.0f}"]
        row.append(f"{low:,.0f} to {high:,.0f}")
        for key, form in (("per_busy_core", ",.0f"), ("times_one_core_decoding", ".2f")):
            value = record.get(key)
            row.append("–" if value is None else format(value, form))
        rows.append(row)
        if "machine" in record:
            machines[record["row"]] = f"{record['row']}: {machine.in_words(record['machine'])}."
    header = ["recipe", "stage", "images/s", "rounds", "per busy core", "x one core's decoding"]
    return "\n\n".join([markdown(header, rows), *machines.values()])


def _remat_rows() -> dict[str, list[str]]:
    model = "nest_base_s196_224"
    start = ["compile_for.py", "--topology=h100", f"--model={model}", "--batch_size=64"]
    return {
        f"remat {policy}": [*start, "--top=0", f"--fields=remat={policy}", "--products"]
        for policy in typing.get_args(Remat)
    }


def render_remat(records: Sequence[Record]) -> str:
    """Returns memory and cost of what the backward pass computes again."""
    rows = []
    for record in records:
        products = record["products_per_image"] / (3 * record["multiply_adds"])
        memory = record["memory"]
        rows.append(
            [
                f"`{record['model']['remat']}`",
                _gb(memory["temporaries"]),
                _mb((record.get("bytes_per_image") or {}).get("whole")),
                f"{products:.2f}",
            ]
        )
    return markdown(["remat", "temporary GB", "MB an image", "products / (3 x forward)"], rows)


def render_scaling(records: Sequence[Record]) -> str:
    """Returns the powers that costs grow with."""
    from benchmarks.scaling import curves, exponents

    rows = []
    for (axis, name), curve in curves(records).items():
        predicted, measured = exponents(curve)
        ends = f"{curve[-2]['x']:g} to {curve[-1]['x']:g}"
        rows.append([axis, name, ends, f"{predicted:.2f}", f"{measured:.2f}"])
    return markdown(["axis", "curve", "from, to", "power predicted", "power measured"], rows)


def _speed_rows(models: Sequence[str]) -> dict[str, list[str]]:
    return {
        f"{kind} {model}": [
            *("benchmark.py", kind, f"--model={model}", "--batch_size=8"),
            *("--against=plain,timm", "--seconds=2", "--rounds=3"),
        ]
        for model in models
        for kind in ("forward", "train")
    }


SMALL_MODELS = ("nest_tiny_s196_224", "tnt_s_patch16_224", "deit_s_patch16_224")


def _tpu_rows() -> dict[str, list[str]]:
    """The compiler for TPUs takes minutes for the plain forms: they come last, each by itself."""
    start = ["compile_for.py", "--topology=v5e:4x4", "--top=0"]
    batches = [(model, 64) for model in SMALL_MODELS] + [("tnt_s_patch16_224", 192)]
    rows = {
        f"{model} {images}": [*start, f"--model={model}", f"--batch_size={images}"]
        for model, images in batches
    }
    plain = {
        f"{model} 64 plain": [*rows[f"{model} 64"], "--fields=kernels=plain"]
        for model in SMALL_MODELS
    }
    return rows | plain


def render_slices(records: Sequence[Record]) -> str:
    """Returns memory and collectives of recipes on TPU slices, and the largest batches."""
    return markdown(*slices.table(records))


def render_restart(records: Sequence[Record]) -> str:
    """Returns what the seconds of a restart are spent on."""
    from benchmarks.restart import PHASES

    rows = []
    for record in records:
        split = [f"{record['split'][phase]:.1f}" for phase in PHASES]
        total, processor = f"**{record['seconds']:.1f}**", f"{record['processor']:.1f}"
        rows.append([record["row"], *split, total, processor])
    return markdown(["recipe", *PHASES.values(), "in all", "of the processor"], rows)


TABLES = {
    "h100": Table(_compiled_rows("h100", dict.fromkeys(NAMES, 64)), render_compiled),
    "v5e": Table(_tpu_rows(), render_compiled),
    "slices": Table(slices.rows(), render_slices),
    "cpu": Table(_speed_rows(SMALL_MODELS), render_speed),
    "input": Table(
        {
            "imagenet": ["benchmark.py", "data", "--config=configs/imagenet_nest.py:tiny"],
            "cifar": ["benchmark.py", "data", "--config=configs/cifar_nest.py:tiny"],
        },
        render_input,
    ),
    "remat": Table(_remat_rows(), render_remat),
    "restart": Table(
        {"digits_nest": ["benchmark.py", "restart", "--config=configs/digits_nest.py"]},
        render_restart,
    ),
    "scaling": Table(
        {
            axis: ["benchmark.py", "scaling", f"--axis={axis}", "--rounds=5"]
            for axis in ("image side", "sequence length", "depth", "batch")
        },
        render_scaling,
    ),
    "gpu": Table({}, render_speed),  # of benchmarks/measure_gpu.py
}


def read_records(folder: Path, name: str) -> list[Record]:
    """Returns the records of a table, in the order of its rows; none if there is no file."""
    path = folder / f"{name}.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    order = list(TABLES[name].rows)
    return sorted(records, key=lambda record: order.index(record["row"]) if order else 0)


def page_with_tables(text: str, folder: Path) -> str:
    """Returns the page with every table as the records have it."""

    def table(match: re.Match) -> str:
        records = read_records(folder, match[2])
        body = TABLES[match[2]].render(records) if records else "Not measured yet."
        return f"{match[1]}{body}\n{match[3]}"

    return MARKS.sub(table, text)
