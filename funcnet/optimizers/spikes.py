"""Leaving out the steps whose gradient is far larger than those before it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcnet.optimizers.arithmetic import moving_average, one_minus
from funcnet.optimizers.clipping import global_norm
from funcnet.optimizers.transforms import Known, hand_on, members
from funcnet.optimizers.wrappers import chosen
from funcnet.pairs import Optimizer, number


class SpikeState(NamedTuple):
    mean: Any  # the running mean of the gradients' norms; 0 before the first
    skipped: Any  # int32, updates left out
    inner: Any  # the wrapped optimizer's state


def spike_init(params, *, init):
    return SpikeState(jnp.zeros(()), jnp.zeros((), jnp.int32), init(params))


def spike_update(
    grads, state, params=None, *, update, factor, one_minus_decay, value=None, weight=None,
    objective=None,
):  # fmt: skip
    norm = global_norm(grads).astype(state.mean.dtype)
    first = state.mean == 0.0
    largest = jnp.finfo(norm.dtype).max
    limit = jnp.where(first, largest, jnp.minimum(factor * state.mean, largest))
    good = norm <= limit  # a NaN is not, nor what is infinite
    # Zeros go in where anything is wrong, or derivatives of the branch not taken would be NaN.
    sound = chosen(good, grads, jax.tree.map(jnp.zeros_like, grads))
    updates, inner = hand_on(update, sound, state.inner, params, Known(value, weight, objective))
    updates = chosen(good, updates, jax.tree.map(jnp.zeros_like, updates))
    # A spike counts as the limit, so that the mean follows where the norm stays high.
    seen = jnp.where(good, norm, jnp.where(first, 0.0, limit))
    mean = jnp.where(first, seen, moving_average(state.mean, one_minus_decay, seen))
    return updates, SpikeState(mean, state.skipped + ~good, chosen(good, inner, state.inner))


def skip_spikes(optimizer: Optimizer, factor=10.0, *, decay=0.99) -> Optimizer:
    """The optimizer's update where |g| <= factor m, else an update of 0 and the optimizer's state
    as if nothing had come; m is the running mean of min(|g|, factor m), at first |g|.

    So a batch that would throw the run off is passed over, as are gradients that are not finite.
    Where gradients stay high m follows, by (1 - decay) (factor - 1) = 9 % a step: a lasting rise to
    100 m is passed over 27 times, and after many gradients of 0, for which m falls by 1 % each,
    ordinary ones are spikes too at first. The state counts what was `skipped`.
    """
    init, update = members("skip_spikes", optimizer)
    numbers = {
        "factor": number("factor", factor, 1.0),
        "one_minus_decay": one_minus("decay", decay),
    }
    return Optimizer(
        Partial(spike_init, init=init), Partial(spike_update, update=update, **numbers)
    )
