"""A tiny sweep, one of whose members diverges, and what a loop in Python makes of its parts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import funcnet as fn

RNG = np.random.default_rng(7)
X = RNG.normal(size=(24, 3)).astype(np.float32)
LABELS = (X @ RNG.normal(size=(3, 3))).argmax(axis=1).astype(np.int32)
TRAIN, VALIDATION = (X[:16], LABELS[:16]), (X[16:], LABELS[16:])
KEY = jax.random.key(3)
RATES = np.array([0.02, 0.5, 0.1, np.inf, 1.0, 0.004], np.float32)
"""The infinite one's parameters are NaN from the second step on."""
MEMBERS, EVERY, SIZE = len(RATES), 3, 5
FULL = {"xla_backend_optimization_level": 3}
"""As users compile, where one program's bits are compared. Those of two are alike only without
the fused multiply-adds of that level, which fall elsewhere in each."""


def build(learning_rate):
    network = fn.serial(fn.dense(3, 4), fn.tanh, fn.dense(4, 3))
    task = fn.supervised(network, fn.cross_entropy, metrics={"accuracy": fn.accuracy})
    return fn.trainer(task, fn.momentum(learning_rate))


def sweep(rates=RATES):
    return stacked(jnp.asarray(rates, jnp.float32))


stacked = jax.jit(jax.vmap(build))


@jax.jit
def start(keys):
    """The run states of members with these keys."""
    return jax.vmap(build(0.1).init)(keys)


@functools.partial(jax.jit, static_argnames="steps")
def train(trainers, states, steps=EVERY):
    """(states, losses [n, steps], metrics) of all members after so many steps more."""

    def one(trainer, state):
        result = fn.resume(trainer, TRAIN, state, steps=steps, batch_size=SIZE)
        return result.state, result.loss, fn.evaluate(trainer, result.state, VALIDATION)

    return jax.vmap(one)(trainers, states)


def select(tree, indices):
    """The members at these indices, taken by NumPy but for keys."""

    def one(leaf):
        typed = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return (leaf if typed else np.asarray(leaf))[np.asarray(indices)]

    return jax.tree.map(one, tree)


def numbers(leaf):
    typed = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if typed else leaf)


def same_bits(tree, other):
    """Whether two trees have the same structure and equal numbers, NaNs being alike."""
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    return all(
        np.array_equal(numbers(a), numbers(b), equal_nan=numbers(a).dtype.kind == "f")
        for a, b in zip(*map(jax.tree.leaves, (tree, other)), strict=True)
    )
