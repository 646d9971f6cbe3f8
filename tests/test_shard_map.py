"""Runs, and what is made of them, on a device each by `jax.shard_map`: the numbers of `vmap`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

import funcnet as fn
from funcnet.training import resume_batches

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 12, 3)).astype(np.float32)
DATA = (X, (np.arange(24, dtype=np.int32) % 5 % 3).reshape(2, 12))
KEYS = jax.random.split(jax.random.key(4), 2)
RATES = np.float32([0.1, 0.4])
MEMBERS = (KEYS, RATES, DATA)
SIZES, WHOLE = {"steps": 4, "batch_size": 5}, {"steps": 2, "batch_size": None}
DENSE = fn.dense(3, 3)


def first(tree):
    return jax.tree.map(lambda a: a[0], tree)


def spread(function, *arguments, varying):
    """`function` of each member on a device of its own; those not `varying` are all the first."""
    mesh = jax.make_mesh((2,), ("m",), (AxisType.Auto,), devices=jax.devices()[:2])
    member = PartitionSpec("m")
    given = [a if i in varying else first(a) for i, a in enumerate(arguments)]
    specs = tuple(member if i in varying else PartitionSpec() for i in range(len(given)))

    def one(*given):
        own = [first(a) if i in varying else a for i, a in enumerate(given)]
        return jax.tree.map(lambda a: jnp.asarray(a)[None], function(*own))

    return jax.jit(jax.shard_map(one, mesh=mesh, in_specs=specs, out_specs=member))(*given)


def plain(rate):
    return fn.trainer(fn.supervised(DENSE, fn.cross_entropy), fn.sgd(rate))


def wrapped(rate):
    """All that looks at numbers or has a state of its own."""
    network = fn.serial(fn.dense(3, 4, bias_init=None), fn.batch_norm(4), fn.tanh, fn.dense(4, 3))
    optimizer = fn.chain(fn.clip_by_global_norm(0.5), fn.adam(rate))
    trainer = fn.trainer(fn.supervised(network, fn.cross_entropy), optimizer)
    return fn.guard(fn.loss_scaled(trainer, scale=2.0**8, every=3))


def end(result):
    """Of a run what is no key."""
    return result.loss, result.metrics, result.state.params, result.state.state


def branching(rate):
    """Optimizers with branches of their own."""
    optimizer = fn.partition(
        {"weight": "matrix", "bias": "rest"},
        {
            "matrix": fn.lookahead(fn.shampoo(rate, eps=0.1, every=2), every=2),
            "rest": fn.accumulate(fn.adam(rate), 2),
        },
    )
    return fn.trainer(fn.supervised(DENSE, fn.cross_entropy), optimizer)


def searching(rate):
    return fn.trainer(fn.supervised(DENSE, fn.cross_entropy), fn.lbfgs(2))


def ran(key, rate, data, *, build):
    return end(fn.run(build(rate), data, key, **SIZES))


def early(key, rate, data):
    stopped = fn.early_stopping(plain(rate), data, data, key, **WHOLE, every=2, patience=1)
    return stopped.scores, stopped.watch.state.params, stopped.watch.best.params


def padded(key, rate, data):
    return end(fn.run_padded(plain(rate), data, key, 3, steps=3, largest=5))


def given_batches(key, rate, data):
    trainer = plain(rate)
    batches = jax.tree.map(lambda a: jnp.reshape(a, (3, 4, *a.shape[1:])), data)
    return end(resume_batches(trainer, trainer.init(key), batches))


def own_loop(key, rate, data):
    trainer = wrapped(rate)
    batches = jax.tree.map(lambda a: jnp.reshape(a, (3, 4, *a.shape[1:])), data)
    state, metrics = lax.scan(trainer.step, trainer.init(key), batches)
    return metrics, state.params


def derivative(key, rate, data):
    value, slopes = fn.hypergradient(plain(rate), data, data, key, **WHOLE)
    return value, fn.hyperparameters(slopes)


def descent(key, rate, data):
    learnt = {"learning_rate.value": fn.log_space}
    descent = fn.hypergradient_descent(
        plain(rate), fn.adam(0.1), data, data, key, learnt=learnt, outer_steps=2, **WHOLE
    )
    return descent.values, descent.loss, descent.skipped


def population(key, rate, data):
    trainers = jax.vmap(plain)(rate * jnp.array([0.5, 1.0, 2.0]))
    explore = {"learning_rate.value": fn.perturb(1e-4, 1.0)}
    found = fn.population_based(trainers, data, data, key, explore=explore, generations=2, **WHOLE)
    return found.scores, found.state.params


def repeated(key, rate, data):
    network = fn.repeat(fn.serial(DENSE, fn.tanh), 2)
    return network.apply(*network.init(key), rate * data[0])[0]


def statistics(key, rate, data):
    network = fn.serial(fn.dense(3, 4), fn.batch_norm(4))
    return fn.population_statistics(network, *network.init(key), rate * data[0], batch_size=5)


def drawn(key, rate, data):
    def apply(params, state, x, *, key=None, train=False):
        return params[x] + state, state + 1.0

    network = fn.Network(fn.identity.init, jax.tree_util.Partial(apply))
    ids, table = jnp.abs(data[1])[:, None] % 3, DENSE.init(jax.random.key(0))[0]["weight"]
    return fn.generate(network, table, jnp.zeros(()), ids, steps=3, key=key, temperature=rate)


KEY, RATE, OWN = 0, 1, 2
FIELDS = ("key", "rate", "data")
CASES = [  # what is run, and what alone differs between its members
    (functools.partial(ran, build=plain), KEY),
    (functools.partial(ran, build=plain), RATE),
    (functools.partial(ran, build=plain), OWN),
    (functools.partial(ran, build=wrapped), KEY),
    (functools.partial(ran, build=wrapped), OWN),
    (functools.partial(ran, build=branching), OWN),
    (functools.partial(ran, build=searching), OWN),
    (early, OWN),
    (padded, RATE),
    (given_batches, OWN),
    (own_loop, KEY),
    (derivative, KEY),
    (descent, OWN),
    (population, OWN),
    (repeated, KEY),
    (statistics, OWN),
    (drawn, RATE),
]


def case_name(value):
    if isinstance(value, int):
        return FIELDS[value]
    return getattr(value, "func", value).__name__


@pytest.mark.parametrize(("function", "varying"), CASES, ids=case_name)
def test_members_on_devices_are_those_of_vmap(function, varying):
    axes = tuple(0 if i == varying else None for i in range(len(MEMBERS)))
    together = jax.jit(jax.vmap(function, axes))
    given = [a if i == varying else first(a) for i, a in enumerate(MEMBERS)]
    pair = spread(function, *MEMBERS, varying={varying}), together(*given)
    for a, b in zip(*map(jax.tree.leaves, pair), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def averaged(loss, *, has_aux):
    """The engine of data parallel training: the gradients' mean over the devices."""

    def engine(*inputs, **context):
        value, grads = jax.value_and_grad(loss, has_aux=has_aux)(*inputs, **context)
        return value, lax.pmean(grads, "m")

    return engine


def test_gradients_are_averaged_over_devices_by_an_engine_that_says_so():
    """Each device has half of the data, and ends with the parameters of a run over all of it."""
    task, key = fn.supervised(fn.mlp((3, 4, 3)), fn.cross_entropy), KEYS[0]
    sizes = {"steps": 4, "batch_size": None}

    def params(data, engine):
        return fn.run(fn.trainer(task, fn.sgd(0.5), engine), data, key, **sizes).state.params

    found = spread(lambda data: params(data, averaged), DATA, varying={0})
    whole = params(jax.tree.map(np.concatenate, DATA), jax.value_and_grad)
    for a, b in zip(*map(jax.tree.leaves, (found, whole)), strict=True):
        np.testing.assert_allclose(a, [b, b], rtol=1e-5)
