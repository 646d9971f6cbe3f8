"""Rules of layers: y, and (dparams, dx) from dy."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.layers.dropout import kept
from funcnet.layers.embedding import rows_of
from funcnet.numerics import widen


def dense(params, state, x, *, key=None, train=False):
    """y = x W + b: dW = x' dy and db = 1' dy, summed over all positions; dx = dy W'."""
    weight = params["weight"]
    y = x @ weight
    if "bias" in params:
        y = y + params["bias"]

    def pullback(dy):
        rows, deltas = x.reshape(-1, weight.shape[0]), dy.reshape(-1, weight.shape[1])
        dparams = {"weight": (rows.T @ deltas).astype(weight.dtype)}
        if "bias" in params:
            dparams["bias"] = deltas.sum(axis=0).astype(params["bias"].dtype)
        return dparams, (dy @ weight.T).astype(x.dtype)

    return y, pullback, state


def activation(params, state, x, *, function, vjp, key=None, train=False):
    """y = f(x): the rule of f."""
    y, pullback = vjp(function, x)
    return y, lambda dy: ((), *pullback(dy)), state


def dropout(params, state, x, *, rate, key=None, train=False):
    """y = m x / (1 - rate), m the mask: dx = m dy / (1 - rate)."""
    if not train:
        return identity(params, state, x, key=key, train=train)
    mask, factor = kept(key, rate, x, x.shape)

    def scaled(a):
        return jnp.where(mask, factor * a, 0.0).astype(x.dtype)

    return scaled(x), lambda dy: ((), scaled(dy)), state


def flatten(params, state, x, *, key=None, train=False):
    """A reshape: dx has x's shape."""
    y = x.reshape(x.shape[0], math.prod(x.shape[1:]))
    return y, lambda dy: ((), dy.reshape(x.shape)), state


def tokens(params, state, x, *, key=None, train=False):
    """A reshape: dx has x's shape."""
    y = x.reshape(len(x), math.prod(x.shape[1:-1]), x.shape[-1])
    return y, lambda dy: ((), dy.reshape(x.shape)), state


def identity(params, state, x, *, key=None, train=False):
    """y = x: dx = dy."""
    return x, lambda dy: ((), dy), state


def shaped(params, state, x, *, shape, key=None, train=False):
    """y = x: dx = dy."""
    return identity(params, state, x)


def drop_path(params, state, x, *, rate, key=None, train=False):
    """y = m x / (1 - rate), m one number an example: dx = m dy / (1 - rate)."""
    if not train:
        return identity(params, state, x)
    mask, factor = kept(key, rate, x, x.shape[:1] + (1,) * (x.ndim - 1))

    def scaled(a):
        return jnp.where(mask, factor * a, 0.0).astype(x.dtype)

    return scaled(x), lambda dy: ((), scaled(dy)), state


def add(params, state, x, *, key=None, train=False):
    """y = sum_i x_i: dx_i = dy."""
    return sum(x[1:], x[0]), lambda dy: ((), (dy,) * len(x)), state


def multiply(params, state, x, *, key=None, train=False):
    """y = prod_i x_i: dx_i = dy times the product of the others."""

    def pullback(dy):
        return (), tuple(math.prod((*x[:i], *x[i + 1 :]), start=dy) for i in range(len(x)))

    return math.prod(x[1:], start=x[0]), pullback, state


def concatenate(params, state, x, *, key=None, train=False):
    """y = (x_1, x_2, ...): dy cut where x was joined."""
    ends = list(itertools.accumulate(part.shape[-1] for part in x))[:-1]
    y = jnp.concatenate(x, axis=-1)
    return y, lambda dy: ((), tuple(jnp.split(dy, ends, axis=-1))), state


def normalise(params, state, x, *, mean, std, key=None, train=False):
    """y = (x - mean) / std: dx = dy / std, and nothing of integers."""
    std = jnp.where(jnp.asarray(std) == 0.0, 1.0, std)

    def pullback(dy):
        if jnp.issubdtype(x.dtype, jnp.floating):
            return (), (dy / std).astype(x.dtype)
        return (), np.zeros(x.shape, jax.dtypes.float0)

    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.float32
    return ((x - mean) / std).astype(dtype), pullback, state


def embedding(params, state, x, *, key=None, train=False):
    """y = table[x]: dy added to the rows that were read."""
    table = params["table"]
    rows = rows_of(jnp.asarray(x), table.shape[0])

    def pullback(dy):
        dtable = (
            widen(jnp.zeros_like(table)).at[rows].add(widen(dy), mode="drop").astype(table.dtype)
        )
        return {"table": dtable}, np.zeros(x.shape, jax.dtypes.float0)

    return table.at[rows].get(mode="fill", fill_value=jnp.nan), pullback, state
