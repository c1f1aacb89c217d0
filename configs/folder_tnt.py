"""TNT on a folder of your own images, a few hundred to a hundred thousand: docs/own-images.md.

    python train.py --config=configs/folder_tnt.py --workdir=runs/birds \
        --config.data.name=folder:/birds
    python train.py --config=configs/folder_tnt.py:scratch,micro --workdir=runs/birds_micro \
        --config.data.name=folder:/birds

Argument: finetune|scratch, s|b|ti|micro, debug. `finetune` starts from weights trained on ImageNet,
which it downloads (python -m tools.weights list), or from --config.init_from=PATH. `micro` is the
model of configs/digits_tnt.py, for small images or a processor alone. No weights of it are
released, nor of TNT-Ti. Grey images: --config.data.channels=1.

Batch, epochs and image size are chosen by the images (tasks/by_images.py). Our own recipe: nobody
has measured it with the released weights yet.
"""

from configs import digits_tnt
from configs.common import base_config, for_own_images, parse_argument, shrink

SIZES = ("s", "b", "ti", "micro")


def get_config(argument: str | None = None):
    arg = parse_argument(argument, stage=("finetune", "scratch"), size=SIZES)
    config = base_config()

    if arg.size == "micro":
        config.model = digits_tnt.get_config().model
    else:
        config.model.name = f"tnt_{arg.size}_patch16_224"
        config.model.drop_path_rate = 0.1
        config.model.dtype = "float32"
        config.model.remat = "none"
    config.init_from = f"{config.model.name}.timm" if arg.size in ("s", "b") else ""
    config.init.weights = "ema_or_raw"  # of a run of ours the average, as the released ones are
    # What the released weights were trained with, see configs/imagenet_tnt.py.
    config.data.mean = (0.5,)
    config.data.std = (0.5,)
    config.data.eval_crop_ratio = 0.9
    config.data.eval_crop_interpolation = "pil_bicubic"
    for_own_images(config, arg.stage, is_small=arg.size == "micro")
    if arg.debug:
        shrink(config, image_size=64)
        config.model.depth = 2
    return config
