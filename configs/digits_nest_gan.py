"""Transposed NesT that writes digits: a GAN on scikit-learn's handwritten digits.

    python train.py --config=configs/digits_nest_gan.py --workdir=runs/digits_nest_gan

draws samples at every evaluation. With a classifier, also the distances to the test split:

    python train.py --config=configs/digits_nest.py --workdir=runs/digits_nest_sharp \
        --config.task.label_smoothing=0.0
    ... --config.task.features=runs/digits_nest_sharp

Argument: debug. Our own recipe.
"""

from configs.common import gan_config, parse_argument


def get_config(argument: str | None = None):
    arg = parse_argument(argument)
    config = gan_config()

    # 1 -> 4 -> 16 blocks of 2x2 tokens of 2x2 pixels: the tree of digits_nest upside down.
    config.generator.name = "nest_generator_tiny_s16_16"
    config.generator.patch_size = 2
    config.generator.dims = (128, 64, 64)
    config.generator.depths = (2, 2, 2)
    config.generator.num_heads = (4, 4, 4)
    config.generator.deaggregation = "pixel_shuffle"

    config.discriminator.name = "conv_discriminator_tiny_16"
    config.discriminator.dims = (16, 32, 64)

    config.data.name = "digits"
    config.data.image_size = 16
    config.data.batch_size = 64
    config.data.eval_batch_size = 360
    config.data.num_threads = 1

    config.task.augment = ("translation", "cutout")
    config.task.r1_weight = 1.0

    for optimizer in (config.generator_optimizer, config.discriminator_optimizer):
        optimizer.base_lr = 1e-3
        optimizer.schedule = "linear"

    config.loop.num_epochs = 150.0
    config.loop.log_every_steps = 100
    config.loop.evaluate_every_epochs = 30.0
    config.loop.save_every_epochs = 30.0
    if arg.debug:
        config.generator.depths = (1, 1, 1)
        config.discriminator.dims = (8, 16, 16)
        config.data.train_split = "train[:48]"
        config.data.eval_split = "test[:64]"
        config.data.batch_size = 16
        config.data.eval_batch_size = 64
        config.loop.num_epochs = 4.0
        config.loop.log_every_steps = 2
        config.task.num_samples = 64
    return config
