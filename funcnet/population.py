"""The statistics of batch norm over a whole data set, rather than as moving averages."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funcnet.layers.norm import Pooled, Running
from funcnet.numerics import varied
from funcnet.pairs import Network, check_count, check_network


def each(kind, function, state):
    """`function` of each part of a state that is of a kind; the rest as it is."""

    def one(part):
        return function(part) if isinstance(part, kind) else part

    return jax.tree.map(one, state, is_leaf=lambda part: isinstance(part, kind))


def nothing_yet(running):
    zeros = jnp.zeros_like(running.mean)
    return Pooled(zeros[..., 0], zeros, zeros)


def settled(pooled):
    return Running(pooled.mean, pooled.squares / jnp.maximum(pooled.count - 1.0, 1.0)[..., None])


def population_statistics(
    network: Network, params: Any, state: Any, x: Any, *, batch_size: int | None = None, key=None
) -> Any:
    """The network's state with the exact mean and variance of what each batch norm meets over all
    of x, each row counting the same, for evaluation after training (Ioffe & Szegedy 2015,
    algorithm 2, lines 7 to 12).

    x: arrays [n, ...]. In batches of at most `batch_size`, the last one smaller where n demands it,
    each normalised by its own statistics as in training; without one, all of x is one batch. What
    else is in the state moves as in training. The key is for layers that draw noise.
    """
    check_network("population_statistics", network)
    x = jax.tree.map(jnp.asarray, x)
    leaves = jax.tree.leaves(x)
    if len({leaf.shape[:1] for leaf in leaves}) != 1 or not leaves[0].size:
        raise ValueError(
            "population_statistics expects arrays with a common first axis of examples, "
            f"got shapes {[leaf.shape for leaf in leaves]}"
        )
    length = leaves[0].shape[0]
    size = length if batch_size is None else min(check_count("batch_size", batch_size, 1), length)
    batches = length // size

    def step(state, inputs):
        index, batch = inputs
        batch_key = None if key is None else jax.random.fold_in(key, index)
        return network.apply(params, state, batch, key=batch_key, train=True)[1], None

    def cut(a):
        return a[: batches * size].reshape(batches, size, *a.shape[1:])

    state = each(Running, nothing_yet, state)
    state = varied(state, (network, params, x, key))
    state, _ = lax.scan(step, state, (jnp.arange(batches), jax.tree.map(cut, x)))
    if batches * size < length:
        state, _ = step(state, (batches, jax.tree.map(lambda a: a[batches * size :], x)))
    return each(Pooled, settled, state)
