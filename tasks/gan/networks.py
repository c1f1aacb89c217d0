"""Generator and discriminator as a GAN's training applies them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from tasks.gan.diff_augment import Operation, diff_augment


@dataclasses.dataclass(frozen=True)
class GanNetworks:
    """The two networks.

    Attributes:
        generator: `apply({"params": p}, noise [b, z], labels, train)` gives images in -1..1.
        discriminator: `apply({"params": p}, images, labels, train)` gives logits [b].
        latent_shape: of the noise of one image.
        image_shape: (h, w, c) of an image.
        num_classes: None: without classes, labels are None.
    """

    generator: nn.Module
    discriminator: nn.Module
    latent_shape: tuple[int, ...]
    image_shape: tuple[int, int, int]
    num_classes: int | None

    def init(self, key: jax.Array) -> tuple[Any, Any]:
        """Returns initial parameters of the generator and of the discriminator."""
        generator_key, discriminator_key = jax.random.split(key)
        labels = jnp.zeros((1,), jnp.int32) if self.num_classes else None
        noise, images = jnp.zeros((1, *self.latent_shape)), jnp.zeros((1, *self.image_shape))
        generator = self.generator.init(generator_key, noise, labels)["params"]
        return generator, self.discriminator.init(discriminator_key, images, labels)["params"]

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
        chex.assert_shape(images, (count, *self.image_shape))
        return images, labels

    def judge(self, params: Any, key: jax.Array, augment: tuple[Operation, ...]) -> Callable:
        """Returns `(images, labels) -> logits`, which applies `augment` to the images first."""
        augment_key, dropout_key = jax.random.split(key)

        def logits(images, labels):
            images = diff_augment(augment_key, images, augment)
            logits = self.discriminator.apply(
                {"params": params}, images, labels, train=True, rngs={"dropout": dropout_key}
            )
            chex.assert_shape(logits, (len(images),))
            return logits

        return logits
