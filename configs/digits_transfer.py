"""A small NesT trained on the digits 0 to 4, fine-tuned to 5 to 9 with ten images of each.

    python train.py --config=configs/digits_transfer.py:pretrain --workdir=runs/digits_0_to_4
    python train.py --config=configs/digits_transfer.py:finetune --workdir=runs/digits_5_to_9 \
        --config.init_from=runs/digits_0_to_4
    python train.py --config=configs/digits_transfer.py:scratch --workdir=runs/digits_scratch

Argument: pretrain|finetune|scratch, debug. `scratch` learns the same 50 images from nothing.

Our own recipe. The model has one level and coarse patches: 4x4 words in one block, no aggregation.
That of configs/digits_nest.py learns the 50 images from nothing as well as after fine-tuning, so
there is nothing to show with it (docs/fine-tuning.md). The 50 images are of the first half of the
training split; the values of both stages were chosen by the accuracy on the second half, seeds 10
and 11 (--config.data.eval_split='train[50%:]').
"""

from configs import digits_nest
from configs.common import parse_argument


def get_config(argument: str | None = None):
    arg = parse_argument(argument, stage=("pretrain", "finetune", "scratch"))
    config = digits_nest.get_config()

    config.model.patch_size = 4
    config.model.dims = (96,)
    config.model.depths = (6,)
    config.model.num_heads = (4,)
    config.optimizer.base_lr = 1e-3

    if arg.stage == "pretrain":
        config.data.classes = (0, 1, 2, 3, 4)
        config.augment.random_affine = {"max_shift_pixels": 2.0, "max_rotation_degrees": 20.0}
        config.loop.num_epochs = 150.0
        config.loop.evaluate_every_epochs = 50.0
        config.loop.save_every_epochs = 50.0
    else:
        config.data.classes = (5, 6, 7, 8, 9)
        config.data.train_split = "train[:50%]"
        config.data.examples_per_class = 10
        config.data.batch_size = 50  # an epoch is a step
        config.loop.num_epochs = 200.0
        config.loop.evaluate_every_epochs = 100.0
        config.loop.save_every_epochs = 100.0
        config.optimizer.warmup_epochs = 10.0
    if arg.stage == "finetune":
        config.init_from = ""
        config.init.weights = "ema"
        config.optimizer.base_lr = 2e-3
    if arg.debug:
        config.init_from = None
        config.data.train_split = "train[:96]"
        config.loop.num_epochs = 4.0
        config.loop.log_every_steps = 2
        config.optimizer.warmup_epochs = 1.0
    return config
