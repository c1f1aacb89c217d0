"""The moving average of the parameters: its decay, from the first step and with a warm-up."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from tasks.classification import Classification
from tasks.ema import ParameterEma
from tasks.optimizers import create_optimizer


class OneLayer(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(3, name="head")(images.reshape(len(images), -1))


def task(**options):
    return Classification(
        model=OneLayer(),
        optimizer=create_optimizer(
            name="sgd",
            momentum=0.0,
            base_lr=0.5,
            schedule="constant",
            batch_size=8,
            steps_per_epoch=1.0,
            total_steps=9,
        ),
        image_shape=(2, 2, 1),
        num_classes=3,
        mean=(0.5,),
        std=(0.25,),
        **options,
    )


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("decay", [0.3, 0.99996])
def test_average_by_hand(warmup, decay):
    """With warm-up the decays are 1/10, 2/11, 3/12, ... until they reach the given one."""
    classification = task(ema_decay=decay, ema_warmup=warmup)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (8, 2, 2, 1), np.uint8),
        "label": rng.integers(0, 3, 8).astype(np.int32),
        "mask": np.ones(8, np.float32),
    }
    state = classification.init(jax.random.key(0))
    step = jax.jit(classification.train_step)
    average = np.asarray(state.params["head"]["kernel"], np.float64)
    for count in range(6):
        state, _ = step(state, batch, jax.random.key(1), classification.hyperparameters)
        now = min(decay, (1 + count) / (10 + count)) if warmup else decay
        average = now * average + (1 - now) * np.asarray(state.params["head"]["kernel"])
        np.testing.assert_allclose(state.ema["head"]["kernel"], average, rtol=1e-5, atol=1e-6)


def test_rate_far_into_the_run_is_exact():
    """Taken as 1 - decay in float32, it would be off by one in ten thousand."""
    rate = jax.jit(ParameterEma(0.99996, warmup=True).shares)
    for step in (0, 1, 1000, 200_000, 300_000, 10**8):
        expected = max(1 - 0.99996, 9 / (10 + step))
        assert float(rate(np.int32(step))[0]) == pytest.approx(expected, rel=1e-6)


def test_warmup_needs_an_average():
    with pytest.raises(ValueError, match="ema_warmup=True: needs config.task.ema_decay"):
        task(ema_warmup=True)
