"""PyramidTNT on ImageNet, at 192 x 192 (Ti) or 256 x 256 (S, M, B).

    python train.py --config=configs/imagenet_pyramid_tnt.py:s --workdir=runs/imagenet_pyramid_tnt_s

Argument: s|ti|m|b, debug. Top-1 of the official tnt_pytorch/readme.md (huawei-noah/
Efficient-AI-Backbones, commit f90e129): Ti 75.2, S 82.0, M 83.5, B 84.1. Its command, given for S,
is TNT's but for 20 epochs of warm-up; what is not set here is inherited from
configs/imagenet_tnt.py.
"""

from configs import imagenet_tnt
from configs.common import parse_argument, shrink

_SIDES = {"s": 256, "ti": 192, "m": 256, "b": 256}


def get_config(argument: str | None = None):
    arg = parse_argument(argument, size=tuple(_SIDES))
    config = imagenet_tnt.get_config()
    side = _SIDES[arg.size]
    config.model.name = f"ptnt_{arg.size}_patch16_{side}"
    config.data.image_size = side
    config.optimizer.warmup_epochs = 20.0
    # Official no_weight_decay() leaves the relative positions out: they decay.
    config.optimizer.decay_exclude = ("_position/embedding$", "/bias$", "/scale$")
    if arg.debug:
        shrink(config, image_size=64)
        config.model.depths = (1, 1, 1, 1)
    return config
