"""DeiT on ImageNet at 224 x 224, without distillation.

    python train.py --config=configs/imagenet_deit.py:s --workdir=runs/imagenet_deit_s

Argument: ti|s|b, debug. Top-1 of the DeiT paper (arXiv 2012.12877): Ti 72.2, S 79.8, B 81.8.

Values are the defaults of the official main.py (facebookresearch/deit, commit 7e160fe), which are
those of the paper's table 9, unless a comment says otherwise.
"""

from configs.common import base_config, parse_argument, shrink


def get_config(argument: str | None = None):
    arg = parse_argument(argument, size=("ti", "s", "b"))
    config = base_config()

    config.model.name = f"deit_{arg.size}_patch16_224"  # drop path 0.1
    config.model.dtype = "float32"  # official: automatic mixed precision, float16
    config.model.remat = "none"

    config.data.name = "imagenet2012"
    config.data.image_size = 224
    config.data.batch_size = 1024  # paper, table 9; main.py: 64 per GPU
    config.data.eval_batch_size = 1024
    config.data.eval_split = "validation"
    config.data.repeats = 3  # repeated augmentation: the paper's and main.py's default
    config.data.eval_crop_ratio = 0.875  # datasets.py: 256 to 224
    config.data.eval_crop_interpolation = "pil_bicubic"  # datasets.py

    # Area 0.08 to 1, our default, and flips are those of timm's create_transform.
    config.augment.random_resized_crop = {"interpolation": "pil_bicubic"}
    config.augment.flip = {}
    # rand-m9-mstd0.5-inc1. timm's defaults, and ours: 2 operations, each with probability 0.5. From
    # outside the image comes the mean pixel.
    config.augment.randaugment = {
        "variant": "timm",
        "increasing": True,
        "max_translate_fraction": 0.45,
        "fill": (124, 116, 104),
        "interpolation": "bicubic",
    }
    # No colour jitter: main.py asks for 0.3, but timm leaves it out where RandAugment is on.
    config.device_augment.random_erasing = {}
    # Mixup or cutmix, half of the batches each, drawn on each GPU: 4 of 256, for Base 16 of 64
    # (README_deit.md).
    config.device_augment.mixup_cutmix = {
        "mixup_alpha": 0.8,
        "cutmix_alpha": 1.0,
        "draw": "timm",
        "groups": 16 if arg.size == "b" else 4,
    }

    config.task.label_smoothing = 0.1  # before mixing
    # A time constant of 25,000 steps, 20 epochs: the average is useless for the first tens of
    # epochs, and all through a short run. The paper's accuracies are those without average.
    config.task.ema_decay = 0.99996

    config.optimizer.base_lr = 5e-4
    config.optimizer.reference_batch = 512  # main.py scales by global batch / 512
    config.optimizer.final_lr = 5e-6  # 1e-5 at 1024; main.py does not scale it
    config.optimizer.warmup_epochs = 5.0  # main.py starts it at 1e-6, ours at 0
    config.optimizer.weight_decay = 0.05
    # timm decays neither arrays of one axis nor these two.
    config.optimizer.decay_exclude = ("bias$", "scale$", "^position/embedding$", "^class_token$")

    config.loop.num_epochs = 300.0
    config.loop.log_every_steps = 500
    config.loop.evaluate_every_epochs = 10.0  # ours; official: 1
    config.loop.save_every_epochs = 4.0  # ours; official: 1
    if arg.debug:
        shrink(config, image_size=64)
        config.model.depth = 2
    return config
