"""The rules of the supervised task, and of one whose batches are augmented."""

import jax.numpy as jnp

from funcnet.augment import transformed
from funcnet.task import report, shares, unpack, without_masked


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


def augmented(params, state, batch, *, loss, transforms, vjp, key=None, train=False):
    """The loss of the transformed batch, which the parameters have no part in: its own rule."""
    if train:
        key, batch = transformed(key, batch, transforms)
    return vjp(loss, params, state, batch, key=key, train=train)
