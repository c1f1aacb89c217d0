"""Transposed NesT on CIFAR-10: images of 32x32 pixels.

    python train.py --config=configs/cifar_nest_gan.py:small --workdir=runs/cifar_nest_gan

draws samples at every evaluation. With a classifier of such images, also the distances to the test
split: --config.task.features=runs/cifar_nest_tiny (configs/cifar_nest.py), or Inception-v3's
weights: --config.task.features=pt_inception-2015-12-05-6726825d.pth.

Argument: small|base, debug. The paper trains no such generator. Optimizer, loss, batch and decay of
the average are those of HiT-GAN on ImageNet (arXiv 2106.07631, by the same authors), but for Adam's
epsilon (1e-7 there); the augmentation is that of DiffAugment (arXiv 2006.10738), the discriminator
StyleGAN2's (HiT-GAN's is discriminator.design="hit_gan"). Length, weight of R1 (HiT-GAN's is 20 as
we count), lazy R1, the warm-up of the average and alternating steps are our own. Not trained to the
end here.
"""

from configs.common import gan_config, parse_argument, shrink


def get_config(argument: str | None = None):
    arg = parse_argument(argument, size=("small", "base"))
    config = gan_config()

    config.generator.name = f"nest_generator_{arg.size}_s64_32"
    config.generator.dtype = "bfloat16"
    config.generator.remat = "none"
    config.discriminator.name = f"conv_discriminator_{arg.size}_32"
    config.discriminator.dtype = "bfloat16"
    config.discriminator.remat = "none"

    config.data.name = "cifar10"
    config.data.image_size = 32
    config.data.batch_size = 256
    config.data.eval_batch_size = 512
    config.data.num_threads = 1  # images this small: more threads only wait for each other

    config.augment.flip = {}
    config.task.r1_weight = 1.0
    config.task.num_samples = 10_000  # as many as the test split has

    for optimizer in (config.generator_optimizer, config.discriminator_optimizer):
        optimizer.base_lr = 1e-4
        optimizer.reference_batch = 256

    config.loop.num_epochs = 1000.0
    config.loop.evaluate_every_epochs = 25.0
    config.loop.save_every_epochs = 5.0
    if arg.debug:
        config.generator.update(dims=(32, 16, 16), depths=(1, 1, 1), num_heads=(2, 2, 2))
        config.discriminator.dims = (8, 16, 16)
        config.task.num_samples = 32
        shrink(config, image_size=16)
    return config
