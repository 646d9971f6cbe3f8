"""Rules of losses, (dprediction,) from dvalues, and of the supervised task."""

import math

import jax.numpy as jnp

from funcnet.chain_rule.activations import logistic
from funcnet.losses import inner, per_example, same_shape, soft_targets
from funcnet.numerics import widen
from funcnet.task import report, shares, unpack, without_masked


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


def binary_cross_entropy(logits, targets):
    """-t log s(z) - (1 - t) log s(-z): dz = (s(z) - t) / k."""
    z, t = same_shape("binary_cross_entropy", logits, targets)
    tail = jnp.log1p(jnp.exp(-jnp.abs(z)))
    positive = jnp.where(t == 0.0, 0.0, t * (jnp.maximum(-z, 0.0) + tail))
    negative = jnp.where(t == 1.0, 0.0, (1.0 - t) * (jnp.maximum(z, 0.0) + tail))

    def pullback(dvalues):
        return (((logistic(z) - t) * per_output(dvalues, z)).astype(logits.dtype),)

    return per_example(positive + negative), pullback


def cross_entropy(logits, labels, *, weight=None, label_smoothing=None, ignore_label=None):
    """-sum_k T_k log p_k, p = softmax(z): dz = p sum_k T_k - T."""
    z, labels = widen(logits), jnp.asarray(labels)
    targets, factor = soft_targets(z, labels, weight, label_smoothing, ignore_label)
    z = jnp.where(factor[..., None] == 0.0, 0.0, z)
    z = z - z.max(axis=-1, keepdims=True)
    log_p = z - jnp.log(jnp.exp(z).sum(axis=-1, keepdims=True))

    def pullback(dvalues):
        dz = jnp.exp(log_p) * targets.sum(axis=-1, keepdims=True) - targets
        return ((dz * (factor * dvalues)[..., None]).astype(logits.dtype),)

    return -factor * inner(targets, log_p), pullback


def supervised(params, state, batch, *, apply, loss, metrics, vjp, key=None, train=False):
    """sum_i a_i l_i, the shares a_i being constants: dl_i = a_i; then the loss's rule, then the
    network's."""
    x, target, weight = unpack(batch)
    prediction, network_pullback, state = vjp(apply, params, state, x, key=key, train=train)
    prediction = without_masked(prediction, weight)
    values, loss_pullback = vjp(loss, prediction, target)
    share = shares(loss, target, weight, values)

    def pullback(delta):
        (dprediction,) = loss_pullback(jnp.broadcast_to(share.loss * delta, values.shape))
        return network_pullback(without_masked(dprediction, weight))[:1]

    mean = jnp.where(share.loss == 0.0, 0.0, share.loss * values).sum()
    return mean, pullback, (state, report(share, metrics, prediction, target, values))
