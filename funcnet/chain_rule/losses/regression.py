"""Rules of regression losses."""

import math

import jax.numpy as jnp

from funcnet.losses.common import per_example, same_shape


def per_output(dvalues, outputs):
    """dvalues / k at each of an example's k outputs."""
    k = math.prod(outputs.shape[1:])
    return dvalues.reshape(dvalues.shape + (1,) * (outputs.ndim - dvalues.ndim)) / k


def mean_squared_error(prediction, target):
    """(1/k) sum (p - t)^2: dp = 2 (p - t) / k."""
    p, t = same_shape("mean_squared_error", prediction, target)

    def pullback(dvalues):
        return ((2.0 * (p - t) * per_output(dvalues, p)).astype(prediction.dtype),)

    return per_example((p - t) ** 2), pullback


def mean_absolute_error(prediction, target):
    """(1/k) sum |p - t|: dp = sign(p - t) / k."""
    p, t = same_shape("mean_absolute_error", prediction, target)

    def pullback(dvalues):
        return ((jnp.sign(p - t) * per_output(dvalues, p)).astype(prediction.dtype),)

    return per_example(jnp.abs(p - t)), pullback


def huber(prediction, target, *, delta=1.0):
    """e^2 / 2 near 0 and delta |e| - delta^2 / 2 beyond: dp = e, held within delta, / k."""
    p, t = same_shape("huber", prediction, target)
    e, delta = p - t, jnp.asarray(delta, p.dtype)
    held = jnp.clip(e, -delta, delta)
    values = jnp.where(jnp.abs(e) <= delta, 0.5 * held**2, delta * (jnp.abs(e) - 0.5 * delta))

    def pullback(dvalues):
        return ((held * per_output(dvalues, p)).astype(prediction.dtype),)

    return per_example(values), pullback


def log_cosh(prediction, target):
    """log cosh e = log(exp(e) + exp(-e)) - log 2: dp = tanh(e) / k."""
    p, t = same_shape("log_cosh", prediction, target)
    e = p - t

    def pullback(dvalues):
        return ((jnp.tanh(e) * per_output(dvalues, p)).astype(prediction.dtype),)

    return per_example(jnp.logaddexp(e, -e) - math.log(2.0)), pullback
