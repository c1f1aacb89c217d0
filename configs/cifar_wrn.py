"""Wide-ResNet-28-10 on CIFAR-10 or CIFAR-100, from scratch.

    python train.py --config=configs/cifar_wrn.py --workdir=runs/cifar_wrn
    python train.py --config=configs/cifar_wrn.py:cifar100,wrn_paper --workdir=...

Argument: cifar10|cifar100, nest|wrn_paper, debug. The NesT paper has 95.83 / 80.75 (CIFAR-10 /
CIFAR-100, arXiv 2105.12723; recalled, not read), which are 4.17 and 19.25 % error. The Wide ResNet
authors' README has 4.00 and 19.25 without dropout, medians of 5 runs (szagoruyko/wide-residual-
networks, commit ae6d0d0); 4.17 is of their paper's first version (arXiv 1605.07146; recalled).

`nest`: values are those of the official configs/cifar_cnn.py (google-research/nested-transformer,
commit 59c0d6a), which is for its convolutional networks, unless a comment says otherwise.
`wrn_paper`: what the Wide ResNet paper (section 3) and its scripts/train_cifar.sh have instead.
Where we knowingly differ from both: docs/differences.md.
"""

from configs.common import base_config, parse_argument, shrink


def get_config(argument: str | None = None):
    arg = parse_argument(argument, dataset=("cifar10", "cifar100"), recipe=("nest", "wrn_paper"))
    config = base_config()
    config.seed = 42

    config.model.name = "wrn28_10"  # the official file names resnet18_cifar
    config.model.dropout_rate = 0.0  # models/wide_resnet.py; the Wide ResNet paper tries 0.3 too
    config.model.batch_norm_momentum = 0.9  # models/wide_resnet.py
    config.model.batch_norm_epsilon = 1e-5  # models/wide_resnet.py
    config.model.dtype = "float32"
    config.model.remat = "none"

    config.data.name = arg.dataset
    config.data.image_size = 32
    config.data.batch_size = 128  # per device there; the Wide ResNet paper's batch
    config.data.eval_batch_size = 128
    config.data.num_threads = 1  # images this small: more threads only wait for each other

    # libml/preprocess.py, train_cifar_preprocess
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
    if arg.recipe == "wrn_paper":
        config.augment.random_crop = {"padding": 4, "border": "reflect"}
        config.optimizer.schedule = "steps"
        config.optimizer.step_epochs = (60.0, 120.0, 160.0)  # the code: at the start of these
        config.optimizer.step_factor = 0.2
        config.optimizer.warmup_epochs = 0.0
        config.optimizer.decay_exclude = ()  # Torch's optim.sgd decays every parameter
    if arg.debug:
        shrink(config, image_size=32)
        config.model.depth = 10
        config.model.width = 1
    return config
