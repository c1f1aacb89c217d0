"""NesT on ImageNet at 224 x 224, and fine-tuned from there at 384 x 384.

    python train.py --config=configs/imagenet_nest.py:tiny --workdir=runs/imagenet_nest_tiny
    python train.py --config=configs/imagenet_nest.py:base,384 --workdir=runs/nest_base_384 \
        --config.init_from=nest-b_imagenet/

Argument: tiny|small|base, 224|384, debug. Top-1 of the official README: Tiny 81.5, Small 83.3, Base
83.8 at 224; there is none for 384 without more data.

Values are those of the official configs/imagenet_nest.py and imagenet_nest_tiny.py
(google-research/nested-transformer, commit 59c0d6a) unless a comment says otherwise. It can
resize position tables, but has no recipe for 384: see configs.common.finetune_at_384.
"""

from configs.common import base_config, finetune_at_384, parse_argument, shrink


def get_config(argument: str | None = None):
    arg = parse_argument(argument, size=("tiny", "small", "base"), resolution=("224", "384"))
    config = base_config()
    config.seed = 42

    # Drop path 0.2, 0.3, 0.5: models/nest_net.py.
    config.model.name = f"nest_{arg.size}_s196_224"
    config.model.dtype = "float32"
    config.model.remat = "none"

    config.data.name = "imagenet2012"
    config.data.image_size = 224
    config.data.batch_size = 1024  # README: the paper's models, on TPU
    config.data.eval_batch_size = 1024
    config.data.eval_split = "validation"
    # libml/preprocess.py: 256 to 224, bilinear without antialiasing.
    config.data.eval_crop_ratio = 0.875

    # libml/preprocess.py, whose TensorFlow function draws boxes by their height.
    config.augment.random_resized_crop = {
        "area": (0.05, 1.0),
        "aspect": (0.75, 1.33),
        "rule": "tensorflow",
    }
    config.augment.flip = {}
    # Our defaults: 2 operations with probability 0.5, of magnitude 9 +- 0.5 out of 10.
    config.augment.randaugment = {"max_translate_pixels": 100.0}  # augment/rand_augment.py
    # SimCLR v2's, after RandAugment; strength 0.3 scales its constants.
    config.augment.color_jitter = {"strength": 0.3}
    config.device_augment.random_erasing = {"placement": "clipped"}
    # Drawn on each device: Base 64 of 16 images, Tiny and Small 16 of 64.
    config.device_augment.mixup_cutmix = {
        "mixup_alpha": 0.8,
        "cutmix_alpha": 1.0,
        "groups": 64 if arg.size == "base" else 16,
    }

    config.task.label_smoothing = 0.1  # before mixing

    config.optimizer.base_lr = 2.5e-4
    config.optimizer.reference_batch = 256  # 1e-3 at 1024
    config.optimizer.warmup_epochs = 20.0
    config.optimizer.weight_decay = 0.05
    # Only position embeddings: biases and norm scales ARE decayed, as in the official code.
    config.optimizer.decay_exclude = ("_position/embedding$",)

    config.loop.num_epochs = 300.0
    config.loop.log_every_steps = 500
    config.loop.evaluate_every_epochs = 10.0
    config.loop.save_every_epochs = 4.0  # ours; official: every 5,000 steps
    if arg.resolution == "384":  # blocks of 24 x 24 tokens in place of 14 x 14
        finetune_at_384(config)
    if arg.debug:
        shrink(config, image_size=64)
        config.model.depths = (1, 1, 1)
    return config
