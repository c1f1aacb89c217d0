"""Wide-ResNet-28-10 on CIFAR-10 or CIFAR-100, from scratch.

    python train.py --config=configs/cifar_wrn.py --workdir=runs/cifar_wrn
    python train.py --config=configs/cifar_wrn.py:cifar100 --workdir=...

Argument: cifar10|cifar100, debug. The NesT paper has 95.8 / 80.8 (CIFAR-10 / CIFAR-100, arXiv
2105.12723; read second hand), as the Wide ResNet paper without dropout (4.17 and 20.5 % error).

Values are those of the official configs/cifar_cnn.py (google-research/nested-transformer, commit
59c0d6a), which is for its convolutional networks, unless a comment says otherwise.
"""

from configs.common import base_config, parse_argument, shrink


def get_config(argument: str | None = None):
    arg = parse_argument(argument, dataset=("cifar10", "cifar100"))
    config = base_config()
    config.seed = 42

    config.model.name = "wrn28_10"  # the official file names resnet18_cifar
    config.model.dropout_rate = 0.0  # models/wide_resnet.py; the Wide ResNet paper tries 0.3 too
    config.model.batch_norm_momentum = 0.9  # models/wide_resnet.py
    config.model.batch_norm_epsilon = 1e-5  # models/wide_resnet.py
    config.model.dtype = "float32"
    config.model.remat = False

    config.data.name = arg.dataset
    config.data.image_size = 32
    config.data.batch_size = 128  # per device there; the Wide ResNet paper's batch
    config.data.eval_batch_size = 128
    config.data.num_threads = 1  # images this small: more threads only wait for each other

    # libml/preprocess.py, train_cifar_preprocess; the Wide ResNet paper pads 4.
    config.augment.random_crop = {"padding": 2}
    config.augment.flip = {}

    config.optimizer.name = "sgd"
    config.optimizer.nesterov = True  # train.py, with momentum 0.9
    config.optimizer.base_lr = 0.2
    config.optimizer.reference_batch = 256  # train.py; 0.1 at 128, as in the Wide ResNet paper
    config.optimizer.warmup_epochs = 5.0
    config.optimizer.weight_decay = 5e-4
    # train.py: the L2 term is of arrays with more than one axis.
    config.optimizer.decay_exclude = ("bias$", "scale$")

    config.loop.num_epochs = 200.0
    config.loop.log_every_steps = 500
    config.loop.evaluate_every_epochs = 1.0  # ours; official: every 200 steps, half an epoch
    config.loop.save_every_epochs = 10.0  # ours; official: every 5,000 steps
    if arg.debug:
        shrink(config, image_size=32)
        config.model.depth = 10
        config.model.width = 1
    return config
