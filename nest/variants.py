"""The published sizes of NesT: variant name -> fields of `nest.model.Nest`.

Block sizes follow from the image, so that every variant takes any size that its levels divide. At
the size that ends its name, a block has the s... tokens of the name.
"""

from layers.attention import Attention


def _imagenet(dim: int, num_heads: int, top_depth: int, drop_path_rate: float) -> dict:
    """Three levels; width and heads double from one to the next."""
    return {
        "patch_size": 4,
        "dims": (dim, 2 * dim, 4 * dim),
        "depths": (2, 2, top_depth),
        "num_heads": (num_heads, 2 * num_heads, 4 * num_heads),
        "attention": "multi_head",
        "drop_path_rate": drop_path_rate,
    }


def _cifar(dim: int, num_heads: int, depths: tuple[int, ...], attention: Attention) -> dict:
    """One pixel is one word; width and heads are the same at every level."""
    return {
        "patch_size": 1,
        "dims": (dim,) * len(depths),
        "depths": depths,
        "num_heads": (num_heads,) * len(depths),
        "attention": attention,
        "drop_path_rate": 0.1,
    }


VARIANTS = {
    # Official models/nest_net.py (google-research/nested-transformer, commit 59c0d6a); these are
    # the released ImageNet checkpoints. 56x56 tokens, 16 -> 4 -> 1 blocks of 14x14.
    "nest_tiny_s196_224": _imagenet(96, 3, top_depth=8, drop_path_rate=0.2),
    "nest_small_s196_224": _imagenet(96, 3, top_depth=20, drop_path_rate=0.3),
    "nest_base_s196_224": _imagenet(128, 4, top_depth=20, drop_path_rate=0.5),
    # Official models/nest_net.py. 32x32 tokens, 64 -> 16 -> 4 -> 1 blocks of 4x4.
    "nest_tiny_s16_32": _cifar(192, 3, (3, 3, 3, 3), "multi_query"),
    "nest_small_s16_32": _cifar(384, 6, (3, 3, 3, 3), "multi_query"),
    "nest_base_s16_32": _cifar(768, 12, (3, 3, 3, 3), "multi_query"),
    # First version of the paper (arXiv 2105.12723v1). 32x32 tokens, 16 -> 4 -> 1 blocks of 8x8.
    # Tiny is described there; widths of Small and Base are inferred from the family above.
    "nest_tiny_s64_32": _cifar(192, 3, (4, 4, 4), "multi_head"),
    "nest_small_s64_32": _cifar(384, 6, (4, 4, 4), "multi_head"),
    "nest_base_s64_32": _cifar(768, 12, (4, 4, 4), "multi_head"),
}
