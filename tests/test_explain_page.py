"""docs/explain.md: its code runs, and its tables are those of results/explanations.

UPDATE_TABLES=1 rewrites the tables.
"""

import json
import os
import re
from pathlib import Path
from statistics import fmean

import numpy as np

from benchmarks.tables import markdown
from nest.model import Nest
from tests.model_inputs import random_array, random_params

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "explain.md"
MODELS = {"nest": "NesT", "tnt": "TNT", "deit": "DeiT", "digits_nest": "NesT, digits"}
METHODS = {
    "gradcat": "`gradcat`",
    "gradcat_path": "`gradcat`, its path",
    "gradcat_path[centred,-1]": "with `sign=-1`",
    "gradcat_path[grad_cam,+1]": '`rule="grad_cam"`',
    "gradcat_path[activation_gradient,+1]": '`rule="activation_gradient"`',
    "gradcat_path[activation_gradient,-1]": "the same with `sign=-1`",
    "cam": "`cam`",
    "gradcam": "`gradcam`",
    "rollout": "`rollout`",
    "random": "a random map",
    "chance": "chance",
}


def read(name):
    """Returns what evaluate.py printed: model -> its runs, one a seed."""
    runs = {}
    for line in (ROOT / "results" / "explanations" / f"{name}.jsonl").read_text().splitlines():
        record = json.loads(line)
        runs.setdefault(record["model"], []).append(record)
    return runs


def percent(values):
    return f"{100 * fmean(values):.1f} %"


def mosaics():
    # Not the boxes: a mosaic's are quadrants, which suit NesT's 2 x 2 tokens by construction.
    measures = ("first_step", "full_path", "full_path_above_mean")
    rows = []
    for model, runs in read("mosaics").items():
        assert sorted(run["seed"] for run in runs) == list(range(len(runs)))
        named = percent(run["classes_named"] for run in runs)
        for method in METHODS:
            found = [run["localization"].get(method) for run in runs]
            if method == "gradcat" or None in found:
                continue
            numbers = [
                percent(one[name] for one in found) if name in found[0] else "–"
                for name in measures
            ]
            title = f"{MODELS[model]} ({len(runs)} seeds)" if named else ""
            rows.append([title, named, METHODS[method], *numbers])
            named = ""
    (nest, *_) = read("mosaics")["nest"]
    chance = nest["localization"]["chance"]
    above = chance["full_path_above_mean"] / chance["first_step"]
    inside = ["100.0 %", percent([chance["full_path_in_quadrant"]]), percent([above])]
    rows.append(["any", "", "any block of the right quadrant", *inside])
    titles = ["first step", "full path", "ink above mean"]
    return markdown(["model", "classes named", "method", *titles], rows)


def faithfulness():
    rows = []
    for model, (run,) in read("faithfulness").items():
        for method in METHODS:
            if found := run["faithfulness"].get(method):
                numbers = [f"{found[name]:.3f}" for name in ("deletion", "insertion")]
                rows.append([MODELS[model], METHODS[method], *numbers])
    return markdown(["model", "method", "deletion, lower is better", "insertion, higher"], rows)


def test_tables_are_what_was_measured():
    text = PAGE.read_text()
    for name, table in {"mosaics": mosaics(), "faithfulness": faithfulness()}.items():
        form = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.S)
        assert form.search(text)
        text = form.sub(lambda m, table=table: m[1] + table.strip() + "\n" + m[2], text)
    if os.environ.get("UPDATE_TABLES"):
        PAGE.write_text(text)
    assert PAGE.read_text() == text, "UPDATE_TABLES=1 rewrites the tables"


def test_the_code_runs():
    """All blocks, one after the other, on a small model."""
    images, classes = random_array(2, 16, 16, 3), np.array([3, 7])
    model = Nest(10, (8, 12, 16), (1, 1, 1), (2, 2, 2), patch_size=2)
    names = {"model": model, "images": images, "classes": classes}
    names["variables"] = {"params": random_params(model, images)}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert len(blocks) == 5
    for code in blocks:
        exec(compile(code.replace("(224, 224, 3)", "(16, 16, 3)"), str(PAGE), "exec"), names)
    assert names["way"].boxes.shape == (2, 2, 4) and names["maps"]["level3"].shape == (2, 2, 2, 16)
    assert names["features"].shape == (2, 16)
    assert names["layer"]["attention"]["weights"][0].shape == (2, 1, 2, 1, 4, 4)
