"""A loss of sequences whose labels are not aligned with them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcnet.layers.sequence import check_mask, split
from funcnet.losses.common import class_numbers, log_sum
from funcnet.numerics import widen


class Lattice(NamedTuple):
    """Labels with a blank before, between and after them, S = 2 L + 1 states, and the logits."""

    logits: Any  # [n, T, K], widened, 0 at the steps that are not there
    there: Any  # bool [n, T]
    states: Any  # classes [n, S]
    skip: Any  # bool [n, S], whether the state may follow the last but one
    ends: Any  # bool [n, S], the states in which all labels are read
    factor: Any  # [n], 1, and NaN for labels that are none


def wrong_rows(labels, classes, blank):
    """[n], where a label is no class, or the blank, or stands behind padding."""
    wrong = (labels >= classes) | (labels == blank)
    behind = (labels[:, :-1] < 0) & (labels[:, 1:] >= 0)
    return wrong.any(axis=1) | behind.any(axis=1)


def lattice(logits, labels, blank) -> Lattice:
    values, mask = split(logits)
    values, labels = jnp.asarray(values), jnp.asarray(labels)
    if (
        values.ndim != 3
        or labels.ndim != 2
        or len(labels) != len(values)
        or not jnp.issubdtype(labels.dtype, jnp.integer)
    ):
        raise ValueError(
            "ctc expects logits [n, T, K] and integer labels [n, L], got logits of shape "
            f"{values.shape}, labels of shape {labels.shape} and dtype {labels.dtype}"
        )
    check_mask("ctc", values, mask)
    n, steps, classes = values.shape
    if not 0 <= blank < classes:
        raise ValueError(f"ctc expects a blank from 0 to {classes - 1}, got {blank}")
    if not isinstance(labels, jax.core.Tracer):
        host = np.asarray(labels)
        if (wrong := wrong_rows(host, classes, blank)).any():
            raise ValueError(
                f"ctc expects labels from 0 to {classes - 1} but for the blank {blank}, and "
                f"negative ones only behind them, got {host[wrong][0]}"
            )
    labels, values = class_numbers(labels), widen(values)
    factor = jnp.where(wrong_rows(labels, classes, blank), jnp.nan, 1.0).astype(values.dtype)
    there = jnp.ones((n, steps), bool) if mask is None else mask
    values = jnp.where(there[..., None], factor[:, None, None] * values, 0.0)
    size = 2 * labels.shape[1] + 1
    states = jnp.full((n, size), blank, labels.dtype)
    states = states.at[:, 1::2].set(jnp.clip(labels, 0, classes - 1))
    another = states != jnp.roll(states, 2, axis=1)
    skip = another & (states != blank) & (jnp.arange(size) > 1)
    last = 2 * (labels >= 0).sum(axis=1, keepdims=True)
    ends = (jnp.arange(size) == last) | (jnp.arange(size) == last - 1)
    return Lattice(values, there, states, skip, ends, factor)


def moved(alpha, count):
    """Each state's value `count` states further on."""
    pad = ((0, 0), (count, 0))
    return jnp.pad(alpha, pad, constant_values=-jnp.inf)[:, : alpha.shape[1]]


def ctc(logits, labels, *, blank=0):
    """-log of the probability of reading `labels` in a sequence: the sum, over all ways to take a
    class at each step that give the labels once repetitions are merged and then blanks dropped, of
    the products of softmax(z_t) (connectionist temporal classification, Graves et al. 2006).

    logits: [n, T, K], or `Masked` where sequences have fewer steps; labels: integers [n, L], padded
    behind with any negative number; returns [n]. A recurrent network on a `Masked` x and labels
    padded with -1 make a batch (x, labels). `blank` is a choice, bound by `fix`.

    Exact, in log space, for logits of any size. Where T is too short for the labels the loss is inf
    and its gradient 0: PyTorch's `ctc_loss` has inf and NaN, and 0 and 0 with `zero_infinity`;
    Optax's has about 1e5. PyTorch's "mean" divides each loss by its number of labels, this does
    not. Labels that are no classes, that are the blank, or that stand behind padding raise
    `ValueError` on the host and give NaN where they are traced.
    """
    z, there, states, skip, ends, _ = lattice(logits, labels, blank)
    log_p = jax.nn.log_softmax(z)
    emitted = jnp.take_along_axis(log_p, states[:, None], axis=2)

    def step(alpha, inputs):
        emitted, there = inputs
        two = jnp.where(skip, moved(alpha, 2), -jnp.inf)
        after = emitted + log_sum(jnp.stack([alpha, moved(alpha, 1), two]), axis=0)
        return jnp.where(there[:, None], after, alpha), None

    # Before the first step all is in the first state, from which one reaches the first label too.
    start = jnp.where(jnp.arange(states.shape[1]) == 0, 0.0, -jnp.inf).astype(z.dtype)
    start = jnp.broadcast_to(start, states.shape)
    alpha, _ = lax.scan(step, start, (emitted.swapaxes(0, 1), there.T))
    return -log_sum(jnp.where(ends, alpha, -jnp.inf))
