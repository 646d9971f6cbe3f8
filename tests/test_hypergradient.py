"""Rematerialised runs, hypergradients against differences, and descent against closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

import funcnet as fn

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 3))
LABELS = np.arange(20, dtype=np.int32) % 3
TRAIN, VALIDATION = (X[:13], LABELS[:13]), (X[13:], LABELS[13:])
KEY = jax.random.key(4)


def build(learning_rate=0.05):
    """Two optimizers with schedules, and transforms, a loss and a layer with numbers."""
    network = fn.serial(fn.dense(3, 3), fn.tanh, fn.dropout(0.2))
    loss = Partial(fn.cross_entropy, label_smoothing=0.1, weight=jnp.array([1.0, 2.0, 0.5]))
    optimizers = {
        "adam": fn.adam(fn.warmup_cosine(learning_rate, 3.5, 20.5, end=0.01), b2=0.9, eps=1e-2),
        "nesterov": fn.nesterov(fn.piecewise_linear((0.5, 6.5, 11.5), (0.1, 0.3, 0.05)), 0.8),
    }
    parts = fn.partition({"0.weight": "adam", "0.bias": "nesterov"}, optimizers)
    optimizer = fn.chain(fn.clip_by_global_norm(0.4), fn.add_decayed_weights(0.05), parts)
    return fn.trainer(fn.supervised(network, loss), optimizer)


def reporting_step(state, batch, *, step):
    state, metrics = step(state, batch)
    return state, {**metrics, "params": state.params}


def test_rematerialised_is_resume_bit_for_bit_at_any_number_of_steps():
    network = fn.serial(fn.dense(3, 3), fn.dropout(0.2))
    trainer = fn.trainer(fn.supervised(network, fn.cross_entropy), fn.momentum(0.1))
    trainer = fn.Trainer(trainer.init, Partial(reporting_step, step=trainer.step))
    data = jax.tree.map(jnp.asarray, (X.astype(np.float32), LABELS))
    start = jax.jit(trainer.init)(KEY)

    def result(resume, steps):
        run = functools.partial(resume, steps=steps, batch_size=6)
        full = {"xla_backend_optimization_level": 3}
        return jax.jit(run, compiler_options=full)(trainer, data, start)

    whole = result(fn.resume, 12)
    for steps in (1, 7, 12):  # 1 * 1, 3 * 2 + 1, 4 * 3
        state, *history = result(fn.resume_rematerialised, steps)
        expected = jax.tree.map(lambda a, n=steps: a[:n], (whole.loss, whole.metrics))
        params = jax.tree.map(lambda a: a[-1], expected[1]["params"])
        got = jax.tree.leaves((history, state.params, state.step))
        for a, b in zip(got, jax.tree.leaves((expected, params, steps)), strict=True):
            np.testing.assert_array_equal(a, b)
    for a, b in zip(*map(jax.tree.leaves, (state.opt_state, whole.state.opt_state)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_memory_of_the_gradient_grows_as_the_root_of_the_steps():
    def loss(params, state, batch, *, key=None, train=False):
        return jnp.square(jnp.tanh(batch @ params)).mean(), (state, {})

    task, data = fn.Task(lambda key: (jnp.eye(3, 200), ()), loss), X.astype(np.float32)

    def temporaries(resume, steps):
        def last(trainer, start):
            state = resume(trainer, data, start, steps=steps, batch_size=6).state
            return state.params.sum()

        trainer = fn.trainer(task, fn.momentum(0.1))
        start = jax.eval_shape(trainer.init, KEY)
        compiled = jax.jit(jax.grad(last)).lower(trainer, start).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    plain, much = temporaries(fn.resume, 100), temporaries(fn.resume_rematerialised, 1600)
    little = temporaries(fn.resume_rematerialised, 100)
    assert much < 6 * little
    assert much < plain


def perturbed(leaves, index, step):
    return [leaf + step * (i == index) for i, leaf in enumerate(leaves)]


def test_hypergradients_are_those_of_differences_and_of_forward_mode():
    """For every number in a trainer, 12 steps of it."""
    with jax.enable_x64(True):
        trainer = jax.tree.map(jnp.float64, build())
        sizes = {"steps": 12, "batch_size": 6}
        both = [
            functools.partial(fn.hypergradient, **sizes, value_and_grad=engine)
            for engine in (jax.value_and_grad, fn.forward_value_and_grad)
        ]
        loss, slopes = jax.jit(both[0])(trainer, TRAIN, VALIDATION, KEY)
        again, forward = jax.jit(both[1])(trainer, TRAIN, VALIDATION, KEY)

        def outcome(trainer):
            state = fn.run(trainer, TRAIN, KEY, **sizes).state
            return fn.evaluate(trainer, state, VALIDATION)["loss"]

        flat, back = ravel_pytree(trainer)
        steps = 1e-5 * np.maximum(abs(flat), 1e-2)
        moved = np.concatenate([flat + np.diag(steps), flat - np.diag(steps), flat[None]])
        values = jax.jit(jax.vmap(lambda flat: outcome(back(flat))))(moved)
        up, down = values[:-1].reshape(2, -1)
        np.testing.assert_allclose([loss, again], values[-1], rtol=1e-12)
        flat_slopes, flat_forward = (ravel_pytree(t)[0] for t in (slopes, forward))
        np.testing.assert_allclose(flat_slopes, flat_forward, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(flat_slopes, (up - down) / (2 * steps), rtol=1e-6, atol=1e-8)


def quadratic_loss(params, state, batch, *, key=None, train=False, share):
    return (params - share * batch.mean()) ** 2, (state, {})


def zero(key):
    return jnp.zeros(()), ()


def quadratic(learning_rate, share=0.6):
    """Of the data's mean m: theta = p m (1 - (1 - 2 eta)^T) after T steps from 0."""
    task = fn.Task(Partial(zero), Partial(quadratic_loss, share=share))
    return fn.trainer(task, fn.sgd(learning_rate))


def distance(trainer, state, validation):
    return (state.params - validation) ** 2


LEARNT = {"learning_rate.value": fn.log_space, "share": fn.logit_space}
MEAN, TARGET, STEPS = 2.0, 1.5, 7


def descent(trainer, optimizer, key, *, learnt=LEARNT, **choices):
    points = jnp.array([MEAN - 1.0, MEAN + 1.0])
    sizes = {"outer_steps": 5, "steps": STEPS, "batch_size": None, "outer_loss": distance}
    return fn.hypergradient_descent(
        trainer, optimizer, points, TARGET, key, learnt=learnt, **{**sizes, **choices}
    )


@pytest.mark.parametrize("engine", [jax.value_and_grad, fn.forward_value_and_grad])
def test_descent_is_the_closed_form_in_log_and_logit_space(engine):
    with jax.enable_x64(True):
        run = jax.jit(functools.partial(descent, value_and_grad=engine))
        found = run(quadratic(0.05), fn.sgd(0.2), KEY)
        line = np.array([np.log(0.05), np.log(0.6 / 0.4)])
        for index in range(5):
            eta, p = np.exp(line[0]), 1 / (1 + np.exp(-line[1]))
            left = (1 - 2 * eta) ** STEPS
            error = p * MEAN * (1 - left) - TARGET
            slope_eta = 2 * error * p * MEAN * 2 * STEPS * (1 - 2 * eta) ** (STEPS - 1)
            slopes = np.array([slope_eta * eta, 2 * error * MEAN * (1 - left) * p * (1 - p)])
            rates, shares = (found.values[name] for name in NAMES)
            np.testing.assert_allclose([rates[index], shares[index]], [eta, p], rtol=1e-12)
            np.testing.assert_allclose(found.loss[index], error**2, rtol=1e-11)
            norm = found.metrics["gradient_norm"][index]
            np.testing.assert_allclose(norm, np.linalg.norm(slopes), rtol=1e-11)
            line -= 0.2 * slopes
        last = fn.hyperparameters(found.trainer)
        learnt = [last[name] for name in NAMES]
        np.testing.assert_allclose(learnt, [np.exp(line[0]), 1 / (1 + np.exp(-line[1]))])
        assert found.skipped == 0


NAMES = ["step.update.learning_rate.value", "step.loss.share"]


def test_a_member_that_diverges_is_skipped_and_leaves_its_neighbours_alone():
    trainers = jax.vmap(quadratic)(jnp.array([0.05, 1e10]))
    outer = fn.chain(fn.clip_by_global_norm(0.1), fn.adam(0.1))
    both = jax.jit(jax.vmap(descent, in_axes=(0, None, None)))(trainers, outer, KEY)
    np.testing.assert_array_equal(both.skipped, [0, 5])
    rates = both.values[NAMES[0]]
    np.testing.assert_allclose(rates[1], 1e10, rtol=1e-5)
    assert (jnp.diff(rates[0]) > 0.0).all()
    assert (jnp.diff(both.loss[0]) < 0.0).all()
    assert not jnp.isfinite(both.loss[1]).any()


def normal(key):
    return jax.random.normal(key), ()


def test_seeds_are_averaged_and_new_at_every_outer_step():
    """From theta ~ N(0, 1) the mean of (theta_T - v)^2 has the variance (1 - 2 eta)^(2 T) too."""
    task = fn.Task(Partial(normal), Partial(quadratic_loss, share=0.6))
    trainer = fn.trainer(task, fn.sgd(0.05))
    still, learnt = fn.sgd(0.0), {"learning_rate.value": fn.linear_space}
    many = jax.jit(functools.partial(descent, learnt=learnt, seeds=4000))(trainer, still, KEY)
    left = 0.9**STEPS
    error = 0.6 * MEAN * (1 - left) - TARGET
    np.testing.assert_allclose(many.loss, error**2 + left**2, rtol=0.1)
    slope = (2 * error * 0.6 * MEAN - 2 * left) * 2 * STEPS * 0.9 ** (STEPS - 1)
    np.testing.assert_allclose(many.metrics["gradient_norm"], abs(slope), rtol=0.1)
    assert len(set(many.loss.tolist())) == 5
    np.testing.assert_allclose(many.values[NAMES[0]], 0.05, rtol=1e-6)


def test_what_is_learnt_must_be_there():
    with pytest.raises(ValueError, match=r"names of .*_rate.value'.* 'rate' is none of them"):
        descent(quadratic(0.1), fn.sgd(0.1), KEY, learnt={**LEARNT, "rate": fn.log_space})
    with pytest.raises(ValueError, match=r"learnt expects at least one of .*, got <function"):
        descent(quadratic(0.1), fn.sgd(0.1), KEY, learnt=lambda name: None)
    with pytest.raises(TypeError, match=r"Bijector, such as log_space, for 'step.loss.share', got"):
        descent(quadratic(0.1), fn.sgd(0.1), KEY, learnt={"share": "log"})


@pytest.mark.parametrize("numbers", [(0.0, 0.6), (-0.1, 0.6), (0.1, 1.0), (0.1, 1.2)])
def test_a_number_begins_inside_its_line(numbers):
    """Where it is known: also bound inside of `jit`."""
    wrong = "step.update.learning_rate.value" if numbers[0] <= 0.0 else "step.loss.share"
    for run in (descent, jax.jit(lambda *args: descent(quadratic(*numbers), *args[1:]))):
        with pytest.raises(ValueError, match=f"{wrong} must begin inside its line, .* got "):
            run(quadratic(*numbers), fn.sgd(0.1), KEY)
