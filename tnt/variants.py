"""The published sizes of TNT and the paper's ablations: variant name -> fields of `tnt.model.Tnt`.

Drop path is 0 here: the paper's 0.1 belongs to its training recipe, not to the official models.
"""

_TI = {"inner_dim": 12, "outer_dim": 192, "num_inner_heads": 2, "num_outer_heads": 3}
_S = {"inner_dim": 24, "outer_dim": 384, "num_inner_heads": 4, "num_outer_heads": 6}
_B = {"inner_dim": 40, "outer_dim": 640, "num_inner_heads": 4, "num_outer_heads": 10}

VARIANTS = {
    # Paper (arXiv 2103.00112v3), table 1. S and B as in official tnt_pytorch/tnt.py and timm, where
    # their names come from; Ti is in the paper only.
    "tnt_ti_patch16_224": _TI,
    "tnt_s_patch16_224": _S,
    "tnt_b_patch16_224": _B,
    # timm/models/tnt.py: the first port, of 2021, with weights of its own.
    "tnt_s_legacy_patch16_224": {**_S, "stem": "conv7_image", "fusion": "legacy"},
    # Table 5: fewer layers with an inner block.
    "tnt_s1": {**_S, "inner_layers": (1, 4, 8, 12)},
    "tnt_s2": {**_S, "inner_layers": (1, 6, 12)},
    "tnt_s3": {**_S, "inner_layers": (1, 6)},
    "tnt_s4": {**_S, "inner_layers": (1,)},
    # Table 12 (appendix A.2), as the official code does it: in the outer blocks.
    "tnt_s_se": {**_S, "squeeze_excite": True},
    # Table 8: m words of c channels, with m * c about the same. The paper does not give the heads;
    # the 4 of S do not divide 6 channels, so 3, the nearest number that does.
    "tnt_s_words64": {**_S, "word_size": 2, "inner_dim": 6, "num_inner_heads": 3},
    "tnt_s_words16": _S,
    "tnt_s_words4": {**_S, "word_size": 8, "inner_dim": 96},
    # Table 7: heads of the inner blocks.
    "tnt_s_heads1": {**_S, "num_inner_heads": 1},
    "tnt_s_heads2": {**_S, "num_inner_heads": 2},
    "tnt_s_heads4": _S,
    "tnt_s_heads6": {**_S, "num_inner_heads": 6},
    "tnt_s_heads8": {**_S, "num_inner_heads": 8},
}
