"""From the folder of a GAN's run to its samples.

Neither the run's data set nor the classifier that it was evaluated with need be there: the number
of classes and of channels are those of the weights.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from harness import workdirs
from harness.errors import ConfigError, input_errors
from harness.trees import check_tree
from nest.gan.generator import generator_shapes, latent_shape, with_stored_sizes
from tasks.gan.sampling import Sampler
from training.experiment import check_config
from zoo.find import find_weights_file
from zoo.registry import create_generator
from zoo.run_checkpoints import read_parts

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
            seed: 0 gives the samples of the run's own evaluations, another one other images.
            label: class of all; None: one class after the other.

        Raises:
            ConfigError: a class that there is not, or of a generator without classes.
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


def checkpoint_folder(workdir: Path, checkpoint: str) -> Path:
    """Returns the folder of a GAN's checkpoints.

    Args:
        workdir: of the run.
        checkpoint: "latest" or "best".

    Raises:
        ConfigError: it is no run of a GAN, or has no such folder.
    """
    task = workdirs.read_config(workdir).task.name
    if task != "gan":
        raise ConfigError(f"{workdir} is a run of task {task!r}, not of 'gan'")
    folder = workdir / "checkpoints" / checkpoint
    if not folder.is_dir():
        raise ConfigError(f"{folder} does not exist: no run has saved a checkpoint there")
    return folder


def load_generator(workdir: Path, *, checkpoint: str = "latest") -> TrainedGenerator:
    """Loads the generator of a run from its workdir alone.

    Args:
        workdir: of a GAN's run.
        checkpoint: "latest" or "best".

    Raises:
        ConfigError: it is no such run, or has no checkpoint that fits its config.
    """
    folder = checkpoint_folder(workdir, checkpoint)
    plain = check_config(workdirs.read_config(workdir), needs_data=False)
    part, what = "generator", "generator"
    if plain["task"]["ema_decay"]:
        part, what = "ema", "moving average"
    with input_errors():
        file = find_weights_file(folder)
        params = read_parts(file, part, what)[0][part]
        model = create_generator(
            **plain["generator"],
            image_size=plain["data"]["image_size"],
            num_channels=3,
            num_classes=None,
        )
        model = with_stored_sizes(model, params)
        check_tree(generator_shapes(model), params, f"checkpoint {file}")
    sampler = Sampler(model, latent_shape(model, 1)[1:], model.num_classes)
    return TrainedGenerator(sampler, params, plain["seed"])
