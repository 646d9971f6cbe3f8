"""Rules of losses of classes."""

import jax.numpy as jnp

from funcnet.chain_rule.activations import logistic
from funcnet.chain_rule.losses.regression import per_output
from funcnet.losses.classification import soft_targets
from funcnet.losses.common import inner, per_example, same_shape, scored
from funcnet.numerics import widen


def softplus(z):
    return jnp.maximum(z, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(z)))


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


def focused(u, gamma):
    """f(u) = -(1 - p)^gamma log p, p = s(u), and df = -(1 - p)^gamma (1 - p - gamma p log p)."""
    far = jnp.abs(u) > 1e3  # where 1 - p or log p is 0
    power = jnp.where(far, 1.0, jnp.exp(-gamma * softplus(jnp.where(far, 0.0, u))))
    surprise = softplus(-u)
    product = jnp.where(far, 0.0, logistic(u) * surprise)
    return power * surprise, -power * (logistic(-u) + gamma * product)


def focal(logits, labels, *, gamma=2.0):
    """f(u), u = z_y - log sum_{j != y} exp z_j: dz_y = df, dz_j = -df softmax(the others)_j."""
    z, hot, factor = scored("focal", logits, labels)
    others = jnp.where(hot, -jnp.inf, z)
    top = jnp.maximum(others.max(axis=-1, keepdims=True), jnp.finfo(z.dtype).min)
    parts = jnp.exp(others - top)
    total = parts.sum(axis=-1, keepdims=True)
    u = inner(hot, z - top) - jnp.log(total)[..., 0]
    values, df = focused(u, jnp.asarray(gamma, z.dtype))

    def pullback(dvalues):
        share = jnp.where(hot, 1.0, -parts / jnp.where(total == 0.0, 1.0, total))
        return ((share * (df * factor * dvalues)[..., None]).astype(logits.dtype),)

    return values, pullback


def binary_focal(logits, targets, *, gamma=2.0, alpha=None):
    """t a f(z) + (1 - t) (1 - a) f(-z): dz = t a df(z) - (1 - t) (1 - a) df(-z), / k."""
    z, t = same_shape("binary_focal", logits, targets)
    positive, negative = (1.0, 1.0) if alpha is None else (alpha, 1.0 - alpha)
    (true, dtrue), (false, dfalse) = (focused(u, jnp.asarray(gamma, z.dtype)) for u in (z, -z))

    def weighed(true, false):
        true = jnp.where(t == 0.0, 0.0, positive * t * true)
        return true + jnp.where(t == 1.0, 0.0, negative * (1.0 - t) * false)

    def pullback(dvalues):
        return ((weighed(dtrue, -dfalse) * per_output(dvalues, z)).astype(logits.dtype),)

    return per_example(weighed(true, false)).astype(z.dtype), pullback


def dice(logits, targets, *, smooth=1.0):
    """1 - a / b, a = 2 sum p t + c, b = sum p + sum t + c: dp = (a / b - 2 t) / b, and
    dz = p (1 - p) dp."""
    z, t = same_shape("dice", logits, targets)
    p, axes = logistic(z), tuple(range(1, z.ndim))
    c = jnp.asarray(smooth, z.dtype)
    b = (p + t).sum(axes, keepdims=True) + c
    ratio = (2.0 * (p * t).sum(axes, keepdims=True) + c) / b

    def pullback(dvalues):
        dp = (ratio - 2.0 * t) / b * dvalues.reshape(ratio.shape)
        return ((p * logistic(-z) * dp).astype(logits.dtype),)

    return 1.0 - ratio.reshape(z.shape[:1]), pullback
