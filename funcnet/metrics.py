"""Metrics: one value per example, like losses, but not differentiated."""

import jax.numpy as jnp


def accuracy(prediction, target):
    """1 where the largest entry of the prediction is the target's class, else 0; NaN where an entry
    is NaN, lest a network that has diverged be as good as one that always says the first class.

    prediction: [..., K] with K at least 2 (the first of equal entries counts); target: integer
    classes [...] or probabilities [..., K]; returns [...]. For one logit, `binary_accuracy`.
    """
    prediction, target = jnp.asarray(prediction), jnp.asarray(target)
    if prediction.ndim < 2 or prediction.shape[-1] < 2:
        raise ValueError(
            "accuracy expects predictions of shape [n, ..., K] for K > 1 classes, got "
            f"{prediction.shape}; for one logit an output use binary_accuracy"
        )
    if target.shape == prediction.shape:
        target = target.argmax(axis=-1)
    if target.shape != prediction.shape[:-1]:
        raise ValueError(
            f"accuracy expects targets of shape {prediction.shape[:-1]} or {prediction.shape}, "
            f"got {target.shape}"
        )
    hits = (prediction.argmax(axis=-1) == target).astype(jnp.float32)
    return jnp.where(jnp.isnan(prediction).any(axis=-1), jnp.nan, hits)


def binary_accuracy(logits, targets):
    """The share of an example's outputs on the target's side, (logit > 0) = (target > 1/2); NaN
    where a logit is.

    logits, targets: [n, ...] of equal shape; returns [n]. The metric of `binary_cross_entropy`.
    """
    logits, targets = jnp.asarray(logits), jnp.asarray(targets)
    if logits.shape != targets.shape or logits.ndim < 1:
        raise ValueError(
            f"binary_accuracy expects targets of the logits' shape {logits.shape}, "
            f"got {targets.shape}"
        )
    hits = ((logits > 0) == (targets > 0.5)).astype(jnp.float32)
    hits = jnp.where(jnp.isnan(logits), jnp.nan, hits)
    return hits.mean(axis=tuple(range(1, logits.ndim)))
