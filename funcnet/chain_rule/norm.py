"""Rules of normalisations: n = (x - mean) r with r = 1 / sqrt(variance + eps), y = scale n + bias.

dn = scale dy and dx = r (dn - mean(dn) - n mean(n dn)); the one mean is what comes back through the
mean, the other what comes through the variance.
"""

import jax.numpy as jnp
from jax import lax

from funcnet.layers.norm import grouped, moved
from funcnet.numerics import widen


def standardise(x, axes, eps):
    """n, and dx from dn."""
    centred = x - x.mean(axes, keepdims=True)
    r = lax.rsqrt((centred**2).mean(axes, keepdims=True) + jnp.asarray(eps, x.dtype))
    n = centred * r

    def pullback(dn):
        through_variance = n * (n * dn).mean(axes, keepdims=True)
        return r * (dn - dn.mean(axes, keepdims=True) - through_variance)

    return n, pullback


def summed(terms, like):
    """A parameter's gradient: the sum over all positions."""
    return terms.sum(axis=tuple(range(terms.ndim - 1))).astype(like.dtype)


def scale_and_bias(params, n, dtype):
    """y = scale n + bias; dparams, and dn, from dy."""

    def pullback(dy):
        dy = widen(dy)
        grads = {"scale": summed(n * dy, params["scale"]), "bias": summed(dy, params["bias"])}
        return grads, params["scale"] * dy

    return (params["scale"] * n + params["bias"]).astype(dtype), pullback


def layer_norm(params, state, x, *, eps, key=None, train=False):
    n, back = standardise(widen(x), -1, eps)
    y, scale_back = scale_and_bias(params, n, x.dtype)

    def pullback(dy):
        dparams, dn = scale_back(dy)
        return dparams, back(dn).astype(x.dtype)

    return y, pullback, state


def rms_norm(params, state, x, *, eps, key=None, train=False):
    """n = x r, r = 1 / sqrt(mean(x^2) + eps): dx = r (dn - n mean(n dn))."""
    wide, scale = widen(x), params["scale"]
    r = lax.rsqrt((wide**2).mean(-1, keepdims=True) + jnp.asarray(eps, wide.dtype))
    n = wide * r

    def pullback(dy):
        dn = scale * widen(dy)
        dx = r * (dn - n * (n * dn).mean(-1, keepdims=True))
        return {"scale": summed(n * widen(dy), scale)}, dx.astype(x.dtype)

    return (scale * n).astype(x.dtype), pullback, state


def group_norm(params, state, x, *, groups, eps, key=None, train=False):
    n, back = standardise(grouped(widen(x), groups), (1, 3), eps)
    y, scale_back = scale_and_bias(params, n.reshape(x.shape), x.dtype)

    def pullback(dy):
        dparams, dn = scale_back(dy)
        return dparams, back(grouped(dn, groups)).reshape(x.shape).astype(x.dtype)

    return y, pullback, state


def batch_norm(params, state, x, *, decay, eps, key=None, train=False):
    """As layer norm over the other axes; with running statistics, dx = r dn."""
    wide, axes = widen(x), tuple(range(x.ndim - 1))
    if train:
        n, back = standardise(wide, axes, eps)
        mean = wide.mean(axes)
        variance = ((wide - mean) ** 2).mean(axes)
        state = moved(state, mean, variance, x.size // x.shape[-1], decay)
    else:
        r = lax.rsqrt(state.variance + eps)
        n = (wide - state.mean) * r

        def back(dn):
            return r * dn

    y, scale_back = scale_and_bias(params, n, x.dtype)

    def pullback(dy):
        dparams, dn = scale_back(dy)
        return dparams, back(dn).astype(x.dtype)

    return y, pullback, state
