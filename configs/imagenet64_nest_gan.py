"""Transposed NesT on ImageNet at 64x64 pixels, without classes: the paper's image generation.

    python train.py --config=configs/imagenet64_nest_gan.py:base --workdir=runs/imagenet64_nest_gan

draws samples at every evaluation. With a classifier, also the distances to the validation split:
--config.task.features=WORKDIR, or a file of Inception-v3's weights.

Argument: base|small, debug. From the paper (arXiv 2105.12723) are the task and, recalled, the
74.4 million parameters of the generator. It does not describe the training: discriminator, losses,
weight of R1, optimizer, batch, average, length and the choice of the best checkpoint are those of
HiT-GAN (arXiv 2106.07631, by the same authors; google-research/hit-gan, commit 06d310c) on ImageNet
at 128. Ours are lazy R1 (there in every step: r1_every_steps=1), the warm-up of the average (there
it restarts after ten steps), alternating steps (there joint: steps="joint"), bfloat16 (there
float32) and the widths of small's discriminator. Not trained to the end here.
"""

from ml_collections import config_dict

from configs.common import gan_config, parse_argument, shrink


def get_config(argument: str | None = None):
    arg = parse_argument(argument, size=("base", "small"))
    config = gan_config()

    config.generator.name = f"nest_generator_{arg.size}_s64_64"
    config.generator.dtype = "bfloat16"
    config.generator.remat = "none"
    config.discriminator.name = f"conv_discriminator_{arg.size}_64"  # base: HiT-GAN's widths
    config.discriminator.design = "hit_gan"
    config.discriminator.dtype = "bfloat16"
    config.discriminator.remat = "none"

    config.data.name = "downsampled_imagenet/64x64"
    config.data.image_size = 64
    config.data.batch_size = 256
    config.data.eval_batch_size = 512
    config.data.eval_split = "validation"

    config.augment.flip = {}
    config.task.augment = ()  # 1.28 million images: nothing to learn by heart
    config.task.r1_weight = 20.0  # HiT-GAN, utils/losses.py: 10 |g|^2; here it is halved
    config.task.num_samples = 50_000  # the FID's usual number, about the split's size

    for optimizer in (config.generator_optimizer, config.discriminator_optimizer):
        optimizer.base_lr = 1e-4
        optimizer.reference_batch = 256
        # Keras' default. Keras adds it before the correction of the moments, so that there it acts
        # as 1e-7 / sqrt(1 - 0.99^step): 1e-6 at the first step, 1.3e-7 at the hundredth.
        optimizer.eps = 1e-7

    config.checkpoint.best_metric = config_dict.placeholder(str)  # the FID, given task.features
    config.loop.num_epochs = 200.0  # a million steps
    config.loop.evaluate_every_epochs = 5.0
    config.loop.save_every_epochs = 1.0
    if arg.debug:
        config.generator.update(
            dims=(32, 16, 16, 16), depths=(1, 1, 1, 1), num_heads=(2, 2, 2, 2), patch_size=2
        )
        config.discriminator.dims = (8, 16, 16, 16)
        config.task.num_samples = 32
        shrink(config, image_size=32)
    return config
