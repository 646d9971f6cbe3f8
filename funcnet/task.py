"""Supervised learning as a task: a network, a loss of its predictions, and metrics."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from funcnet.losses import label_weights
from funcnet.pairs import Network, Task, check_network, partial

RESERVED = ("loss", "weight", "count", "learning_rate", "gradient_norm")
"""Names of metrics that funcnet itself reports."""


class Shares(NamedTuple):
    """What each of a batch's values contributes to a mean; a scalar where all are alike."""

    loss: Any  # the mean loss is sum_i loss_i * value_i
    metric: Any  # likewise for metrics
    weight: Any  # what the loss was divided by, the sum of the values' weights
    count: Any  # what the metrics were divided by, the number of valid values


def unpack(batch):
    """(x, target, weight or None) of a supervised batch."""
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        got = type(batch).__name__
        if hasattr(batch, "shape"):
            got = f"one array of shape {batch.shape}"
        elif hasattr(batch, "__len__"):
            got += f" of length {len(batch)}"
        raise ValueError(f"a supervised batch is (x, y) or (x, y, weight), got {got}")
    x, target, *weight = jax.tree.map(jnp.asarray, tuple(batch))
    return x, target, weight[0] if weight else None


def aligned(weight, like):
    """A weight for each example, [n], or for each of its positions, with axes of 1 behind it so
    that it broadcasts against `like`."""
    if weight.shape != like.shape[: weight.ndim] or weight.ndim < 1:
        raise ValueError(
            f"weights must have shape {like.shape[:1]}, one an example, got {weight.shape}"
        )
    return weight.reshape(weight.shape + (1,) * (like.ndim - weight.ndim))


def without_masked(prediction, weight):
    """The prediction with 0 in the examples of weight 0: nothing that is wrong with their labels
    or predictions comes back as a gradient."""
    if weight is None:
        return prediction

    def one(p):
        # A mask, and its gradient, are no numbers.
        floating = jnp.issubdtype(p.dtype, jnp.floating)
        return jnp.where(aligned(weight, p) == 0.0, 0.0, p) if floating else p

    return jax.tree.map(one, prediction)


def shares(loss, target, weight, values) -> Shares:
    """How `values`, one an example (or one a position in it), are averaged, with `weight` for
    each example or None, and the weights that the loss gives its labels."""
    if values.ndim < 1:
        raise ValueError("a loss returns one value per example, got a scalar: drop its mean")
    own = label_weights(loss, target)
    if weight is None and own is None:
        share = 1.0 / max(values.size, 1)
        return Shares(share, share, np.float32(values.size), np.float32(values.size))
    example = jnp.ones(values.shape, values.dtype)
    if weight is not None:
        example = example * aligned(weight, values).astype(values.dtype)
    own = jnp.ones_like(example) if own is None else own.astype(values.dtype)
    valid = ((example != 0.0) & (own != 0.0)).astype(values.dtype)
    total, count = jnp.where(example == 0.0, 0.0, example * own).sum(), valid.sum()
    return Shares(divided(example, total), divided(valid, count), total, count)


def divided(weights, total):
    """weights / total, and 0 where the total is 0."""
    return jnp.where(total == 0.0, 0.0, weights / jnp.where(total == 0.0, 1.0, total))


def weighted_sum(share, values):
    """sum_i share_i * value_i, whatever the value where the share is 0."""
    return jnp.where(share == 0.0, 0.0, share * values).sum()


def report(share, metrics, prediction, target, values):
    """The task's metrics of a batch."""
    means = {"weight": share.weight, "count": share.count}
    for name, metric in metrics.items():
        scores = jnp.asarray(metric(prediction, target))
        if scores.shape != values.shape:
            raise ValueError(
                f"metric {name!r} must return one value per loss value, {values.shape}, "
                f"got {scores.shape}"
            )
        means[name] = weighted_sum(share.metric, scores)
    return means


def supervised_loss(params, state, batch, *, key=None, train=False, apply, loss, metrics):
    x, target, weight = unpack(batch)
    prediction, state = apply(params, state, x, key=key, train=train)
    prediction = without_masked(prediction, weight)
    values = jnp.asarray(loss(prediction, target))
    share = shares(loss, target, weight, values)
    means = report(share, metrics, prediction, target, values)
    return weighted_sum(share.loss, values), (state, means)


def supervised(
    network: Network,
    loss: Callable[..., Any],
    *,
    metrics: Mapping[str, Callable[..., Any]] | None = None,
) -> Task:
    """Learn y from x: the task whose batches are `(x, y)` or `(x, y, weight)`.

    `loss(prediction, y)` and each of `metrics`, such as `{"accuracy": accuracy}`, return one value
    per example. The task's loss is their mean, sum w l / sum w over the examples, where w is the
    batch's weight [n] times the one that the loss gives the label; 0 where all weights are 0. Its
    metrics are the means of the given ones over the valid examples (those of weight 0 and ignored
    labels left out, each of the others counted once), `"weight"`, the sum that the loss was
    divided by, and `"count"`, the number of valid examples. A weight of 0 also masks a label that
    is no class, as in padding; its x must be finite.

    Bind a loss's options by `Partial` or `fix`, not in a lambda, which would hide them from the
    mean: `Partial(cross_entropy, label_smoothing=0.1)`.
    """
    check_network("supervised", network)
    if not isinstance(metrics, Mapping | None):
        raise TypeError(
            f'supervised expects metrics by name, such as {{"accuracy": accuracy}}, got {metrics!r}'
        )
    metrics = {} if metrics is None else dict(metrics)
    if taken := sorted(set(metrics) & set(RESERVED)):
        raise ValueError(f"metric names {taken} are taken; funcnet reports {list(RESERVED)}")
    bound = {name: partial(metric) for name, metric in metrics.items()}
    return Task(
        partial(network.init),
        Partial(supervised_loss, apply=partial(network.apply), loss=partial(loss), metrics=bound),
    )
