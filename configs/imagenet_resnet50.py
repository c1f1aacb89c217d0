"""ResNet-50 on ImageNet at 224 x 224.

    python train.py --config=configs/imagenet_resnet50.py --workdir=runs/imagenet_resnet50

Argument: debug. The official docstring promises about 76 % top-1; the TNT paper's row is 76.2.

Values are those of the official configs/resnet50_imagenet.py (google-research/nested-transformer,
commit 59c0d6a) unless a comment says otherwise. The network is torchvision's. That repository's
(models/resnet_v1.py) starts the head's kernel as zeros (183) and convolutions from LeCun's normal,
pads as "SAME" (160-168: at stride 2 on the right and below only), and has no ReLU after the first
norm (167). Flax's example, its model, pads the first convolution as we do, the pooling as "SAME",
and starts the last norm of each block as zeros. docs/differences.md has it all.
"""

from configs.common import base_config, parse_argument, shrink


def get_config(argument: str | None = None):
    arg = parse_argument(argument)
    config = base_config()
    config.seed = 42

    config.model.name = "resnet50"
    # False: models/resnet_v1.py writes of zeros in its bottleneck, but starts from ones.
    config.model.zero_init_last_norm = False
    config.model.batch_norm_momentum = 0.9  # models/resnet_v1.py
    config.model.batch_norm_epsilon = 1e-5  # default of flax
    config.model.dtype = "float32"
    config.model.remat = "none"

    config.data.name = "imagenet2012"
    config.data.image_size = 224
    # ours: 64 per device there, with batch statistics per device; ours are of the whole batch
    config.data.batch_size = 256
    config.data.eval_batch_size = 256
    config.data.eval_split = "validation"
    # libml/preprocess.py: 256 to 224, bilinear without antialiasing.
    config.data.eval_crop_ratio = 0.875

    # libml/preprocess.py, train_preprocess. Official images are in 0..1, ours normalised.
    config.augment.random_resized_crop = {
        "area": (0.05, 1.0),
        "aspect": (0.75, 1.33),
        "rule": "tensorflow",
    }
    config.augment.flip = {}

    config.optimizer.name = "sgd"
    config.optimizer.nesterov = True  # train.py, with momentum 0.9
    config.optimizer.base_lr = 0.1
    config.optimizer.reference_batch = 256
    config.optimizer.warmup_epochs = 5.0
    config.optimizer.weight_decay = 1e-4
    # train.py: the L2 term is of arrays with more than one axis.
    config.optimizer.decay_exclude = ("bias$", "scale$")

    config.loop.num_epochs = 90.0
    config.loop.log_every_steps = 500
    config.loop.evaluate_every_epochs = 1.0  # official: every 5,000 steps, 1 epoch at 256
    config.loop.save_every_epochs = 1.0  # as the evaluations
    if arg.debug:
        shrink(config, image_size=64)
        config.model.update(depths=(1, 1, 1), dims=(16, 32, 64))
    return config
