"""Losses of classes, from logits: the softmax over the last axis, or the logistic function."""

import jax
import jax.numpy as jnp
from jax import lax

from funcnet.losses.common import (
    check_range,
    class_numbers,
    inner,
    log_sum,
    one_hot,
    per_example,
    same_shape,
    scored,
)
from funcnet.numerics import widen
from funcnet.pairs import number


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
    check_range("cross_entropy", labels, classes, ignore_label)
    return True


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
        targets, factor = one_hot(labels, classes, logits.dtype)
        factor = jnp.where(ignored(labels, ignore_label), 0.0, factor)
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


def focused(log_odds, gamma):
    """(1 - p)^gamma (-log p) for p = s(log_odds), the power taken in logarithms."""
    gamma = jnp.asarray(number("gamma", gamma, 0.0), log_odds.dtype)
    # Far from 0 either the power is 1 or -log p is 0, in any dtype, and infinities would meet 0.
    far = jnp.abs(log_odds) > 1e3
    power = jnp.exp(-gamma * jax.nn.softplus(jnp.where(far, 0.0, log_odds)))
    return jnp.where(far, 1.0, power) * jax.nn.softplus(-log_odds)


def focal(logits, labels, *, gamma=2.0):
    """-(1 - p_y)^gamma log p_y with p = softmax(z): the cross-entropy, less of it the surer the
    label is (Lin et al. 2017).

    logits: [..., K]; labels: integers [...]; returns [...]. It is `binary_focal` of the label's
    log-odds, z_y - log sum_{j != y} exp z_j, with target 1, and with gamma = 0 `cross_entropy`.
    Exact for logits of any size. A label that is no class raises `ValueError` on the host and gives
    NaN where it is traced. Neither PyTorch nor Optax has it; class weights are the batch's weights.
    """
    logits, hot, _ = scored("focal", logits, labels)
    logits -= lax.stop_gradient(logits.max(axis=-1, keepdims=True))  # exact, and then small sums
    others = log_sum(jnp.where(hot, -jnp.inf, logits))
    return focused(inner(hot, logits) - others, gamma)


def binary_focal(logits, targets, *, gamma=2.0, alpha=None):
    """t a f(z) + (1 - t) (1 - a) f(-z) with f(z) = -(1 - s(z))^gamma log s(z), s the logistic
    function, averaged over an example's outputs (Lin et al. 2017).

    logits: [n, ...], targets: the same shape, in [0, 1], of any dtype; returns [n]. `focal` is the
    same of a softmax. As Optax's `sigmoid_focal_loss` for targets 0 and 1; in between that has the
    power of 1 - p_t, p_t = t s(z) + (1 - t) s(-z). The weights a and 1 - a are 1 where alpha is
    None; the paper's alpha is 0.25.
    """
    logits, targets = same_shape("binary_focal", logits, targets)
    positive, negative = targets, 1.0 - targets
    if alpha is not None:
        alpha = jnp.asarray(number("alpha", alpha, 0.0, 1.0), logits.dtype)
        positive, negative = alpha * positive, (1.0 - alpha) * negative
    # Twice `where`: of an infinite logit the part that does not count has no gradient either.
    true = jnp.where(targets == 0.0, 0.0, logits)
    false = jnp.where(targets == 1.0, 0.0, -logits)
    return per_example(positive * focused(true, gamma) + negative * focused(false, gamma))


def dice(logits, targets, *, smooth=1.0):
    """1 - (2 sum_j p_j t_j + smooth) / (sum_j p_j + sum_j t_j + smooth), p = s(z) the logistic
    function, over all of an example's outputs: one less the overlap of two sets (Milletari et al.
    2016, with p and t for their squares).

    logits: [n, ...], targets: the same shape, in [0, 1], of any dtype; returns [n]. With a positive
    `smooth` nothing found where nothing is costs nothing. Optax's `binary_dice_loss` adds its
    smooth to half of each: this with twice that. PyTorch has none.
    """
    logits, targets = same_shape("dice", logits, targets)
    smooth = jnp.asarray(number("smooth", smooth, 0.0), logits.dtype)
    p, axes = jax.nn.sigmoid(logits), tuple(range(1, logits.ndim))
    overlap, total = (p * targets).sum(axes), (p + targets).sum(axes)
    return 1.0 - (2.0 * overlap + smooth) / (total + smooth)
