"""Losses: one value per example; `supervised` takes their weighted mean.

Values are computed in float32 at least. Bind options by keyword, numbers with `Partial` (leaves)
and choices with `fix`: `Partial(fix(cross_entropy, ignore_label=-1), label_smoothing=0.1)`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.numerics import widen
from funcnet.pairs import number, unbind


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


def mean_squared_error(prediction, target):
    """(1/k) sum_j (prediction_j - target_j)^2 over an example's k outputs.

    prediction, target: [n, ...] of equal shape; returns [n]. As PyTorch's `mse_loss`; Optax's
    `l2_loss` has a factor 1/2. Raises `ValueError` for shapes that differ, broadcastable or not.
    """
    prediction, target = same_shape("mean_squared_error", prediction, target)
    return per_example(jnp.square(prediction - target))


def binary_cross_entropy(logits, targets):
    """-t log s(z) - (1 - t) log(1 - s(z)), s the logistic function, averaged over an example's
    outputs.

    logits: [n, ...], targets: the same shape, in [0, 1], of any dtype; returns [n]. Exact for
    logits of any size: an infinite logit on the target's side costs 0. As PyTorch's
    `binary_cross_entropy_with_logits`.
    """
    logits, targets = same_shape("binary_cross_entropy", logits, targets)
    positive = jnp.where(targets == 0.0, 0.0, targets * jax.nn.softplus(-logits))
    negative = jnp.where(targets == 1.0, 0.0, (1.0 - targets) * jax.nn.softplus(logits))
    return per_example(positive + negative)


def check_labels(logits, labels, ignore_label):
    """True for integer labels, False for probability vectors; `ValueError` for anything else.

    Values are looked at on the host only; traced ones out of range give NaN.
    """
    classes = logits.shape[-1]
    if labels.shape == logits.shape and jnp.issubdtype(labels.dtype, jnp.floating):
        return False
    if labels.shape != logits.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            "cross_entropy expects integer labels of shape "
            f"{logits.shape[:-1]} or probabilities of shape {logits.shape} for logits of shape "
            f"{logits.shape}, got labels of shape {labels.shape} and dtype {labels.dtype}"
        )
    if not isinstance(labels, jax.core.Tracer):
        values = np.asarray(labels)
        wrong = (values < 0) | (values >= classes)
        wrong &= values != ignore_label if ignore_label is not None else True
        if wrong.any():
            raise ValueError(
                f"cross_entropy expects labels from 0 to {classes - 1}, got {values[wrong][0]}"
            )
    return True


def class_numbers(labels):
    """Integer labels in int32 at least: an int8 could not be compared with 200 classes."""
    return labels.astype(jnp.promote_types(labels.dtype, jnp.int32))


def ignored(labels, ignore_label):
    """Which integer labels are the ignored one; none where there is no such label."""
    return jnp.zeros(labels.shape, bool) if ignore_label is None else labels == ignore_label


def soft_targets(logits, labels, weight, label_smoothing, ignore_label):
    """T with loss = -sum_k T_k log p_k, [..., K], and each example's factor [...].

    T is one-hot, and then bool, where neither weights nor smoothing change it: a comparison needs
    no gather, and hence no scatter in the backward pass. The factor is 1, 0 for an ignored label
    and NaN for a label that is no class.
    """
    classes = logits.shape[-1]
    if check_labels(logits, labels, ignore_label):
        labels = class_numbers(labels)
        wrong = (labels < 0) | (labels >= classes)
        factor = jnp.where(wrong, jnp.nan, 1.0).astype(logits.dtype)
        factor = jnp.where(ignored(labels, ignore_label), 0.0, factor)
        # A label that is no class takes all of them, so that its NaN reaches each logit's gradient.
        targets = (labels[..., None] == jnp.arange(classes)) | wrong[..., None]
    else:
        factor = jnp.ones(labels.shape[:-1], logits.dtype)
        targets = labels.astype(logits.dtype)
    if label_smoothing is not None:
        smoothing = number("label_smoothing", label_smoothing, 0.0, 1.0)
        smoothing = jnp.asarray(smoothing, logits.dtype)
        targets = (1.0 - smoothing) * targets + smoothing / classes
    if weight is not None:
        weight = jnp.asarray(weight, logits.dtype)
        if weight.shape != (classes,):
            raise ValueError(f"weight must have shape ({classes},), got {weight.shape}")
        targets = weight * targets
    return targets, factor


def inner(targets, log_p):
    """sum_k T_k log p_k, in which 0 times -inf is 0."""
    if targets.dtype == bool:
        return jnp.where(targets, log_p, 0.0).sum(axis=-1)
    ruled_out = (targets == 0.0) & jnp.isneginf(log_p)
    return (targets * jnp.where(ruled_out, 0.0, log_p)).sum(axis=-1)


def cross_entropy(logits, labels, *, weight=None, label_smoothing=None, ignore_label=None):
    """-sum_k T_k log softmax(z)_k with T = w * ((1 - eps) y + eps / K): the cross-entropy of the
    label y, or of the distribution y, against the softmax of the logits.

    logits: [..., K]; labels: integers [...] or probabilities [..., K]; returns [...]. `weight`
    [K] weighs classes, `label_smoothing` eps in [0, 1] mixes in the uniform distribution, and an
    example labelled `ignore_label` has loss and gradient 0. `supervised` divides the sum by
    sum_i w_{y_i} over the valid examples (`label_weights`), as PyTorch does for integer labels;
    PyTorch divides by n for probabilities, which is `jnp.mean` of these values.

    Exact for logits of any size, -inf included where T is 0. A label that is no class raises
    `ValueError` on the host and makes loss and gradient NaN where it is traced.
    """
    logits, labels = widen(jnp.asarray(logits)), jnp.asarray(labels)
    if logits.ndim < 1:
        raise ValueError("cross_entropy expects logits with the classes in the last axis")
    targets, factor = soft_targets(logits, labels, weight, label_smoothing, ignore_label)
    if ignore_label is not None:
        logits = jnp.where(factor[..., None] == 0.0, 0.0, logits)
    return -factor * inner(targets, jax.nn.log_softmax(logits))


def cross_entropy_weights(labels, *, weight=None, label_smoothing=None, ignore_label=None):
    """w_y for a label y, 0 for an ignored one, NaN for one that is no class; sum_k y_k w_k for
    probabilities; None for all 1."""
    if weight is None and ignore_label is None:
        return None
    labels = jnp.asarray(labels)
    if jnp.issubdtype(labels.dtype, jnp.floating):
        return None if weight is None else labels @ jnp.asarray(weight, labels.dtype)
    labels = class_numbers(labels)
    values = jnp.ones(labels.shape)
    if weight is not None:
        weight = jnp.asarray(weight)
        wrong = (labels < 0) | (labels >= weight.size)
        hot = labels[..., None] == jnp.arange(weight.size)
        values = jnp.where(wrong, jnp.nan, jnp.where(hot, weight, 0.0).sum(axis=-1))
    return jnp.where(ignored(labels, ignore_label), 0.0, values)


WEIGHTS = {cross_entropy: cross_entropy_weights}
"""The losses that weigh examples themselves, and by how much."""


def label_weights(loss, target) -> Any:
    """The weight that `loss`, with what is bound to it, gives each target; None for 1 each."""
    function, bound = unbind(loss)
    return WEIGHTS[function](target, **bound) if function in WEIGHTS else None
