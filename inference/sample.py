"""Samples of a trained generator: `load_generator` reads it, its `draw` gives images.

Neither the run's data set nor the classifier that it was evaluated with need be there: the numbers
of classes and channels are those of the weights.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from harness.errors import ConfigError, input_errors
from harness.trees import check_tree
from nest.gan.generator import generator_shapes, latent_shape, with_stored_sizes
from tasks.gan.sampling import Sampler
from training.experiment import check_config
from training.trained_run import checkpoint_folder
from workdirs.config_file import read_config
from zoo.registry import create_generator
from zoo.run_checkpoints import read_newest, read_parts

BATCH = 512


@dataclasses.dataclass(frozen=True)
class TrainedGenerator:
    """A generator with its weights; make it with `load_generator`.

    Attributes:
        sampler: the generator, and how samples are numbered.
        params: the moving average, if the run has one.
        seed: of the run.
    """

    sampler: Sampler
    params: Any
    seed: int

    def draw(
        self, *, num: int, seed: int = 0, label: int | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns samples uint8 [num, h, w, c] and, of a generator with classes, labels [num].

        Args:
            num: how many.
            seed: 0 gives the samples of the run's own evaluations, any other number other ones.
            label: the class of all; None: one class after the other.

        Raises:
            ConfigError: there is no such class, or the generator has no classes.
        """
        num_classes = self.sampler.num_classes
        if label is not None:
            if num_classes is None:
                raise ConfigError(f"--class={label}: this generator has no classes")
            if not 0 <= label < num_classes:
                raise ConfigError(f"--class={label}: there are 0 to {num_classes - 1}")
        key = jax.random.key(self.seed)
        key = jax.random.fold_in(key, seed) if seed else key
        parts = self.sampler.draw(
            self.params, key, num=num, batch_size=min(num, BATCH), label=label
        )
        images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return images, labels if num_classes else None


def read_gan_config(workdir: Path) -> ConfigDict:
    """Returns the config of a GAN's run.

    Raises:
        ConfigError: the workdir is not of such a run.
    """
    config = read_config(workdir)
    if config.task.name != "gan":
        raise ConfigError(f"{workdir} is a run of task {config.task.name!r}, not of 'gan'")
    return config


def load_generator(workdir: Path, *, checkpoint: str = "latest") -> TrainedGenerator:
    """Loads the generator of a run from its workdir alone.

    Args:
        workdir: of a GAN's run.
        checkpoint: "latest" or "best".

    Raises:
        ConfigError: it is no such run, or has no checkpoint that fits its config.
    """
    plain = check_config(read_gan_config(workdir), needs_data=False)
    part, what = "generator", "generator"
    if plain["task"]["ema_decay"]:
        part, what = "ema", "moving average"
    with input_errors():
        folder, (state, _, notes) = read_newest(
            lambda: checkpoint_folder(workdir, checkpoint),
            lambda folder: read_parts(folder, part, what),
        )
        params = state[part]
        for note in notes:
            print(f"note: checkpoint {folder}: {note}", file=sys.stderr)
        if not all(np.isfinite(array).all() for array in jax.tree.leaves(params)):
            raise ValueError(f"checkpoint {folder}: its {what} has values that are not finite")
        model = create_generator(
            **plain["generator"],
            image_size=plain["data"]["image_size"],
            num_channels=3,
            num_classes=None,
        )
        model = with_stored_sizes(model, params)
        check_tree(generator_shapes(model), params, f"checkpoint {folder}")
    sampler = Sampler(model, latent_shape(model, 1)[1:], model.num_classes)
    return TrainedGenerator(sampler, params, plain["seed"])
