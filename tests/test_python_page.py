"""docs/python.ipynb and docs/python.md: their code runs, and they name what there is."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax

import nest_tnt
from zoo.registry import create_model, parameter_shapes

ROOT = Path(__file__).parents[1]
NOTEBOOK, PAGE = ROOT / "docs" / "python.ipynb", ROOT / "docs" / "python.md"


def cells():
    return json.loads(NOTEBOOK.read_text())["cells"]


def test_the_notebook_is_kept_without_its_results():
    code = [cell for cell in cells() if cell["cell_type"] == "code"]
    assert len(code) > 4 and len({cell["id"] for cell in cells()}) == len(cells())
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_code_of_notebook_and_page_runs(tmp_path):
    """One after the other, as a reader would, in a folder that is not the checkout."""
    parts = ["".join(cell["source"]) for cell in cells() if cell["cell_type"] == "code"]
    parts += re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert len(parts) > 9
    script = "\n".join([*parts, "import sys", "print(sys.path[0])", "print(metrics)"])
    (tmp_path / "all.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "all.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    out = done.stdout
    trained, predicted, neighbours = re.findall(r"^(?:\(.*\) )?([\d.]+)% (?:of|by)", out, re.M)
    # Evaluation makes the images itself, larger from the same 8 x 8; the predictor is given those.
    assert float(trained) > 85 and abs(float(trained) - float(predicted)) < 3
    assert float(neighbours) > 85
    shapes = parameter_shapes(create_model("nest_tiny_s196_224", num_classes=1000), 224)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert f"{count:,} parameters" in out
    assert (tmp_path / "explanation.png").stat().st_size > 5000
    assert (tmp_path / "runs" / "debug" / "DONE").exists()
    assert out.splitlines()[-2] == str(ROOT)


def test_the_page_names_what_there_is():
    table = PAGE.read_text().split("| `from nest_tnt import`")[1].split("\n\n")[0]
    named = [name for row in re.findall(r"^\| (`.*?`) \|", table, re.M) for name in row.split(", ")]
    assert sorted(name.strip("`") for name in named) == sorted(nest_tnt.PUBLIC)
    for name in nest_tnt.PUBLIC:
        assert getattr(nest_tnt, name).__module__ == nest_tnt.PUBLIC[name]
