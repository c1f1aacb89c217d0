"""Schedules against the official formula, AdamW against the paper's update written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from harness.errors import ConfigError
from harness.strict_config import check_section
from tasks.optimizers import (
    PROVIDED,
    create_optimizer,
    create_schedule,
    decay_mask,
    trainable_mask,
)


def official_rate(step, *, base, steps_per_epoch, num_epochs, warmup_epochs, kind):
    """Official libml/utils.py get_learning_rate, in words of arithmetic; `step` counts from 1."""
    progress = max(0.0, (step / steps_per_epoch - warmup_epochs) / (num_epochs - warmup_epochs))
    decay = {
        "cosine": 0.5 * (1 + np.cos(np.pi * progress)),
        "linear": 1 - progress,
        "constant": 1.0,
    }[kind]
    return base * decay * min(1.0, step / steps_per_epoch / warmup_epochs)


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_schedule_is_the_official_one(kind):
    schedule = create_schedule(kind=kind, peak=1e-3, final=0.0, warmup_steps=50, total_steps=300)
    ours = [float(schedule(count)) for count in range(300)]
    official = [
        official_rate(
            step, base=1e-3, steps_per_epoch=10, num_epochs=30, warmup_epochs=5, kind=kind
        )
        for step in range(1, 301)
    ]
    np.testing.assert_allclose(ours, official, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", ["cosine", "linear", "poly"])
@pytest.mark.parametrize("decay_from", ["warmup", "start"])
def test_cool_down_stays_at_the_final_rate(kind, decay_from):
    parts = dict(kind=kind, peak=1.0, final=0.1, warmup_steps=5, start=0.5, decay_from=decay_from)
    schedule = create_schedule(**parts, total_steps=40, cooldown_steps=10)
    shorter = create_schedule(**parts, total_steps=30)
    for count in range(30):
        assert schedule(count) == shorter(count), count
    np.testing.assert_allclose([schedule(count) for count in range(29, 40)], 0.1, rtol=1e-6)
    np.testing.assert_allclose([schedule(count) for count in range(4)], [0.6, 0.7, 0.8, 0.9])
    assert schedule(4) == (1.0 if decay_from == "warmup" else decay_at(kind, 5 / 30))


def decay_at(kind, share):
    left = {"cosine": (1 + np.cos(np.pi * share)) / 2, "linear": 1 - share, "poly": 1 - share}
    return pytest.approx(0.1 + 0.9 * left[kind], rel=1e-6)


@pytest.mark.parametrize("warmup_epochs", [0.0, 1.0])
@pytest.mark.parametrize("decay_from", ["warmup", "start"])
def test_steps_drop_after_their_epochs(warmup_epochs, decay_from):
    schedule = make(
        schedule="steps",
        step_epochs=(3.0, 5.0),
        step_factor=0.2,
        warmup_epochs=warmup_epochs,
        decay_from=decay_from,
    )
    ours = [float(schedule.learning_rate(count)) for count in range(10, 100)]
    np.testing.assert_allclose(ours, np.repeat([1e-2, 2e-3, 4e-4], [20, 20, 50]), rtol=1e-6)


def make(**changes):
    arguments = dict(base_lr=1e-2, batch_size=64, steps_per_epoch=10.0, total_steps=100)
    return create_optimizer(**(arguments | changes))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_slow_parameters_move_by_their_share(name):
    params = {"backbone": {"a": jnp.ones(3)}, "heads": {"backbone": jnp.ones(2)}}
    gradients = jax.tree.map(lambda x: x * jnp.arange(1.0, 1 + len(x)), params)

    def moved(**changes):
        optimizer = make(name=name, warmup_epochs=0.0, weight_decay=0.1, **changes)
        return optimizer.update(gradients, optimizer.init(params), params)[0]

    all_alike = moved()
    slowly = moved(slow=("^backbone/",), slow_factor=0.25)
    np.testing.assert_allclose(slowly["backbone"]["a"], 0.25 * all_alike["backbone"]["a"])
    np.testing.assert_array_equal(slowly["heads"]["backbone"], all_alike["heads"]["backbone"])
    assert float(jnp.abs(all_alike["backbone"]["a"]).min()) > 0


def test_poly_is_the_rate_of_pytorch():
    """PyTorch's PolynomialLR with power 0.9: the update after `count` has its rate of count + 1."""
    optimizer = make(schedule="poly", warmup_epochs=2.0, final_lr=1e-3)
    ours = [float(optimizer.learning_rate(count)) for count in range(100)]
    np.testing.assert_allclose(ours[:20], 1e-2 * np.arange(1, 21) / 20, rtol=1e-6)
    left = 1 - np.arange(1, 81) / 80
    np.testing.assert_allclose(ours[20:], 1e-3 + 9e-3 * left**0.9, rtol=1e-5)
    assert float(make(schedule="poly", poly_power=2.0).learning_rate(49)) == pytest.approx(2.5e-3)


def test_rate_scales_with_the_batch():
    schedule = make(schedule="constant", reference_batch=256, batch_size=1024)
    assert float(schedule.learning_rate(7)) == pytest.approx(4e-2)
    schedule = make(schedule="constant", batch_size=1024)
    assert float(schedule.learning_rate(7)) == pytest.approx(1e-2)


def test_adamw_update_with_exclusion():
    optimizer = make(schedule="constant", weight_decay=0.1, decay_exclude=("_position/embedding$",))
    params = {
        "level1_position": {"embedding": np.array([1.0, -2.0])},
        "head": {"kernel": np.array([3.0, 0.5])},
    }
    grads = [jax.tree.map(lambda x, i=i: np.sin(x + i) * 0.3, params) for i in range(4)]
    state, ours = optimizer.init(params), params
    for grad in grads:
        updates, state = optimizer.update(grad, state, ours)
        ours = optax.apply_updates(ours, updates)

    def by_hand(x, path, decay):
        m = v = np.zeros_like(x)
        for t, tree in enumerate(grads, start=1):
            g = tree[path[0]][path[1]]
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            x = x - 1e-2 * (step + decay * x)
        return x

    for path, decay in {("level1_position", "embedding"): 0.0, ("head", "kernel"): 0.1}.items():
        expected = by_hand(params[path[0]][path[1]], path, decay)
        np.testing.assert_allclose(ours[path[0]][path[1]], expected, rtol=1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_update_with_l2_and_exclusion(nesterov):
    """Official train.py for ResNet: 0.5 * decay * |kernel|^2 in the loss, then momentum."""
    optimizer = make(
        name="sgd",
        momentum=0.8,
        nesterov=nesterov,
        weight_decay=0.3,
        decay_exclude=("bias$", "scale$"),
        warmup_epochs=0.3,
    )
    start = {
        "conv": {"kernel": np.array([[1.0, -2.0], [0.5, 3.0]])},
        "norm": {"scale": np.array([1.5, 0.5])},
        "head": {"bias": np.array([-0.7])},
    }
    grads = [
        {k: {n: np.cos(x + 7 * i) for n, x in v.items()} for k, v in start.items()}
        for i in range(5)
    ]
    state, ours = optimizer.init(start), start
    for grad in grads:
        updates, state = optimizer.update(grad, state, ours)
        ours = optax.apply_updates(ours, updates)

    for module, name, decay in [("conv", "kernel", 0.3), ("norm", "scale", 0), ("head", "bias", 0)]:
        x, velocity = start[module][name], 0.0
        for count, tree in enumerate(grads):
            g = tree[module][name] + decay * x
            velocity = 0.8 * velocity + g
            x = x - float(optimizer.learning_rate(count)) * (
                g + 0.8 * velocity if nesterov else velocity
            )
        np.testing.assert_allclose(ours[module][name], x, rtol=1e-5)


def test_sgd_clips_the_gradient_with_its_l2_term():
    """As the official train.py, where the norm is that of the whole loss's gradient."""
    optimizer = make(
        name="sgd", schedule="constant", momentum=0.0, weight_decay=2.0, grad_clip_norm=1.0
    )
    params = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([1.0])}
    grads = {"a": jnp.array([0.0, 4.0]), "b": jnp.array([5.0])}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    whole = np.array([6.0, 4.0, 7.0])
    expected = -1e-2 * whole / np.linalg.norm(whole)
    np.testing.assert_allclose(np.concatenate([updates["a"], updates["b"]]), expected, rtol=1e-5)


def test_clipping_limits_the_global_norm():
    # Adam ignores the scale of gradients, so compare its first moment.
    optimizer = make(grad_clip_norm=1.0)
    grads = {"a": jnp.full(4, 30.0), "b": jnp.full(3, -40.0)}
    state = optimizer.init(grads)
    _, state = optimizer.update(grads, state, grads)
    assert float(optax.tree.norm(optax.tree.get(state, "mu"))) == pytest.approx(0.1, rel=1e-5)


def test_decay_mask_searches_the_path():
    params = {"norm": {"scale": 1, "bias": 2}, "head": {"kernel": 3, "bias": 4}}
    mask = decay_mask(params, ("bias$", "^norm/"))
    assert mask["norm"] == {"scale": False, "bias": False}
    assert mask["head"] == {"kernel": True, "bias": False}
    assert all(jax.tree.leaves(decay_mask(params, ())))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(momentum=1.0), "momentum=1.0: out of range; allowed: at least 0 and below 1"),
        (dict(nesterov=True, momentum=0.0), "nesterov=True: needs config.optimizer.momentum"),
        (dict(base_lr=0.0), "base_lr=0.0: out of range; allowed: above 0"),
        (dict(weight_decay=float("inf")), "weight_decay=inf: out of range; .* 0 and finite"),
        (dict(warmup_epochs=-1.0), "config.optimizer.warmup_epochs=-1.0: out of range"),
        (dict(cooldown_epochs=-1.0), "config.optimizer.cooldown_epochs=-1.0: out of range"),
        (dict(warmup_lr=-1.0), "config.optimizer.warmup_lr=-1.0: out of range"),
        *(
            (dict(schedule="steps", step_epochs=epochs, warmup_epochs=1.0), message)
            for epochs in ((), (1.0,), (5.0, 3.0), (3.0, 10.0), (2.0, 2.0))
            for message in [r"step_epochs=\(.*\): not after .*epochs between 1 and 10, rising"]
        ),
    ],
)
def test_impossible_values(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(name="adam"), "name='adam'.*adamw.*sgd"),
        (dict(schedule="cosin"), "schedule='cosin'.*cosine.*linear.*constant"),
    ],
)
def test_unknown_names(changes, message):
    with pytest.raises(ConfigError, match=message):
        check_section({"base_lr": 1.0} | changes, create_optimizer, "c", provided=PROVIDED)
    with pytest.raises(KeyError):  # nor do they mean another one where no config is checked
        make(**changes)


def test_frozen_parameters_have_no_update_no_decay_and_no_state():
    params = {"body": {"kernel": jnp.array([3.0, -4.0])}, "head": {"kernel": jnp.array([2.0])}}
    grads = jax.tree.map(lambda x: 10 * x, params)
    for name, moments in (("adamw", ("mu", "nu")), ("sgd", ("trace",))):
        optimizer = make(
            name=name, weight_decay=0.1, schedule="constant", freeze=("^body/",), grad_clip_norm=1.0
        )
        state = optimizer.init(params)
        updates, new_state = optimizer.update(grads, state, params)
        np.testing.assert_array_equal(updates["body"]["kernel"], 0)
        assert updates["head"]["kernel"] != 0
        for moment in moments:
            (kept,) = jax.tree.leaves(optax.tree.get(new_state, moment))
            assert kept.shape == (1,)
            if name == "sgd":  # clipped to norm 1 by the head's gradient alone
                assert float(kept[0]) == pytest.approx(1.0)


def test_nothing_frozen_changes_no_state():
    """Checkpoints of runs without freezing and layer decay keep their form."""
    params = {"a": jnp.ones(3)}
    plain = make()
    off = make(freeze=(), layer_decay=None)
    assert jax.tree.structure(plain.init(params)) == jax.tree.structure(off.init(params))


def test_trainable_mask():
    params = {"body": {"kernel": 1, "bias": 2}, "head": {"kernel": 3}}
    mask = trainable_mask(params, ("bias$", "^head/"))
    assert mask == {"body": {"kernel": True, "bias": False}, "head": {"kernel": False}}
    assert all(jax.tree.leaves(trainable_mask(params, ())))
    with pytest.raises(ValueError, match=r"freeze='\^tail/': matches no parameter; .*body/bias"):
        trainable_mask(params, ("bias$", "^tail/"))
    with pytest.raises(ValueError, match="leaves no parameter to train"):
        trainable_mask(params, ("^body/", "^head/"))
    with pytest.raises(ValueError, match=r"freeze=\('\(',\): no regular expression: missing"):
        trainable_mask(params, ("(",))


@pytest.mark.parametrize(
    ("warmup", "cooldown", "expected", "notes"),
    [
        (20.0, 0.0, (10, 0), ["c.warmup_epochs is shortened from 200 steps to the first 10"]),
        (9.0, 5.0, (10, 10), ["c.warmup_epochs", "c.cooldown_epochs is shortened from 50 steps"]),
        (0.5, 10.0, (5, 10), ["c.cooldown_epochs is shortened from 100 steps to the last 10"]),
        (9.0, 0.0, (90, 0), []),  # it fits
        (4.0, 5.9, (40, 59), []),
    ],
)
def test_what_does_not_fit_is_shortened(warmup, cooldown, expected, notes):
    optimizer = make(warmup_epochs=warmup, cooldown_epochs=cooldown, section="c")
    assert len(optimizer.notes) == len(notes)
    assert all(note.startswith(start) for note, start in zip(optimizer.notes, notes, strict=True))
    rates = np.array([float(optimizer.learning_rate(count)) for count in range(100)])
    assert rates.argmax() == max(expected[0] - 1, 0) and rates.max() == pytest.approx(
        1e-2, rel=1e-3
    )
    num_at_the_end = (np.abs(rates) < 1e-9).sum()
    assert num_at_the_end == expected[1] + 1  # the decay's own last step, too


@pytest.mark.parametrize("total", [1, 2, 9])
def test_a_run_of_a_few_steps_has_no_warm_up(total):
    optimizer = make(warmup_epochs=20.0, total_steps=total)
    assert optimizer.schedule.numbers["warmup_steps"] == 0
    assert [note.partition(": ")[0] for note in optimizer.notes] == [
        "config.optimizer.warmup_epochs is left out"
    ]
    assert np.isfinite([float(optimizer.learning_rate(count)) for count in range(total)]).all()
