"""NesT on a folder of your own images, a few hundred to a hundred thousand: docs/own-images.md.

    python train.py --config=configs/folder_nest.py --workdir=runs/birds \
        --config.data.name=folder:/birds
    python train.py --config=configs/folder_nest.py:scratch,micro --workdir=runs/birds_micro \
        --config.data.name=folder:/birds

Argument: finetune|scratch, tiny|small|base|micro, debug. `finetune` starts from weights trained on
ImageNet, which it downloads (python -m tools.weights list), or from --config.init_from=PATH.
`micro` is the model of configs/digits_nest.py, for small images or a processor alone; no weights of
it are released. Grey images: --config.data.channels=1.

Batch, epochs and image size are chosen by the images (tasks/by_images.py). Our own recipe: nobody
has measured it with the released weights yet.
"""

from configs import digits_nest
from configs.common import base_config, for_own_images, parse_argument, shrink

SIZES = ("tiny", "small", "base", "micro")


def get_config(argument: str | None = None):
    arg = parse_argument(argument, stage=("finetune", "scratch"), size=SIZES)
    config = base_config()

    if arg.size == "micro":
        config.model = digits_nest.get_config().model
        config.init_from = ""
    else:
        config.model.name = f"nest_{arg.size}_s196_224"
        config.model.dtype = "float32"
        config.model.remat = "none"
        config.init_from = f"{config.model.name}.timm"
        # timm's models have the exact GELU. These weights were trained with the other one, ours.
        config.init.ignore_fields = ("gelu",)
        config.data.eval_crop_ratio = 0.875
    for_own_images(config, arg.stage, is_small=arg.size == "micro")
    if arg.debug:
        shrink(config, image_size=64)
        config.model.depths = (1, 1, 1)
    return config
