"""How samples of a generator are drawn, looked at and compared with real images."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from training.errors import ConfigError
from training.feature_statistics import (
    CONFIDENT,
    FeatureStatistics,
    compare,
    from_features,
    load_statistics,
)
from training.features import digest, load_embedding
from training.image_grid import image_grid
from training.task import Evaluation

GRID = (8, 10)  # rows and columns of the pictures

# Noise of evaluation stands apart from that of training, which folds in step numbers.
_EVALUATION = 2**31 - 1


def to_uint8(images: jax.Array) -> jax.Array:
    """Images of a generator, -1..1 and somewhat beyond, as files store them."""
    return jnp.round(jnp.clip(images * 127.5 + 127.5, 0.0, 255.0)).astype(jnp.uint8)


class GanEvaluation:
    """The part of the task `Gan` that evaluates.

    A batch of evaluation is one of the real split, as it comes, or one of samples:

        first, second, share    sample numbers [b] and the way from one to the other, 0..1
        mask                    as in the split
        draw                    is there, whatever it holds, if the images themselves are wanted

    Sample number i is the same image in every evaluation of the same weights, whatever the batch
    size or the devices are. With classes it is of class i modulo their number.
    """

    def load_features(self, features: str, statistics: str) -> None:
        """Reads what samples are compared in and with; see the arguments of `Gan`."""
        self.embedding = self.statistics = None
        if features:
            self.embedding = load_embedding(
                features, num_channels=self.image_shape[-1], dataset=self.dataset
            )
        if statistics:
            if self.embedding is None:
                raise ConfigError("config.task.statistics needs config.task.features")
            self.statistics = load_statistics(
                statistics, self.embedding.protocol, self.embedding.width
            )

    def eval_batches(self, batches: Iterable):
        """Yields the split's batches, then those of `num_samples` samples, then the pictures'."""
        size = None
        for batch in batches:
            size = len(batch["image"])
            yield batch
        if size is None:
            return
        for start in range(0, self.num_samples, size):
            number = np.arange(start, start + size)
            yield self._sample_batch(number, number, 0.0 * number, number < self.num_samples)
        yield self._sample_batch(*self._picture_numbers(size), draw=True)

    def sample_batches(self, seed_start: int, count: int, size: int, *, label: int | None = None):
        """Yields batches of samples numbered from `seed_start` on, with their images.

        Args:
            seed_start: the first number.
            count: of samples.
            size: of a batch; the last one is padded and masked.
            label: class of all of them; None: one after the other.
        """
        for start in range(0, count, size):
            number = np.arange(start, start + size)
            batch = self._sample_batch(
                number + seed_start, number + seed_start, 0.0 * number, number < count, draw=True
            )
            if label is not None:
                batch["label"] = self._place(np.full(size, label, np.int32))
            yield batch

    def _picture_numbers(self, size: int) -> tuple[np.ndarray, ...]:
        """Numbers of both pictures: a grid of samples, and rows that go from one to another."""
        rows, columns = GRID
        count = rows * columns
        grid = np.arange(count)
        row = np.repeat(np.arange(rows), columns)
        # With classes, both ends of a row are of the same one.
        apart = self.num_classes if self.conditional else 1
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
        batch = {
            "first": first.astype(np.int32),
            "second": second.astype(np.int32),
            "share": share.astype(np.float32),
            "label": (first % self.num_classes).astype(np.int32),
            "mask": mask.astype(np.float32),
        }
        if draw:
            batch["draw"] = batch["mask"]
        return {name: self._place(array) for name, array in batch.items()}

    def _place(self, array: np.ndarray):
        """Puts a batch where the split's are, with each process's part on its own devices."""
        if self.batch_sharding is None:
            return array
        return jax.make_array_from_callback(array.shape, self.batch_sharding, lambda i: array[i])

    def sample(self, params, batch, key: jax.Array) -> jax.Array:
        """Returns the images uint8 [b, h, w, c] of a batch of sample numbers."""
        key = jax.random.fold_in(key, _EVALUATION)

        def noise(number):
            return jax.random.normal(jax.random.fold_in(key, number), self.networks.latent_shape)

        one, other = jax.vmap(noise)(batch["first"]), jax.vmap(noise)(batch["second"])
        share = batch["share"].reshape(-1, *(1,) * len(self.networks.latent_shape))
        # Divided, so that the mixture has variance 1, too.
        mixed = (1.0 - share) * one + share * other
        same = (batch["first"] == batch["second"]).reshape(share.shape)
        noise = jnp.where(same, one, mixed / jnp.sqrt((1.0 - share) ** 2 + share**2))
        labels = batch["label"] if self.conditional else None
        return to_uint8(
            self.networks.generator.apply({"params": params}, noise, labels, train=False)
        )

    def eval_step(self, state, batch, key: jax.Array):
        """Returns no sums; rows: what kind they are -> logit, mask, features, or the images."""
        is_real = "image" in batch
        if is_real:
            images = batch["image"]
        else:
            params = state.ema if self.ema_decay else state.generator
            images = self.sample(params, batch, key)
            if "draw" in batch:
                return (), {"drawn": {"image": images, "mask": batch["mask"]}}
        labels = batch["label"] if self.conditional else None
        logits = self.networks.discriminator.apply(
            {"params": state.discriminator},
            images.astype(jnp.float32) / 127.5 - 1.0,
            labels,
            train=False,
        )
        rows = {"logit": logits, "mask": batch["mask"]}
        if self.embedding is not None and not (is_real and self.statistics):
            features, probabilities = self.embedding(images.astype(jnp.float32) / 255.0)
            rows |= {
                "features": features,
                "confidence": probabilities.max(axis=-1),
                "class": probabilities.argmax(axis=-1),
            }
        return (), {"real" if is_real else "generated": rows}

    def metric_names(self) -> tuple[str, ...]:
        names = ("logit_real", "logit_generated")
        if self.embedding is None:
            return names
        return (
            *names,
            "frechet_distance",
            *(() if self._has_moments_only else ("kernel_distance", "precision", "recall")),
            "confident_share",
            "num_classes_seen",
            "largest_class_share",
        )

    def summarize(self, sums: Any, rows: list[Any]) -> Evaluation:
        """Compares the samples with the real images.

        Metrics: the mean logits; with features `frechet_distance`, `kernel_distance`, `precision`,
        `recall`, and what the classifier makes of the samples: `confident_share` (of those with a
        probability over 0.9), `num_classes_seen`, `largest_class_share`. The classes are the
        classifier's: Inception-v3's own, whatever the data set is. Of the real images, statistics
        with the moments alone leave out the three that need all features.
        """
        real, generated, drawn = (unmasked(rows, k) for k in ("real", "generated", "drawn"))
        metrics = {
            "logit_real": float(real["logit"].mean()),
            "logit_generated": float(generated["logit"].mean()),
            "num_examples": len(real["logit"]),
            "num_samples": len(generated["logit"]),
        }
        protocol = {}
        if self.embedding is not None:
            statistics = self.statistics or from_features(real["features"], {})
            more, protocol = self._compare(statistics, generated)
            metrics |= more
        grid, interpolation = np.split(drawn["image"], 2)
        columns = GRID[1]
        pictures = {
            "samples": image_grid(grid, columns),
            "interpolation": image_grid(interpolation, columns),
        }
        return Evaluation(metrics, pictures, protocol)

    @property
    def _has_moments_only(self) -> bool:
        return self.statistics is not None and self.statistics.features is None

    def _compare(self, real: FeatureStatistics, generated: dict[str, np.ndarray]):
        shares = np.bincount(generated["class"]) / len(generated["class"])
        metrics = compare(real, generated["features"], self.neighbors) | {
            "confident_share": float((generated["confidence"] > CONFIDENT).mean()),
            "num_classes_seen": int((shares > 0).sum()),
            "largest_class_share": float(shares.max()),
        }
        protocol = self.embedding.protocol | {
            "dataset": self.dataset,
            "num_real": real.moments.count or "unknown",
            "num_generated": len(generated["class"]),
            "image_shape": list(self.image_shape),
            "weights": "moving average" if self.ema_decay else "raw",
            "statistics_hash": digest(real.moments.mean, real.moments.covariance),
        }
        if self.statistics is not None:
            more = {k: v for k, v in real.protocol.items() if v != protocol.get(k)}
            protocol["statistics"] = more or "unknown: the file has mu and sigma alone"
        return metrics, protocol


def unmasked(rows: list[Any], kind: str) -> dict[str, np.ndarray]:
    """Joins the rows of one kind over batches, without padding."""
    parts = [row[kind] for row in rows if kind in row]
    mask = np.concatenate([part["mask"] for part in parts]) > 0
    return {name: np.concatenate([part[name] for part in parts])[mask] for name in parts[0]}
