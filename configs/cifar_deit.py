"""DeiT on CIFAR-10 or CIFAR-100, from scratch: a row of the NesT paper's table of data efficiency.

    python train.py --config=configs/cifar_deit.py:ti --workdir=runs/cifar_deit_ti
    python train.py --config=configs/cifar_deit.py:b,cifar100 --workdir=...

Argument: ti|s|b, cifar10|cifar100, debug. The NesT paper has Ti 88.4 / 67.5, S 92.4 / 69.8,
B 92.4 / 70.5 (CIFAR-10 / CIFAR-100, arXiv 2105.12723; read second hand).

The NesT paper trains all transformers alike, so all that does not stand here is as in
configs/cifar_nest.py, with the sources there. It does not say its DeiT's patch size, but has 5.3M,
21.3M and 85.1M parameters: of the patch sizes 1, 2, 4, 8 and 16 only 4 comes to these, cut after
one digit (5.36, 21.34 and 85.15 with ten classes).
"""

from configs import cifar_nest
from configs.common import parse_argument, shrink


def get_config(argument: str | None = None):
    arg = parse_argument(argument, size=("ti", "s", "b"), dataset=("cifar10", "cifar100"))
    config = cifar_nest.get_config(arg.dataset)

    config.model = {
        "name": f"deit_{arg.size}_patch16_224",  # drop path 0.1: DeiT paper, table 9
        "patch_size": 4,  # 64 tokens; fits the paper's counts
        "dtype": "float32",
        "remat": "none",
    }
    config.data.batch_size = 256  # ours, so that the rate is base_lr
    config.data.eval_batch_size = 256
    # As in the official NesT code, which decays biases and norm scales; DeiT's does not.
    config.optimizer.decay_exclude = ("^position/embedding$", "^class_token$")
    if arg.debug:
        shrink(config, image_size=32)
        config.model.depth = 2
    return config
