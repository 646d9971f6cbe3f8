"""Optimizers against PyTorch, Optax, the papers' loops in NumPy, differences, and closed forms."""

import functools
from pathlib import Path
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.problems import PROBLEMS, SNAPSHOTS, STEPS
from jax.flatten_util import ravel_pytree

import funcnet as fn
from funcnet.optimizers.arithmetic import bias_correction

GOLDEN = np.load(Path(__file__).parent / "golden" / "optimizers.npz")
FALLING = fn.warmup_cosine(0.05, 5, 40, start=0.01, end=0.002)
RISING = fn.warmup_cosine(0.02, 10, 1e9)
L2 = fn.add_decayed_weights(0.1)


class Case(NamedTuple):
    name: str  # as in the golden file
    optimizer: fn.Optimizer


CASES = [
    Case("torch/sgd", fn.sgd(0.05)),
    Case("torch/sgd-momentum", fn.momentum(0.02)),
    Case("torch/sgd-dampening", fn.momentum(0.05, dampening=0.3)),
    Case("torch/sgd-nesterov", fn.nesterov(0.02)),
    Case("torch/sgd-weight_decay", fn.chain(L2, fn.sgd(0.05))),
    Case("torch/sgd-momentum-changing_rate", fn.momentum(FALLING, 0.8)),
    Case("torch/sgd-nesterov-changing_rate", fn.nesterov(FALLING, 0.8)),
    Case("torch/adagrad", fn.adagrad(0.1)),
    Case("torch/adagrad-lr_decay", fn.adagrad(fn.inverse_time(0.1, 0.05))),
    Case(
        "torch/adagrad-initial_accumulator_value",
        fn.adagrad(0.1, initial_accumulator=0.5, eps=1e-3),
    ),
    Case("torch/rmsprop", fn.rmsprop(0.01, 0.99)),
    Case("torch/rmsprop-centered", fn.rmsprop(0.01, 0.99, centered=True)),
    Case("torch/rmsprop-momentum", fn.rmsprop(0.002, 0.95, momentum=0.9, eps=1e-4)),
    Case(
        "torch/rmsprop-momentum-centered-changing_rate",
        fn.rmsprop(FALLING, 0.99, momentum=0.7, centered=True),
    ),
    Case("torch/adam", fn.adam(0.05)),
    Case("torch/adam-betas-eps", fn.adam(0.05, 0.7, 0.95, eps=1e-3)),
    Case("torch/adam-b1_zero", fn.adam(0.02, b1=0)),
    Case("torch/adam-weight_decay", fn.chain(L2, fn.adam(0.05))),
    Case("optax/sgd", fn.sgd(0.05)),
    Case("optax/sgd-momentum", fn.momentum(0.02)),
    Case("optax/sgd-nesterov", fn.nesterov(0.02)),
    Case("optax/adagrad", fn.adagrad(0.1, eps=1e-7, initial_accumulator=0.1, eps_in_root=True)),
    Case("optax/rmsprop", fn.rmsprop(0.015, eps_in_root=True)),
    Case("optax/rmsprop-centered", fn.rmsprop(0.015, centered=True, eps_in_root=True)),
    Case(
        "optax/rmsprop-momentum-changing_rate",
        fn.rmsprop(FALLING, momentum=0.7, eps_in_root=True, rate_in_velocity=True),
    ),
    Case("optax/adam", fn.adam(0.05)),
    Case("optax/adam-clip_by_global_norm", fn.chain(fn.clip_by_global_norm(0.5), fn.adam(0.05))),
    Case("optax/adam-warmup_cosine", fn.adam(FALLING)),
]


@functools.partial(jax.jit, static_argnames=("gradient", "steps"))
def descend(optimizer, gradient, start, steps=STEPS):
    """The flat parameters after each step, [steps, size]; one trace for each tree structure."""

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(gradient(params), state, params)
        params = fn.apply_updates(params, updates)
        return (params, state), ravel_pytree(params)[0]

    return jax.lax.scan(step, (start, optimizer.init(start)), length=steps)[1]


GRADIENTS = {
    name: jax.grad(functools.partial(lambda loss, params: loss(params, jnp), problem.loss))
    for name, problem in PROBLEMS.items()
}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_trajectory_is_the_golden_one(case, problem):
    golden = GOLDEN[f"{case.name}/{problem}"]
    with jax.enable_x64(True):
        start = [jnp.asarray(a) for a in PROBLEMS[problem].start]
        path = np.asarray(descend(case.optimizer, GRADIENTS[problem], start))
        moved = np.linalg.norm(golden - ravel_pytree(start)[0], axis=1)
    error = np.linalg.norm(path[np.array(SNAPSHOTS) - 1] - golden, axis=1)
    assert (error <= 1e-12 * moved).all(), error / moved


# Forms without a peer, as the loops of their papers: c * x is the gradient of a bowl.
CURVATURE = np.array([4.0, 1.0, 0.1, -0.02])
BOWL = np.array([1.0, -2.0, 0.5, 3.0])


def bowl(x):
    return CURVATURE * x


def robbins_monro_1951(x, rates):
    for rate in rates:
        x = x - rate * bowl(x)
        yield x


def sutskever_2013(x, rates, decay=0.9):
    velocity = 0.0
    for rate in rates:
        velocity = decay * velocity - rate * bowl(x)
        x = x + velocity
        yield x


def duchi_2011(x, rates, delta=1e-10):
    total = 0.0
    for rate in rates:
        total = total + bowl(x) ** 2
        x = x - rate * bowl(x) / (delta + np.sqrt(total))
        yield x


def hinton_2012(x, rates, eps=1e-8):
    square = 0.0
    for rate in rates:
        square = 0.9 * square + 0.1 * bowl(x) ** 2
        x = x - rate * bowl(x) / (np.sqrt(square) + eps)
        yield x


def graves_2013(x, rates):
    square, mean, step = 0.0, 0.0, 0.0
    for rate in rates:
        square = 0.95 * square + 0.05 * bowl(x) ** 2
        mean = 0.95 * mean + 0.05 * bowl(x)
        step = 0.9 * step - rate * bowl(x) / np.sqrt(square - mean**2 + 1e-4)
        x = x + step
        yield x


GRAVES = {"eps": 1e-4, "centered": True, "eps_in_root": True, "rate_in_velocity": True}
PAPERS = {
    robbins_monro_1951: fn.sgd(RISING),
    sutskever_2013: fn.momentum(RISING, rate_in_velocity=True),
    duchi_2011: fn.adagrad(RISING),
    hinton_2012: fn.rmsprop(RISING),
    graves_2013: fn.rmsprop(RISING, 0.95, momentum=0.9, **GRAVES),
}


@pytest.mark.parametrize("paper", PAPERS)
def test_paper_form_is_the_loop_of_the_paper(paper):
    rates = np.minimum(0.002 * np.arange(STEPS), 0.02)
    with jax.enable_x64(True):
        path = descend(PAPERS[paper], bowl, jnp.asarray(BOWL))
    np.testing.assert_allclose(path, list(paper(BOWL, rates)), rtol=1e-11)


TUNED = {
    "sgd": fn.sgd,
    "momentum": functools.partial(fn.momentum, dampening=0.3),
    "momentum, rate inside": functools.partial(fn.momentum, rate_in_velocity=True),
    "nesterov": fn.nesterov,
    "adagrad": functools.partial(fn.adagrad, eps=0.01, initial_accumulator=0.1),
    "adagrad, eps in root": functools.partial(fn.adagrad, eps=0.01, eps_in_root=True),
    "rmsprop": functools.partial(fn.rmsprop, eps=0.01),
    "rmsprop, centered": functools.partial(fn.rmsprop, eps=0.01, centered=True, momentum=0.7),
    "adam": functools.partial(fn.adam, eps=0.01),
    "clipped adam": lambda rate: fn.chain(fn.clip_by_global_norm(0.7), L2, fn.adam(rate, eps=0.01)),
}
"""Constructors of a rate, their other numbers large enough to matter."""

tuned = pytest.mark.parametrize("make", list(TUNED.values()), ids=TUNED)
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]


@jax.jit
def three_updates(optimizer, params, grads):
    state, found = optimizer.init(params), []
    for scale in (1, -2, 3):
        g = jax.tree.map(lambda x, s=scale: s * x, grads)
        updates, new_state = optimizer.update(g, state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, grads)
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
        chex.assert_trees_all_equal(*(jax.tree.map(lambda x: x.weak_type, (new_state, state))))
        state = new_state
        found.append(updates)
    return found


@tuned
def test_updates_and_state_keep_dtype_structure_and_value(make):
    def trees(*dtypes):
        params, grads = np.array([0.5, -1.0, 2.0]), np.array([0.5, 0.0, 1.0])
        return tuple(
            [
                {"row": jnp.asarray(x[None], d), "one": jnp.asarray(x[0], d), "no": ()}
                for d in dtypes
            ]
            for x in (params, grads)
        )

    found = three_updates(make(jnp.float32(0.125)), *trees(*DTYPES))
    with jax.enable_x64(True):
        exact = three_updates(make(0.125), *trees(*(jnp.float64 for _ in DTYPES)))
    for x, truth in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        tolerance = 8.0 * float(jnp.finfo(x.dtype).eps)
        chex.assert_trees_all_close(np.asarray(x, float), np.asarray(truth), rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [fn.adagrad, fn.rmsprop, fn.adam])
def test_default_eps_leaves_dead_coordinates_alone(make, dtype):
    """Nothing moves where the gradient is 0, and a small one moves as far as in float32."""
    grads = jnp.asarray([1.0, 0.0, 1e-4], dtype)
    optimizer, wide = make(0.125), grads.astype(jnp.float32)
    updates, _ = optimizer.update(grads, optimizer.init(grads), grads)
    expected, _ = optimizer.update(wide, optimizer.init(wide), wide)
    np.testing.assert_allclose(updates.astype(jnp.float32), expected, rtol=0.02)


@tuned
def test_empty_tree_and_bare_scalar(make):
    optimizer, one = make(0.125), jnp.float32(0.5)
    updates, state = optimizer.update({}, optimizer.init({}), {})
    assert updates == {}
    chex.assert_trees_all_equal_structs(state, optimizer.init({}))
    scalar, _ = optimizer.update(one, optimizer.init(one), one)
    vector, _ = optimizer.update(one[None], optimizer.init(one[None]), one[None])
    assert scalar.shape == ()
    assert scalar == vector[0]


def half_dead(x):
    """The gradient of x0^2 + x0 x1, whose last coordinate never has any."""
    return jnp.stack([2.0 * x[0] + x[1], x[0], jnp.zeros_like(x[2])])


@jax.jit
@jax.value_and_grad
def outcome(optimizer):
    x = descend(optimizer, half_dead, jnp.array([1.0, -0.5, 2.0]), steps=5)[-1]
    return x @ jnp.array([1.0, 2.0, 3.0])


@tuned
def test_hypergradient_is_the_difference_quotient(make):
    with jax.enable_x64(True):
        leaves, structure = jax.tree.flatten(make(0.125))
        hypergradient = jax.tree.leaves(outcome(structure.unflatten(leaves))[1])
        quotients = []
        for i, h in enumerate(1e-4 * max(leaf, 1e-3) for leaf in leaves):
            moved = ([*leaves[:i], leaves[i] + d, *leaves[i + 1 :]] for d in (h, -h))
            up, down = (outcome(structure.unflatten(m))[0] for m in moved)
            quotients.append((up - down) / (2.0 * h))
    assert len(leaves) > 0
    np.testing.assert_allclose(hypergradient, quotients, rtol=1e-6, atol=1e-8)


DEFAULTS = {
    "adagrad": fn.adagrad(),
    "adagrad, eps in root": fn.adagrad(eps_in_root=True),
    "rmsprop": fn.rmsprop(),
    "rmsprop, centered": fn.rmsprop(centered=True, momentum=0.9),
    "adam": fn.adam(),
    "adam, b1=0": fn.adam(b1=0),
    "clip to 0": fn.chain(fn.clip_by_global_norm(0.0), L2, fn.adam()),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_hypergradient_is_finite_with_default_numbers(name):
    with jax.enable_x64(True):
        chex.assert_tree_all_finite(outcome(DEFAULTS[name]))


@pytest.mark.parametrize("count", [1, 10, 1000])
@pytest.mark.parametrize("fraction", [1e-3, 1e-5])
def test_bias_correction_in_float32(fraction, count):
    corrected = bias_correction(jnp.float32(fraction), jnp.int32(count))
    np.testing.assert_allclose(corrected, -np.expm1(count * np.log1p(-fraction)), rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("fraction", [1.0, 0.75, 0.25, 1e-3])
def test_derivative_of_bias_correction(fraction, count):
    """d(1 - (1 - f)^t) = t (1 - f)^(t - 1), at f = 1 too, which is b = 0."""
    slope = jax.grad(bias_correction)(fraction, jnp.int32(count))
    np.testing.assert_allclose(slope, count * (1.0 - fraction) ** (count - 1), rtol=1e-6)


WRONG = [
    (lambda: fn.sgd(True), TypeError, "learning_rate must be a number"),
    (lambda: fn.adam(b1=np.True_), TypeError, "b1 must be a number"),
    (lambda: fn.adagrad("0.1"), TypeError, "learning_rate must be a number"),
    (lambda: fn.nesterov(None), TypeError, "learning_rate must be a number"),
    (lambda: fn.adam(eps=np.array([True])), TypeError, "eps must be a real"),
    (lambda: fn.rmsprop(0.1, jnp.array(1j)), TypeError, "decay must be a real"),
    (lambda: fn.sgd(float("nan")), ValueError, "learning_rate must lie in"),
    (lambda: fn.adam(b2=1.5), ValueError, r"b2 must lie in \[0, 1\], got 1.5"),
    (lambda: fn.adam(b1=-0.1), ValueError, "b1 must lie in"),
    (lambda: fn.rmsprop(decay=2), ValueError, "decay must lie in"),
    (lambda: fn.momentum(0.1, 1.1), ValueError, "decay must lie in"),
    (lambda: fn.momentum(0.1, dampening=-1), ValueError, "dampening must lie in"),
    (lambda: fn.adagrad(eps=-1e-8), ValueError, "eps must lie in"),
    (lambda: fn.adagrad(initial_accumulator=-1.0), ValueError, "initial_accumulator must lie"),
    (lambda: fn.clip_by_global_norm(-1.0), ValueError, "max_norm must lie in"),
    (lambda: fn.warmup_cosine(0.1, -1, 10), ValueError, "warmup_steps must lie in"),
    (lambda: fn.inverse_time(0.1, -1), ValueError, "decay must lie in"),
    (lambda: fn.adam(learning_rte=0.1), TypeError, "learning_rte"),
    (lambda: fn.clip_by_global_norm(maxnorm=1.0), TypeError, "maxnorm"),
    (lambda: fn.chain(fn.sgd(0.1), fn.adam), TypeError, "position 1"),
]


@pytest.mark.parametrize(("construct", "error", "message"), WRONG)
def test_constructor_rejects(construct, error, message):
    with pytest.raises(error, match=message):
        construct()
