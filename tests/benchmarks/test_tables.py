"""docs/performance.md has what the results in results/performance/ give."""

import json
from pathlib import Path

import pytest

from benchmarks import scaling, tables

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "results" / "performance"


def test_the_page_equals_the_results():
    text = PAGE.read_text()
    assert [name for _, name, _ in tables.MARKS.findall(text)]
    assert tables.page_with_tables(text, RESULTS) == text, "python tools/performance.py tables"


def test_each_table_has_its_place():
    assert {name for _, name, _ in tables.MARKS.findall(PAGE.read_text())} == set(tables.TABLES)


def test_results_are_of_rows_that_can_be_measured():
    for name, table in tables.TABLES.items():
        for record in tables.read_records(RESULTS, name):
            assert not table.rows or record["row"] in table.rows


def speed(code, value, **more):
    return {
        "model": "tnt_s_patch16_224",
        "kind": "train",
        "batch_size": 8,
        "dtype": "float32",
        "code": code,
        "images_per_second": value,
        **more,
    }


def test_speed_is_compared_with_the_best_of_others():
    records = [{"check": "digits"}, speed("ours", 6.0), speed("ours, plain", 2.0)]
    records += [speed("timm eager", 4.0), speed("timm compiled", 5.0)]
    lines = tables.render_speed(records).splitlines()
    assert lines[0].endswith("| timm eager | timm compiled | ours / best of others |")
    assert lines[2] == "| TNT-S | train | float32, 8 | **6.0** | 2.0 | 4.0 | 5.0 | 1.20 |"


def test_compiled_rows_say_what_does_not_fit(tmp_path, monkeypatch):
    record = {
        "row": "a",
        "code": "ours",
        "model": {"name": "nest_tiny_s196_224"},
        "images_per_device": 64,
        "memory": {"temporaries": 4_400_000_000},
        "fits": True,
        "bytes_per_image": {"whole": 582e6, "moved": 500e6, "workspace": 0, "xla": None},
        "images_per_second_at_most": {"memory": 6700.4},
    }
    refused = record | {"fits": False, "memory": {"temporaries": None}, "code": "plain"}
    del refused["bytes_per_image"], refused["images_per_second_at_most"]
    (tmp_path / "h100.jsonl").write_text(json.dumps(record) + "\n" + json.dumps(refused) + "\n")
    monkeypatch.setitem(tables.TABLES["h100"].rows, "a", [])
    page = tables.page_with_tables("<!-- table: h100 -->\nold\n<!-- end -->\n", tmp_path)
    assert "| NesT-T | ours | 64 | 582 | 0 | 500 | – | 4.40 | 6,700 |" in page
    assert "| NesT-T | ours, `kernels=plain` | 64 | – | – | – | – | –, does not fit | – |" in page


def test_powers_of_a_curve():
    curve = [
        {"x": 10, "multiply_adds": 100, "milliseconds": 1.0},
        {"x": 20, "multiply_adds": 400, "milliseconds": 2.0},
    ]
    assert scaling.exponents(curve) == pytest.approx((2.0, 1.0))


def test_cost_of_nest_grows_with_the_area_and_that_of_vit_faster():
    from zoo.cost_tables import total
    from zoo.costs import model_costs
    from zoo.registry import create_model

    def cost(name, side, **fields):
        model = create_model(name, num_classes=10, **fields)
        return total(model_costs(model, (side, side, 3))).multiply_adds

    def nest(levels):
        fields = {"dims": (16,) * levels, "depths": (1,) * levels, "num_heads": (1,) * levels}
        return cost("nest_tiny_s196_224", 28 * 2**levels, **fields)

    def vit(side):
        return cost("deit_ti_patch16_224", side, dim=16, num_heads=1, depth=1)

    assert 3.9 < nest(5) / nest(4) < 4.2
    assert 13 < vit(1792) / vit(896) < 16
