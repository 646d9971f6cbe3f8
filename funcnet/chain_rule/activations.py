"""Derivatives of elementwise functions: y = f(x), dx = f'(x) dy."""

import math

import jax.numpy as jnp
from jax.lax import erfc

from funcnet.numerics import widen


def logistic(x):
    return 1.0 / (1.0 + jnp.exp(-x))


def relu(x):
    return jnp.maximum(x, 0.0), lambda dy: (jnp.where(x > 0.0, dy, 0.0),)


def leaky(x, *, slope):
    def bent(a):
        return jnp.where(x >= 0.0, a, (slope * widen(a)).astype(x.dtype))

    return bent(x), lambda dy: (bent(dy),)


def tanh(x):
    y = jnp.tanh(x)
    return y, lambda dy: ((1.0 - y) * (1.0 + y) * dy,)


def sigmoid(x):
    y = logistic(x)
    return y, lambda dy: (y * logistic(-x) * dy,)


def softplus(x):
    y = jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))
    return y, lambda dy: (logistic(x) * dy,)


def silu(x):
    s = logistic(x)
    return x * s, lambda dy: (s * (1.0 + x * logistic(-x)) * dy,)


def elu(x, *, alpha=1.0):
    below = jnp.minimum(x, 0.0)
    y = jnp.where(x > 0.0, x, alpha * jnp.expm1(below))
    return y, lambda dy: (jnp.where(x > 0.0, dy, alpha * jnp.exp(below) * dy),)


def gelu(x, *, approximate=True):
    """x Phi(x), whose derivative is Phi(x) + x phi(x); or the tanh approximation of Phi."""
    if approximate:
        scale = math.sqrt(2.0 / math.pi)
        t = jnp.tanh(scale * (x + 0.044715 * x**3))
        phi_cdf = 0.5 * (1.0 + t)
        slope = 0.5 * (1.0 - t * t) * scale * (1.0 + 3.0 * 0.044715 * x * x)
    else:
        phi_cdf = 0.5 * erfc(-x / math.sqrt(2.0))
        slope = jnp.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
    return x * phi_cdf, lambda dy: ((phi_cdf + x * slope) * dy,)
