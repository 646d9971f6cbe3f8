"""L-BFGS against Optax, PyTorch, SciPy and the dense formula; the line search at every step."""

import functools
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.problems import CURVATURE_STEPS, GOALS, PROBLEMS, SNAPSHOTS
from jax.flatten_util import ravel_pytree

import funcnet as fn

GOLDEN = np.load(Path(__file__).parent / "golden" / "curvature.npz")
STEPS = 60
compiled = functools.partial(jax.jit)


def path_of(optimizer, problem, steps):
    """Before each step the flat parameters, the loss and its gradient, and the optimizer's state
    after it."""

    def objective(params):
        return PROBLEMS[problem].loss(params, jnp)

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(objective)(params)
        known = fn.optimizers.Known(value, objective=objective)
        updates, state = fn.optimizers.hand_on(optimizer.update, grads, state, params, known)
        seen = ravel_pytree(params)[0], value, ravel_pytree(grads)[0], state
        return (fn.apply_updates(params, updates), state), seen

    start = [jnp.asarray(a) for a in PROBLEMS[problem].start]
    return jax.lax.scan(step, (start, optimizer.init(start)), length=steps + 1)[1]


descend = compiled(path_of, static_argnames=("problem", "steps"))


@pytest.mark.parametrize(("problem", "rate"), [("quadratic", 0.9), ("regression", 0.5)])
def test_fixed_steps_along_the_direction_are_the_golden_ones(problem, rate):
    golden = GOLDEN[f"optax/lbfgs_direction/{problem}"]
    with jax.enable_x64(True):
        optimizer = fn.chain(fn.lbfgs_direction(3), fn.sgd(rate))
        path, *_ = descend(optimizer, problem, CURVATURE_STEPS)
    path = np.asarray(path)[[s for s in SNAPSHOTS if s <= CURVATURE_STEPS]]
    moved = np.linalg.norm(golden - ravel_pytree(PROBLEMS[problem].start)[0], axis=1)
    error = np.linalg.norm(path - golden, axis=1)
    assert (error <= 1e-10 * moved).all(), error / moved


@pytest.mark.parametrize("curvature", [0.9, 0.1])
@pytest.mark.parametrize("problem", GOALS)
def test_every_step_satisfies_the_strong_wolfe_conditions(problem, curvature):
    with jax.enable_x64(True):
        seen = descend(fn.lbfgs(10, curvature=curvature), problem, STEPS)
    path, values, grads, state = jax.tree.map(np.asarray, seen)
    step = np.diff(path, axis=0)
    before, after = (grads[:-1] * step).sum(1), (grads[1:] * step).sum(1)
    moving = (values[:-1] > 1e-3 * GOALS[problem]) & (np.abs(step).max(1) > 0.0)
    rounding = 20.0 * np.finfo(float).eps * values[:-1]
    assert moving.sum() > 4
    assert (values[1:] <= values[:-1] + 1e-4 * before + rounding)[moving].all()
    assert (np.abs(after) <= curvature * np.abs(before) * (1.0 + 1e-9))[moving].all()
    used = 1 + np.cumsum(state.evaluations)
    if curvature == 0.1:
        assert (state.evaluations > 1).any(), "no interval was narrowed"
    else:
        reached = int(np.argmax(values[1:] <= GOALS[problem]))
        assert values[1:][reached] <= GOALS[problem]
        for peer in ("torch", "scipy"):
            assert used[reached] <= 1.2 * GOLDEN[f"{peer}/evaluations/{problem}"]
        assert (state.learning_rate[:-1][moving] == 1.0).mean() > 0.5


def test_vmap_over_its_numbers_is_a_loop():
    curvatures = np.array([0.1, 0.5, 0.9])
    with jax.enable_x64(True):
        optimizers = jax.vmap(lambda c: fn.lbfgs(10, curvature=c))(curvatures)
        swept = compiled(jax.vmap(lambda o: path_of(o, "rosenbrock", 12)[0]))(optimizers)
        for c, path in zip(curvatures, swept, strict=True):
            alone = descend(fn.lbfgs(10, curvature=float(c)), "rosenbrock", STEPS)[0][:13]
            np.testing.assert_allclose(path, alone, rtol=1e-9)


def dense_direction(points, grads, memory):
    """H g of the last pairs of positive curvature, as products of matrices."""
    steps, changes = np.diff(points, axis=0), np.diff(grads, axis=0)
    pairs = [(s, y) for s, y in zip(steps, changes, strict=True) if s @ y > 0.0][-memory:]
    identity = np.eye(points.shape[1])
    if not pairs:
        return min(1.0, 1.0 / np.linalg.norm(grads[-1])) * grads[-1]
    s, y = pairs[-1]
    inverse = s @ y / (y @ y) * identity
    for s, y in pairs:
        turn = identity - np.outer(y, s) / (s @ y)
        inverse = turn.T @ inverse @ turn + np.outer(s, s) / (s @ y)
    return inverse @ grads[-1]


def test_direction_is_the_dense_one_without_pairs_of_negative_curvature():
    rng = np.random.default_rng(3)
    points, grads = rng.normal(size=(9, 5)), rng.normal(size=(9, 5))
    grads += points * np.array([2.0, 1.0, 1.0, -2.0, 1.0])
    signs = (np.diff(points, axis=0) * np.diff(grads, axis=0)).sum(1) > 0.0
    assert signs.any()
    assert not signs.all()

    def as_tree(x):
        return {"a": x[:4].reshape(2, 2), "b": x[4]}

    @compiled
    def directions(points, grads):
        def step(state, inputs):
            updates, state = optimizer.update(as_tree(inputs[1]), state, as_tree(inputs[0]))
            return state, ravel_pytree(updates)[0]

        return jax.lax.scan(step, optimizer.init(as_tree(points[0])), (points, grads))[1]

    with jax.enable_x64(True):
        optimizer = fn.lbfgs_direction(3)
        found = directions(jnp.asarray(points), jnp.asarray(grads))
    expected = [dense_direction(points[: n + 1], grads[: n + 1], 3) for n in range(9)]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


WALLS = {  # f, where it starts so that a step of 1 goes too far, and its minimum
    "NaN beyond": (lambda x: (10.0 * x - jnp.log(x)).sum(), [0.5, 0.3], [0.1, 0.1]),
    "infinite beyond": (
        lambda x: jnp.where(x < 0.0, jnp.inf, (x - 0.1) ** 2).sum(),
        [0.5, 0.4],
        [0.1, 0.1],
    ),
    "overflow beyond": (lambda x: (jnp.exp(100.0 * x**4) - 30.0 * x).sum(), [0.1, -0.2], None),
}


@pytest.mark.parametrize("name", WALLS)
def test_a_step_too_far_is_shortened(name):
    objective, start, minimum = WALLS[name]
    optimizer = fn.lbfgs(5)

    @compiled
    def path(start):
        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(objective)(params)
            updates, state = optimizer.update(
                grads, state, params, value=value, objective=objective
            )
            params = params + updates
            return (params, state), (params, state, grads)

        return jax.lax.scan(step, (start, optimizer.init(start)), length=15)[1]

    params, state, grads = path(jnp.array(start))
    chex.assert_tree_all_finite((params, state, grads))
    assert state.evaluations[0] > 1
    assert 0.0 < state.learning_rate[0] < 1.0
    np.testing.assert_allclose(grads[-1], 0.0, atol=2e-3)
    if minimum is not None:
        np.testing.assert_allclose(params[-1], minimum, rtol=1e-3)


FORGETFUL = fn.lbfgs(2)


@compiled
def one_update(params, state, grads, radius):
    """An update on a bowl that is finite only so far away from ones."""

    def objective(x):
        return jnp.where(jnp.abs(x - 1.0).max() > radius, jnp.nan, (x**2).sum())

    return FORGETFUL.update(grads, state, params, value=(params**2).sum(), objective=objective)


def test_where_nothing_is_lower_it_stays_and_forgets():
    start = jnp.ones(2)
    updates, state = one_update(start, FORGETFUL.init(start), 2.0 * start, 9.0)
    np.testing.assert_allclose(updates, -np.sqrt(0.5), rtol=1e-6)
    assert state.memory.rho[-1] > 0.0
    updates, state = one_update(start, state, 2.0 * start, 0.0)
    np.testing.assert_array_equal(updates, 0.0)
    assert state.evaluations == 25
    np.testing.assert_array_equal(ravel_pytree(state.memory)[0], 0.0)


def test_a_step_is_shortened_by_orders_of_magnitude():
    with jax.enable_x64(True):
        start = jnp.ones(2)
        updates, state = one_update(start, FORGETFUL.init(start), 2.0 * start, 1e-12)
        assert 1e-14 < -float(updates[0]) <= 1e-12
        assert state.memory.rho[-1] > 0.0


def test_gradients_of_zero_and_not_finite():
    start = jnp.zeros(2)
    updates, state = one_update(start, FORGETFUL.init(start), start, 9.0)
    np.testing.assert_array_equal(updates, 0.0)
    assert state.evaluations == 0
    for wrong in (np.nan, np.inf):
        grads = jnp.array([wrong, 1.0])
        updates, state = one_update(start, FORGETFUL.init(start), grads, 9.0)
        assert np.isnan(updates[0])
        chex.assert_tree_all_finite(state)


def test_derivatives():
    """Forward, also through the search, they are the differences; the search's own numbers are
    compared with only."""

    def outcome(optimizer, decay):
        def objective(params):
            return PROBLEMS["rosenbrock"].loss(params, jnp) + decay * (params[0] ** 2).sum()

        def step(carry, _):
            params, state = carry
            grads = jax.grad(objective)(params)
            updates, state = optimizer.update(grads, state, params, objective=objective)
            return (fn.apply_updates(params, updates), state), state.learning_rate

        start = [jnp.asarray(a) for a in PROBLEMS["rosenbrock"].start]
        carry = start, optimizer.init(start)
        (params, _), lengths = jax.lax.scan(step, carry, length=4)
        return params[0] @ jnp.array([1.0, 2.0]), lengths

    with jax.enable_x64(True):
        optimizer, h = fn.lbfgs(3, curvature=0.1), 1e-6

        @compiled
        def along(decay):
            return jax.jvp(functools.partial(outcome, optimizer), (decay,), (1.0,))

        (up, _), (down, _) = (along(0.3 + d)[0] for d in (h, -h))
        slope, of_lengths = along(0.3)[1]
        grads = compiled(jax.grad(lambda o: outcome(o, 0.3)[0]))(optimizer)
    assert np.abs(np.asarray(of_lengths)).max() > 1e-3
    np.testing.assert_allclose(float(slope), (float(up) - float(down)) / (2.0 * h), rtol=1e-6)
    assert set(fn.hyperparameters(grads)) == {"update.curvature", "update.decrease"}
    assert [float(g) for g in jax.tree.leaves(grads)] == [0.0, 0.0]


def test_trains_a_network():
    x = np.sin(np.arange(40.0)).reshape(20, 2)
    data = jnp.asarray(x, jnp.float32), jnp.asarray(x[:, :1] * x[:, 1:], jnp.float32)
    task = fn.supervised(fn.mlp((2, 8, 1), fn.tanh), fn.mean_squared_error)
    trainer = fn.trainer(task, fn.chain(fn.lbfgs(5)))
    run = compiled(functools.partial(fn.run, steps=40, batch_size=None))
    result = run(trainer, data, jax.random.key(0))
    assert (np.diff(result.loss) <= 1e-6 * result.loss[:-1]).all()
    assert result.loss[-1] < 1e-3 * result.loss[0]
    assert (result.metrics["learning_rate"] > 0.0).all()
