"""DeiT on CIFAR-10 or CIFAR-100, from scratch: a row of the NesT paper's table of data efficiency.

    python train.py --config=configs/cifar_deit.py:ti --workdir=runs/cifar_deit_ti
    python train.py --config=configs/cifar_deit.py:b,cifar100 --workdir=...

Argument: ti|s|b, cifar10|cifar100, debug. The NesT paper has Ti 88.4 / 67.5, S 92.4 / 69.8,
B 92.4 / 70.5 (CIFAR-10 / CIFAR-100, arXiv 2105.12723; read second hand).

The NesT paper trains all transformers alike, so values are those of configs/cifar_nest.py, with
their sources there, unless a comment says otherwise. Its patch size for DeiT is not known to us;
its 5.3M parameters of DeiT-Ti fit any small one.
"""

from configs.common import base_config, parse_argument, shrink


def get_config(argument: str | None = None):
    arg = parse_argument(argument, size=("ti", "s", "b"), dataset=("cifar10", "cifar100"))
    config = base_config()
    config.seed = 42

    config.model.name = f"deit_{arg.size}_patch16_224"  # drop path 0.1: DeiT paper, table 9
    config.model.patch_size = 4  # ours: 64 tokens
    config.model.dtype = "float32"
    config.model.remat = False

    config.data.name = arg.dataset
    config.data.image_size = 32
    config.data.batch_size = 256  # ours, so that the rate is base_lr
    config.data.eval_batch_size = 256
    config.data.num_threads = 1  # images this small: more threads only wait for each other

    config.augment.random_crop = {"padding": 2}
    config.augment.flip = {}
    config.augment.randaugment = {"max_translate_pixels": 10.0}
    config.device_augment.random_erasing = {"placement": "clipped"}
    config.device_augment.mixup_cutmix = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0}

    config.task.label_smoothing = 0.1  # before mixing

    config.optimizer.base_lr = 2.5e-4
    config.optimizer.reference_batch = 256
    config.optimizer.warmup_epochs = 5.0
    config.optimizer.weight_decay = 0.05
    # As in the official NesT code, which decays biases and norm scales; DeiT's does not.
    config.optimizer.decay_exclude = ("^position/embedding$", "^class_token$")

    config.loop.num_epochs = 300.0
    config.loop.log_every_steps = 500
    config.loop.evaluate_every_epochs = 5.0
    config.loop.save_every_epochs = 5.0  # ours; official: every 5,000 steps
    if arg.debug:
        shrink(config, image_size=32)
        config.model.depth = 2
    return config
