"""NesT, trained on ImageNet, fine-tuned on other data sets at 384 x 384.

    python train.py --config=configs/transfer_nest.py:pets --workdir=runs/pets_nest_base \
        --config.init_from=nest-b_imagenet/

Argument: cifar10|cifar100|flowers|pets|inat2019, base|small|tiny, debug. Ours: the NesT paper
transfers to no other data set. Rates, epochs and splits are those of configs/transfer_tnt.py, with
their sources there; model and augmentation are as in configs/imagenet_nest.py. The official code
has a path for CIFAR after ImageNet (libml/input_pipeline.py, 148-165, commit 59c0d6a) but no recipe
that takes it: images come first to 256/224 of the input size, and CIFAR's own statistics, the
default here, normalise them.
"""

from configs import imagenet_nest, transfer_tnt
from configs.common import parse_argument, shrink


def get_config(argument: str | None = None):
    arg = parse_argument(
        argument, dataset=tuple(transfer_tnt.DATASETS), size=("base", "small", "tiny")
    )
    config = imagenet_nest.get_config(arg.size)
    like = transfer_tnt.get_config(arg.dataset)
    config.init_from = ""

    config.data.update(
        {
            key: like.data[key]
            for key in (
                *("name", "train_split", "eval_split"),
                *("image_size", "batch_size", "eval_batch_size"),
            )
        }
    )
    if arg.dataset.startswith("cifar"):
        config.augment.enlarge = {}

    # The devices of the ImageNet recipe would leave groups of 2 in this batch.
    config.device_augment.mixup_cutmix.groups = like.device_augment.mixup_cutmix.groups

    config.optimizer.base_lr = like.optimizer.base_lr
    config.optimizer.reference_batch = None  # the rate is not scaled with the batch
    config.optimizer.weight_decay = like.optimizer.weight_decay
    config.optimizer.warmup_epochs = like.optimizer.warmup_epochs
    config.optimizer.cooldown_epochs = like.optimizer.cooldown_epochs
    config.optimizer.final_lr = like.optimizer.final_lr

    config.loop.update(like.loop)
    if arg.debug:
        shrink(config, image_size=64)
        config.model.depths = (1, 1, 1)
    return config
