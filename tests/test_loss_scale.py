"""Loss scaling: gradients that float16 would lose, overflows, and the bits of all other runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet.training import resume_batches

KEY = jax.random.key(0)
RATE = 2.0**-3
FULL = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}


def half_loss(params, state, batch, *, key=None, train=False):
    """c w, whose derivative passes through float16: in it, s c."""
    return batch * params.astype(jnp.float16).astype(jnp.float32), (state, {})


TRAINER = fn.trainer(fn.Task(lambda key: (jnp.zeros(()), ()), half_loss), fn.sgd(RATE))


def test_a_gradient_that_vanishes_in_float16_survives():
    batch, weights = jnp.float32(3e-9), []
    for trainer in (TRAINER, fn.loss_scaled(TRAINER)):
        state, metrics = jax.jit(trainer.step)(trainer.init(KEY), batch)
        weights.append(float(state.params))
    gradient = float(np.float16(3e-9 * 2.0**15)) / 2.0**15
    assert weights == [0.0, -RATE * gradient]
    assert metrics["gradient_norm"] == np.float32(gradient)
    np.testing.assert_allclose(gradient, 3e-9, rtol=1e-3)


def looped(coefficients, scale, every):
    """The rule as a loop in Python: the weights, scales and numbers of steps left out."""
    weight, in_a_row, skipped, rows = 0.0, 0, 0, []
    for c in coefficients:
        gradient, used = float(np.float16(min(scale * c, 1e6))), scale
        if np.isinf(gradient):
            scale, in_a_row, skipped = max(scale / 2, 1.0), 0, skipped + 1
        else:
            weight -= RATE * gradient / scale
            in_a_row += 1
            if in_a_row == every:
                scale, in_a_row = min(2 * scale, 2.0**24), 0
        rows.append((weight, used, skipped))
    return np.transpose(rows)


COEFFICIENTS = [
    0.5,
    0.5,
    8.0,
    8.0,
    8.0,
    1.0,
    1.0,
    0.25,
    0.25,
    0.25,
    2.0**-9,
    0.0,
    0.0,
    0.0,
    0.0,
    1.0,
]
"""The scale of 2^16 gives way at 8, comes back, and is too large again in the end."""


@np.errstate(over="ignore")
def test_an_overflow_is_left_out_and_the_scale_comes_back():
    trainer = fn.loss_scaled(TRAINER, scale=2.0**16, every=3)

    def step(state, batch):
        state, metrics = trainer.step(state, batch)
        shown = (state.params, metrics["loss_scale"], state.opt_state.skipped)
        return state, (shown, metrics["gradient_norm"])

    batches = jnp.asarray(COEFFICIENTS, jnp.float32)
    end, (found, norms) = jax.lax.scan(step, trainer.init(KEY), batches)
    weights, scales, skipped = looped(COEFFICIENTS, 2.0**16, 3)
    np.testing.assert_array_equal(found[0], weights)
    np.testing.assert_array_equal(found[1], scales)
    np.testing.assert_array_equal(found[2], skipped)
    assert (end.step, end.opt_state.inner.count) == (16, 16 - skipped[-1])
    left_out = np.diff(skipped, prepend=0) == 1
    assert 0 < left_out.sum() < 8
    np.testing.assert_array_equal(norms, np.where(left_out, 0.0, COEFFICIENTS))


def test_a_guard_around_it_lets_the_scale_give_way_first():
    """Gradients that overflow whatever the scale freeze the run once it is 1."""
    trainer = fn.guard(fn.loss_scaled(TRAINER, scale=4.0), patience=2)
    end = resume_batches(trainer, trainer.init(KEY), jnp.full(8, 1e6, jnp.float32)).state
    assert (end.opt_state.scale, end.run.params) == (1.0, 0.0)
    assert (end.failed_at, end.skipped, end.opt_state.skipped) == (2, 2, 2)


def test_where_nothing_overflows_gradients_are_the_unscaled_ones_bit_for_bit():
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    data = (x, np.arange(20, dtype=np.int32) % 3)
    batches = jax.tree.map(lambda a: a.reshape(4, 5, *a.shape[1:])[np.arange(20) % 4], data)
    network = fn.serial(fn.dense(3, 8), fn.tanh, fn.dropout(0.2), fn.dense(8, 3))
    plain = fn.trainer(fn.supervised(network, fn.cross_entropy), fn.momentum(0.1))
    run = jax.jit(resume_batches, compiler_options=FULL)
    one, other = (
        run(trainer, trainer.init(KEY), batches)
        for trainer in (plain, fn.loss_scaled(plain, scale=2.0**10, every=5))
    )
    np.testing.assert_array_equal(one.loss, other.loss)
    for a, b in zip(*map(jax.tree.leaves, (one.state.params, other.state.params)), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(other.metrics["loss_scale"], 2.0 ** (10 + np.arange(20) // 5))
    wanted = fn.evaluate(plain, one.state, data)["loss"]
    np.testing.assert_allclose(
        fn.evaluate(fn.loss_scaled(plain), other.state, data)["loss"], wanted, rtol=1e-6
    )


def test_what_it_refuses():
    for scale in (3.0, 0.5, 2.0**25):
        with pytest.raises(ValueError, match=r"must be a power of two in \[1, 2\^24\], got"):
            fn.loss_scaled(TRAINER, scale=scale)
    with pytest.raises(ValueError, match="put guard around it"):
        fn.loss_scaled(fn.guard(TRAINER))
