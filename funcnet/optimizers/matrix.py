"""What sees weights as matrices, and Muon.

A matrix is a parameter's last two axes, [fan_in, fan_out]; leading axes, as `repeat` stacks them,
are a batch of matrices. So a convolution's kernel, [*window, fan_in, fan_out], is a matrix for each
place of the window; `flattened` makes it one of [window fan_in, fan_out], the customary form.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial, keystr, tree_flatten_with_path

from funcnet.optimizers.arithmetic import (
    bias_correction,
    counted,
    moving_average,
    narrowed,
    one_minus,
    plus_scaled,
    safe_sqrt,
    scaled,
    wide,
    wide_zeros,
)
from funcnet.optimizers.descent import rate_at, sgd_init
from funcnet.optimizers.spectral import transpose
from funcnet.optimizers.transforms import Known, hand_on, members, need_params
from funcnet.pairs import Optimizer, check_count, fix, number
from funcnet.schedules import as_schedule


class MuonState(NamedTuple):
    count: Any  # int32, updates made
    learning_rate: Any  # the one last used, 0 at first
    mean: Any  # moving average of the gradient, in float32 at least


def check_matrices(name, params):
    for path, leaf in tree_flatten_with_path(params)[0]:
        if jnp.ndim(leaf) < 2:
            raise ValueError(
                f"{name} expects matrices, got params{keystr(path)} of shape {jnp.shape(leaf)}; "
                "give such parameters to another optimizer by `partition`"
            )


def check_choice(name, choice, choices):
    if choice not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {choice!r}")
    return choices[choice]


def check_dtype(name, dtype):
    dtype = jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{name} expects a floating-point dtype, got {dtype}")
    return dtype


def plus_eps(norm, eps):
    return norm + eps


def at_least_eps(norm, eps):
    return jnp.maximum(norm, eps)


def normalised(x, eps, *, dtype, denominator):
    """x over its Frobenius norm, made positive by eps, each rounded to `dtype`."""
    largest = jnp.abs(x).max((-2, -1), keepdims=True, initial=1e-30)
    largest = lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 1.0))
    # A power of 2, which rounds nothing, brings squares and 16-bit numbers into range.
    scale = largest / (2.0 * jnp.frexp(largest)[0])
    x, eps = (y.astype(dtype) for y in (x / scale, jnp.asarray(eps, x.dtype) / scale))
    square = jnp.square(x.astype(scale.dtype)).sum((-2, -1), keepdims=True)
    return x / denominator(safe_sqrt(square).astype(dtype), eps)


def newton_schulz(x, coefficients, eps, *, steps, dtype, denominator):
    """X <- a X + (b A + c A^2) X, A = X X^T, from X / |X|: nearly U V^T where X = U S V^T.

    X is [..., m, n]; of its two Gram matrices A is the smaller one, of [fan_out, fan_out] where
    they are as large, which is PyTorch's. Products are rounded to `dtype` and summed in float32 at
    least.
    """
    turn = transpose if x.shape[-2] >= x.shape[-1] else lambda x: x
    a, b, c = (jnp.asarray(coefficient, x.dtype) for coefficient in coefficients)
    rounded = dtype or x.dtype

    def product(x, y):
        return jnp.matmul(x, y, preferred_element_type=a.dtype)

    def step(_, x):
        gram = product(x, transpose(x)).astype(rounded)
        polynomial = (b * gram + c * product(gram, gram)).astype(rounded)
        return (a * x + product(polynomial, x)).astype(rounded)

    start = normalised(turn(x), eps, dtype=rounded, denominator=denominator)
    # A loop compiles in half the time of as many copies, and runs no slower.
    return turn(lax.fori_loop(0, steps, step, start)).astype(x.dtype)


def heavy_ball_mean(mean, grads, fraction, count):
    return mean


def nesterov_mean(mean, grads, fraction, count):
    return moving_average(mean, fraction, grads)


def corrected_mean(mean, grads, fraction, count):
    return scaled(1.0 / bias_correction(fraction, count), mean)


def corrected_nesterov_mean(mean, grads, fraction, count):
    """The mean as after one more step (Dozat 2016): each part corrected for its own count."""
    grads = scaled(1.0 / bias_correction(fraction, count), wide(grads))
    return moving_average(corrected_mean(mean, grads, fraction, counted(count)), fraction, grads)


MEANS = {
    (False, False): heavy_ball_mean,
    (True, False): nesterov_mean,
    (False, True): corrected_mean,
    (True, True): corrected_nesterov_mean,
}
"""By Nesterov's look ahead and bias correction."""


def aspect_scale(fan_in, fan_out):
    return math.sqrt(max(1.0, fan_out / max(fan_in, 1)))


def width_scale(fan_in, fan_out):
    return 0.2 * math.sqrt(max(fan_in, fan_out))


SCALES = {"original": aspect_scale, "moonlight": width_scale}


def muon_init(params):
    check_matrices("muon", params)
    return MuonState(*sgd_init(params), wide_zeros(params))


def muon_update(
    grads,
    state,
    params=None,
    *,
    learning_rate,
    one_minus_decay,
    weight_decay,
    eps,
    coefficients,
    average,
    orthogonal,
    scale,
):
    need_params("muon", params)
    rate, count = rate_at(learning_rate, state), counted(state.count)
    mean = moving_average(state.mean, one_minus_decay, grads)
    steps = jax.tree.map(
        lambda m: scale(*m.shape[-2:]) * orthogonal(m, coefficients, eps),
        average(mean, grads, one_minus_decay, count),
    )
    updates = scaled(-rate, plus_scaled(steps, weight_decay, params))
    return narrowed(updates, grads), MuonState(count, rate, mean)


def muon(
    learning_rate=0.02,
    decay=0.95,
    *,
    weight_decay=0.0,
    eps=1e-7,
    nesterov=True,
    bias_correction=False,
    scale="original",
    coefficients=(3.4445, -4.7750, 2.0315),
    steps=5,
    iterate_in=None,
    clamp_norm=False,
) -> Optimizer:
    """m <- mu m + (1 - mu) g, theta <- theta - eta (s O + lambda theta), O nearly the orthogonal
    matrix closest to mu m + (1 - mu) g (Jordan et al. 2024).

    mu is `decay`, lambda `weight_decay`. O is X after `steps` of X <- a X + b A X + c A^2 X,
    A = X X^T, from X / (|X| + eps); a, b, c are the `coefficients`, and the singular values of O
    about 0.7 to 1.2. s is sqrt(max(1, fan_out / fan_in)) for `scale="original"`, and
    0.2 sqrt(max(fan_in, fan_out)) for `scale="moonlight"` (Liu et al. 2025), which gives updates
    the size of Adam's. Every parameter needs two axes: `partition` gives biases, gains and
    embeddings to Adam.

    As PyTorch's `Muon` with `clamp_norm=True` (from X / max(|X|, eps)), `weight_decay=0.1` and
    `iterate_in=jnp.bfloat16`; "moonlight" is its "match_rms_adamw". As Optax's `muon` of matrices
    with `bias_correction=True, eps=1e-8`; "moonlight" is its `consistent_rms=0.2`. The iteration is
    in float32 at least unless `iterate_in` says otherwise: bfloat16 moves a step by some percent.
    """
    if len(coefficients) != 3:
        raise ValueError(f"coefficients must be three numbers, got {coefficients!r}")
    orthogonal = fix(
        newton_schulz,
        steps=check_count("steps", steps, 1),
        dtype=None if iterate_in is None else check_dtype("iterate_in", iterate_in),
        denominator=at_least_eps if clamp_norm else plus_eps,
    )
    update = Partial(
        fix(
            muon_update,
            average=MEANS[bool(nesterov), bool(bias_correction)],
            orthogonal=orthogonal,
            scale=check_choice("scale", scale, SCALES),
        ),
        learning_rate=as_schedule("learning_rate", learning_rate),
        one_minus_decay=one_minus("decay", decay),
        weight_decay=number("weight_decay", weight_decay),
        eps=number("eps", eps, 0.0),
        coefficients=tuple(number("coefficients", c) for c in coefficients),
    )
    return Optimizer(Partial(muon_init), update)


def as_matrix(x):
    """[..., fan_in, fan_out] as [... fan_in, fan_out]."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) if jnp.ndim(x) > 2 else x


def shaped_as(tree, like):
    return jax.tree.map(lambda x, y: x.reshape(y.shape), tree, like)


def flattened_init(params, *, init):
    return init(jax.tree.map(as_matrix, params))


def flattened_update(grads, state, params=None, *, update, value=None, weight=None, objective=None):
    matrices = jax.tree.map(as_matrix, grads), jax.tree.map(as_matrix, params)

    def of_matrices(own):
        return objective(shaped_as(own, params))

    known = Known(value, weight, None if objective is None else of_matrices)
    updates, state = hand_on(update, matrices[0], state, matrices[1], known)
    return shaped_as(updates, grads), state


def flattened(optimizer: Optimizer) -> Optimizer:
    """The optimizer, to which a parameter of more than two axes is one matrix, all but its last
    axis flattened: `flattened(muon(0.02))` for the kernels of convolutions."""
    init, update = members("flattened", optimizer)
    return Optimizer(Partial(flattened_init, init=init), Partial(flattened_update, update=update))
