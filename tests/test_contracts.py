"""The five rules of the contracts, over every constructor that binds a number."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import funcnet as fn
from funcnet.pairs import number, partial, unbind

KEY = jax.random.key(5)
PARAMS = {"a": np.linspace(0.5, 1.5, 6).reshape(2, 3), "b": np.array([-0.7, 0.4])}
GRADS = [
    jax.tree.map(lambda p, t=t: np.cos(3.0 * p + t) * (1.0 + 0.3 * t), PARAMS) for t in range(4)
]
X = np.sin(np.arange(24.0)).reshape(8, 3)
LABELS = np.arange(8, dtype=np.int32) % 3


def train(optimizer, params=PARAMS, grads=GRADS):
    """The parameters after a few updates."""
    params, grads = jax.tree.map(lambda a: jnp.asarray(a, float), (params, grads))
    state = optimizer.init(params)
    for gradient in grads:
        updates, state = optimizer.update(gradient, state, params)
        params = fn.apply_updates(params, updates)
    return params


def use_optimizer(optimizer):
    return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(train(optimizer)))


def use_network(network):
    params, state = network.init(KEY)
    return jnp.sum(
        jnp.sin(network.apply(params, state, jnp.asarray(X, float), key=KEY, train=True)[0])
    )


def use_schedule(schedule):
    return sum(schedule(jnp.int32(step)) for step in (1, 3, 5, 7, 30))


def use_task(task):
    params, state = task.init(KEY)
    return task.loss(params, state, (jnp.asarray(X, float), LABELS), key=KEY, train=True)[0]


def use_trainer(trainer):
    return fn.run(trainer, (jnp.asarray(X, float), LABELS), KEY, steps=3, batch_size=5).loss[-1]


class Case(NamedTuple):
    name: str
    make: Callable[[Any], Any]  # a pair from one number, from which all of its numbers derive
    use: Callable[[Any], Any]  # a number that depends on all of the pair's
    leaves: int
    values: tuple[float, float] = (0.1, 0.3)


def task(value):
    network = fn.serial(fn.dense(3, 4), fn.tanh, fn.dropout(value), fn.dense(4, 3))
    loss = Partial(fn.fix(fn.cross_entropy, ignore_label=-1), label_smoothing=value)
    return fn.supervised(network, loss, metrics={"accuracy": fn.accuracy})


CASES = [
    Case("dropout", fn.dropout, use_network, 1),
    Case("leaky_relu", fn.leaky_relu, use_network, 1),
    Case("mlp", lambda v: fn.mlp([3, 4, 4, 2], fn.leaky_relu(v)), use_network, 2),
    Case(
        "serial",
        lambda v: fn.serial(fn.dense(3, 2), fn.serial(fn.dropout(v), fn.leaky_relu(v))),
        use_network,
        2,
    ),
    Case("constant", fn.constant, use_schedule, 1),
    Case("inverse_time", lambda v: fn.inverse_time(v, 2 * v), use_schedule, 2),
    Case(
        "warmup_cosine",
        lambda v: fn.warmup_cosine(v, 20 * v, 100 * v, start=v / 2, end=v / 3),
        use_schedule,
        5,
        (0.2, 0.3),
    ),
    Case("linear", lambda v: fn.linear(v, 2 * v, 100 * v, begin=v), use_schedule, 4),
    Case("polynomial", lambda v: fn.polynomial(v, 0, 100 * v, 1 + v, begin=v), use_schedule, 5),
    Case(
        "exponential",
        lambda v: fn.exponential(v, 1 - v, steps=20 * v, begin=v, end=v / 2),
        use_schedule,
        5,
    ),
    Case("step_decay", lambda v: fn.step_decay(v, 1 - v, 23 * v), use_schedule, 3),
    Case("cosine", lambda v: fn.cosine(v, 100 * v, end=v / 2), use_schedule, 3),
    Case("cosine_wave", lambda v: fn.cosine_wave(v, 110 * v, end=v / 2), use_schedule, 3),
    Case(
        "cosine_restarts",
        lambda v: fn.cosine_restarts(v, 23 * v, multiplier=1 + v, decay=1 - v, end=v / 3),
        use_schedule,
        5,
    ),
    Case(
        "inverse_square_root",
        lambda v: fn.inverse_square_root(v, 40 * v, start=v / 2, shift=v),
        use_schedule,
        4,
    ),
    Case(
        "warmup_stable_decay",
        lambda v: fn.warmup_stable_decay(v, 20 * v, 20 * v, 100 * v, start=v / 2, end=v / 3),
        use_schedule,
        6,
    ),
    Case(
        "one_cycle",
        lambda v: fn.one_cycle(v, 40 * v, 100 * v, div_factor=2 + v, final_div_factor=1 + v),
        use_schedule,
        5,
    ),
    Case(
        "linear_one_cycle",
        lambda v: fn.linear_one_cycle(v, 40 * v, 100 * v, div_factor=2 + v, final_div_factor=1 + v),
        use_schedule,
        5,
    ),
    Case(
        "cyclic",
        lambda v: fn.cyclic(v, 2 * v, 23 * v, 50 * v, cycle_decay=1 - v, step_decay=1 - v / 9),
        use_schedule,
        6,
    ),
    Case("piecewise", lambda v: fn.piecewise(v, (20 * v, 60 * v), (1 - v, 1 + v)), use_schedule, 5),
    Case(
        "piecewise_linear",
        lambda v: fn.piecewise_linear((10 * v, 90 * v), (v, 2 * v)),
        use_schedule,
        4,
        (0.11, 0.3),
    ),
    Case(
        "piecewise_cosine",
        lambda v: fn.piecewise_cosine((10 * v, 90 * v), (v, 2 * v)),
        use_schedule,
        4,
        (0.11, 0.3),
    ),
    Case("join", lambda v: fn.join([v, fn.linear(v, 2 * v, 57 * v)], [20 * v]), use_schedule, 6),
    Case("sgd", fn.sgd, use_optimizer, 1),
    Case("sgd-schedule", lambda v: fn.sgd(fn.inverse_time(v, v)), use_optimizer, 2),
    Case("momentum", lambda v: fn.momentum(v, 1 - v, dampening=v), use_optimizer, 3),
    Case(
        "momentum-rate-in-velocity",
        lambda v: fn.momentum(v, 1 - v, dampening=v, rate_in_velocity=True),
        use_optimizer,
        3,
    ),
    Case("nesterov", lambda v: fn.nesterov(v, 1 - v), use_optimizer, 2),
    Case("adagrad", lambda v: fn.adagrad(v, eps=v, initial_accumulator=v), use_optimizer, 3),
    Case("adagrad-in-root", lambda v: fn.adagrad(v, eps=v, eps_in_root=True), use_optimizer, 3),
    Case("rmsprop", lambda v: fn.rmsprop(v, 1 - v, eps=v), use_optimizer, 3),
    Case(
        "rmsprop-all",
        lambda v: fn.rmsprop(v, 1 - v, eps=v, centered=True, momentum=v, eps_in_root=True),
        use_optimizer,
        5,
    ),
    Case("adam", lambda v: fn.adam(v, 1 - v, 1 - v / 2, eps=v), use_optimizer, 4),
    Case("clip", fn.clip_by_global_norm, use_optimizer, 1),
    Case("decay", fn.add_decayed_weights, use_optimizer, 1),
    Case(
        "chain",
        lambda v: fn.chain(fn.clip_by_global_norm(v), fn.add_decayed_weights(v), fn.sgd(v)),
        use_optimizer,
        3,
    ),
    Case("supervised", task, use_task, 2),
    Case("trainer", lambda v: fn.trainer(task(v), fn.adam(v, eps=v)), use_trainer, 6),
]
by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@by_case
def test_numbers_are_float_leaves_and_init_binds_none(case):
    pair = case.make(case.values[0])
    leaves = jax.tree.leaves(pair)
    assert len(leaves) == case.leaves
    assert all(type(leaf) is float for leaf in leaves)
    if not isinstance(pair, Partial):
        assert jax.tree.leaves(pair[0]) == []
    if case.use not in (use_task, use_trainer):
        assert all(type(leaf) is float for leaf in jax.tree.leaves(case.make(1)))


@by_case
def test_equal_structure_and_one_trace_for_any_value(case):
    first, second = map(case.make, case.values)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    traces = []
    use = jax.jit(lambda pair: traces.append(pair) or case.use(pair))
    got = [use(first), use(second), use(case.make(case.values[0]))]
    assert len(traces) == 1
    assert got[0] == got[2]
    assert got[0] != got[1]


@by_case
def test_vmap_of_the_constructor_is_a_loop(case):
    values = jnp.linspace(*case.values, 3)
    sweep = jax.jit(jax.vmap(case.use))(jax.vmap(case.make)(values))
    loop = [case.use(case.make(float(value))) for value in values]
    np.testing.assert_allclose(sweep, loop, rtol=2e-5)


# A value that jumps has no gradient with respect to where it does.
@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c.name not in ("step_decay", "piecewise")],
    ids=lambda case: case.name,
)
def test_every_number_has_the_gradient_that_differences_give(case):
    with jax.enable_x64(True):
        pair = jax.tree.map(jnp.float64, case.make(case.values[0]))
        leaves, structure = jax.tree.flatten(pair)

        @jax.jit
        def use(leaves):
            return case.use(jax.tree.unflatten(structure, leaves))

        grads = jax.jit(jax.grad(use))(leaves)
        step = 1e-6
        for index, grad in enumerate(grads):
            up, down = list(leaves), list(leaves)
            up[index], down[index] = up[index] + step, down[index] - step
            slope = (use(up) - use(down)) / (2 * step)
            np.testing.assert_allclose(grad, slope, rtol=2e-5, atol=1e-9)
            assert abs(grad) > 1e-12


OPTIMIZERS = [case for case in CASES if case.use is use_optimizer]


@pytest.mark.parametrize("case", OPTIMIZERS, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32], ids=["bfloat16", "float32"])
def test_update_returns_the_dtypes_it_was_given(case, dtype):
    optimizer = case.make(jnp.float32(case.values[0]))
    params, grads = jax.tree.map(lambda a: jnp.asarray(a, dtype), (PARAMS, GRADS[0]))
    state = optimizer.init(params)
    updates, after = optimizer.update(grads, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(fn.apply_updates(params, updates), params)


STATIC = {
    "dense": lambda: fn.dense(3, 2),
    "mlp": lambda: fn.mlp((3, 4, 2)),
    "flatten": lambda: fn.flatten,
    "gelu": lambda: fn.serial(fn.gelu, fn.identity),
    "fix": lambda: Partial(fn.fix(fn.cross_entropy, ignore_label=-1)),
    "elu": lambda: fn.activation(fn.fix(jax.nn.elu, alpha=2.0)),
}


@pytest.mark.parametrize("make", STATIC.values(), ids=STATIC)
def test_static_choices_are_structure(make):
    assert jax.tree.leaves(make()) == []
    assert jax.tree.structure(make()) == jax.tree.structure(make())
    assert jax.tree.structure(fn.dense(3, 2)) != jax.tree.structure(fn.dense(3, 4))


def test_fix_tells_choices_apart_by_type():
    assert fn.fix(max, key=2) == fn.fix(max, key=2)
    assert len({fn.fix(max, key=2), fn.fix(max, key=2.0), fn.fix(max, key=True)}) == 3


def test_hyperparameters_have_names_and_lose_none():
    names = fn.hyperparameters(fn.trainer(task(0.1), fn.adam(0.2)))
    assert names["step.update.learning_rate.value"] == 0.2
    assert names["step.loss.apply.layers.2.rate"] == 0.1
    assert len(names) == 6

    @jax.tree_util.register_pytree_node_class
    class Pair:
        def __init__(self, *numbers):
            self.numbers = numbers

        def tree_flatten(self):
            return self.numbers, None

        @classmethod
        def tree_unflatten(cls, _, numbers):
            return cls(*numbers)

    twins = fn.hyperparameters(Partial(max, scale=Pair(1.0, 2.0)))
    assert sorted(twins.values()) == [1.0, 2.0]
    assert fn.hyperparameters(fn.relu) == {}


@pytest.mark.parametrize(
    "make", [lambda: fn.adam(b1=1.0), lambda: fn.adam(b2=1), lambda: fn.rmsprop(decay=1.0)]
)
def test_an_average_that_takes_nothing_in_is_refused(make):
    with pytest.raises(ValueError, match="must be less than 1"):
        make()


def test_an_initialisers_number_can_be_swept():
    def scaled_normal(key, shape, *, scale):
        return scale * jax.random.normal(key, shape)

    def spread(scale):
        network = fn.dense(50, 50, weight_init=Partial(scaled_normal, scale=scale))
        return network.init(KEY)[0]["weight"].std()

    np.testing.assert_allclose(jax.vmap(spread)(jnp.array([1.0, 3.0])), [1.0, 3.0], rtol=0.05)


CONSTRUCTORS = [fn.dropout, fn.leaky_relu, fn.sgd, fn.momentum, fn.nesterov, fn.adagrad, fn.rmsprop]
CONSTRUCTORS += [fn.adam, fn.clip_by_global_norm, fn.add_decayed_weights, fn.constant]
CONSTRUCTORS += [fn.warmup_cosine, fn.inverse_time, fn.dense, fn.mlp, fn.linear, fn.polynomial]
CONSTRUCTORS += [fn.exponential, fn.step_decay, fn.cosine, fn.cosine_wave, fn.cosine_restarts]
CONSTRUCTORS += [fn.inverse_square_root, fn.warmup_stable_decay, fn.one_cycle, fn.linear_one_cycle]
CONSTRUCTORS += [fn.cyclic, fn.piecewise, fn.piecewise_linear, fn.piecewise_cosine, fn.join]


@pytest.mark.parametrize("constructor", CONSTRUCTORS, ids=lambda c: c.__name__)
def test_misspelt_keywords_and_wrong_types_fail_at_construction(constructor):
    with pytest.raises(TypeError):
        constructor(leraning_rate=0.1)
    required = [
        p for p in inspect.signature(constructor).parameters.values() if p.default is p.empty
    ]
    for wrong in (True, "0.1", None):
        with pytest.raises((TypeError, ValueError)):
            constructor(*[wrong] * max(len(required), 1))
    assert not any(
        p.kind is p.VAR_KEYWORD for p in inspect.signature(constructor).parameters.values()
    )


def test_number():
    assert type(number("x", 3)) is float
    assert type(number("x", np.float32(0.5))) is float
    assert number("x", jnp.arange(3)).dtype == jnp.float32
    with pytest.raises(ValueError, match=r"rate must lie in \[0, 1\], got 1.5"):
        fn.dropout(1.5)
    with pytest.raises(TypeError, match="b1 must be a number, got True"):
        fn.adam(b1=True)


def test_what_would_hide_numbers_is_refused():
    inner = Partial(fn.cross_entropy, label_smoothing=0.1)
    with pytest.raises(TypeError, match="bind all keywords in one Partial"):
        partial(Partial(inner, weight=None))
    with pytest.raises(TypeError, match="numbers with Partial and choices with fix"):
        partial(functools.partial(inner, weight=None))
    with pytest.raises(TypeError, match="bind by keyword"):
        partial(Partial(fn.cross_entropy, 1.0))
    with pytest.raises(TypeError, match="fix goes inside Partial"):
        fn.fix(inner, ignore_label=-1)
    with pytest.raises(TypeError, match="must be floats, got -1 for ignore_label; bind choices"):
        fn.supervised(fn.identity, Partial(fn.cross_entropy, ignore_label=-1))
    with pytest.raises(TypeError, match="bind arrays with Partial"):
        fn.fix(fn.cross_entropy, weight=jnp.ones(3))
    with pytest.raises(ValueError, match="by keyword"):
        unbind(Partial(fn.cross_entropy, 1.0))
    with pytest.raises(TypeError, match=r"serial expects networks, got .* at position 1"):
        fn.serial(fn.relu, jax.nn.relu)
    with pytest.raises(TypeError, match="supervised expects a Network"):
        fn.supervised(jax.nn.relu, fn.cross_entropy)
    with pytest.raises(TypeError, match="trainer expects a Task"):
        fn.trainer(fn.relu, fn.sgd(0.1))
    with pytest.raises(TypeError, match="chain expects optimizers, got 3 at position 1"):
        fn.chain(fn.sgd(0.1), 3)
