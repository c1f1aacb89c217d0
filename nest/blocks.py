"""Cutting an image plane into blocks and putting them together again.

Shape letters: b batch, h and w sides of the plane in tokens, bh and bw sides of a block in
tokens, gh and gw sides of the grid of blocks, t = gh * gw blocks, n = bh * bw tokens of a block,
c channels.
Blocks are numbered row by row over the plane, and tokens row by row inside a block.
"""

from jax import Array


def block(x: Array, block_size: tuple[int, int]) -> Array:
    """Cuts a plane into blocks.

    Args:
        x: [b, h, w, c].
        block_size: (bh, bw), the sides of a block in tokens; they must divide h and w.

    Returns:
        [b, t, n, c]: block i * gw + j is rows i * bh ... and columns j * bw ... of the plane.
    """
    b, h, w, c = x.shape
    bh, bw = block_size
    x = x.reshape(b, h // bh, bh, w // bw, bw, c)  # [b, gh, bh, gw, bw, c]
    x = x.transpose(0, 1, 3, 2, 4, 5)  # [b, gh, gw, bh, bw, c]
    return x.reshape(b, (h // bh) * (w // bw), bh * bw, c)  # [b, t, n, c]


def unblock(x: Array, block_size: tuple[int, int], grid: tuple[int, int]) -> Array:
    """Puts blocks together into a plane: the inverse of `block`.

    Args:
        x: [b, t, n, c].
        block_size: (bh, bw), the sides of a block in tokens.
        grid: (gh, gw), numbers of rows and columns of blocks.

    Returns:
        [b, h, w, c] with h = gh * bh and w = gw * bw.
    """
    b, _, _, c = x.shape
    (bh, bw), (gh, gw) = block_size, grid
    x = x.reshape(b, gh, gw, bh, bw, c)  # [b, gh, gw, bh, bw, c]
    x = x.transpose(0, 1, 3, 2, 4, 5)  # [b, gh, bh, gw, bw, c]
    return x.reshape(b, gh * bh, gw * bw, c)  # [b, h, w, c]
