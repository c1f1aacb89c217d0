"""NesT on CIFAR-10 or CIFAR-100, from scratch.

    python train.py --config=configs/cifar_nest.py:tiny --workdir=runs/cifar_nest_tiny
    python train.py --config=configs/cifar_nest.py:base,cifar100 --workdir=...

Argument: tiny|small|base, cifar10|cifar100, debug. The paper's accuracies: Tiny 96.0 / 78.7,
Base 97.2 / 82.6 (CIFAR-10 / CIFAR-100, arXiv 2105.12723).

Values are those of the official configs/cifar_nest.py (google-research/nested-transformer, commit
59c0d6a) unless a comment says otherwise; "default of" names the official file that sets it.
"""

from configs.common import base_config, parse_argument, shrink

# The official docstring's 192, 64 and 32 are per device: of one GPU for Tiny (README, and the first
# abstract), of two for the others (README, "recommend to train on 2 GPUs"). The learning rate
# follows: 1.875e-4, 1.25e-4, 6.25e-5. What the paper's own runs used is not stated.
NUM_DEVICES = {"tiny": 1, "small": 2, "base": 2}
BATCH_SIZES = {"tiny": 192, "small": 2 * 64, "base": 2 * 32}


def get_config(argument: str | None = None):
    arg = parse_argument(argument, size=("tiny", "small", "base"), dataset=("cifar10", "cifar100"))
    config = base_config()
    config.seed = 42

    config.model.name = f"nest_{arg.size}_s16_32"  # drop path 0.1: default of models/nest_net.py
    config.model.dtype = "float32"
    config.model.remat = "none"

    config.data.name = arg.dataset
    config.data.image_size = 32
    config.data.batch_size = BATCH_SIZES[arg.size]
    config.data.eval_batch_size = BATCH_SIZES[arg.size]
    config.data.num_threads = 1  # images this small: more threads only wait for each other

    # Pads 2 pixels per side, to 36 (libml/preprocess.py), not the usual 4.
    config.augment.random_crop = {"padding": 2}
    config.augment.flip = {}
    # Our defaults: 2 operations with probability 0.5, of magnitude 9 +- 0.5 out of 10. The largest
    # translation is that of augment/rand_augment.py for 32-pixel images.
    config.augment.randaugment = {"max_translate_pixels": 10.0}
    config.device_augment.random_erasing = {"placement": "clipped"}
    # Mixup or cutmix, half of the batches each; cutmix alpha 1.0: default of libml/preprocess.py.
    config.device_augment.mixup_cutmix = {
        "mixup_alpha": 0.8,
        "cutmix_alpha": 1.0,
        "groups": NUM_DEVICES[arg.size],
    }

    config.task.label_smoothing = 0.1  # before mixing

    config.optimizer.base_lr = 2.5e-4
    config.optimizer.reference_batch = 256  # train.py scales by global batch / 256
    config.optimizer.warmup_epochs = 5.0
    config.optimizer.weight_decay = 0.05
    # Only position embeddings: biases and norm scales ARE decayed, as in the official code.
    config.optimizer.decay_exclude = ("_position/embedding$",)

    config.loop.num_epochs = 300.0
    config.loop.log_every_steps = 500
    config.loop.evaluate_every_epochs = 5.0
    config.loop.save_every_epochs = 5.0  # ours; official: every 5,000 steps
    if arg.debug:
        shrink(config, image_size=32)
        config.model.depths = (1, 1, 1, 1)
    return config
