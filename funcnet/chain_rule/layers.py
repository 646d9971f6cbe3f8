"""Rules of layers and of networks made of them: y, and (dparams, dx) from dy."""

import math

import jax.numpy as jnp

from funcnet.combine import layer_keys
from funcnet.layers.dropout import kept


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
    mask, factor = kept(key, rate, x)
    y = jnp.where(mask, factor * x, 0.0)
    return y, lambda dy: ((), jnp.where(mask, factor * dy, 0.0)), state


def flatten(params, state, x, *, key=None, train=False):
    """A reshape: dx has x's shape."""
    y = x.reshape(x.shape[0], math.prod(x.shape[1:]))
    return y, lambda dy: ((), dy.reshape(x.shape)), state


def identity(params, state, x, *, key=None, train=False):
    """y = x: dx = dy."""
    return x, lambda dy: ((), dy), state


def serial(params, state, x, *, layers, vjp, key=None, train=False):
    """y = f_k(... f_1(x)): the pullbacks in the opposite order, dx of each the dy of the one
    before it."""
    pullbacks, states = [], []
    for layer, layer_params, layer_state, layer_key in zip(
        layers, params, state, layer_keys(key, len(layers)), strict=True
    ):
        x, pullback, layer_state = vjp(
            layer, layer_params, layer_state, x, key=layer_key, train=train
        )
        pullbacks.append(pullback)
        states.append(layer_state)

    def backward(delta):
        grads = []
        for pullback in reversed(pullbacks):
            layer_grads, delta = pullback(delta)
            grads.append(layer_grads)
        return tuple(reversed(grads)), delta

    return x, backward, tuple(states)
