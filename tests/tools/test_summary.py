"""What tools/summary.py prints equals the papers' tables, timm's and hand counts."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from harness.errors import ConfigError
from tests.zoo.test_registry import COUNTS
from tools import summary
from zoo import cost_tables
from zoo.costs import Cost, count_kept_bytes, measure_memory, model_costs, part_of
from zoo.registry import MODELS, create_model, default_image_size

ROOT = Path(__file__).parents[2]


def costs_of(name, **fields):
    size = default_image_size(name)
    model = create_model(name, num_classes=cost_tables.default_num_classes(size), **fields)
    return model_costs(model, (size, size, 3))


# 10^9 multiply-adds to the digits that the notes on the papers have (NesT sections 1a and 1b, TNT
# section 1.1), and the TNT paper's table 4 for the others; 10^6 activations where timm's
# results/benchmark-infer-amp-nchw-pt113-cu117-rtx3090.csv has the model.
KNOWN = {
    "nest_tiny_s196_224": (5.81, 25.48),
    "nest_small_s196_224": (10.32, 40.04),
    "nest_base_s196_224": (17.93, 53.39),
    "nest_tiny_s16_32": (2.08, None),
    "nest_small_s16_32": (8.05, None),
    "nest_base_s16_32": (31.70, None),
    "tnt_ti_patch16_224": (1.404, None),
    "tnt_s_legacy_patch16_224": (5.217, 24.37),
    "tnt_b_patch16_224": (14.049, 39.01),
    "deit_s_patch16_224": (4.6, 11.95),
    "resnet50": (4.1, 11.11),
}


@pytest.mark.parametrize("name", KNOWN)
def test_costs_of_the_papers(name):
    giga, mega_activations = KNOWN[name]
    total = cost_tables.total(costs_of(name))
    digits = len(str(giga).partition(".")[2])
    assert round(total.multiply_adds / 1e9, digits) == giga
    if mega_activations:
        assert round(total.activations / 1e6, 2) == mega_activations
    assert total.parameters == COUNTS[name][2]


def test_sizes_of_all_variants():
    for name, (num_classes, size, _) in COUNTS.items():
        assert default_image_size(name) == size
        assert cost_tables.default_num_classes(size) == num_classes


def test_levels_of_nest_by_hand():
    """Tokens N of width d in blocks of 196: 12 N d^2 + 2 * 196 N d a layer, 9 N d d' on the way."""
    costs = costs_of("nest_tiny_s196_224")
    assert list(costs) == ["patch_embedding", "level 1", "level 2", "level 3", "norm", "head"]
    for level, (tokens, dim, depth, above) in enumerate(
        ((3136, 96, 2, 192), (784, 192, 2, 384), (196, 384, 8, 0)), start=1
    ):
        layers = depth * tokens * dim * (12 * dim + 2 * 196)
        assert costs[f"level {level}"].multiply_adds == layers + 9 * tokens * dim * above
    assert costs["head"] == Cost(385_000, 384_000, 1000)
    assert costs["patch_embedding"] == Cost(49 * 96, 3136 * 48 * 96, 3136 * 96)


def test_layers_of_tnt():
    costs = costs_of("tnt_ti_patch16_224", depth=2, inner_layers=(2,))
    assert "word_embedding" in costs and "sentence_embedding" in costs
    n, d = 197, 192
    assert costs["layer 1"].multiply_adds == 2 * n * d * (6 * d + n)  # an outer block alone
    n, m, c = 196, 16, 12  # an inner block and its fusion more
    more = 2 * n * m * c * (6 * c + m) + n * m * c * d
    assert costs["layer 2"].multiply_adds == costs["layer 1"].multiply_adds + more


def test_names_of_parts():
    assert part_of("level1_layer2") == "level 1"
    assert part_of("stage3_block1") == "stage 3"
    assert part_of("layer12") == "layer 12"
    assert part_of("layer_norm") == "layer_norm"


class TwoDense(nn.Module):
    """Keeps the sine (input of the second layer) and the cosine (slope of the sine)."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, images, train=False):
        x = images.reshape(images.shape[0], -1)
        x = jnp.sin(nn.Dense(8, name="layer1")(x))
        return nn.Dense(self.num_classes, name="head")(x)


def test_what_is_kept_by_hand():
    batch, pixels = 5, 2 * 2
    kept = count_kept_bytes(TwoDense(), (batch, 2, 2, 1))
    reshaped_images = batch * pixels * 4
    assert sum(kept.values()) == 2 * batch * 8 * 4 + reshaped_images


def test_what_is_kept_grows_and_shrinks_as_it_should():
    def kept(batch=2, **fields):
        fields = {"depths": (1, 1, 1, 1), "drop_path_rate": 0.0} | fields
        model = create_model("nest_tiny_s16_32", num_classes=10, **fields)
        return sum(count_kept_bytes(model, (batch, 32, 32, 3)).values())

    whole = kept()
    assert kept(batch=6) == pytest.approx(3 * whole, rel=0.01)
    block, dots, attention = (kept(remat=remat) for remat in ("block", "dots", "attention"))
    assert block < dots < attention < whole and block < whole / 3
    assert 0.4 * whole < kept(dtype="bfloat16") < 0.8 * whole
    assert kept(drop_path_rate=0.1) > whole  # its masks


def test_batch_statistics_are_no_parameters():
    """Of a stage's batch norms, scale and bias count."""
    costs = costs_of("resnet50")
    assert costs["stem_norm"].parameters == 2 * 64
    kept = count_kept_bytes(
        create_model("resnet50", num_classes=10, depths=(1, 1), dims=(8, 8)), (2, 32, 32, 3)
    )
    assert kept["stage 1"] > 0


def test_compiled_memory():
    memory = measure_memory(TwoDense(), (4, 2, 2, 1))
    parameters = 4 * (4 * 8 + 8 + 8 * 3 + 3)
    assert memory["outputs"] >= parameters
    assert memory["arguments"] >= parameters + 4 * 4 * 4
    assert memory["temporaries"] > 0


def test_table(capsys):
    args = arguments(depths="(1, 1, 1, 1)", batch_size=4)
    summary.main(args, "nest_tiny_s16_32")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "nest_tiny_s16_32: 32 x 32 x 3 pixels, 10 classes, batch 4"
    names = [line.split("  ")[0] for line in lines[4:13]]
    levels = [f"level {level}" for level in (1, 2, 3, 4)]
    assert names == ["patch_embedding", *levels, "norm", "head", "other", "total"]
    *parts, total = [
        int(re.search(r"  ([\d,]+)  ", line)[1].replace(",", "")) for line in lines[4:13]
    ]
    model = create_model("nest_tiny_s16_32", num_classes=10, depths=(1, 1, 1, 1))
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    expected = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert lines[12].startswith("total ") and total == sum(parts) == expected
    assert len({len(line) for line in lines[2:13]}) == 1  # aligned
    assert lines[14].startswith("Training with AdamW: ")


def arguments(**given):
    """Flags as absl would have parsed them."""
    flags = {"image_size": None, "channels": 3, "num_classes": None, "batch_size": 1}
    flags |= {"memory": False, "json": False} | dict.fromkeys(summary.FIELDS)
    return SimpleNamespace(**(flags | given))


def test_lists_all_models(capsys, monkeypatch):
    small = {name: MODELS[name] for name in ("deit_ti_patch16_224", "wrn28_10")}
    monkeypatch.setattr(cost_tables, "MODELS", small)
    summary.main(arguments(), None)
    table = capsys.readouterr().out.splitlines()
    assert table[2].split() == "deit_ti_patch16_224 224x224 1000 5,717,416 1.254 G 5.97 M".split()
    assert table[3].startswith("wrn28_10             32x32         10   36,479,194")
    assert len({len(line) for line in table}) == 1  # aligned
    summary.main(arguments(json=True), None)
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["parameters"] == 5_717_416 and second["parameters"] == 36_479_194
    assert "kept_bytes" not in first


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("nest_tinny_s16_32", {}, "did you mean 'nest_tiny_s16_32'"),
        ("nest_tiny_s16_32", {"stem": "linear"}, "stem: unknown; allowed: dims"),
        ("nest_tiny_s16_32", {"dtype": "float13"}, "float13"),
        ("nest_tiny_s16_32", {"image_size": ["30"]}, "nearest height: 24 or 32"),
        ("nest_tiny_s16_32", {"image_size": ["a"]}, "--image_size=a: looks like"),
        (None, {"depths": "(1,)"}, "--depths needs the name of a model"),
    ],
)
def test_wrong_input(name, given, message):
    with pytest.raises(ConfigError) as error:
        summary.main(arguments(**given), name)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_command_line(run_script):
    command = [sys.executable, "tools/summary.py", "tnt_s_patch16_224", "--depth=2", "--json"]
    done = subprocess.run(
        [*command, "--image_size=32,64", "--gelu=tanh"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["image_shape"] == [32, 64, 3] and result["num_classes"] == 1000
    total = {
        key: sum(part[key] for part in result["parts"].values())
        for key in ("parameters", "multiply_adds", "activations", "kept_bytes")
    }
    assert result["total"] == total and total["kept_bytes"] > 0
    code, _, stderr = run_script(*command[1:], "more")
    assert code == 2 and "unexpected argument 'more'" in stderr


def test_a_reader_that_has_enough():
    """`tools/summary.py | head -1` ends without a traceback."""
    command = [sys.executable, "tools/summary.py", "--json"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        first = json.loads(process.stdout.readline())
        process.stdout.close()
        assert first["model"] == "nest_tiny_s196_224"
        assert "Traceback" not in process.stderr.read()
