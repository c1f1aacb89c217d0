"""How samples of a generator are looked at and compared with real images."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from harness.pictures import image_grid
from tasks.gan.embedding import Embedding
from tasks.gan.feature_statistics import (
    CONFIDENT,
    FeatureStatistics,
    compare,
    from_features,
    statistics_hash,
)
from tasks.gan.hashes import arrays_hash, fingerprint
from tasks.gan.metrics import kernel_subsets
from tasks.gan.networks import GanNetworks
from tasks.gan.options import GanOptions
from tasks.gan.sampling import Sampler
from tasks.protocol import Evaluation

GRID = (8, 10)  # rows and columns of the pictures


@dataclasses.dataclass(frozen=True, eq=False)  # compared by identity: it holds arrays
class GanEvaluator:
    """The part of the task `Gan` that evaluates.

    A batch of evaluation is one of the real split, as it comes, or one of samples:

        first, second, share    sample numbers [b] and the way from one to the other, 0..1
        mask                    as in the split
        draw                    present, with any value, if the images themselves are wanted

    Sample number i is the same image in every evaluation of the same weights, see Sampler.

    To add a metric, compute it in `summarize` (of features: in feature_statistics.compare) and add
    its name to `metric_names`.

    Attributes:
        options, networks: of the task.
        real_images: which images the split has, see feature_statistics.real_images.
        embedding: in whose features samples are compared; None: they are only drawn.
        statistics: of real images, to compare with in place of the split's; None: the split's.
        batch_sharding: how a batch lies over the devices; None: on one.
    """

    options: GanOptions
    networks: GanNetworks
    real_images: dict[str, Any]
    embedding: Embedding | None = None
    statistics: FeatureStatistics | None = None
    batch_sharding: NamedSharding | None = None

    @property
    def sampler(self) -> Sampler:
        networks = self.networks
        return Sampler(networks.generator, networks.latent_shape, networks.num_classes)

    def batches(self, batches: Iterable):
        """Yields the split's batches, then those of `num_samples` samples, then the pictures'.

        Without features to compare them in, as many samples as the pictures show are enough, for
        the mean logit.
        """
        size = None
        for batch in batches:
            size = len(batch["image"])
            yield batch
        if size is None:
            return
        count = self.options.num_samples
        if self.embedding is None:
            count = min(count, GRID[0] * GRID[1])
        for start in range(0, count, size):
            number = np.arange(start, start + size)
            yield self._sample_batch(number, number, 0.0 * number, number < count)
        yield self._sample_batch(*self._picture_numbers(size), draw=True)

    def _picture_numbers(self, size: int) -> tuple[np.ndarray, ...]:
        """Returns the batch of both pictures: a grid of samples, and rows from one to another."""
        rows, columns = GRID
        count = rows * columns
        grid = np.arange(count)
        row = np.repeat(np.arange(rows), columns)
        apart = self.networks.num_classes or 1  # both ends of a row are of the same class
        share = np.tile(np.linspace(0.0, 1.0, columns), rows)
        length = -(-2 * count // size) * size  # divides over the devices as `size` does
        parts = (
            np.concatenate([grid, row]),
            np.concatenate([grid, row + rows * apart]),
            np.concatenate([0.0 * grid, share]),
            np.ones(2 * count),
        )
        return tuple(np.pad(part, (0, length - 2 * count)) for part in parts)

    def _sample_batch(self, first, second, share, mask, *, draw: bool = False):
        batch = self.sampler.batch(first, second, share) | {"mask": mask.astype(np.float32)}
        if draw:
            batch["draw"] = batch["mask"]
        return {name: self._place(array) for name, array in batch.items()}

    def _place(self, array: np.ndarray):
        """Puts a batch where the split's are; each process holds the part of its own devices."""
        if self.batch_sharding is None:
            return array
        return jax.make_array_from_callback(array.shape, self.batch_sharding, lambda i: array[i])

    def rows(self, generator: Any, discriminator: Any, batch, key: jax.Array):
        """Returns {kind of batch: rows}: logit, mask and features, or the images to look at.

        Args:
            generator, discriminator: parameters.
            batch: one of `batches`.
            key: of the run.
        """
        is_real = "image" in batch
        if is_real:
            images, labels = _without_padding(batch)
        else:
            images, labels = self.sampler.images(generator, batch, key), batch["label"]
        chex.assert_shape(images, (None, *self.networks.image_shape))
        if "draw" in batch:
            return {"drawn": {"image": images, "mask": batch["mask"]}}
        logits = self.networks.discriminator.apply(
            {"params": discriminator},
            images.astype(jnp.float32) / 127.5 - 1.0,
            labels if self.networks.num_classes else None,
            train=False,
        )
        chex.assert_equal_shape([logits, batch["mask"]])
        rows = {"logit": logits, "mask": batch["mask"]}
        if self.embedding is not None and not (is_real and self.statistics is not None):
            features, probabilities = self.embedding(images.astype(jnp.float32) / 255.0)
            rows |= {
                "features": features,
                "confidence": probabilities.max(axis=-1),
                "class": probabilities.argmax(axis=-1),
            }
            if is_real:
                rows["fingerprint"] = fingerprint(images)
        return {"real" if is_real else "generated": rows}

    def summarize(self, rows: list[Any]) -> Evaluation:
        """Compares the samples with the real images.

        Metrics: the mean logits; with features `frechet_distance`, `kernel_distance`, `precision`,
        `recall` (statistics with the moments alone give the first only), and how the classifier
        sees the samples: `confident_share` (of those with a probability over 0.9),
        `num_classes_seen`, `largest_class_share`. The classes are the classifier's, which are
        Inception-v3's own for any data set.

        Args:
            rows: of each batch.
        """
        real, generated, drawn = (_unmasked(rows, k) for k in ("real", "generated", "drawn"))
        metrics = {
            "logit_real": float(real["logit"].mean()),
            "logit_generated": float(generated["logit"].mean()),
            "num_examples": len(real["logit"]),
            "num_samples": len(generated["logit"]),
        }
        protocol = {}
        if self.embedding is not None:
            statistics = self.statistics
            if statistics is None:
                found = statistics_hash(self.embedding.protocol, real["fingerprint"])
                images = self.real_images | {"statistics_hash": found}
                statistics = from_features(real["features"], images)
            more, protocol = self._compare(statistics, generated)
            metrics |= more
        grid, interpolation = np.split(drawn["image"], 2)
        columns = GRID[1]
        pictures = {
            "samples": image_grid(grid, columns),
            "interpolation": image_grid(interpolation, columns),
        }
        return Evaluation(metrics, pictures, protocol)

    def metric_names(self) -> tuple[str, ...]:
        names = ["logit_real", "logit_generated"]
        if self.embedding is not None:
            names += ["frechet_distance"]
            names += [] if self._has_moments_only else ["kernel_distance", "precision", "recall"]
            names += ["confident_share", "num_classes_seen", "largest_class_share"]
        return tuple(names)

    @property
    def _has_moments_only(self) -> bool:
        return self.statistics is not None and self.statistics.features is None

    def _compare(self, real: FeatureStatistics, generated: dict[str, np.ndarray]):
        shares = np.bincount(generated["class"]) / len(generated["class"])
        metrics = compare(real, generated["features"], self.options.neighbors) | {
            "confident_share": float((generated["confidence"] > CONFIDENT).mean()),
            "num_classes_seen": int((shares > 0).sum()),
            "largest_class_share": float(shares.max()),
        }
        return metrics, self._protocol(real, len(generated["class"]))

    def _protocol(self, real: FeatureStatistics, num_generated: int) -> dict[str, Any]:
        """Returns all that the numbers depend on, apart from the weights of the generator."""
        num_real = real.moments.count
        protocol = self.embedding.protocol | {
            "image_shape": list(self.networks.image_shape),
            "weights": "moving average" if self.options.ema_decay else "raw",
            "num_generated": num_generated,
            "num_real": num_real or "unknown",
        }
        if self.statistics is not None:
            protocol["statistics"] = self.options.statistics
        if self._has_moments_only:
            return protocol | {
                "real_images": "unknown: the file has mu and sigma alone",
                "statistics_hash": arrays_hash(real.moments.mean, real.moments.covariance),
            }
        num_subsets, *sizes = kernel_subsets(num_real, num_generated)
        return (
            protocol
            | {"neighbors": self.options.neighbors}
            | {"kernel_subsets": num_subsets, "kernel_subset_sizes": sizes}
            | {key: real.protocol.get(key) for key in (*self.real_images, "statistics_hash")}
        )


def _without_padding(batch) -> tuple[jax.Array, jax.Array]:
    """Returns images and labels of a batch, whose padding is replaced by its real images again.

    The minibatch deviation judges neighbours together: next to black images, real ones would look
    far more varied than they are. Fewer real images than a group look less varied.
    """
    mask, row = batch["mask"] > 0, jnp.arange(len(batch["mask"]))
    (real,) = jnp.nonzero(mask, size=len(mask), fill_value=0)
    source = jnp.where(mask, row, real[row % jnp.maximum(mask.sum(), 1)])
    return batch["image"][source], batch["label"][source]


def _unmasked(rows: list[Any], kind: str) -> dict[str, np.ndarray]:
    """Joins the rows of one kind over batches, without padding."""
    parts = [row[kind] for row in rows if kind in row]
    mask = np.concatenate([part["mask"] for part in parts]) > 0
    return {name: np.concatenate([part[name] for part in parts])[mask] for name in parts[0]}
