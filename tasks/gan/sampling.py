"""Images drawn from a generator, by number."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

# Folded into the key of samples: training folds in step numbers, which never get this far.
_SAMPLING = 2**31 - 1


def to_uint8(images: jax.Array) -> jax.Array:
    """Converts images of a generator, in -1..1 and slightly beyond, to what files store."""
    return jnp.round(jnp.clip(images * 127.5 + 127.5, 0.0, 255.0)).astype(jnp.uint8)


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Draws numbered samples, or mixtures of two of them.

    Sample number i is the same image for the same weights and key, with any batch size and devices.
    With classes, its class is i modulo their number.

    Attributes:
        generator: `apply({"params": p}, noise, labels, train=False)` gives images.
        latent_shape: of the noise of one image.
        num_classes: None: without classes.
    """

    generator: nn.Module
    latent_shape: tuple[int, ...]
    num_classes: int | None

    def batch(self, first: np.ndarray, second: np.ndarray, share: np.ndarray) -> dict[str, Any]:
        """Returns what `images` takes, of samples [b] and the way from one to the other, 0..1."""
        return {
            "first": first.astype(np.int32),
            "second": second.astype(np.int32),
            "share": share.astype(np.float32),
            "label": (first % (self.num_classes or 1)).astype(np.int32),
        }

    def images(self, params: Any, batch: dict[str, Any], key: jax.Array) -> jax.Array:
        """Returns the images uint8 [b, h, w, c] of a batch. Traceable.

        Args:
            params: of the generator.
            batch: see `batch`.
            key: of the run.
        """
        key = jax.random.fold_in(key, _SAMPLING)

        def noise(number):
            return jax.random.normal(jax.random.fold_in(key, number), self.latent_shape)

        one, other = jax.vmap(noise)(batch["first"]), jax.vmap(noise)(batch["second"])
        share = batch["share"].reshape(-1, *(1,) * len(self.latent_shape))
        # Divided so that the mixture also has variance 1.
        mixed = (1.0 - share) * one + share * other
        same = (batch["first"] == batch["second"]).reshape(share.shape)
        noise = jnp.where(same, one, mixed / jnp.sqrt((1.0 - share) ** 2 + share**2))
        labels = batch["label"] if self.num_classes else None
        return to_uint8(self.generator.apply({"params": params}, noise, labels, train=False))

    def draw(
        self, params: Any, key: jax.Array, *, num: int, batch_size: int, label: int | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the samples 0, 1, ..., uint8 [<= batch_size, h, w, c], and their labels.

        Args:
            params, key: see `images`.
            num: how many samples.
            batch_size: made at once.
            label: class of all of them; None: one class after the other.
        """
        images = jax.jit(self.images)
        for start in range(0, num, batch_size):
            number = np.arange(start, start + batch_size)
            batch = self.batch(number, number, 0.0 * number)
            if label is not None:
                batch["label"] = np.full(batch_size, label, np.int32)
            count = min(batch_size, num - start)
            yield jax.device_get(images(params, batch, key))[:count], batch["label"][:count]
