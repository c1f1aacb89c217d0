"""What accelerators can do, from their makers' tables."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as JAX sees it.

    Attributes:
        peak: floating-point operations a second of dense bfloat16 products, a multiply-add being 2.
        bandwidth: bytes a second of its memory.
        source: of both.
    """

    peak: float
    bandwidth: float
    source: str


_TPU = "https://docs.cloud.google.com/tpu/docs/"
_NVIDIA = "NVIDIA's data sheet, without sparsity"
# jax.Device.device_kind -> chip. Cores of v2, v3 and v7x are devices of their own: not listed.
CHIPS = {
    "TPU v4": Chip(275e12, 1.228e12, f"{_TPU}v4"),
    "TPU v5 lite": Chip(197e12, 0.819e12, f"{_TPU}v5e"),
    "TPU v5": Chip(459e12, 2.765e12, f"{_TPU}v5p"),
    "TPU v6 lite": Chip(918e12, 1.638e12, f"{_TPU}v6e"),
    "NVIDIA H200": Chip(989e12, 4.8e12, _NVIDIA),
    "NVIDIA H100 80GB HBM3": Chip(989e12, 3.35e12, _NVIDIA),
    "NVIDIA H100 PCIe": Chip(756e12, 2.0e12, _NVIDIA),
    "NVIDIA A100-SXM4-80GB": Chip(312e12, 2.039e12, _NVIDIA),
    "NVIDIA A100-SXM4-40GB": Chip(312e12, 1.555e12, _NVIDIA),
}


def find_chip(device_kind: str) -> Chip | None:
    """Returns what is known of a kind of device, None if it is not in the table."""
    return CHIPS.get(device_kind)
