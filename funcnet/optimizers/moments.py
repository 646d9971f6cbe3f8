"""Adam's kin: the same two moments, otherwise decayed, corrected or put together."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcnet.optimizers.adaptive import AdamState, adam, adam_init
from funcnet.optimizers.arithmetic import (
    bias_correction,
    counted,
    maximum,
    moving_average,
    narrowed,
    one_minus,
    over_root,
    plus_scaled,
    safe_sqrt,
    scaled,
    square_zeros,
    squared,
    wide,
)
from funcnet.optimizers.decay import decoupled_decay
from funcnet.optimizers.descent import rate_at
from funcnet.pairs import Optimizer, fix, number
from funcnet.schedules import as_schedule


class AdamaxState(NamedTuple):
    count: Any
    learning_rate: Any
    mean: Any
    largest: Any  # decayed maximum of the gradients' magnitudes


class AmsgradState(NamedTuple):
    count: Any
    learning_rate: Any
    mean: Any
    square: Any
    largest: Any  # maximum of the second moments so far


class NadamState(NamedTuple):
    count: Any
    learning_rate: Any
    product: Any  # of all momenta so far
    mean: Any
    square: Any


def adamw(learning_rate=1e-3, b1=0.9, b2=0.999, *, eps=1e-8, weight_decay=1e-2) -> Optimizer:
    """Adam with decoupled weight decay, theta <- theta - eta (m' / (sqrt(v') + eps) + lambda theta)
    (Loshchilov & Hutter 2019, algorithm 2): `decoupled_decay(adam(...), weight_decay)`.

    As PyTorch's `AdamW` and Optax's `adamw`, whose default decay is 1e-4.
    """
    return decoupled_decay(adam(learning_rate, b1, b2, eps=eps), weight_decay)


def adamax_init(params):
    return AdamaxState(*adam_init(params))


def adamax_update(grads, state, params=None, *, learning_rate, one_minus_b1, b2, eps):
    rate, count = rate_at(learning_rate, state), counted(state.count)
    mean = moving_average(state.mean, one_minus_b1, grads)
    sizes = jax.tree.map(lambda g: jnp.abs(g) + jnp.asarray(eps, g.real.dtype), wide(grads))
    largest = maximum(scaled(b2, state.largest), sizes)
    step_size = rate / bias_correction(one_minus_b1, count)
    updates = scaled(-step_size, jax.tree.map(jnp.divide, mean, largest))
    return narrowed(updates, grads), AdamaxState(count, rate, mean, largest)


def adamax(learning_rate=2e-3, b1=0.9, b2=0.999, *, eps=1e-8) -> Optimizer:
    """m <- b1 m + (1 - b1) g, u <- max(b2 u, |g| + eps), theta <- theta - eta m' / u,
    m' = m / (1 - b1^t) (Kingma & Ba 2015, algorithm 2, without its eps).

    As PyTorch's `Adamax` and Optax's `adamax`. PyTorch's `weight_decay` is L2, in
    `chain(add_decayed_weights(rate), adamax(...))`, that of Optax's `adamaxw` is
    `decoupled_decay(adamax(...), rate)`.
    """
    update = Partial(
        adamax_update,
        learning_rate=as_schedule("learning_rate", learning_rate),
        one_minus_b1=one_minus("b1", b1),
        b2=number("b2", b2, 0.0, 1.0),
        eps=number("eps", eps, 0.0),
    )
    return Optimizer(Partial(adamax_init), update)


def corrected_maximum(largest, square, correction):
    """The maximum of v, and it corrected."""
    largest = maximum(largest, square)
    return largest, scaled(1.0 / correction, largest)


def maximum_of_corrected(largest, square, correction):
    """The maximum of v corrected, twice: it needs no more correction."""
    largest = maximum(largest, scaled(1.0 / correction, square))
    return largest, largest


def no_correction(fraction, count):
    return 1.0


def amsgrad_init(params):
    return AmsgradState(*adam_init(params), square_zeros(params))


def amsgrad_update(
    grads, state, params=None, *, learning_rate, one_minus_b1, one_minus_b2, eps, correct, keep
):
    rate, count = rate_at(learning_rate, state), counted(state.count)
    mean = moving_average(state.mean, one_minus_b1, grads)
    square = moving_average(state.square, one_minus_b2, squared(grads))
    largest, divisor = keep(state.largest, square, correct(one_minus_b2, count))
    step_size = rate / correct(one_minus_b1, count)
    updates = scaled(-step_size, over_root(mean, divisor, 1.0, eps))
    return narrowed(updates, grads), AmsgradState(count, rate, mean, square, largest)


def amsgrad(
    learning_rate=1e-3, b1=0.9, b2=0.999, *, eps=1e-8, correct_first=False, corrected=True
) -> Optimizer:
    """Adam's m and v, w <- max(w, v), theta <- theta - eta m' / (sqrt(w') + eps)
    (Reddi et al. 2018, algorithm 2), where ' is Adam's bias correction.

    As PyTorch's `Adam(amsgrad=True)`. Optax's `amsgrad` takes the maximum of v', which is
    `correct_first=True`. The paper corrects nothing: `corrected=False`, and Optax's
    `bias_correction_mu=False, bias_correction_nu=False`.
    """
    update = Partial(
        fix(
            amsgrad_update,
            correct=bias_correction if corrected else no_correction,
            keep=maximum_of_corrected if correct_first else corrected_maximum,
        ),
        learning_rate=as_schedule("learning_rate", learning_rate),
        one_minus_b1=one_minus("b1", b1),
        one_minus_b2=one_minus("b2", b2),
        eps=number("eps", eps, 0.0),
    )
    return Optimizer(Partial(amsgrad_init), update)


def same_momentum(count, one_minus_b1):
    """b1 at every step."""
    return 1.0 - one_minus_b1


def rising_momentum(count, one_minus_b1, *, momentum_decay):
    """b1 (1 - 0.96^(psi t) / 2): from about b1 / 2 up to b1."""
    return (1.0 - one_minus_b1) * (1.0 - 0.5 * 0.96 ** (momentum_decay * count))


def nadam_init(params):
    count, rate, mean, square = adam_init(params)
    return NadamState(count, rate, jnp.ones(()), mean, square)


def nadam_update(
    grads, state, params=None, *, learning_rate, one_minus_b1, one_minus_b2, eps, momentum
):
    rate, count = rate_at(learning_rate, state), counted(state.count)
    now, following = (momentum(t, one_minus_b1) for t in (count, counted(count)))
    product = jnp.asarray(state.product * now, state.product.dtype)
    mean = moving_average(state.mean, one_minus_b1, grads)
    square = moving_average(state.square, one_minus_b2, squared(grads))
    ahead = plus_scaled(
        scaled((1.0 - now) / (1.0 - product), wide(grads)),
        following / (1.0 - product * following),
        mean,
    )
    unbias = 1.0 / bias_correction(one_minus_b2, count)
    updates = scaled(-rate, over_root(ahead, square, unbias, eps))
    return narrowed(updates, grads), NadamState(count, rate, product, mean, square)


def nadam(
    learning_rate=2e-3, b1=0.9, b2=0.999, *, eps=1e-8, momentum_decay: Any = 4e-3
) -> Optimizer:
    """Adam's m and v, theta <- theta - eta n / (sqrt(v') + eps) with Nesterov's look ahead
    n = (1 - mu_t) g / (1 - mu_1...mu_t) + mu_{t+1} m / (1 - mu_1...mu_{t+1})
    and mu_t = b1 (1 - 0.96^(psi t) / 2) (Dozat 2016).

    psi is `momentum_decay`. As PyTorch's `NAdam`; its `decoupled_weight_decay=True` is
    `decoupled_decay(nadam(...), rate)`. `momentum_decay=None` has mu_t = b1, as Optax's `nadam`.
    """
    momentum = Partial(same_momentum)
    if momentum_decay is not None:
        decay = number("momentum_decay", momentum_decay, 0.0)
        momentum = Partial(rising_momentum, momentum_decay=decay)
    update = Partial(
        nadam_update,
        learning_rate=as_schedule("learning_rate", learning_rate),
        one_minus_b1=one_minus("b1", b1),
        one_minus_b2=one_minus("b2", b2),
        eps=number("eps", eps, 0.0),
        momentum=momentum,
    )
    return Optimizer(Partial(nadam_init), update)


def eps_with_corrected(correction):
    """sqrt(v / c) + eps."""
    return 1.0


def eps_with_raw(correction):
    """(sqrt(v) + eps) / sqrt(c)."""
    return 1.0 / safe_sqrt(correction)


def radam_update(
    grads, state, params=None, *, learning_rate, one_minus_b1, one_minus_b2, eps, eps_scale
):
    rate, count = rate_at(learning_rate, state), counted(state.count)
    mean = moving_average(state.mean, one_minus_b1, grads)
    square = moving_average(state.square, one_minus_b2, squared(grads))
    correction = bias_correction(one_minus_b2, count)
    longest = 2.0 / one_minus_b2 - 1.0
    length = longest - 2.0 * count * (1.0 - correction) / correction
    rectified = length > 5.0
    # Where it is not used, a length that is in range keeps the derivatives finite.
    length, longest = (jnp.where(rectified, x, 6.0) for x in (length, longest))
    ratio = (length - 4.0) * (length - 2.0) * longest
    r = jnp.sqrt(ratio / ((longest - 4.0) * (longest - 2.0) * length))
    step_size = rate / bias_correction(one_minus_b1, count)
    adapted = over_root(mean, square, 1.0 / correction, eps * eps_scale(correction))
    updates = jax.tree.map(
        lambda a, m: jnp.where(rectified, a, m),
        scaled(-step_size * r, adapted),
        scaled(-step_size, mean),
    )
    return narrowed(updates, grads), AdamState(count, rate, mean, square)


def radam(
    learning_rate=1e-3, b1=0.9, b2=0.999, *, eps=1e-8, eps_before_correction=False
) -> Optimizer:
    """Adam's m and v, theta <- theta - eta r m' / (sqrt(v') + eps), and without the division and r
    while l <= 5, where l = L - 2 t b2^t / (1 - b2^t) is the length of the average, L = 2 / (1 - b2)
    - 1, and r = sqrt((l - 4)(l - 2) L / ((L - 4)(L - 2) l)) (Liu et al. 2020, algorithm 2, without
    its eps).

    As Optax's `radam`. PyTorch's `RAdam` adds eps to sqrt(v) before the bias correction:
    `eps_before_correction=True`; its `decoupled_weight_decay=True` is
    `decoupled_decay(radam(...), rate)`.
    """
    update = Partial(
        fix(radam_update, eps_scale=eps_with_raw if eps_before_correction else eps_with_corrected),
        learning_rate=as_schedule("learning_rate", learning_rate),
        one_minus_b1=one_minus("b1", b1),
        one_minus_b2=one_minus("b2", b2),
        eps=number("eps", eps, 0.0),
    )
    return Optimizer(Partial(adam_init), update)
