"""What reaches updates beside gradients; Sophia and sharpness-aware gradients against Optax, the
papers' formulas in NumPy, and differences."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.problems import (
    CURVATURE_STEPS,
    CURVATURES,
    PROBLEMS,
    SNAPSHOTS,
    SOPHIA,
    separate,
)
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

import funcnet as fn
from funcnet.optimizers import Known, hand_on
from funcnet.verify_optimizer import check_contract, example_params

GOLDEN = np.load(Path(__file__).parent / "golden" / "curvature.npz")
KEPT = np.array([s for s in SNAPSHOTS if s <= CURVATURE_STEPS]) - 1
compiled = functools.partial(jax.jit)


class Witness(NamedTuple):
    seen: Any  # updates that had the objective
    value: Any  # how far it was from the loss
    grads: Any  # how far its gradient was from the gradient


def witness_update(grads, state, params=None, *, value=None, objective):
    own, slopes = jax.value_and_grad(objective)(params)
    apart = [
        jnp.abs(x - y).max() for x, y in zip(*map(jax.tree.leaves, (grads, slopes)), strict=True)
    ]
    updates = jax.tree.map(lambda g: -0.1 * g, grads)
    return updates, Witness(state.seen + 1, jnp.abs(own - value), jnp.stack(apart).max())


def witness_init(params):
    return Witness(jnp.zeros((), jnp.int32), jnp.zeros(()), jnp.zeros(()))


WITNESS = fn.Optimizer(Partial(witness_init), Partial(witness_update))
PARAMS = {"a": jnp.array([0.5, -1.0]), "b": jnp.array([2.0])}
HANDED = {
    "chain": lambda o: fn.chain(fn.chain(o), fn.sgd(0.1)),
    "partition": lambda o: fn.partition({"a": "x", "b": "y"}, {"x": o, "y": fn.freeze()}),
    "wrappers": lambda o: fn.skip_non_finite(fn.cautious(o)),
    "averages": lambda o: fn.ema(fn.swa(fn.lookahead(o), 1)),
    "kahan": fn.kahan,
    "stochastic_rounding": fn.stochastic_rounding,
    "state_dtype": lambda o: fn.state_dtype(o, {"value": jnp.float32}),
}


def coupled(params):
    return (params["a"].prod() * params["b"] ** 2).sum() + (params["a"] ** 3).sum()


def witnesses(state):
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, Witness))
    return [node for node in nodes if isinstance(node, Witness)]


def test_the_objective_is_handed_on_and_has_the_gradients():
    @compiled
    def one_update(params):
        value, grads = jax.value_and_grad(coupled)(params)
        known, found = Known(value, objective=coupled), {}
        for name, make in HANDED.items():
            optimizer = make(WITNESS)
            state = optimizer.init(params)
            found[name] = hand_on(optimizer.update, grads, state, params, known)[1]
        return found

    for dtype in (jnp.float32, jnp.bfloat16):
        for name, state in one_update(jax.tree.map(lambda p, d=dtype: p.astype(d), PARAMS)).items():
            (found,) = witnesses(state)
            assert found == (1, 0.0, 0.0), (name, dtype)


NEEDY = {"lbfgs": fn.lbfgs(2), "sophia": fn.sophia(0.1)}


@pytest.mark.parametrize("name", NEEDY)
def test_without_the_objective_an_update_says_what_it_needs(name):
    optimizer, params = NEEDY[name], jnp.ones(2)
    with pytest.raises(ValueError, match=f"{name} needs the objective, params -> loss"):
        optimizer.update(params, optimizer.init(params), params)
    with pytest.raises(ValueError, match="needs the parameters"):
        optimizer.update(params, optimizer.init(params), objective=jnp.sum)
    twice = fn.accumulate(optimizer, 2)
    with pytest.raises(ValueError, match=f"{name} needs the objective, .* but for accumulate"):
        hand_on(twice.update, params, twice.init(params), params, Known(1.0, objective=jnp.sum))
    z = jnp.ones(2, complex)
    with pytest.raises(ValueError, match=f"{name} expects real parameters"):
        optimizer.update(z, optimizer.init(z), z, objective=lambda z: jnp.abs(z).sum())


@pytest.mark.parametrize("name", [*NEEDY, "lbfgs_direction"])
def test_updates_and_state_keep_structure_and_dtypes(name):
    optimizer = NEEDY.get(name, fn.lbfgs_direction(2))
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        params = jax.tree.map(lambda p, d=dtype: p.astype(d), example_params())
        check_contract(optimizer, params, dtype.__name__)
    check_contract(optimizer, {}, "an empty tree")
    with jax.enable_x64(True):
        check_contract(optimizer, {"x": jnp.ones(3), "y": jnp.ones(2, jnp.float32)}, "float64")


NOISY = fn.serial(fn.dense(3, 8), fn.batch_norm(8), fn.tanh, fn.dropout(0.5), fn.dense(8, 1))
X = np.sin(np.arange(36.0)).reshape(12, 3).astype(np.float32)
DATA = X, X[:, :1] * X[:, 1:2]


def test_the_trainer_offers_the_loss_of_this_batch_with_this_key():
    trainer = fn.trainer(fn.supervised(NOISY, fn.mean_squared_error), WITNESS)
    run = compiled(functools.partial(fn.run, steps=5, batch_size=4))
    found = run(trainer, DATA, jax.random.key(0)).state.opt_state
    assert found.seen == 5
    assert found.value < 1e-6
    assert found.grads < 1e-6


def path_of(optimizer, loss, start, steps=CURVATURE_STEPS):
    """The flat parameters after each step, [steps, size]."""

    def objective(params):
        return loss(params, jnp)

    def step(carry, _):
        params, state = carry
        known = Known(objective=objective)
        updates, state = hand_on(
            optimizer.update, jax.grad(objective)(params), state, params, known
        )
        params = fn.apply_updates(params, updates)
        return (params, state), ravel_pytree(params)[0]

    return jax.lax.scan(step, (start, optimizer.init(start)), length=steps)[1]


def as_sophia(learning_rate, b1, b2, gamma, weight_decay, update_interval, eps=1e-8):
    return fn.sophia(
        learning_rate, b1, b2, gamma=gamma, eps=eps, weight_decay=weight_decay,
        every=update_interval,
    )  # fmt: skip


descend = compiled(path_of, static_argnames=("loss", "steps"))


@pytest.mark.parametrize("name", SOPHIA)
def test_sophia_is_the_golden_one(name):
    golden = GOLDEN[f"optax/sophia/{name}"]
    with jax.enable_x64(True):
        path = descend(as_sophia(**SOPHIA[name]), separate.loss, jnp.asarray(separate.start))
    error = np.linalg.norm(np.asarray(path)[KEPT] - golden, axis=1)
    assert (error <= 1e-12 * np.linalg.norm(golden - separate.start, axis=1)).all(), error


SLOPE = np.array([1.0, 0.5, -0.3, 0.02])


def quartic(x, xp):
    """A diagonal Hessian, 3 x_i^2 + c_i, which changes on the way and may be negative."""
    return (0.25 * x**4 + 0.5 * xp.asarray(SLOPE) * x**2).sum()


def liu_2023(x, rate, steps):
    """Algorithm 3, every third step with a new estimate."""
    mean, hessian = np.zeros(4), np.zeros(4)
    for t in range(steps):
        mean = 0.9 * mean + 0.1 * (x**3 + SLOPE * x)
        if t % 3 == 0:
            hessian = 0.8 * hessian + 0.2 * (3.0 * x**2 + SLOPE)
        x = x - rate * 0.1 * x
        yield (x := x - rate * np.clip(mean / np.maximum(0.5 * hessian, 0.02), -1.0, 1.0))


def test_sophia_is_the_loop_of_the_paper():
    start = np.array([1.5, -1.0, 0.2, 0.05])
    optimizer = fn.sophia(0.05, 0.9, 0.8, gamma=0.5, eps=0.02, weight_decay=0.1, every=3)
    with jax.enable_x64(True):
        path = descend(optimizer, quartic, jnp.asarray(start))
    np.testing.assert_allclose(path, list(liu_2023(start, 0.05, CURVATURE_STEPS)), rtol=1e-11)


def test_hutchinson_is_right_in_the_mean_and_by_its_signs():
    rng = np.random.default_rng(0)
    half = rng.normal(size=(5, 5))
    hessian = half + half.T + 5.0 * np.diag(np.arange(5.0))
    optimizer, start = fn.sophia(0.1, b2=0.75, every=2), jnp.ones(5)

    def objective(x):
        return 0.5 * x @ jnp.asarray(hessian, x.dtype) @ x

    def estimates(seed):
        state = optimizer.init(start)._replace(key=jax.random.key(seed))
        kept = []
        for _ in range(3):
            _, state = optimizer.update(start, state, start, objective=objective)
            kept.append(state.hessian)
        return jnp.stack(kept)

    found = np.asarray(compiled(jax.vmap(estimates))(jnp.arange(4000)), float)
    signs = np.array(list(np.ndindex(2, 2, 2, 2, 2))) * 2.0 - 1.0
    possible = signs * (signs @ hessian)
    first, second = 4.0 * found[:, 0], 4.0 * found[:, 2] - 3.0 * found[:, 0]
    for estimate in (first, second):
        distance = np.abs(estimate[:200, None] - possible).max(-1).min(1)
        assert distance.max() < 1e-4
        deviation = np.sqrt((hessian**2).sum(1) - np.diag(hessian) ** 2)
        assert (np.abs(estimate.mean(0) - np.diag(hessian)) < 4.0 * deviation / 4000**0.5).all()
    assert np.abs(np.corrcoef(first[:, 0], second[:, 0])[0, 1]) < 0.1
    np.testing.assert_array_equal(found[:, 1], found[:, 0])


def test_the_estimate_is_a_branch_of_its_own_under_vmap():
    """The state's count is not batched, so what is not due is not computed."""

    def run(rate):
        return path_of(fn.sophia(rate), quartic, jnp.ones(4), steps=3)

    with jax.enable_x64(True):
        text = str(jax.make_jaxpr(jax.vmap(run))(jnp.array([0.1, 0.2])))
    assert "cond[" in text


SAM = {"regression": 0.1, "rosenbrock": 0.05}


def by_engine(engine, optimizer, loss, start, steps=CURVATURE_STEPS):
    """The flat parameters after each step of a trainer without data."""

    def whole(params, state, batch, *, key=None, train=False):
        return loss(params, jnp), (state, {})

    trainer = fn.trainer(fn.Task(lambda key: (start, ()), whole), optimizer, engine)

    def step(state, _):
        state, _ = trainer.step(state, None)
        return state, ravel_pytree(state.params)[0]

    return jax.lax.scan(step, trainer.init(jax.random.key(0)), length=steps)[1]


@pytest.mark.parametrize("problem", SAM)
def test_sam_is_the_golden_one(problem):
    golden = GOLDEN[f"optax/sam/{problem}"]
    with jax.enable_x64(True):
        start = [jnp.asarray(a) for a in PROBLEMS[problem].start]
        path = compiled(
            lambda engine: by_engine(engine, fn.momentum(0.05), PROBLEMS[problem].loss, start)
        )(fn.sam(SAM[problem]))
        moved = np.linalg.norm(golden - ravel_pytree(start)[0], axis=1)
    error = np.linalg.norm(np.asarray(path)[KEPT] - golden, axis=1)
    assert (error <= 1e-12 * moved).all(), error / moved


def test_asam_is_the_formula_of_the_paper():
    x, curvature, step = np.array(separate.start), np.array(CURVATURES), 0.01
    points = []
    for _ in range(4):
        gradient = curvature * (x - 0.5 * np.arange(5.0))
        size = np.abs(x) + 0.05
        worst = x + 0.3 * size**2 * gradient / np.linalg.norm(size * gradient)
        x = x - step * curvature * (worst - 0.5 * np.arange(5.0))
        points.append(x)
    with jax.enable_x64(True):
        start, engine = jnp.asarray(separate.start), fn.asam(0.3, eta=0.05)
        path = by_engine(engine, fn.sgd(step), separate.loss, start, steps=4)
    np.testing.assert_allclose(path, points, rtol=1e-12)


@pytest.mark.parametrize("make", [fn.sam, fn.asam])
def test_the_way_of_sam_leads_up_from_complex_parameters_too(make):
    """Of a |w - b|^2 the gradient there is that of |w - b| + the way, along w - b."""
    w, b = jnp.complex64([1.0 + 2.0j]), jnp.complex64([0.5 - 1.0j])

    def bowl(w):
        return (jnp.abs(w - b) ** 2).sum()

    way = 0.25 * (float(jnp.abs(w[0])) if make is fn.asam else 1.0)
    _, slope = make(0.25, **({"eta": 0.0} if make is fn.asam else {}))(bowl)(w)
    wanted = 2.0 * (w - b) * (1.0 + way / jnp.abs(w - b))
    np.testing.assert_allclose(slope.conj(), wanted, rtol=1e-5)


@pytest.mark.parametrize(("make", "length"), [(fn.sam, 0.5), (fn.asam, 0.5 * 0.01)])
@pytest.mark.parametrize("scale", [0.0, 1e-25, 1e25])
def test_sharpness_at_gradients_of_any_size(make, length, scale):
    """The point is theta where g = 0, and rho g / |g| away also where |g|^2 leaves the range."""

    def loss(x):
        return scale * (x[0] - 2.0 * x[1] + 0.5 * (x**2).sum()), "aux"

    (value, aux), grads = make(0.5)(loss, has_aux=True)(jnp.zeros(2))
    assert aux == "aux"
    assert value == 0.0
    expected = scale * (1.0 + length / 5.0**0.5) * np.array([1.0, -2.0])
    np.testing.assert_allclose(grads, expected, rtol=1e-6)


def sharp_trainer(rho, engine=jax.value_and_grad, network=NOISY):
    task = fn.supervised(network, fn.mean_squared_error)
    return fn.trainer(task, fn.sgd(0.1), fn.sam(rho, engine))


def test_the_radius_is_a_number_of_the_trainer():
    """Swept, differentiated, and one trace for any value."""
    plain, traces = fn.serial(fn.dense(3, 1), fn.tanh), []

    def last_loss(trainer):
        traces.append(trainer)
        data = jax.tree.map(lambda a: jnp.asarray(a, float), DATA)
        return fn.run(trainer, data, jax.random.key(0), steps=4, batch_size=5).loss[-1]

    with jax.enable_x64(True):
        trainer = sharp_trainer(0.2, network=plain)
        assert fn.hyperparameters(trainer)["step.value_and_grad.ascend.rho"] == 0.2
        slope = jax.jit(jax.value_and_grad(last_loss))
        _, grads = slope(trainer)
        h = 1e-5
        up, down = (slope(sharp_trainer(0.2 + d, network=plain))[0] for d in (h, -h))
        assert len(traces) == 1
        of_rho = fn.hyperparameters(grads)["step.value_and_grad.ascend.rho"]
        np.testing.assert_allclose(float(of_rho), float(up - down) / (2.0 * h), rtol=1e-6)
        assert abs(float(of_rho)) > 1e-6
        swept = compiled(jax.vmap(lambda rho: last_loss(sharp_trainer(rho, network=plain))))
        found = swept(jnp.array([0.2 + h, 0.2 - h]))
        np.testing.assert_allclose(found, [float(up), float(down)], rtol=1e-12)


def test_sharpness_takes_state_and_metrics_of_the_first_pass_from_any_engine():
    trainers = {
        "plain": fn.trainer(fn.supervised(NOISY, fn.mean_squared_error), fn.sgd(0.1)),
        "sam": sharp_trainer(0.2),
        "by hand": sharp_trainer(0.2, fn.chain_rule.value_and_grad),
    }
    start = trainers["plain"].init(jax.random.key(1))

    @compiled
    def steps(trainers):
        return {name: trainer.step(start, DATA) for name, trainer in trainers.items()}

    after = steps(trainers)
    plain, sharp = after["plain"], after["sam"]
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6), sharp[0].state, plain[0].state
    )
    np.testing.assert_allclose(sharp[1]["loss"], plain[1]["loss"], rtol=1e-6)
    apart = ravel_pytree(sharp[0].params)[0] - ravel_pytree(plain[0].params)[0]
    assert np.abs(apart).max() > 1e-4
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
        after["by hand"][0].params,
        sharp[0].params,
    )


def test_an_engine_is_a_choice_and_its_numbers_are_leaves():
    plain = fn.trainer(fn.supervised(NOISY, fn.mean_squared_error), fn.sgd(0.1))
    bound = functools.partial(fn.chain_rule.value_and_grad, rules=fn.chain_rule.RULES)
    own = len(jax.tree.leaves(plain))
    for engine, more in ((bound, 1), (fn.sam(0.1, bound), 2)):
        trainers = [sharp_trainer(rho, engine) for rho in (0.1, 0.2)]
        assert [len(jax.tree.leaves(t)) for t in trainers] == [own + more] * 2
        assert jax.tree.structure(trainers[0]) == jax.tree.structure(trainers[1])
    assert jax.tree.structure(sharp_trainer(0.1, bound)) != jax.tree.structure(sharp_trainer(0.1))
    with pytest.raises(ValueError, match=r"rho must lie in \[0, inf\], got -1"):
        fn.sam(-1)
    with pytest.raises(TypeError, match="bind choices with fix"):
        fn.sam(0.1, Partial(jax.value_and_grad, argnums=0))
