"""What the other codes of TNT can run: the official one (huawei-noah) and timm's."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tnt.model import Tnt

# naming -> what its code fixes and no array shows. timm pools in either way.
FIELDS = {"official": {"gelu": "exact", "pooling": "class_token"}, "timm": {"gelu": "exact"}}

# naming -> (fusion, stem) that belong together there. timm's second is its first port.
_STARTS = {
    "official": [("released", "conv7")],
    "timm": [("released", "conv7"), ("legacy", "conv7_image")],
}


def check_exists(naming: str, model: "Tnt") -> None:
    """Checks that a model runs elsewhere as it does here.

    Args:
        naming: "official" or "timm".
        model: any TNT.

    Raises:
        ValueError: naming the fields that its code does not have.
    """
    needs = {"word_position": True, "sentence_position": True, **FIELDS[naming]}
    if naming == "timm":
        # The hidden width of its inner perceptrons is fixed.
        needs |= {"squeeze_excite": False, "mlp_ratio": 4}
    has = {field: getattr(model, field) for field in needs}
    if model.patch_stride != model.patch_size:
        needs["patch_stride"], has["patch_stride"] = None, model.patch_stride
    # The official code lists layers without an inner block, though none by default.
    if naming == "timm" and model.inner_layers != tuple(range(1, model.depth + 1)):
        needs["inner_layers"], has["inner_layers"] = None, model.inner_layers
    start = (model.fusion, model.stem)
    if start not in _STARTS[naming]:
        needs["(fusion, stem)"], has["(fusion, stem)"] = _STARTS[naming], start
    wrong = [field for field in needs if has[field] != needs[field]]
    if wrong:
        have, need = (
            ", ".join(f"{field}={values[field]!r}" for field in wrong) for values in (has, needs)
        )
        raise ValueError(f"{naming} code has no TNT with {have}; it has {need}")
