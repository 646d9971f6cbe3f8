"""Weight decay beside an optimizer's step, not inside its gradient."""

from typing import Any

from jax.tree_util import Partial

from funcnet.optimizers.arithmetic import narrowed, plus_scaled, wide
from funcnet.optimizers.descent import learning_rates
from funcnet.optimizers.labels import as_labels
from funcnet.optimizers.transforms import (
    Known,
    hand_on,
    members,
    need_params,
    plus_scaled_where,
)
from funcnet.pairs import Optimizer, fix, number


def decoupled_update(
    grads,
    state,
    params=None,
    *,
    update,
    weight_decay,
    decay,
    value=None,
    weight=None,
    objective=None,
):
    need_params("decoupled_decay", params)
    known = Known(value, weight, objective)
    updates, state = hand_on(update, wide(grads), state, params, known)
    rates = learning_rates(state)
    if not rates:
        raise ValueError(
            "decoupled_decay expects an optimizer whose state has a learning_rate, "
            f"got {type(state).__name__}"
        )
    return narrowed(decay(updates, -rates[-1] * weight_decay, params), grads), state


def decoupled_decay(optimizer: Optimizer, weight_decay, mask: Any = None) -> Optimizer:
    """theta <- theta + u - eta lambda theta, u the optimizer's update and eta the rate that it
    used (Loshchilov & Hutter 2019, whose decay is eta lambda where eta is a schedule from 1 down).

    lambda is `weight_decay`; `mask` chooses the leaves that decay, as in `add_decayed_weights`. The
    state is the optimizer's own; of several rates in it, as a chain has, the last one counts. The
    scale of a `reduce_on_plateau` within is not among them, and what a `freeze` within holds still
    decays too, unless the mask leaves it out. PyTorch's `decoupled_weight_decay=True` (in `NAdam`
    and `RAdam`) and Optax's `add_decayed_weights` between the direction and the rate, as its
    `adamaxw` and `nadamw` have it.
    `chain(add_decayed_weights(rate), optimizer)` is L2.
    """
    init, update = members("decoupled_decay", optimizer)
    decay = plus_scaled if mask is None else fix(plus_scaled_where, mask=as_labels(mask))
    rate = number("weight_decay", weight_decay)
    return Optimizer(
        init, Partial(fix(decoupled_update, decay=decay), update=update, weight_decay=rate)
    )
