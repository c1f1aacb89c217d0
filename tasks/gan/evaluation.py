"""How samples of a generator are looked at and compared with real images."""

import functools
import sys
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data import pipeline
from harness.errors import ConfigError
from harness.pictures import image_grid
from tasks.gan.features import digest, load_embedding
from tasks.gan.fingerprints import fingerprint
from tasks.gan.metrics import kernel_subsets
from tasks.gan.sampling import Sampler
from tasks.gan.statistics import (
    CONFIDENT,
    FeatureStatistics,
    check_count,
    compare,
    from_features,
    load_statistics,
    real_images,
    statistics_hash,
)
from tasks.protocol import Evaluation

GRID = (8, 10)  # rows and columns of the pictures


class GanEvaluation:
    """The part of the task `Gan` that evaluates.

    A batch of evaluation is one of the real split, as it comes, or one of samples:

        first, second, share    sample numbers [b] and the way from one to the other, 0..1
        mask                    as in the split
        draw                    is there, whatever it holds, if the images themselves are wanted

    Sample number i is the same image in every evaluation of the same weights, see Sampler.
    """

    def load_features(self, features: str, statistics: str) -> None:
        """Reads what samples are compared in and with; see the arguments of `Gan`."""
        self.embedding = self.statistics = None
        self.real_images, self.statistics_file = {}, statistics
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

    def compare_with(self, data: pipeline.Data) -> None:
        """Learns which images an evaluation goes through.

        Args:
            data: of the run, open.

        Raises:
            ConfigError: there are too few real images to compare with.
        """
        self.real_images = real_images(data)
        if self.embedding is None:
            return
        where, count = f"config.data.eval_split={data.eval_split!r}", len(data.eval_source)
        if self.statistics is not None:
            where = f"config.task.statistics={self.statistics_file!r}"
            self._tell_other_images(where)
            count = self.statistics.moments.count
        if not self._has_moments_only:
            check_count(where, count, self.neighbors)

    def _tell_other_images(self, where: str) -> None:
        """Says it if the file of statistics is of other images than the evaluation split's."""
        there = self.statistics.protocol
        other = [
            f"{key} {there.get(key)!r}, not {value!r}"
            for key, value in self.real_images.items()
            if there and there.get(key) != value
        ]
        if (there and not other) or jax.process_index():
            return
        found = ", ".join(other) or "the file does not tell of which images"
        print(f"note: {where} stands in for the split: {found}", file=sys.stderr)

    @functools.cached_property
    def sampler(self) -> Sampler:
        """How samples are drawn, of whatever weights."""
        networks = self.networks
        return Sampler(networks.generator, networks.latent_shape, networks.num_classes)

    def eval_batches(self, batches: Iterable):
        """Yields the split's batches, then those of samples, then the pictures'.

        Samples are `num_samples`. Without features there is nothing to compare them in: then the
        pictures' are enough for the mean logit.
        """
        size = None
        for batch in batches:
            size = len(batch["image"])
            yield batch
        if size is None:
            return
        count = self.num_samples
        if self.embedding is None:
            count = min(count, GRID[0] * GRID[1])
        for start in range(0, count, size):
            number = np.arange(start, start + size)
            yield self._sample_batch(number, number, 0.0 * number, number < count)
        yield self._sample_batch(*self._picture_numbers(size), draw=True)

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
        batch = self.sampler.batch(first, second, share) | {"mask": mask.astype(np.float32)}
        if draw:
            batch["draw"] = batch["mask"]
        return {name: self._place(array) for name, array in batch.items()}

    def _place(self, array: np.ndarray):
        """Puts a batch where the split's are, with each process's part on its own devices."""
        if self.batch_sharding is None:
            return array
        return jax.make_array_from_callback(array.shape, self.batch_sharding, lambda i: array[i])

    def eval_step(self, state, batch, key: jax.Array):
        """Returns no sums; rows: what kind they are -> logit, mask, features, or the images."""
        is_real = "image" in batch
        if is_real:
            images, labels = _without_padding(batch)
        else:
            params = state.ema if self.ema_decay else state.generator
            images, labels = self.sampler.images(params, batch, key), batch["label"]
            if "draw" in batch:
                return (), {"drawn": {"image": images, "mask": batch["mask"]}}
        logits = self.networks.discriminator.apply(
            {"params": state.discriminator},
            images.astype(jnp.float32) / 127.5 - 1.0,
            labels if self.conditional else None,
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
            if is_real:
                rows["fingerprint"] = fingerprint(images)
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
        return metrics, self._protocol(real, len(generated["class"]))

    def _protocol(self, real: FeatureStatistics, num_generated: int) -> dict[str, Any]:
        """Returns all that the numbers depend on beside the generator's weights."""
        num_real = real.moments.count
        protocol = self.embedding.protocol | {
            "image_shape": list(self.image_shape),
            "weights": "moving average" if self.ema_decay else "raw",
            "num_generated": num_generated,
            "num_real": num_real or "unknown",
        }
        if self.statistics is not None:
            protocol["statistics"] = str(self.statistics_file)
        if self._has_moments_only:
            return protocol | {
                "real_images": "unknown: the file has mu and sigma alone",
                "statistics_hash": digest(real.moments.mean, real.moments.covariance),
            }
        num_subsets, *sizes = kernel_subsets(num_real, num_generated)
        return (
            protocol
            | {"neighbors": self.neighbors}
            | {"kernel_subsets": num_subsets, "kernel_subset_sizes": sizes}
            | {key: real.protocol.get(key) for key in (*self.real_images, "statistics_hash")}
        )


def _without_padding(batch) -> tuple[jax.Array, jax.Array]:
    """Returns images and labels of a batch with its real images again in the place of padding.

    The minibatch deviation judges neighbours together: beside black images, real ones would look
    far more various than they are. Fewer real images than a group look less so.
    """
    mask, row = batch["mask"] > 0, jnp.arange(len(batch["mask"]))
    (real,) = jnp.nonzero(mask, size=len(mask), fill_value=0)
    source = jnp.where(mask, row, real[row % jnp.maximum(mask.sum(), 1)])
    return batch["image"][source], batch["label"][source]


def unmasked(rows: list[Any], kind: str) -> dict[str, np.ndarray]:
    """Joins the rows of one kind over batches, without padding."""
    parts = [row[kind] for row in rows if kind in row]
    mask = np.concatenate([part["mask"] for part in parts]) > 0
    return {name: np.concatenate([part[name] for part in parts])[mask] for name in parts[0]}
