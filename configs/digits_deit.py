"""DeiT on scikit-learn's handwritten digits, as configs/digits_nest.py and as large as it.

    python train.py --config=configs/digits_deit.py --workdir=runs/digits_deit

Argument: debug. Our own recipe, tuned on train[80%:]. 255,970 parameters in 4 layers; the NesT of
configs/digits_nest.py has 255,562 in 4. All else is as there: data, augmentation, 60 epochs.
"""

from configs import digits_nest
from configs.common import parse_argument


def get_config(argument: str | None = None):
    arg = parse_argument(argument)
    config = digits_nest.get_config(argument)

    config.model = {
        "name": "deit_ti_patch16_224",
        "patch_size": 4,
        "dim": 72,
        "depth": 4,
        "num_heads": 4,
        "pooling": "class_token",
        "drop_path_rate": 0.1,
        "dtype": "float32",
        "remat": "none",
    }
    config.optimizer.base_lr = 1e-3
    if arg.debug:
        config.model.depth = 1
    return config
