"""Optimizers against the papers' loops in NumPy, differences, and closed forms."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import L2, STEPS, descend, descent

import funcnet as fn
from funcnet.optimizers.arithmetic import bias_correction

RISING = fn.warmup_cosine(0.02, 10, 1e9)


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


def xie_2022(x, rates):
    """Adan, with the beta of the paper, 1 - b."""
    beta1, beta2, beta3, eps, decay = 0.1, 0.3, 0.05, 1e-3, 0.2
    mean, change, square, last = 0.0, 0.0, 0.0, bowl(x)
    for t, rate in enumerate(rates, 1):
        g = bowl(x)
        mean = (1 - beta1) * mean + beta1 * g
        change = (1 - beta2) * change + beta2 * (g - last)
        square = (1 - beta3) * square + beta3 * (g + (1 - beta2) * (g - last)) ** 2
        m, v, n = (
            a / (1 - (1 - b) ** t) for a, b in ((mean, beta1), (change, beta2), (square, beta3))
        )
        x, last = x - rate * ((m + (1 - beta2) * v) / (np.sqrt(n) + eps) + decay * x), g
        yield x


def defazio_2024(y, rates, beta=0.8):
    """Schedule-free descent with x itself, each point weighed by the square of its own rate."""
    x = z = y
    total = 1e-300
    for rate in rates:
        z = z - rate * bowl(y)
        total = total + rate**2
        x = x + rate**2 / total * (z - x)
        y = (1 - beta) * z + beta * x
        yield y


def shazeer_2018(x, rates):
    """Adafactor of a vector: its own second moment, steps relative to theta and to the count."""
    square = 0.0
    for t, _ in enumerate(rates, 1):
        square = square + t**-0.8 * (bowl(x) ** 2 + 1e-30 - square)
        u = bowl(x) / np.sqrt(square)
        u = u / max(1.0, np.sqrt(np.mean(u**2)))
        x = x - max(1e-3, np.sqrt(np.mean(x**2))) * min(0.2, t**-0.5) * u
        yield x


def mishchenko_2024(x, rates):
    """Prodigy as its authors run it, without bias corrections."""
    start, d, r, mean, square, total = x, 1e-3, 0.0, 0.0, 0.0, 0.0
    for rate in 20.0 * rates:
        g, scale = bowl(x), d * d * rate / 1e-3
        mean = 0.9 * mean + 0.1 * d * g
        square = 0.99 * square + 0.01 * d * d * g * g
        r = 0.99**0.5 * r + scale * g @ (start - x)
        total = 0.99**0.5 * total + scale * g
        length, step = np.abs(total).sum(), d * rate
        d = max(d, r / length) if length > 0.0 else d
        x = x - step * mean / (np.sqrt(square) + d * 1e-8)
        yield x


GRAVES = {"eps": 1e-4, "centered": True, "eps_in_root": True, "rate_in_velocity": True}
PAPERS = {
    robbins_monro_1951: fn.sgd(RISING),
    sutskever_2013: fn.momentum(RISING, rate_in_velocity=True),
    duchi_2011: fn.adagrad(RISING),
    hinton_2012: fn.rmsprop(RISING),
    graves_2013: fn.rmsprop(RISING, 0.95, momentum=0.9, **GRAVES),
    xie_2022: fn.adan(RISING, 0.9, 0.7, 0.95, eps=1e-3, weight_decay=0.2),
    defazio_2024: fn.schedule_free_sgd(RISING, 0.8),
    shazeer_2018: fn.adafactor(fn.relative_step(0.2)),
    mishchenko_2024: fn.prodigy(
        fn.warmup_cosine(0.4, 10, 1e9), b2=0.99, initial_distance=1e-3, corrected=False
    ),
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
    "adadelta": functools.partial(fn.adadelta, eps=0.01),
    "adamw": functools.partial(fn.adamw, eps=0.01, weight_decay=0.3),
    "adamax": functools.partial(fn.adamax, eps=0.01),
    "amsgrad": functools.partial(fn.amsgrad, eps=0.01),
    "amsgrad, correct first": functools.partial(fn.amsgrad, eps=0.01, correct_first=True),
    "amsgrad, uncorrected": functools.partial(fn.amsgrad, eps=0.01, corrected=False),
    "nadam": functools.partial(fn.nadam, eps=0.01, momentum_decay=0.5),
    "nadam, same momentum": functools.partial(fn.nadam, eps=0.01, momentum_decay=None),
    "radam": functools.partial(fn.radam, eps=0.01),
    "radam, eps first": functools.partial(fn.radam, eps=0.01, eps_before_correction=True),
    "averaged_sgd": functools.partial(fn.averaged_sgd, decay=0.1, start=2.0),
    "schedule_free_sgd": fn.schedule_free_sgd,
    "schedule_free_adamw": functools.partial(fn.schedule_free_adamw, eps=0.01, weight_decay=0.3),
    "sign_sgd": fn.sign_sgd,
    "signum": fn.signum,
    "lion": functools.partial(fn.lion, weight_decay=0.3),
    "rprop": fn.rprop,
    "adan": functools.partial(fn.adan, eps=0.01, eps_root=0.01, weight_decay=0.3),
    "adopt": functools.partial(fn.adopt, b2=0.9, eps=0.01),
    "adopt, unclipped": functools.partial(fn.adopt, b2=0.9, eps=0.01, clip_power=None),
    "ademamix": functools.partial(fn.ademamix, eps=0.01, weight_decay=0.3),
    "lamb": functools.partial(fn.lamb, eps=0.01, weight_decay=0.3),
    "adafactor": functools.partial(fn.adafactor, eps=0.01, floor=0.01, weight_decay=0.1),
    "prodigy": functools.partial(fn.prodigy, eps=0.01, initial_distance=0.1, weight_decay=0.3),
    "prodigy, safeguard": functools.partial(
        fn.prodigy, initial_distance=0.1, safeguard_warmup=True, corrected=False
    ),
    "clipped adam": lambda rate: fn.chain(fn.clip_by_global_norm(0.7), L2, fn.adam(rate, eps=0.01)),
}
"""Constructors of a rate, their other numbers large enough to matter."""

ARRAYWISE = [TUNED["lamb"], TUNED["adafactor"]]
"""A scalar is not the first number of a vector to them."""

tuned = pytest.mark.parametrize("make", list(TUNED.values()), ids=TUNED)
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]


@jax.jit
def three_updates(optimizer, params, grads):
    def step(state, scale):
        g = jax.tree.map(lambda x: scale.astype(x.dtype) * x, grads)
        updates, new_state = optimizer.update(g, state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, grads)
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
        chex.assert_trees_all_equal(*(jax.tree.map(lambda x: x.weak_type, (new_state, state))))
        return new_state, updates

    return jax.lax.scan(step, optimizer.init(params), jnp.array([1.0, -2.0, 3.0]))[1]


@tuned
def test_updates_and_state_keep_dtype_structure_and_value(make):
    def trees(*dtypes):
        params, grads = np.array([0.5, -1.0, 2.0]), np.array([0.5, 0.0, 1.0])
        return tuple(
            [{"row": jnp.asarray(x[None], d), "no": ()} for d in dtypes]
            + [jnp.asarray(x[0], dtypes[-1])]
            for x in (params, grads)
        )

    found = three_updates(make(jnp.float32(0.125)), *trees(*DTYPES))
    with jax.enable_x64(True):
        exact = three_updates(make(0.125), *trees(*(jnp.float64 for _ in DTYPES)))
    *rows, scalar = found
    assert scalar.shape == (3,)
    if make not in ARRAYWISE:
        np.testing.assert_array_equal(scalar, rows[-1]["row"][:, 0, 0])
    for x, truth in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        eps, truth = float(jnp.finfo(x.dtype).eps), np.asarray(truth)
        # Terms of an update may cancel.
        close = {"rtol": 8.0 * eps, "atol": eps * np.abs(truth).max()}
        np.testing.assert_allclose(np.asarray(x, float), truth, **close)


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
def test_empty_tree(make):
    optimizer = make(0.125)
    updates, state = optimizer.update({}, optimizer.init({}), {})
    assert updates == {}
    chex.assert_trees_all_equal_structs(state, optimizer.init({}))


def half_dead(x):
    """The gradient of x0^2 + x0 x1, whose last coordinate never has any."""
    return jnp.stack([2.0 * x[0] + x[1], x[0], jnp.zeros_like(x[2])])


@jax.jit
@jax.value_and_grad
def outcome(optimizer):
    x = descent(optimizer, half_dead, jnp.array([1.0, -0.5, 2.0]), steps=7)[-1]
    return x @ jnp.array([1.0, 2.0, 3.0])


@pytest.mark.parametrize("make", list(TUNED.values())[:10], ids=list(TUNED)[:10])
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
    "adadelta": fn.adadelta(),
    "adamw": fn.adamw(),
    "adamax": fn.adamax(),
    "amsgrad": fn.amsgrad(),
    "nadam": fn.nadam(),
    "radam": fn.radam(),
    "averaged_sgd": fn.averaged_sgd(),
    "schedule_free_sgd": fn.schedule_free_sgd(fn.warmup_cosine(0.1, 2, 1e9)),
    "schedule_free_adamw": fn.schedule_free_adamw(),
    "rprop": fn.rprop(),
    "adan": fn.adan(),
    "adopt": fn.adopt(),
    "ademamix": fn.ademamix(),
    "lamb": fn.lamb(),
    "adafactor": fn.adafactor(),
    "prodigy": fn.prodigy(),
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
    (lambda: fn.adamax(b2=1.5), ValueError, "b2 must lie in"),
    (lambda: fn.nadam(momentum_decay=-1.0), ValueError, "momentum_decay must lie in"),
    (lambda: fn.nadam(momentum_decay="1"), TypeError, "momentum_decay must be a number"),
    (lambda: fn.lion(b2=1.0), ValueError, "b2 must be less than 1"),
    (lambda: fn.rprop(shrink=1.2), ValueError, "shrink must lie in"),
    (lambda: fn.rprop(grow=0.5), ValueError, "grow must lie in"),
    (lambda: fn.ademamix(b3=2.0), ValueError, "b3 must lie in"),
    (lambda: fn.ademamix(alpha="5"), TypeError, "alpha must be a number"),
    (lambda: fn.adafactor(clip=-1.0), ValueError, "clip must lie in"),
    (lambda: fn.schedule_free_sgd(b1=0.0), ValueError, "b1 must lie in"),
    (lambda: fn.prodigy(initial_distance=-1), ValueError, "initial_distance must lie in"),
    (lambda: fn.prodigy(initial_distance=0.0), ValueError, r"must lie in \[1e-18, inf\]"),
    (lambda: fn.schedule_free_eval(fn.sgd(0.1).init(1.0), 1.0), TypeError, "got SgdState"),
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
