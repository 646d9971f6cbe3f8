"""Arithmetic and checks that the families of losses share."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcnet.numerics import widen


def per_example(values):
    """The mean over all axes but the first: [n, ...] -> [n]."""
    return values.mean(axis=tuple(range(1, values.ndim)))


def same_shape(name, prediction, target):
    """Both as arrays, the prediction widened; a `ValueError` where the shapes differ."""
    prediction, target = jnp.asarray(prediction), jnp.asarray(target)
    if prediction.shape != target.shape:
        raise ValueError(
            f"{name} expects a target of the prediction's shape {prediction.shape}, "
            f"got {target.shape}"
        )
    prediction = widen(prediction)
    return prediction, target.astype(prediction.dtype)


def check_range(name, labels, classes, ignore_label=None):
    """`ValueError` for a label that is no class. Values are looked at on the host only; traced ones
    out of range give NaN (`one_hot`)."""
    if isinstance(labels, jax.core.Tracer):
        return
    values = np.asarray(labels)
    wrong = (values < 0) | (values >= classes)
    wrong &= values != ignore_label if ignore_label is not None else True
    if wrong.any():
        raise ValueError(f"{name} expects labels from 0 to {classes - 1}, got {values[wrong][0]}")


def class_numbers(labels):
    """Integer labels in int32 at least: an int8 could not be compared with 200 classes."""
    return labels.astype(jnp.promote_types(labels.dtype, jnp.int32))


def one_hot(labels, classes, dtype):
    """Which class is the label, bool [..., K], and a factor [...]: 1, and NaN for a label that is
    no class. Such a label takes all classes, so that its NaN reaches each logit's gradient."""
    labels = class_numbers(labels)
    wrong = (labels < 0) | (labels >= classes)
    factor = jnp.where(wrong, jnp.nan, 1.0).astype(dtype)
    return (labels[..., None] == jnp.arange(classes)) | wrong[..., None], factor


def scored(name, logits, labels):
    """The logits, widened, which of them is the label's, and the factor of `one_hot`, by which the
    logits are multiplied already."""
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if labels.shape != logits.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"{name} expects integer labels of shape {logits.shape[:-1]} for logits of shape "
            f"{logits.shape}, got labels of shape {labels.shape} and dtype {labels.dtype}"
        )
    if logits.ndim < 1:
        raise ValueError(f"{name} expects logits with the classes in the last axis, got a scalar")
    logits, classes = widen(logits), logits.shape[-1]
    check_range(name, labels, classes)
    hot, factor = one_hot(labels, classes, logits.dtype)
    return factor[..., None] * logits, hot, factor


def probabilities(name, logits, targets):
    """The logits, widened, and probabilities of their shape, classes in the last axis."""
    logits, targets = jnp.asarray(logits), jnp.asarray(targets)
    if (
        logits.ndim < 1
        or targets.shape != logits.shape
        or not jnp.issubdtype(targets.dtype, jnp.floating)
    ):
        raise ValueError(
            f"{name} expects probabilities of the logits' shape {logits.shape}, classes in the "
            f"last axis, got targets of shape {targets.shape} and dtype {targets.dtype}"
        )
    logits = widen(logits)
    return logits, targets.astype(logits.dtype)


def inner(targets, log_p):
    """sum_k T_k log p_k, in which 0 times -inf is 0."""
    if targets.dtype == bool:
        return jnp.where(targets, log_p, 0.0).sum(axis=-1)
    ruled_out = (targets == 0.0) & jnp.isneginf(log_p)
    return (targets * jnp.where(ruled_out, 0.0, log_p)).sum(axis=-1)


def log_sum(terms, axis=-1):
    """log sum exp; of nothing but -inf it is -inf with gradient 0, where `logsumexp` has NaN."""
    top = lax.stop_gradient(terms.max(axis, keepdims=True, initial=-jnp.inf))
    total = jnp.exp(terms - jnp.where(jnp.isinf(top), 0.0, top)).sum(axis)
    top = top.squeeze(axis)
    log = jnp.log(jnp.where(jnp.isneginf(top), 1.0, total))
    return jnp.where(jnp.isinf(top), top, top + log)


def norm(x, eps=0.0):
    """sqrt(sum x^2 + eps) over the last axis, kept, for numbers of any finite size; the gradient
    at 0 is 0."""
    x = lax.optimization_barrier(x)  # of numbers that it knows XLA makes (c x)^2 to c^2 x^2
    least = jnp.maximum(lax.stop_gradient(eps), 4.0 * jnp.finfo(x.dtype).tiny).astype(x.dtype)
    largest = lax.stop_gradient(jnp.abs(x)).max(-1, keepdims=True, initial=0.0)
    # So that neither its square nor its inverse, which divisions by it become, is 0.
    scale = jnp.maximum(0.25 * largest, jnp.sqrt(least))
    total = jnp.square(x / scale).sum(-1, keepdims=True) + jnp.asarray(eps, x.dtype) / scale / scale
    return scale * jnp.where(total == 0.0, 0.0, jnp.sqrt(jnp.where(total == 0.0, 1.0, total)))
