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
from funcnet.optimizers import hand_on
from funcnet.pairs import number, partial, unbind
from funcnet.verify_optimizer import known_of

KEY = jax.random.key(5)
PARAMS = {"a": np.linspace(0.5, 1.5, 6).reshape(2, 3), "b": np.array([-0.7, 0.4, 0.2])}
LIVE = {"a": 1.0, "b": np.array([1.0, 1.0, 0.0])}  # the last number never has a gradient
GRADS = [
    jax.tree.map(lambda p, live, t=t: live * np.cos(3.0 * p + t) * (1.0 + 0.3 * t), PARAMS, LIVE)
    for t in range(8)
]
X = np.sin(np.arange(24.0)).reshape(8, 3)
LABELS = np.arange(8, dtype=np.int32) % 3


def train(optimizer, params=PARAMS, grads=GRADS):
    """The parameters after a few updates."""
    params, grads = jax.tree.map(lambda a: jnp.asarray(a, float), (params, grads))

    def step(carry, inputs):
        params, state = carry
        gradient, weight = inputs
        known = known_of(jnp.ones_like(weight), gradient, params)._replace(weight=weight)
        updates, state = hand_on(optimizer.update, gradient, state, params, known)
        return (fn.apply_updates(params, updates), state), None

    grads = jax.tree.map(lambda *each: jnp.stack(each), *grads)
    weights = 1.0 + jnp.arange(float(len(jax.tree.leaves(grads)[0])))
    return jax.lax.scan(step, (params, optimizer.init(params)), (grads, weights))[0]


def total_sine(tree):
    return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(tree))


def use_optimizer(optimizer):
    return total_sine(train(optimizer)[0])


def use_average(optimizer):
    params, state = train(optimizer)
    return total_sine(fn.averaged_params(state, params))


def use_in_bowl(optimizer):
    """The same where each gradient is the parameters', so that the way leads to 0."""
    params = jax.tree.map(lambda a: jnp.asarray(a, float), PARAMS)

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(params, state, params)
        return (fn.apply_updates(params, updates), state), None

    params, _ = jax.lax.scan(step, (params, optimizer.init(params)), length=8)[0]
    return total_sine(params)


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


def use_engine(engine):
    params = jax.tree.map(lambda a: jnp.asarray(a, float), PARAMS)
    return total_sine(engine(total_sine)(params)[1])


def use_trainer(trainer):
    return fn.run(trainer, (jnp.asarray(X, float), LABELS), KEY, steps=3, batch_size=5).loss[-1]


class Case(NamedTuple):
    name: str
    make: Callable[[Any], Any]  # a pair from one number, from which all of its numbers derive
    use: Callable[[Any], Any]  # a number that depends on all of the pair's
    leaves: int
    values: tuple[float, float] = (0.1, 0.3)
    flat: int = 0  # of the leaves, how many move what is used by steps or not at all


def task(value):
    network = fn.serial(fn.dense(3, 4), fn.tanh, fn.dropout(value), fn.dense(4, 3))
    loss = Partial(fn.fix(fn.cross_entropy, ignore_label=-1), label_smoothing=value)
    return fn.supervised(network, loss, metrics={"accuracy": fn.accuracy})


def schedule_free_sgd(value):
    rate = fn.warmup_cosine(value, 25 * value, 100 * value, start=value / 2, end=value / 3)
    return fn.schedule_free_sgd(rate, 1 - value / 2, weight_power=value)


def schedule_free_adamw(value):
    rate = fn.warmup_cosine(value, 25 * value, 100 * value, start=value / 2, end=value / 3)
    return fn.schedule_free_adamw(
        rate, 1 - value / 2, 1 - value / 2, eps=value, weight_decay=value, weight_power=value
    )


def is_matrix(path):
    return path == "a"


WRAPPED = [
    Case("clip_by_value", lambda v: fn.chain(fn.clip_by_value(v), fn.sgd(v)), use_optimizer, 2),
    Case("clip_by_block_norm", fn.clip_by_block_norm, use_optimizer, 1),
    Case("adaptive_clip", lambda v: fn.adaptive_clip(v, eps=9 * v), use_optimizer, 2, (0.1, 0.12)),
    Case(
        "transforms",
        lambda v: fn.chain(
            fn.add_noise(v, v), fn.centralise(), fn.add_decayed_weights(v, is_matrix), fn.sgd(v)
        ),
        use_optimizer,
        4,
    ),
    Case(
        "averages",
        lambda v: fn.ema(fn.swa(fn.lookahead(fn.sgd(v), 2, v), 2, every=2), 1 - v),
        use_average,
        3,
    ),
    Case(
        "wrappers",
        lambda v: fn.skip_non_finite(fn.accumulate(fn.cautious(fn.momentum(v, 1 - v), shift=v), 2)),
        use_optimizer,
        4,
    ),
    Case(
        "skip_spikes",
        lambda v: fn.skip_spikes(fn.sgd(v), 1 + 100 * v, decay=1 - v),
        use_optimizer,
        3,
        flat=2,
    ),
    Case(
        "rounding",
        lambda v: fn.kahan(fn.stochastic_rounding(fn.state_dtype(fn.nesterov(v, 1 - v), {}))),
        use_optimizer,
        2,
    ),
    Case(
        "partition",
        lambda v: fn.partition(
            is_matrix, {True: fn.momentum(v, 1 - v, dampening=v), False: fn.freeze()}
        ),
        use_optimizer,
        3,
    ),
    Case(
        "reduce_on_plateau",
        lambda v: fn.chain(fn.sgd(v), fn.reduce_on_plateau(v, 1, rtol=v, atol=v, min_scale=v / 2)),
        use_optimizer,
        5,
        flat=2,
    ),
]
CASES = [
    *WRAPPED,
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
    Case("step_decay", lambda v: fn.step_decay(v, 1 - v, 23 * v), use_schedule, 3, flat=1),
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
    Case(
        "piecewise",
        lambda v: fn.piecewise(v, (20 * v, 60 * v), (1 - v, 1 + v)),
        use_schedule,
        5,
        flat=2,
    ),
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
    Case("adadelta", lambda v: fn.adadelta(v, 1 - v, eps=v), use_optimizer, 3),
    Case("adamw", lambda v: fn.adamw(v, 1 - v, 1 - v / 2, eps=v, weight_decay=v), use_optimizer, 5),
    Case("adamax", lambda v: fn.adamax(v, 1 - v, 1 - v / 2, eps=v), use_optimizer, 4),
    Case("amsgrad", lambda v: fn.amsgrad(v, 1 - v, 1 - 0.9 * v, eps=v), use_optimizer, 4),
    Case(
        "amsgrad-correct-first",
        lambda v: fn.amsgrad(v, 1 - v, 1 - 0.9 * v, eps=v, correct_first=True),
        use_optimizer,
        4,
    ),
    Case(
        "nadam",
        lambda v: fn.nadam(v, 1 - v, 1 - v / 2, eps=v, momentum_decay=v),
        use_optimizer,
        5,
    ),
    Case("radam", lambda v: fn.radam(v, 1 - v, 1 - v / 2, eps=v), use_optimizer, 4),
    Case(
        "radam-eps-first",
        lambda v: fn.radam(v, 1 - v, 1 - v / 2, eps=v, eps_before_correction=True),
        use_optimizer,
        4,
    ),
    Case(
        "averaged_sgd",
        lambda v: fn.averaged_sgd(v, decay=v, power=v, start=v),
        use_optimizer,
        4,
        flat=1,
    ),
    Case("schedule_free_sgd", schedule_free_sgd, use_optimizer, 7),
    Case("schedule_free_adamw", schedule_free_adamw, use_optimizer, 10),
    Case("sign_sgd", fn.sign_sgd, use_optimizer, 1),
    Case("signum", lambda v: fn.signum(v, 1 - v), use_optimizer, 2, flat=1),
    Case(
        "lion", lambda v: fn.lion(v, 1 - v, 1 - 0.9 * v, weight_decay=v), use_optimizer, 4, flat=2
    ),
    Case(
        "rprop",
        lambda v: fn.rprop(
            v, shrink=1 - v, grow=1 + v, min_step_size=0.95 * v, max_step_size=1.15 * v
        ),
        use_optimizer,
        5,
    ),
    Case(
        "adan",
        lambda v: fn.adan(v, 1 - v, 1 - 0.9 * v, 1 - v / 2, eps=v, eps_root=v, weight_decay=v),
        use_optimizer,
        8,
    ),
    Case(
        "adopt",
        lambda v: fn.adopt(v, 1 - v, 1 - v / 2, eps=5 * v, clip_power=v),
        use_optimizer,
        5,
    ),
    Case(
        "ademamix",
        lambda v: fn.ademamix(
            v, 1 - v, 1 - v / 2, fn.inverse_time(1 - v, v), alpha=v, eps=v, weight_decay=v
        ),
        use_optimizer,
        8,
    ),
    Case("lamb", lambda v: fn.lamb(v, 1 - v, 1 - v / 2, eps=v, weight_decay=v), use_optimizer, 5),
    Case(
        "adafactor",
        lambda v: fn.adafactor(
            v, 1 - v, eps=v, floor=5 * v, clip=5 * v, min_scale=8 * v, weight_decay=v
        ),
        use_optimizer,
        7,
    ),
    Case("relative_step", fn.relative_step, use_schedule, 1),
    Case(
        "prodigy",
        lambda v: fn.prodigy(
            10 * v, 1 - v, 1 - v / 2, eps=v, initial_distance=v, growth=30 * v, weight_decay=v
        ),
        use_in_bowl,
        8,
    ),
    Case("clip", fn.clip_by_global_norm, use_optimizer, 1),
    Case("decay", fn.add_decayed_weights, use_optimizer, 1),
    Case(
        "chain",
        lambda v: fn.chain(fn.clip_by_global_norm(v), fn.add_decayed_weights(v), fn.sgd(v)),
        use_optimizer,
        3,
    ),
    Case(
        "sophia",
        lambda v: fn.sophia(v, 1 - v, 1 - v, gamma=90 * v, eps=v, weight_decay=v, every=2),
        use_optimizer,
        6,
        flat=1,
    ),
    Case("supervised", task, use_task, 2),
    Case("normalise", lambda v: fn.normalise(v, 1 + v), use_network, 2),
    Case("augmented", lambda v: fn.augmented(task(v), fn.gaussian_noise(v)), use_task, 3),
    Case("trainer", lambda v: fn.trainer(task(v), fn.adam(v, eps=v)), use_trainer, 6),
    Case("sam", fn.sam, use_engine, 1),
    Case("asam", lambda v: fn.asam(v, eta=v), use_engine, 2),
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


@functools.cache
def compiled(case):
    """The use of a pair, compiled, and the list of its traces; float64 is to be on."""
    traces = []
    use = jax.jit(lambda pair: traces.append(pair) or case.use(pair))
    return use, traces


@functools.cache
def swept(case, step=1e-6):
    """In one program under vmap, in float64: the uses of three pairs, and the gradient of the first
    with its difference quotients."""
    structure = jax.tree.structure(case.make(case.values[0]))

    @jax.vmap
    @jax.value_and_grad
    def use(numbers):
        return case.use(structure.unflatten(list(numbers)))

    @jax.jit
    def moved(values):
        three = jnp.stack(jax.tree.leaves(jax.vmap(case.make)(values)), axis=1)
        steps = step * np.eye(three.shape[1])
        return use(jnp.concatenate([three, three[0] + steps, three[0] - steps]))

    with jax.enable_x64(True):
        values, grads = map(np.asarray, moved(np.linspace(*case.values, 3)))
    up, down = np.split(values[3:], 2)
    return values[:3], grads[0], (up - down) / (2.0 * step)


@by_case
def test_equal_structure_and_one_trace_for_any_value(case):
    first, second = map(case.make, case.values)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    use, traces = compiled(case)
    with jax.enable_x64(True):
        got = [float(use(pair)) for pair in (first, second, case.make(case.values[0]))]
    assert len(traces) == 1
    assert got[0] == got[2]
    assert got[0] != got[1]


@by_case
def test_vmap_of_the_constructor_is_a_loop(case):
    sweep, _, _ = swept(case)
    use, _ = compiled(case)
    with jax.enable_x64(True):
        loop = [use(case.make(float(value))) for value in np.linspace(*case.values, 3)]
    np.testing.assert_allclose(sweep, loop, rtol=1e-11)


@by_case
def test_every_number_has_the_gradient_that_differences_give(case):
    _, grads, slopes = swept(case)
    np.testing.assert_allclose(grads, slopes, rtol=2e-5, atol=1e-9)
    assert (abs(grads) <= 1e-12).sum() == case.flat


OPTIMIZERS = [case for case in CASES if case.use in (use_optimizer, use_average)]


@pytest.mark.parametrize("case", OPTIMIZERS, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32], ids=["bfloat16", "float32"])
def test_update_returns_the_dtypes_it_was_given(case, dtype):
    optimizer = case.make(jnp.float32(case.values[0]))
    params, grads = jax.tree.map(lambda a: jnp.asarray(a, dtype), (PARAMS, GRADS[0]))

    def once(params, grads):
        state = optimizer.init(params)
        known = known_of(jnp.ones(()), grads, params)
        updates, after = hand_on(optimizer.update, grads, state, params, known)
        return state, after, updates, fn.apply_updates(params, updates)

    state, after, updates, moved = jax.eval_shape(once, params, grads)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(moved, params)


STATIC = {
    "dense": lambda: fn.dense(3, 2),
    "mlp": lambda: fn.mlp((3, 4, 2)),
    "flatten": lambda: fn.flatten,
    "gelu": lambda: fn.serial(fn.gelu, fn.identity),
    "fix": lambda: Partial(fn.fix(fn.cross_entropy, ignore_label=-1)),
    "elu": lambda: fn.activation(fn.fix(jax.nn.elu, alpha=2.0)),
    "labels": lambda: fn.partition({"a": {"b": "x"}, "c": "x"}, {"x": fn.freeze()}),
    "slots": lambda: fn.state_dtype(fn.kahan(fn.centralise()), {"lost": jnp.float16}),
    "counts": lambda: fn.accumulate(fn.swa(fn.freeze(), 2, every=3), 4),
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
CONSTRUCTORS += [fn.adadelta, fn.adafactor, fn.adamax, fn.adamw, fn.adan, fn.ademamix, fn.adopt]
CONSTRUCTORS += [fn.amsgrad, fn.averaged_sgd, fn.decoupled_decay, fn.lamb, fn.lion, fn.nadam]
CONSTRUCTORS += [fn.prodigy, fn.radam, fn.relative_step, fn.rprop, fn.schedule_free_adamw]
CONSTRUCTORS += [fn.schedule_free_sgd, fn.sign_sgd, fn.signum]
CONSTRUCTORS += [fn.clip_by_value, fn.clip_by_block_norm, fn.adaptive_clip, fn.add_noise, fn.ema]
CONSTRUCTORS += [fn.swa, fn.lookahead, fn.accumulate, fn.skip_non_finite, fn.cautious, fn.kahan]
CONSTRUCTORS += [fn.stochastic_rounding, fn.state_dtype, fn.partition, fn.reduce_on_plateau]
CONSTRUCTORS += [fn.lbfgs, fn.lbfgs_direction, fn.sophia, fn.sam, fn.asam]
CONSTRUCTORS += [fn.skip_spikes, fn.loss_scaled]
CONSTRUCTORS += [fn.normalise, fn.gaussian_noise, fn.horizontal_flip, fn.mixup]
CONSTRUCTORS += [fn.random_crop, fn.cutout]


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


TASK = fn.supervised(fn.identity, fn.cross_entropy)
OF_NETWORKS = {  # what takes a network, given something else, and by which name it says so
    "serial": lambda it: fn.serial(fn.relu, it),
    "parallel": lambda it: fn.parallel(fn.relu, it),
    "bidirectional": lambda it: fn.bidirectional(fn.relu, it),
    "residual": fn.residual,
    "masked": fn.masked,
    "remat": fn.remat,
    "frozen": fn.frozen,
    "repeat": lambda it: fn.repeat(it, 2),
    "named": lambda it: fn.named("name", it),
    "tied_embedding": lambda it: fn.tied_embedding(3, 2, it),
    "param_dtype": lambda it: fn.param_dtype(it, jnp.bfloat16),
    "compute_dtype": lambda it: fn.compute_dtype(it, jnp.bfloat16),
    "supervised": lambda it: fn.supervised(it, fn.cross_entropy),
    "population_statistics": lambda it: fn.population_statistics(it, (), (), np.ones((2, 3))),
    "generate": lambda it: fn.generate(it, (), (), [[0]], steps=1, key=None),
}


@pytest.mark.parametrize("name", OF_NETWORKS)
def test_what_is_no_network_is_told_what_makes_one(name):
    several = name in ("serial", "parallel", "bidirectional")
    wanted = "networks" if several else "a Network"
    for slip in (jax.nn.relu, [fn.relu, fn.relu], TASK, fn.dense):
        with pytest.raises(TypeError, match=rf"^{name} expects {wanted}.*, got .*activation\(f\)"):
            OF_NETWORKS[name](slip)


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
    with pytest.raises(TypeError, match="trainer expects a Task"):
        fn.trainer(fn.relu, fn.sgd(0.1))
    for slip in (fn.adam, fn.relu, TASK, fn.trainer(TASK, fn.sgd(0.1))):
        with pytest.raises(TypeError, match=r"trainer expects an Optimizer, such as adam\(1e-3\)"):
            fn.trainer(TASK, slip)
    with pytest.raises(TypeError, match="expected a function, got 'mean_squared_error'"):
        fn.supervised(fn.relu, "mean_squared_error")
    with pytest.raises(TypeError, match=r"metrics by name, .* got \[<function accuracy"):
        fn.supervised(fn.relu, fn.cross_entropy, metrics=[fn.accuracy])
    with pytest.raises(TypeError, match="chain expects optimizers, got 3 at position 1"):
        fn.chain(fn.sgd(0.1), 3)
