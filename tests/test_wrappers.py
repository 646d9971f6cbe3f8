"""What acts on any optimizer's updates: against Optax and PyTorch, the papers' formulas in NumPy,
and what it must never do."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.problems import JOINT_SNAPSHOTS, JOINT_STEPS, PROBLEMS, plateau, total_loss
from jax.flatten_util import ravel_pytree

import funcnet as fn
from funcnet.optimizers import Known, hand_on
from funcnet.optimizers.rounding import to_bfloat16
from funcnet.verify_optimizer import check_contract

GOLDEN = np.load(Path(__file__).parent / "golden" / "transforms.npz")
LARGEST = np.finfo(np.float32).max
MOMENTUM, ADAM = fn.momentum(0.02), fn.adam(0.05)


def matrices(path):
    return path in ("regression.0", "regression.2")


def kind(path):
    return {"quadratic": "fast", "rosenbrock": "still", "regression": "slow"}[path.split(".")[0]]


KINDS = {"fast": ADAM, "slow": fn.sgd(0.02), "still": fn.freeze()}
FIRST = {"factor": 0.5, "rtol": 1e-3, "cooldown": 2}
CASES = {
    "optax/clip_by_value": fn.chain(fn.clip_by_value(0.3), MOMENTUM),
    "torch/clip_by_value": fn.chain(fn.clip_by_value(0.3), MOMENTUM),
    "optax/clip_by_block_norm": fn.chain(fn.clip_by_block_norm(0.3), MOMENTUM),
    "optax/adaptive_clip": fn.chain(fn.adaptive_clip(0.05, eps=0.1), MOMENTUM),
    "optax/centralise": fn.chain(fn.centralise(), MOMENTUM),
    "optax/masked_decay": fn.chain(fn.add_decayed_weights(0.1, matrices), MOMENTUM),
    "torch/decoupled_decay": fn.chain(ADAM, fn.add_decayed_weights(-0.05 * 0.1, matrices)),
    "optax/accumulate": fn.accumulate(ADAM, 4),
    "optax/partition": fn.partition(kind, KINDS),
    "optax/reduce_on_plateau": fn.chain(
        ADAM, fn.reduce_on_plateau(patience=3, min_scale=0.2, **FIRST)
    ),
    "torch/reduce_on_plateau": fn.chain(ADAM, fn.reduce_on_plateau(patience=3, **FIRST)),
    "optax/reduce_on_plateau-window": fn.chain(
        ADAM, fn.reduce_on_plateau(0.3, 2, atol=1e-2, window=3)
    ),
    "optax/lookahead": fn.lookahead(ADAM, 4, 0.3),
    "optax/lookahead-average": fn.lookahead(ADAM, 4, 0.3),
    "optax/ema-average": fn.ema(ADAM, 0.9),
    "torch/swa-average": fn.swa(ADAM, 5, every=3),
}


@functools.partial(jax.jit, static_argnames=("averaged",))
def descend(optimizer, start, values, averaged):
    """The flat parameters after each step, [steps, size], and their average, if there is one."""

    def step(carry, inputs):
        params, state = carry
        count, value = inputs
        grads = jax.grad(total_loss)(params, jnp)
        grads = jax.tree.map(lambda g: (1.0 + 0.5 * jnp.cos(count)) * g, grads)
        updates, state = hand_on(optimizer.update, grads, state, params, Known(value))
        params = fn.apply_updates(params, updates)
        average = fn.averaged_params(state, params) if averaged else params
        return (params, state), (ravel_pytree(params)[0], ravel_pytree(average)[0])

    carry = start, optimizer.init(start)
    return jax.lax.scan(step, carry, (jnp.arange(float(JOINT_STEPS)), values))[1]


@pytest.mark.parametrize("name", CASES)
def test_trajectory_is_the_golden_one(name):
    golden = GOLDEN[name]
    averaged = name.split("/")[1].split("-")[0] in ("ema", "lookahead", "swa")
    with jax.enable_x64(True):
        start = {name: [jnp.asarray(a) for a in p.start] for name, p in PROBLEMS.items()}
        values = plateau(np.arange(float(JOINT_STEPS)))
        path, average = descend(CASES[name], start, values, averaged)
        moved = np.linalg.norm(golden - ravel_pytree(start)[0], axis=1)
    found = np.asarray(average if name.endswith("-average") else path)
    error = np.linalg.norm(found[np.array(JOINT_SNAPSHOTS) - 1] - golden, axis=1)
    assert moved[-1] > 0.0
    assert (error <= 1e-12 * moved).all(), (error, moved)


def test_every_case_has_its_golden_numbers():
    assert set(CASES) == set(GOLDEN.files) - {"versions"}


def is_float(path):
    return "narrow" if path == "narrow" else "wide"


WRAPPERS = {
    "accumulate": lambda inner: fn.accumulate(inner, 2),
    "cautious": fn.cautious,
    "chain": lambda inner: fn.chain(
        fn.clip_by_value(1.0),
        fn.add_noise(0.1),
        fn.adaptive_clip(),
        fn.centralise(),
        inner,
        fn.clip_by_block_norm(1.0),
        fn.reduce_on_plateau(),
    ),
    "ema": fn.ema,
    "flattened": fn.flattened,
    "graft": lambda inner: fn.graft(inner, fn.sgd(1.0)),
    "kahan": fn.kahan,
    "lookahead": fn.lookahead,
    "partition": lambda inner: fn.partition(is_float, {"narrow": inner, "wide": inner}),
    "skip_non_finite": fn.skip_non_finite,
    "skip_spikes": fn.skip_spikes,
    "state_dtype": lambda inner: fn.state_dtype(inner, {"mean": jnp.bfloat16}),
    "stochastic_rounding": fn.stochastic_rounding,
    "swa": lambda inner: fn.swa(inner, 3),
}


@pytest.mark.parametrize("outer", WRAPPERS)
def test_wrappers_nest_in_any_order_and_keep_the_contract(outer):
    """Structure, shapes, dtypes and weak types of updates and states, around every other."""
    params = {
        "narrow": jnp.ones((2, 3), jnp.bfloat16),
        "wide": jnp.ones(()),
        "none": jnp.ones((0,)),
    }
    for inner, wrap in WRAPPERS.items():
        check_contract(WRAPPERS[outer](wrap(ADAM)), params, f"{outer} of {inner}")


NAMED = {
    "body": [{"weight": jnp.ones((2, 2)), "bias": jnp.ones(2)}],
    "head": {"weight": jnp.ones(2)},
}


def test_partition_freezes_and_holds_nothing_for_it():
    """What is left out must not be moved by its raw gradient, even one that is NaN."""
    optimizer = fn.partition(
        {"body": "still", "head": "fast"}, {"still": fn.freeze(), "fast": ADAM}
    )
    state = optimizer.init(NAMED)
    assert state["still"] == ()
    assert [leaf.shape for leaf in jax.tree.leaves(state["fast"].mean)] == [(2,)]
    grads = jax.tree.map(lambda p: p * jnp.nan, NAMED)
    grads["head"]["weight"] = jnp.array([3.0, -4.0])
    updates, state = optimizer.update(grads, state, NAMED)
    np.testing.assert_allclose(updates["head"]["weight"], [-0.05, 0.05], rtol=1e-6)
    for leaf in jax.tree.leaves(updates["body"]):
        np.testing.assert_array_equal(leaf, 0.0)
    assert jax.tree.structure(updates) == jax.tree.structure(NAMED)


def test_partition_shows_each_optimizer_its_own_leaves_alone():
    optimizers = {"clip": fn.clip_by_global_norm(1.0), "pass": fn.chain()}
    optimizer = fn.partition({"body": "pass", "head": "clip"}, optimizers)
    updates, _ = optimizer.update(jax.tree.map(lambda p: 5.0 * p, NAMED), optimizer.init(NAMED))
    np.testing.assert_allclose(updates["head"]["weight"], 0.5**0.5, rtol=1e-6)
    np.testing.assert_array_equal(updates["body"][0]["weight"], 5.0)


def no_bias(path):
    return None if path.endswith("bias") else "fast"


def misspelt(path):
    return "fasst"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (no_bias, r"expects a label of \['fast'\] for every leaf, got None for 'body\.0\.bias'"),
        (misspelt, r"got 'fasst' for 'body\.0\.bias'"),
        ({"body": "fast"}, r"got None for 'head\.weight'"),
        ({"body": [{"weight": "fast"}], "head": "fast"}, r"got None for 'body\.0\.bias'"),
    ],
)
def test_a_leaf_without_an_optimizer_is_named(labels, message):
    with pytest.raises(ValueError, match=message):
        fn.partition(labels, {"fast": ADAM}).init(NAMED)


X = np.sin(np.arange(48.0)).reshape(16, 3)
Y = np.cos(np.arange(32.0)).reshape(16, 2)
WEIGHT = np.array([0.5, 0.0, 2.0, 1.0] * 4) * np.repeat([1.0, 3.0, 0.25, 0.0], 4)
TASK = fn.supervised(fn.dense(3, 2), fn.mean_squared_error)


def test_accumulated_micro_batches_of_unequal_weight_are_the_whole_batch():
    """Through the trainer, which hands on the weights; the last micro-batch is all masked."""
    with jax.enable_x64(True):
        data = (X, Y, WEIGHT)
        whole = fn.trainer(TASK, fn.adam(0.1))
        parts = fn.trainer(TASK, fn.accumulate(fn.adam(0.1), 4))
        one, many = whole.init(jax.random.key(1)), parts.init(jax.random.key(1))
        step, micro = (jax.jit(t.step) for t in (whole, parts))
        for _ in range(2):
            one, _ = step(one, data)
            for part in range(4):
                before = many.params
                many, _ = micro(many, tuple(a[4 * part : 4 * part + 4] for a in data))
                assert (before["bias"] == many.params["bias"]).all() == (part < 3)
        assert (many.opt_state.count, many.opt_state.inner.count, many.step) == (0, 2, 8)
        for a, b in zip(*map(jax.tree.leaves, (one.params, many.params)), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-13)


def test_a_micro_batch_of_weight_0_adds_nothing_even_if_it_is_nan():
    optimizer = fn.accumulate(fn.sgd(1.0), 3)
    state = optimizer.init(jnp.ones(2))
    for gradient, weight in (([1.0, 2.0], 1.0), ([np.nan, np.inf], 0.0), ([4.0, 8.0], 2.0)):
        value = jnp.float32(gradient[0])
        updates, state = optimizer.update(jnp.array(gradient), state, value=value, weight=weight)
    np.testing.assert_allclose(updates, [-3.0, -6.0], rtol=1e-6)
    for _ in range(3):
        updates, state = optimizer.update(jnp.ones(2) * jnp.nan, state, weight=0.0)
    np.testing.assert_array_equal(updates, 0.0)


def is_program(x):
    return hasattr(x, "eqns") or hasattr(x, "jaxpr")


def equations(program):
    """All equations of a program, those of its parts too."""
    for equation in getattr(program, "jaxpr", program).eqns:
        yield equation
        for part in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program):
            if is_program(part):
                yield from equations(part)


def takes_a_root(program):
    return any(equation.primitive.name == "sqrt" for equation in equations(program))


@pytest.mark.parametrize(
    ("around", "branches"), [(fn.ema, True), (fn.skip_non_finite, False)], ids=["ema", "skip"]
)
def test_a_swept_accumulation_still_branches(around, branches):
    """Adam's root stands in one branch of a `cond`, not in a `select` that computes both; not so
    where what is around it makes the count each member's own."""

    def build(rate):
        return fn.trainer(TASK, around(fn.accumulate(fn.adam(rate), 4)))

    run = functools.partial(fn.run, data=(X, Y), steps=8, batch_size=2)
    sweep = jax.vmap(lambda trainer, key: run(trainer, key=key))
    keys = jax.random.split(jax.random.key(0), 3)
    program = jax.make_jaxpr(sweep)(jax.vmap(build)(jnp.array([0.1, 0.2, 0.3])), keys)
    conditions = [e for e in equations(program) if e.primitive.name == "cond"]
    found = [sorted(map(takes_a_root, e.params["branches"])) for e in conditions]
    assert ([False, True] in found) == branches


@pytest.mark.parametrize(
    ("loss", "scales"),
    [
        *((loss, [1.0, 1.0, 1.0, 0.1, 0.1, 0.1, 0.01, 0.01]) for loss in (-5.0, 0.0, 5.0)),
        (np.nan, [1.0, 1.0, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01]),
    ],
)
def test_reduction_fires_on_a_loss_that_stays_also_a_negative_one(loss, scales):
    """With patience 3: the best, then three that are no better, at the third of which it fires."""
    optimizer = fn.reduce_on_plateau(0.1, 3)
    state, found = optimizer.init(jnp.ones(1)), []
    for _ in scales:
        updates, state = optimizer.update(jnp.ones(1), state, value=jnp.float32(loss))
        found.append(updates[0])
    np.testing.assert_allclose(found, scales, rtol=1e-6)


def test_reduction_needs_the_loss_and_the_trainer_hands_it_on():
    optimizer = fn.chain(fn.sgd(0.0), fn.reduce_on_plateau(0.5, 2))
    with pytest.raises(ValueError, match="needs the loss"):
        optimizer.update(jnp.ones(1), optimizer.init(jnp.ones(1)))
    wrapped = fn.skip_non_finite(fn.partition(str, {"weight": optimizer, "bias": fn.sgd(0.1)}))
    trainer = fn.trainer(TASK, fn.cautious(wrapped))
    state = trainer.init(jax.random.key(0))
    state, metrics = jax.jit(trainer.step)(state, (X, Y))
    assert state.opt_state.inner["weight"][1].best == metrics["loss"] > 0.0


class Skipped(NamedTuple):
    bad: Any  # a gradient
    loss: Any = 1.0
    params: Any = 1.0


SKIPPED = {
    "NaN gradient": Skipped(np.nan),
    "infinite gradient": Skipped(-np.inf),
    "NaN loss": Skipped(0.5, np.nan),
    "square of the gradient overflows": Skipped(1e30),
    "parameters overflow": Skipped(-1.0, params=LARGEST),
    "update overflows": Skipped(1e10),
}
SPIKES = [1.0, 1.2, 0.9, 50.0, 1.1, np.nan, 30.0, 30.0, 30.0, 30.0, 30.0, np.inf, 29.0, 1e4]


@pytest.mark.parametrize("start", [0, 5, 11], ids=["sound", "nan first", "infinite first"])
def test_spikes_are_left_out_and_the_mean_follows(start):
    """A loop in Python: m <- m + (1 - b) (min(|g|, c m) - m), and no step where |g| > c m."""
    optimizer = fn.skip_spikes(fn.momentum(0.1, 0.9), 3.0, decay=0.5)
    params, mean, velocity, skipped = 1.0, None, 0.0, 0
    wanted = []
    for g in SPIKES[start:]:
        if np.isfinite(g) and (mean is None or g <= 3.0 * mean):
            velocity = 0.9 * velocity + g
            params -= 0.1 * velocity
        else:
            skipped += 1
            g = None if mean is None else 3.0 * mean
        mean = mean if g is None else g if mean is None else mean + 0.5 * (g - mean)
        wanted.append((params, skipped))
    assert 0 < skipped < 9

    def step(carry, g):
        params, state = carry
        updates, state = optimizer.update(g, state, params)
        params = fn.apply_updates(params, updates)
        return (params, state), (params, state.skipped)

    given = jnp.asarray(SPIKES[start:], jnp.float32)
    start = (jnp.float32(1.0), optimizer.init(jnp.float32(1.0)))
    found = jax.lax.scan(step, start, given)[1]
    np.testing.assert_allclose(np.transpose(found), wanted, rtol=1e-5)


def spikes_left_out(grads):
    def step(state, g):
        updates, state = SKIPPING.update(g, state)
        return state, (updates, state.skipped)

    start = SKIPPING.init(jnp.float32(1.0))
    return jax.lax.scan(step, start, jnp.asarray(grads, jnp.float32))[1]


SKIPPING = fn.skip_spikes(fn.sgd(1.0))


def test_infinite_gradients_are_spikes_after_any_mean():
    updates, skipped = spikes_left_out([1e38, np.inf, -np.inf, 1e38])
    np.testing.assert_allclose(updates, [-1e38, 0.0, 0.0, -1e38], rtol=1e-6)
    np.testing.assert_array_equal(skipped, [0, 1, 2, 2])


def test_a_lasting_rise_is_passed_over_as_often_as_is_said():
    _, skipped = spikes_left_out([1.0] * 5 + [100.0] * 40)
    assert skipped[-1] == np.ceil(np.log(10.0) / np.log(1.09)) == 27


ADAPTIVE = fn.skip_non_finite(fn.chain(fn.adam(1e-2), fn.reduce_on_plateau()))
STEEP = fn.skip_non_finite(fn.chain(fn.sgd(LARGEST), fn.reduce_on_plateau()))


def all_updates(optimizer, params, grads, losses):
    """Updates, [steps, ...], and the last state."""

    def step(state, inputs):
        gradient, loss = inputs
        updates, state = hand_on(optimizer.update, gradient, state, params, Known(loss))
        return state, updates

    state, updates = jax.lax.scan(step, optimizer.init(params), (grads, losses))
    return updates, state


updates_of = jax.jit(all_updates)


@pytest.mark.parametrize("name", SKIPPED)
def test_what_is_not_finite_is_skipped_as_if_it_had_not_come(name):
    case = SKIPPED[name]
    optimizer = STEEP if name in ("parameters overflow", "update overflows") else ADAPTIVE
    params = np.float32([case.params, 1.0])
    good, bad = np.float32([[0.5, 0.25], [-0.1, 0.1], [0.2, 0.2]]), np.float32([case.bad, 0.5])
    if optimizer is STEEP:
        good = good * 0.0
    mixed = np.stack([good[0], bad, bad, good[1], bad, good[2]])
    loss = np.float32([1.0, case.loss, case.loss, 1.0, case.loss, 1.0])
    updates, state = updates_of(optimizer, params, mixed, loss)
    expected, clean = updates_of(optimizer, params, good, loss[[0, 3, 5]])
    np.testing.assert_array_equal(updates[jnp.array([1, 2, 4])], 0.0)
    np.testing.assert_array_equal(updates[jnp.array([0, 3, 5])], expected)
    chex.assert_trees_all_equal(state.inner, clean.inner)
    assert (state.skipped, state.in_a_row, clean.skipped) == (3, 0, 0)


def test_skipping_counts_in_a_row_and_has_finite_derivatives():
    grads, loss = np.float32([[0.5, 1.0], [np.nan, 1.0], [np.inf, 1.0]]), np.ones(3, np.float32)

    def moved(optimizer):
        updates, state = all_updates(optimizer, np.ones(2, np.float32), grads, loss)
        return updates.sum(), state

    slope = jax.jit(jax.grad(moved, has_aux=True))
    slopes, state = slope(ADAPTIVE)
    assert (state.skipped, state.in_a_row) == (2, 2)
    chex.assert_tree_all_finite(slopes)
    assert fn.hyperparameters(slopes)["update.update.updates.0.learning_rate.value"] != 0.0


def test_derivatives_are_finite_where_numbers_and_gradients_are_0():
    """No noise, nothing let through, no shift, dead coordinates."""
    optimizer = fn.chain(
        fn.add_noise(0.0),
        fn.adaptive_clip(0.0, eps=0.0),
        fn.clip_by_block_norm(0.0),
        fn.clip_by_value(0.0),
        fn.cautious(fn.momentum(0.1), shift=0.0),
    )
    grads, zero = np.float32([[0.0, 1.0], [0.0, 0.0]]), np.zeros(2, np.float32)
    slope = jax.grad(lambda *inputs: all_updates(*inputs)[0].sum(), argnums=(0, 1, 2))
    chex.assert_tree_all_finite(jax.jit(slope)(optimizer, zero, grads, zero))


def test_a_skip_in_one_member_leaves_its_neighbour_bit_equal():
    grads = np.float32([[[0.5, 0.1], [0.3, -0.2]]] * 2)
    bad = grads.copy()
    bad[1, 0] = np.nan
    sweep = jax.jit(jax.vmap(all_updates, in_axes=(None, None, 0, None)))
    ones = np.ones(2, np.float32)
    good_updates, spoilt_updates = (sweep(ADAPTIVE, ones, g, ones)[0] for g in (grads, bad))
    np.testing.assert_array_equal(spoilt_updates[0], good_updates[0])
    np.testing.assert_array_equal(spoilt_updates[1, 0], 0.0)


def test_a_run_goes_on_past_a_step_that_is_skipped():
    """Data and key advance; parameters do not become NaN, and the optimizer counts but the rest."""
    x = X.copy()
    x[3] = np.nan
    trainer = fn.trainer(TASK, fn.skip_non_finite(fn.adam(1e-2)))
    result = fn.run(trainer, (x, Y), jax.random.key(0), steps=16, batch_size=2)
    assert result.state.step == 16
    assert result.state.opt_state.skipped == np.isnan(result.loss).sum() == 2
    assert result.state.opt_state.inner.count == 14
    chex.assert_tree_all_finite(result.state.params)


def test_cautious_adam_is_the_papers_loop():
    """phi = [m g > 0], theta <- theta - eta phi n / (nnz(phi) + 1) m' / (sqrt(v') + eps)."""
    grads = np.cos(np.arange(40.0)).reshape(8, 5) * np.array([1.0, -2.0, 0.5, 3.0, 0.1])
    grads[2:4, 1] = 0.0
    m, v, expected = np.zeros(5), np.zeros(5), []
    for t, g in enumerate(grads, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        phi = (m * g > 0.0).astype(float)
        phi = phi * 5 / (phi.sum() + 1.0)
        root = np.sqrt(v / (1.0 - 0.999**t)) + 1e-8
        expected.append(-0.05 * phi * (m / (1.0 - 0.9**t)) / root)
    with jax.enable_x64(True):
        found, _ = updates_of(fn.cautious(ADAM), np.ones(5), grads, np.ones(8))
    assert 0.0 < np.mean(np.array(expected) == 0.0) < 1.0
    np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_cautious_does_not_hide_a_nan():
    updates, _ = fn.cautious(fn.sgd(1.0)).update(
        jnp.array([np.nan, 1.0]), fn.cautious(fn.sgd(1.0)).init(jnp.ones(2))
    )
    assert np.isnan(updates[0])


def test_cautious_makes_no_nan():
    """Neither of many float16 numbers none of which moves, nor as a constant on its way."""
    cautious, still = fn.cautious(fn.sgd(1.0)), jnp.zeros(70_000, jnp.float16)
    with jax.debug_nans(True):
        updates, _ = cautious.update(still, cautious.init(still))
    np.testing.assert_array_equal(updates, 0.0)


@jax.jit
def descend_ones(optimizer, params, rate):
    """200 updates by gradients of `rate`, the parameters between them in their own dtypes."""

    def step(carry, _):
        params, state = carry
        grads = jax.tree.map(lambda p: jnp.full_like(p, rate), params)
        updates, state = optimizer.update(grads, state, params)
        return (fn.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), length=200)[0]


ONES = {"narrow": jnp.ones(2000, jnp.bfloat16), "wide": jnp.ones(3)}


def test_small_steps_are_lost_without_compensation_and_not_with_it():
    plain, _ = descend_ones(fn.sgd(1e-3), ONES, 1.0)
    assert (plain["narrow"] == 1.0).all()
    kept, state = descend_ones(fn.kahan(fn.sgd(1e-3)), ONES, 1.0)
    whole = kept["narrow"].astype(jnp.float32) + state.lost["narrow"].astype(jnp.float32)
    np.testing.assert_allclose(whole, 0.8, atol=0.2 * 2**-9)
    np.testing.assert_allclose(kept["narrow"].astype(jnp.float32), 0.8, rtol=2**-8)
    np.testing.assert_allclose(kept["wide"], 0.8, rtol=1e-7)
    assert kept["narrow"].dtype == state.lost["narrow"].dtype == jnp.bfloat16


def test_stochastic_rounding_has_the_right_mean():
    """200 steps of 1e-3 from 1: each is a step of 2^-8 or none, so that 2000 paths have a mean
    within 4 / sqrt(2000) of their deviation."""
    end, _ = descend_ones(fn.stochastic_rounding(fn.sgd(1e-3)), ONES, 1.0)
    paths = np.asarray(end["narrow"], np.float64)
    assert abs(paths.mean() - 0.8) < 4.0 * paths.std() / np.sqrt(2000.0)
    assert 0.005 < paths.std() < 0.03
    np.testing.assert_allclose(end["wide"], 0.8, rtol=1e-5)
    again, _ = descend_ones(fn.stochastic_rounding(fn.sgd(1e-3)), ONES, 1.0)
    chex.assert_trees_all_equal(again, end)


def test_stochastic_rounding_keeps_a_nan_of_any_bits_and_infinities():
    bits = np.uint32([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800000, 0xFF800000]).view(np.float32)
    found = to_bfloat16(jnp.asarray(bits), jax.random.key(0))
    np.testing.assert_array_equal(found, [np.nan, np.nan, np.inf, -np.inf])


@pytest.mark.parametrize("wrap", [fn.kahan, fn.stochastic_rounding])
def test_rounding_lets_a_nan_be_seen(wrap):
    optimizer, params = wrap(fn.sgd(1.0)), jnp.ones(2, jnp.bfloat16)
    grads = jnp.array([np.nan, 0.5], jnp.bfloat16)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_array_equal(updates.astype(jnp.float32), [np.nan, -0.5])


def test_state_dtype_keeps_slots_as_told_and_computes_in_float32():
    params = {"w": np.float32([1.0, 2.0]), "b": np.float32(0.5)}
    optimizer = fn.state_dtype(fn.chain(fn.adam(0.01)), {"mean": jnp.bfloat16, "square": "float16"})
    (state,) = optimizer.init(params)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.mean)} == {"bfloat16"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.square)} == {"float16"}
    assert (state.learning_rate.dtype, state.count.dtype) == (jnp.float32, jnp.int32)
    grads = jax.tree.map(lambda p: np.stack([p, -p, 2 * p]) / 3.0, params)
    found, (state,) = updates_of(optimizer, params, grads, np.ones(3, np.float32))
    exact, truth = updates_of(fn.adam(0.01), params, grads, np.ones(3, np.float32))
    chex.assert_trees_all_close(found, exact, rtol=5e-2)
    chex.assert_trees_all_equal(
        state.mean["w"].astype(jnp.float32) == truth.mean["w"], np.array([False, False])
    )
    with pytest.raises(ValueError, match=r"no slot \['men'\] in AdamState"):
        fn.state_dtype(ADAM, {"men": jnp.bfloat16}).init(params)
    with pytest.raises(ValueError, match="floating-point dtypes, got int8 for 'mean'"):
        fn.state_dtype(ADAM, {"mean": jnp.int8})


def test_averages_are_there_to_evaluate_also_of_a_sweep():
    def build(rate):
        return fn.trainer(TASK, fn.skip_non_finite(fn.ema(fn.swa(fn.sgd(rate), 3), 0.5)))

    @jax.jit
    def sweep(rates, key):
        trainers = jax.vmap(build)(rates)
        run = functools.partial(fn.run, steps=4, batch_size=4)
        state = jax.vmap(run, in_axes=(0, None, None))(trainers, (X, Y), key).state
        average = fn.averaged_params(state.opt_state, state.params)
        evaluate = jax.vmap(fn.evaluate, in_axes=(0, 0, None))
        scores = evaluate(trainers, state._replace(params=average), (X, Y))
        start = build(0.1).init(key)
        return start, fn.averaged_params(start.opt_state, start.params), average, scores

    start, first, average, scores = sweep(jnp.array([0.1, 0.2]), jax.random.key(0))
    chex.assert_trees_all_equal(first, start.params)
    prediction = X @ np.asarray(average["weight"]) + np.asarray(average["bias"])[:, None]
    np.testing.assert_allclose(scores["loss"], ((prediction - Y) ** 2).mean((1, 2)), rtol=1e-5)
    with pytest.raises(ValueError, match="one ema, swa or lookahead, got 0 in AdamState"):
        fn.averaged_params(ADAM.init(first), first)
    inside = fn.partition(str, {"weight": fn.ema(ADAM), "bias": ADAM})
    with pytest.raises(ValueError, match="around partition"):
        fn.averaged_params(inside.init(first), first)


WRONG = [
    (lambda: fn.ema(fn.adam), TypeError, "ema expects an optimizer"),
    (lambda: fn.ema(ADAM, 1.0), ValueError, "decay must be less than 1"),
    (lambda: fn.accumulate(ADAM, 0), ValueError, "every must be at least 1, got 0"),
    (lambda: fn.lookahead(ADAM, 2.5), ValueError, "every must be an integer, got 2.5"),
    (lambda: fn.lookahead(ADAM, 2, 1.5), ValueError, r"step_size must lie in \[0, 1\]"),
    (lambda: fn.swa(ADAM, True), ValueError, "start must be an integer, got True"),
    (lambda: fn.partition(str, [ADAM]), TypeError, "partition expects a dict of optimizers"),
    (lambda: fn.partition(str, {"a": 3}), TypeError, "partition expects an optimizer, got 3"),
    (lambda: fn.reduce_on_plateau(1.5), ValueError, r"factor must lie in \[0, 1\]"),
    (lambda: fn.reduce_on_plateau(0.5, 0), ValueError, "patience must be at least 1"),
    (lambda: fn.add_noise(-1.0), ValueError, "variance must lie in"),
    (lambda: fn.cautious(ADAM, shift=-1.0), ValueError, "shift must lie in"),
    (lambda: fn.adaptive_clip(eps=-1.0), ValueError, "eps must lie in"),
    (lambda: fn.state_dtype(ADAM, "mean"), TypeError, "state_dtype expects a dict"),
]


@pytest.mark.parametrize(("construct", "error", "message"), WRONG)
def test_constructor_rejects(construct, error, message):
    with pytest.raises(error, match=message):
        construct()
