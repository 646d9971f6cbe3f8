"""Metrics: one value per example, like losses, but not differentiated."""

import jax.numpy as jnp


def accuracy(prediction, target):
    """1 where the largest entry of the prediction is the target's class, else 0.

    prediction: [..., K] (the first of equal entries counts); target: integer classes [...] or
    probabilities [..., K]; returns [...].
    """
    prediction, target = jnp.asarray(prediction), jnp.asarray(target)
    if target.shape == prediction.shape:
        target = target.argmax(axis=-1)
    if target.shape != prediction.shape[:-1]:
        raise ValueError(
            f"accuracy expects targets of shape {prediction.shape[:-1]} or {prediction.shape}, "
            f"got {target.shape}"
        )
    return (prediction.argmax(axis=-1) == target).astype(jnp.float32)
