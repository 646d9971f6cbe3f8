"""`check_optimizer` passes what is right, and names what is broken on purpose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import funcnet as fn


def nothing(params):
    return ()


def a_count(params):
    return jnp.zeros((), jnp.int32)


def like_params(params):
    return jax.tree.map(jnp.zeros_like, params)


def pair(init, update, **numbers):
    return fn.Optimizer(Partial(init), Partial(update, **numbers))


def each(function):
    """An update that acts on every leaf by itself, at a rate."""

    def update(grads, state, params=None, *, rate=0.1):
        return jax.tree.map(lambda g: function(g, jnp.asarray(rate, g.dtype)), grads), state

    return update


def plain(g, rate):
    return -rate * g


def unit(g, rate):
    return -rate * g / jnp.sqrt((g * g).sum())


def away(g, rate):
    return jnp.where(g == 1.0, jnp.inf, -rate * g)


def away_in_16_bits(g, rate):
    return away(g, rate) if g.dtype == jnp.bfloat16 else -rate * g


def hiding(g, rate):
    return -rate * jnp.nan_to_num(g, nan=1.0)


def wide(g, rate):
    return -rate.astype(jnp.float32) * g.astype(jnp.float32)


def without_conjugate(g, rate):
    return -rate * g * g


def in_a_list(grads, state, params=None):
    return jax.tree.leaves(grads), state


def of_the_first(grads, state, params=None):
    size = jax.tree.leaves(grads)[0].size
    return jax.tree.map(lambda g: g / size, grads), state


def float_count(grads, state, params=None):
    return grads, state + 1.0


def weak(params):
    return jnp.asarray(1.0)


def strong(grads, state, params=None):
    return grads, state + jnp.ones(())


def wide_state(grads, state, params=None):
    return grads, jax.tree.map(lambda s, g: s.astype(jnp.float32) + g, state, grads)


def under_a_reserved_name(params):
    return {"__metadata__": jnp.zeros(())}


@jax.custom_batching.custom_vmap
def doubled_in_sweeps(rate):
    return rate


@doubled_in_sweeps.def_vmap
def _(size, batched, rate):
    return 2.0 * rate, batched[0]


def differing(grads, state, params=None, *, rate):
    return jax.tree.map(lambda g: -doubled_in_sweeps(rate).astype(g.dtype) * g, grads), state


def made_anew(rate):
    return pair(nothing, lambda grads, state, params=None, *, rate: (grads, state), rate=rate)


def descent(grads, params):
    return jax.tree.map(lambda g: -0.1 * g, grads)


def steeper(grads, params):
    return jax.tree.map(lambda g: -0.1001 * g, grads)


COMPLEX = {"z": np.complex64([1.0 + 2.0j, -0.5j]), "x": np.float32([1.0])}
SGD = pair(nothing, each(plain))
BROKEN = {
    "structure of the updates": (pair(nothing, in_a_list), {}, "updates, .*structure"),
    "dtype of the updates": (
        pair(nothing, each(wide)),
        {},
        r"updates, bfloat16: expected .*'bfloat16'.*'float32'.* at \['matrix'\]",
    ),
    "an empty tree": (
        pair(nothing, of_the_first),
        {},
        "an empty tree: IndexError: list index",
    ),
    "dtype of a count": (pair(a_count, float_count), {}, "state after an update.*int32.*float32"),
    "weak type of a state": (
        pair(weak, strong),
        {},
        "state after an update.*True.*False.*the root",
    ),
    "dtype of a state": (
        pair(like_params, wide_state),
        {},
        r"state after an update, bfloat16: .*float32.* at \['matrix'\]",
    ),
    "first step": (SGD, {"reference": steeper}, "first step: .* 1.0e-03 exceeds 1e-05"),
    "compilations": (SGD, {"make": made_anew}, "one compilation: 3 for 3 values"),
    "vmap": (
        pair(nothing, differing, rate=0.1),
        {},
        "vmap against a loop: relative deviation .* exceeds",
    ),
    "zero gradient": (
        pair(nothing, each(unit)),
        {},
        r"zero gradient: 12 numbers are not finite at \[0\]\['matrix'\]",
    ),
    "NaN gradient": (pair(nothing, each(hiding)), {}, "NaN gradient: it became the update -0.1"),
    "complex leaves": (
        pair(nothing, each(without_conjugate)),
        {"params": COMPLEX},
        "complex leaves multiplied by i: relative deviation .* exceeds 1e-05",
    ),
    "checkpoint": (
        pair(under_a_reserved_name, each(plain)),
        {},
        "state through a checkpoint: the format keeps the name '__metadata__'",
    ),
    "bfloat16": (fn.sgd(1e-3), {"least_progress": 0.9}, "bfloat16 progress: 0.00 .* less than 0.9"),
    "divergence": (
        pair(nothing, each(away), rate=0.1),
        {"least_progress": 0.9},
        "bfloat16 progress: none to compare with, as float32 parameters are not finite",
    ),
    "divergence of bfloat16": (
        pair(nothing, each(away_in_16_bits), rate=0.1),
        {},
        "bfloat16 progress: .* bfloat16 parameters are not finite, float32 ones are",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named(name):
    optimizer, arguments, message = BROKEN[name]
    with pytest.raises(AssertionError, match=message):
        fn.check_optimizer(optimizer, **arguments)


def adams_first_step(grads, params):
    return jax.tree.map(lambda g: -1e-3 * g / (np.abs(g) + 1e-8), grads)


SOUND = {
    "adam": (fn.adam(), {"reference": adams_first_step, "make": fn.adam}, 0.0),
    "closures": (
        fn.Optimizer(nothing, each(plain)),
        {"reference": descent, "params": COMPLEX},
        None,
    ),
    "kahan": (fn.kahan(fn.sgd(1e-3)), {"least_progress": 0.9}, 1.0),
    "diverging without a minimum": (pair(nothing, each(away), rate=0.1), {}, None),
    "takes the loss": (fn.chain(fn.sgd(0.1), fn.reduce_on_plateau()), {}, None),
}


@pytest.mark.parametrize("name", SOUND)
def test_what_is_sound_passes_and_is_measured(name):
    optimizer, arguments, progress = SOUND[name]
    report = fn.check_optimizer(optimizer, **arguments)
    assert isinstance(report, fn.OptimizerReport)
    assert max(report.first_step, report.sweep) < 1e-6
    if progress is not None:
        assert abs(report.progress - progress) < 0.01


def test_what_is_no_pair_is_refused():
    with pytest.raises(TypeError, match="expects an optimizer, got"):
        fn.check_optimizer(fn.sgd)
