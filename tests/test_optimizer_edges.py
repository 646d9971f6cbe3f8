"""Where optimizers differ from their peers on purpose, and their edges."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet.optimizers.arithmetic import moving_average

ONE = jnp.ones(2)


def updates_of(optimizer, grads, params=ONE):
    """The updates for one gradient after another, at parameters that stay."""

    def step(state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return state, updates

    state, found = jax.lax.scan(step, optimizer.init(params), jnp.asarray(grads, params.dtype))
    return np.asarray(found), state


@pytest.mark.parametrize("fraction", [1.0, 0.9, 0.5, 0.1, 1e-9])
def test_moving_average_is_that_of_float64(fraction):
    """Of numbers far larger and far smaller than the average, and of the average itself."""
    average, x = np.float32([1e9, 1e-3, 3.0, 1e-30, 0.0]), np.float32([1e-9, 1e8, 3.0, 0.0, 2.0])
    kept = 1.0 - float(np.float32(fraction))
    wanted = kept * average.astype(float) + (1.0 - kept) * x.astype(float)
    found = moving_average(jnp.asarray(average), fraction, jnp.asarray(x))
    np.testing.assert_allclose(found, wanted, rtol=3e-7)
    assert found[2] == 3.0


def test_a_decay_of_0_forgets_a_gradient_however_large():
    for optimizer in (fn.rmsprop(0.1, 0.0), fn.adam(0.1, 0.0, 0.0)):
        found, _ = updates_of(optimizer, [[1e4, 1.0], [0.1, -1e-3]])
        np.testing.assert_allclose(found, [[-0.1, -0.1], [-0.1, 0.1]], rtol=1e-4)


@pytest.mark.parametrize("make", [fn.adam, fn.rmsprop, fn.schedule_free_adamw, fn.adopt])
def test_a_square_beyond_the_range_is_seen_and_is_its_own_coordinate_s_alone(make):
    """Not as in the peers, whose average of squares stays infinite, and the coordinate still."""
    grads = np.float32([[1.0, 1.0], [1e25, 0.5], [-0.5, 2.0], [2e25, 1.0], [0.3, 0.1]])
    found, _ = updates_of(make(0.1), grads)
    alone, _ = updates_of(make(0.1), grads * [0.0, 1.0])
    assert np.isnan(found[-1, 0])
    np.testing.assert_array_equal(found[:, 1], alone[:, 1])


def test_rprop_answers_each_gradient_at_once():
    """Grown where the sign stays, shrunk and one step of rest where it turns."""
    grads = [[2.0, -1e-30], [1.0, -3e-30], [-5.0, 0.0], [-1.0, 2e-30], [-1.0, 1e-30]]
    found, _ = updates_of(fn.rprop(0.1), grads)
    size = 0.1 * 1.2 * 0.5
    expected = [[-0.1, 0.1], [-0.12, 0.12], [0.0, 0.0], [size, -0.12], [1.2 * size, -0.144]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_rprop_stays_within_its_bounds():
    found, _ = updates_of(
        fn.rprop(0.1, min_step_size=0.08, max_step_size=0.13),
        [[1.0, 1.0], [1.0, -1.0], [1.0, -1.0]],
    )
    np.testing.assert_allclose(found, [[-0.1, -0.1], [-0.12, 0.0], [-0.13, 0.08]], rtol=1e-6)


def test_prodigy_survives_gradients_of_zero():
    found, state = updates_of(fn.prodigy(), [[0.0, 0.0], [0.0, 0.0], [1.0, -1.0]])
    chex.assert_tree_all_finite((found, state))
    np.testing.assert_array_equal(found[:2], 0.0)
    assert found[2][0] < 0.0 < found[2][1]


def test_prodigy_finds_the_distance():
    def step(carry, _):
        x, state = carry
        updates, state = optimizer.update(jnp.sign(x - 5.0), state, x)
        return (x + updates, state), state.distance

    optimizer = fn.prodigy()
    start = jnp.zeros(3)
    _, distances = jax.lax.scan(step, (start, optimizer.init(start)), length=200)
    assert (jnp.diff(distances) >= 0.0).all()
    assert 1.0 < distances[-1] <= 5.0 * np.sqrt(3.0)


def test_schedule_free_evaluates_the_average():
    """With a falling rate the largest so far weighs each point alike: the average is the mean of
    z, and z is plain descent."""
    optimizer = fn.schedule_free_sgd(fn.inverse_time(0.3, 1.0), 0.75)
    y = jnp.array([1.0, -2.0])
    state = optimizer.init(y)
    np.testing.assert_array_equal(fn.schedule_free_eval(state, y), y)
    z, visited = np.array([1.0, -2.0]), []
    for rate, gradient in zip((0.3, 0.15, 0.1), ([1.0, 2.0], [-0.5, 1.0], [0.3, 0.0]), strict=True):
        updates, state = optimizer.update(jnp.asarray(gradient), state, y)
        y = y + updates
        z = z - rate * np.array(gradient)
        visited.append(z)
        x = np.mean(visited, axis=0)
        np.testing.assert_allclose(fn.schedule_free_eval(state, y), x, rtol=1e-5)
        np.testing.assert_allclose(y, 0.25 * z + 0.75 * x, rtol=1e-6)


def test_averaged_sgd_averages_from_its_start():
    found, state = updates_of(fn.averaged_sgd(0.1, decay=0.0, start=1.0), [[1.0, 2.0]] * 4)
    np.testing.assert_allclose(found, -0.1 * np.array([[1.0, 2.0]] * 4), rtol=1e-6)
    np.testing.assert_allclose(state.average, [0.9, 0.8], rtol=1e-6)


@pytest.mark.parametrize("make", [fn.averaged_sgd, fn.schedule_free_adamw, fn.prodigy])
def test_parameters_and_state_can_both_be_donated(make):
    optimizer, params = make(0.1), jnp.arange(3.0)
    step = jax.jit(lambda state, params: optimizer.update(ONE[0] * params, state, params),
                   donate_argnums=(0, 1))  # fmt: skip
    assert jnp.isfinite(step(optimizer.init(params), params)[0]).all()


DONATED = [fn.adamw(), fn.schedule_free_adamw(), fn.prodigy(), fn.averaged_sgd(), fn.adan()]
DONATED += [fn.lbfgs(2), fn.lbfgs_direction(2), fn.sophia(0.1), fn.soap(), fn.muon(), fn.rprop()]
DONATED += [fn.accumulate(fn.ema(fn.sgd(0.1)), 2), fn.lookahead(fn.kahan(fn.reduce_on_plateau()))]
DONATED += [fn.skip_spikes(fn.skip_non_finite(fn.graft(fn.adam(), fn.shampoo())))]


def test_no_two_numbers_of_a_first_state_share_memory():
    params = jnp.ones((2, 3))
    for optimizer in DONATED:
        leaves = jax.tree.leaves((optimizer.init(params), params))
        numbers = [x for x in leaves if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]
        assert len({x.unsafe_buffer_pointer() for x in numbers}) == len(numbers), optimizer


def test_decoupled_decay_goes_by_the_rate_that_was_used():
    falling = fn.inverse_time(0.5, 1.0)
    optimizer = fn.decoupled_decay(fn.chain(fn.clip_by_global_norm(1.0), fn.sgd(falling)), 0.1)
    found, _ = updates_of(optimizer, [[0.0, 0.0]] * 3, jnp.array([2.0, -4.0]))
    rates = 0.5 / np.array([[1.0], [2.0], [3.0]])
    np.testing.assert_allclose(found, -rates * 0.1 * np.array([[2.0, -4.0]]), rtol=1e-6)
    adam = fn.adam(0.1)
    with pytest.raises(ValueError, match="a learning_rate, got RpropState"):
        updates_of(fn.decoupled_decay(fn.rprop(), 0.1), [[1.0, 1.0]])
    with pytest.raises(TypeError, match=r"decoupled_decay expects an optimizer, got 0\.1"):
        fn.decoupled_decay(0.1, adam)


NEEDY = [fn.adamw, fn.lion, fn.lamb, fn.adafactor, fn.prodigy, fn.averaged_sgd]
NEEDY += [fn.schedule_free_sgd, fn.schedule_free_adamw]


@pytest.mark.parametrize("make", NEEDY, ids=lambda make: make.__name__)
def test_what_needs_the_parameters_says_so(make):
    optimizer = make(0.1)
    with pytest.raises(ValueError, match=r"needs the parameters: update\(grads, state, params\)"):
        optimizer.update(ONE, optimizer.init(ONE))


@pytest.mark.parametrize(
    ("shape", "min_size", "kept"),
    [
        ((), 1, [()]),
        ((7,), 1, [(7,)]),
        ((8, 16), 1, [(8, 1), (1, 16)]),
        ((16, 8), 1, [(1, 8), (16, 1)]),
        ((8, 16), 9, [(8, 16)]),
        ((3, 3, 8, 16), 4, [(3, 3, 8, 1), (3, 3, 1, 16)]),
    ],
)
def test_adafactor_keeps_rows_and_columns(shape, min_size, kept):
    optimizer = fn.adafactor(min_size=min_size)
    params = jnp.ones(shape, jnp.bfloat16)
    square = jax.eval_shape(optimizer.init, params).square
    assert [leaf.shape for leaf in square] == kept
    assert all(leaf.dtype == jnp.float32 for leaf in square)


def test_adafactor_of_a_product_is_that_of_the_whole():
    """Where g^2 is of rank 1 the two moments are the same."""
    gradient = jnp.outer(jnp.array([1.0, -2.0, 0.5]), jnp.array([0.3, 1.0]))
    each = [updates_of(fn.adafactor(min_size=m), [gradient] * 2, gradient)[0] for m in (1, 9)]
    np.testing.assert_allclose(*each, rtol=1e-5)


@pytest.mark.parametrize("make", [fn.adam, fn.adafactor, fn.lamb, fn.adan, fn.prodigy, fn.radam])
def test_hypergradient_is_finite_in_float32(make):
    """A whole row, an array and a single number without gradient, and a leaf of size 0."""
    params = {"a": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "b": jnp.zeros(2), "c": jnp.array(0.5)}
    params["none"] = jnp.zeros((0, 2))
    grads = {"a": jnp.array([[0.5, -1.0], [0.0, 0.0]]), "b": jnp.zeros(2), "c": jnp.array(0.0)}
    grads["none"] = params["none"]

    def length(optimizer):
        state = optimizer.init(params)
        for _ in range(2):
            updates, state = optimizer.update(grads, state, params)
        return fn.global_norm(updates) + updates["none"].sum()

    chex.assert_tree_all_finite(jax.jit(jax.grad(length))(make(0.1)))


def test_radam_that_never_rectifies_has_finite_hypergradients():
    """At b2 = 0.6 the length of the average tends to 4, where r has a pole."""

    def last(optimizer):
        state = optimizer.init(ONE)
        for _ in range(3):
            updates, state = optimizer.update(ONE, state)
        return updates.sum()

    with jax.enable_x64(True):
        slopes = jax.jit(jax.grad(last))(fn.radam(0.1, b2=0.6))
    chex.assert_tree_all_finite(slopes)


def test_lamb_moves_arrays_of_zeros():
    params = {"zero": jnp.zeros(2), "four": jnp.array([4.0, 0.0])}
    optimizer = fn.lamb(0.1)
    updates, _ = optimizer.update({"zero": ONE, "four": ONE}, optimizer.init(params), params)
    np.testing.assert_allclose(updates["zero"], [-0.1, -0.1], rtol=1e-4)
    np.testing.assert_allclose(updates["four"], 2 * [-0.1 * 4.0 / np.sqrt(2.0)], rtol=1e-4)


def test_adopt_looks_at_the_first_gradient_only():
    found, _ = updates_of(fn.adopt(0.1, 0.0, 0.5), [[2.0, -4.0], [1.0, -8.0], [9.0, 1.0]])
    np.testing.assert_allclose(found[0], [0.0, 0.0])
    np.testing.assert_allclose(found[1], [-0.05, 0.1], rtol=1e-6)
    np.testing.assert_allclose(found[2], [-0.1 * 2**0.25, -0.1 / np.sqrt(40.0)], rtol=1e-6)


RATED = [fn.adadelta, fn.adafactor, fn.adamax, fn.adamw, fn.adan, fn.ademamix, fn.adopt]
RATED += [fn.amsgrad, fn.lamb, fn.lion, fn.nadam, fn.radam, fn.schedule_free_adamw]
RATED += [fn.schedule_free_sgd, fn.sign_sgd, fn.signum]


@pytest.mark.parametrize("make", RATED, ids=lambda make: make.__name__)
def test_the_rate_is_in_the_state_for_the_trainers_metrics(make):
    optimizer = make(fn.inverse_time(0.5, 1.0))
    state, update = optimizer.init(ONE), jax.jit(optimizer.update)
    for rate in (0.5, 0.25):
        _, state = update(ONE, state, ONE)
        assert state.learning_rate == rate
    assert state.count == 2
    last = jnp.int32(2**31 - 1)
    updates, state = update(ONE, state._replace(count=last), ONE)
    chex.assert_tree_all_finite((updates, state))
    assert state.count == last  # and not back to -2^31


TURNING = [fn.sgd, fn.momentum, fn.nesterov, fn.adagrad, fn.adadelta, fn.rmsprop, fn.adam, fn.adamw]
TURNING += [fn.adamax, fn.nadam, fn.amsgrad, fn.radam, fn.adan, fn.ademamix, fn.lamb, fn.lion]
TURNING += [fn.sign_sgd, fn.signum, fn.schedule_free_sgd, fn.schedule_free_adamw]
TURNING += [fn.averaged_sgd, fn.rprop, fn.adopt, fn.adafactor]
TURNING += [functools.partial(fn.rmsprop, centered=True)]
TURNING += [functools.partial(fn.prodigy, initial_distance=0.1)]


def test_complex_parameters_are_magnitudes_and_directions():
    """Turned by a unit number, parameters and gradients give updates turned by it; and a complex
    number that stays real moves as the real one does."""

    optimizers = [make(0.1) for make in TURNING]

    def moved(params, grads):
        def step(carry, gradient):
            found = []
            for optimizer, here, state in zip(optimizers, *carry, strict=True):
                updates, state = optimizer.update(gradient, state, here)
                found.append((fn.apply_updates(here, updates), state))
            return tuple(map(list, zip(*found, strict=True))), None

        start = [params] * len(optimizers), [each.init(params) for each in optimizers]
        return jnp.stack(jax.lax.scan(step, start, grads)[0][0])

    params, grads = jnp.array([1.0, -2.0]), jnp.array([[0.5, 3.0], [-1.0, 1.0], [0.2, -0.3]])
    turn = jnp.complex64(np.exp(0.7j))
    real = jax.jit(moved)(params, grads)
    assert float(jnp.abs(real - params).min()) > 1e-5
    moved = jax.jit(moved)
    np.testing.assert_allclose(moved(params + 0j, grads + 0j), real, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(moved(turn * params, turn * grads), turn * real, rtol=1e-5)
