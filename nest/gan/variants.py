"""The sizes of the transposed NesT and of the discriminators: variant name -> fields.

As with the classifiers, block sizes follow from the image, so that every generator makes any image
that its levels lead to. At the size that ends its name, a block has the s... tokens of the name.
Image size, channels and classes are the data set's.
"""

from typing import Any


def _paper(num_levels: int) -> dict[str, Any]:
    """About the 74.4M parameters that the paper is said to have at 64x64; widths are unknown."""
    return {
        "dims": (1024, 256, 128, 64)[:num_levels],
        "depths": (4, 6, 6, 6)[:num_levels],
        "num_heads": (16, 4, 4, 4)[:num_levels],
        "latent_dim": 256,
    }


def _small(num_levels: int) -> dict[str, Any]:
    return {
        "dims": (384, 192, 96, 64)[:num_levels],
        "depths": (2, 2, 2, 2)[:num_levels],
        "num_heads": (6, 4, 4, 4)[:num_levels],
        "latent_dim": 128,
    }


GENERATORS = {
    # 8x8, 16x16, 32x32 and 64x64 tokens in 1, 4, 16 and 64 blocks of 8x8, one pixel per token. The
    # paper's number of parameters is recalled, not read (74.4M); how they are spread is our choice:
    # latent, first width and heads of 4 at large maps as in HiT-GAN (arXiv 2106.07631) and TransGAN
    # (arXiv 2102.07074), fewer at large maps, where each weight costs most.
    "nest_generator_base_s64_64": _paper(num_levels=4),
    "nest_generator_base_s64_32": _paper(num_levels=3),
    "nest_generator_small_s64_64": _small(num_levels=4),
    "nest_generator_small_s64_32": _small(num_levels=3),
    # For digits: 4x4, 8x8 and 16x16 tokens in 1, 4 and 16 blocks of 4x4. So few layers need the
    # convolution, which lets blocks meet.
    "nest_generator_tiny_s16_16": {
        "dims": (128, 64, 32),
        "depths": (2, 2, 2),
        "num_heads": (4, 4, 2),
        "latent_dim": 64,
        "deaggregation": "nearest_conv",
    },
}

# The number at the end is the image size at which the last map has 4x4 places.
CONV_DISCRIMINATORS = {
    "conv_discriminator_tiny_16": {"dims": (32, 64, 128)},
    "conv_discriminator_small_32": {"dims": (64, 128, 256, 256)},
    "conv_discriminator_small_64": {"dims": (64, 128, 256, 256, 256)},
    # StyleGAN2's widths (arXiv 1912.04958, official code: 16384 / side, at most 512), which HiT-GAN
    # has too, and those of StyleGAN2-ADA for 32x32 (arXiv 2006.06676, its configuration "cifar").
    "conv_discriminator_base_32": {"dims": (512, 512, 512, 512)},
    "conv_discriminator_base_64": {"dims": (256, 512, 512, 512, 512)},
    "conv_discriminator_base_128": {"dims": (128, 256, 512, 512, 512, 512)},
}

NEST_DISCRIMINATORS = {
    # The generator's tree the right way up, but shallower.
    "nest_discriminator_tiny_s16_16": {
        "patch_size": 1,
        "dims": (32, 64, 128),
        "depths": (1, 1, 1),
        "num_heads": (2, 4, 4),
    },
    # The fields of nest_tiny_s64_32 and, for 64x64, the same on patches of 2x2.
    "nest_discriminator_small_s64_32": {
        "patch_size": 1,
        "dims": (192, 192, 192),
        "depths": (4, 4, 4),
        "num_heads": (3, 3, 3),
    },
    "nest_discriminator_small_s64_64": {
        "patch_size": 2,
        "dims": (192, 192, 192),
        "depths": (4, 4, 4),
        "num_heads": (3, 3, 3),
    },
}
