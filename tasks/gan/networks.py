"""Generator and discriminator as a GAN's training applies them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from tasks.gan.diff_augment import diff_augment


@dataclasses.dataclass(frozen=True)
class GanNetworks:
    """The two networks.

    Attributes:
        generator: `apply({"params": p}, noise [b, z], labels, train)` gives images.
        discriminator: `apply({"params": p}, images, labels, train)` gives logits [b].
        latent_shape: of the noise of one image.
        num_classes: None: without classes, labels are None.
        augment: what a discriminator sees is augmented with, names of tasks/gan/diff_augment.py.
    """

    generator: nn.Module
    discriminator: nn.Module
    latent_shape: tuple[int, ...]
    num_classes: int | None
    augment: tuple[str, ...]

    def generate(self, params: Any, key: jax.Array, count: int):
        """Returns images of fresh noise, and their classes if there are any."""
        noise_key, label_key, dropout_key = jax.random.split(key, 3)
        noise = jax.random.normal(noise_key, (count, *self.latent_shape))
        labels = None
        if self.num_classes:
            labels = jax.random.randint(label_key, (count,), 0, self.num_classes)
        images = self.generator.apply(
            {"params": params}, noise, labels, train=True, rngs={"dropout": dropout_key}
        )
        return images, labels

    def judge(self, params: Any, key: jax.Array, *, plain: bool) -> Callable:
        """Returns `(images, labels) -> logits`, which augments the images unless `plain`."""
        augment_key, dropout_key = jax.random.split(key)

        def logits(images, labels):
            if not plain:
                images = diff_augment(augment_key, images, self.augment)
            return self.discriminator.apply(
                {"params": params}, images, labels, train=True, rngs={"dropout": dropout_key}
            )

        return logits
