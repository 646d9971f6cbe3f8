"""Optimizers with a preconditioner for each side of a matrix. For what is a matrix see `matrix`.

A parameter's pair (left, right) of square matrices stands in its place in the state's trees; a
side longer than `max_size` has `()` and counts as the identity.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from funcnet.optimizers.arithmetic import (
    bias_correction,
    counted,
    moving_average,
    narrowed,
    one_minus,
    plus_scaled,
    root_plus_eps,
    scaled,
    squared,
    wide,
    wide_zeros,
)
from funcnet.optimizers.descent import momentum as heavy_ball
from funcnet.optimizers.descent import rate_at, sgd, sgd_init
from funcnet.optimizers.matrix import check_matrices
from funcnet.optimizers.spectral import (
    eigenbasis,
    identities,
    inverse_root,
    orthonormal,
    transpose,
)
from funcnet.optimizers.transforms import chain, need_params
from funcnet.pairs import Optimizer, check_count, fix, number
from funcnet.schedules import as_schedule


class ShampooState(NamedTuple):
    count: Any  # int32, updates made
    gram: Any  # (G G^T, G^T G) summed or averaged, in each parameter's place
    root: Any  # their inverse roots, as last taken


class SoapState(NamedTuple):
    count: Any
    learning_rate: Any
    mean: Any  # first moment, in the basis
    square: Any  # second moment, in the basis
    gram: Any  # (G G^T, G^T G) averaged
    basis: Any  # their eigenvectors, in columns


def grams(grads, max_size):
    """(G G^T, G^T G) in each leaf's place."""

    def pair(g):
        fan_in, fan_out = g.shape[-2:]
        left = g @ transpose(g) if fan_in <= max_size else ()
        return left, transpose(g) @ g if fan_out <= max_size else ()

    return jax.tree.map(pair, wide(grads))


def between(tree, pairs):
    """L^T X R for each leaf X and its pair (L, R)."""

    def product(x, pair):
        left, right = pair
        x = x if isinstance(left, tuple) else transpose(left) @ x
        return x if isinstance(right, tuple) else x @ right

    return jax.tree.map(product, tree, pairs)


def transposed(pairs):
    return jax.tree.map(transpose, pairs)


def zero_grams(params, max_size):
    shapes = jax.eval_shape(lambda params: grams(params, max_size), params)
    return jax.tree.map(lambda gram: jnp.zeros(gram.shape, gram.dtype), shapes)


def shampoo_init(params, *, max_size):
    check_matrices("shampoo", params)
    gram = zero_grams(params, max_size)
    return ShampooState(jnp.zeros((), jnp.int32), gram, jax.tree.map(identities, gram))


def precondition(grads, state, gram, unbias, eps, exponent, every):
    def refreshed():
        return jax.tree.map(
            lambda a: inverse_root(
                jnp.asarray(unbias, a.dtype) * a,
                jnp.asarray(eps, a.dtype),
                jnp.asarray(exponent, a.dtype),
            ),
            gram,
        )

    root = lax.cond(state.count % every == 0, refreshed, lambda: state.root)
    updates = narrowed(between(wide(grads), root), grads)
    return updates, ShampooState(counted(state.count), gram, root)


def shampoo_summed(grads, state, params=None, *, eps, exponent, every, max_size):
    gram = jax.tree.map(jnp.add, state.gram, grams(grads, max_size))
    return precondition(grads, state, gram, 1.0, eps, exponent, every)


def shampoo_averaged(grads, state, params=None, *, one_minus_decay, eps, exponent, every, max_size):
    gram = moving_average(state.gram, one_minus_decay, grams(grads, max_size))
    unbias = 1.0 / bias_correction(one_minus_decay, counted(state.count))
    return precondition(grads, state, gram, unbias, eps, exponent, every)


def shampoo(
    learning_rate=1e-2,
    decay=None,
    *,
    momentum=None,
    eps=1e-4,
    exponent=0.25,
    every=1,
    max_size=10_000,
) -> Optimizer:
    """L <- L + G G^T, R <- R + G^T G, theta <- theta - eta L^-p G R^-p, p = 1/4 the `exponent`,
    from L = R = eps I (Gupta et al. 2018, algorithm 1).

    With `decay=b` the sums are averages, L <- b L + (1 - b) G G^T, whose roots are taken of
    L / (1 - b^t) + eps I. With `momentum=mu` the product u goes through a velocity,
    w <- mu w + u, theta <- theta - eta w. The roots are taken every `every` steps, the first
    included, and an eigendecomposition runs in no other step: `every` is an integer that all of a
    sweep shares, for it decides what is computed. (In a `vmap` over optimizer states the count
    has to stay one number, `in_axes=None`, as it does in a `vmap` of `run`.) A side longer than
    `max_size` keeps no matrix. `graft(adam(...), shampoo(1.0))` takes the size of the steps from
    another optimizer. Every parameter needs two axes; `partition` gives the others to Adam.
    """
    static = {
        "every": check_count("every", every, 1),
        "max_size": check_count("max_size", max_size, 1),
    }
    numbers = {"eps": number("eps", eps, 0.0), "exponent": number("exponent", exponent, 0.0)}
    if decay is None:
        update = Partial(fix(shampoo_summed, **static), **numbers)
    else:
        update = Partial(
            fix(shampoo_averaged, **static), one_minus_decay=one_minus("decay", decay), **numbers
        )
    direction = Optimizer(Partial(fix(shampoo_init, max_size=max_size)), update)
    if momentum is None:
        return chain(direction, sgd(learning_rate))
    return chain(direction, heavy_ball(learning_rate, momentum))


def soap_init(params, *, max_size):
    check_matrices("soap", params)
    gram = zero_grams(params, max_size)
    zeros = wide_zeros(params), wide_zeros(params)
    return SoapState(*sgd_init(params), *zeros, gram, jax.tree.map(identities, gram))


def permuted(x, orders):
    """The rows of x in the left order, its columns in the right one."""
    left, right = orders
    x = x if isinstance(left, tuple) else jnp.take_along_axis(x, left[..., :, None], -2)
    return x if isinstance(right, tuple) else jnp.take_along_axis(x, right[..., None, :], -1)


def power_iteration(mean, square, gram, basis):
    """One step of the power iteration towards the eigenvectors, those of larger eigenvalue first,
    then both moments in the new basis: the first turned, the second reordered only."""
    turned = jax.tree.map(jnp.matmul, gram, basis)
    order = jax.tree.map(lambda q, aq: jnp.argsort(-(q * aq).sum(-2)), basis, turned)
    new = jax.tree.map(
        lambda aq, i: orthonormal(jnp.take_along_axis(aq, i[..., None, :], -1)), turned, order
    )
    mean = between(between(mean, transposed(basis)), new)
    return mean, jax.tree.map(permuted, square, order), new


def soap_update(
    grads,
    state,
    params=None,
    *,
    learning_rate,
    one_minus_b1,
    one_minus_b2,
    one_minus_shampoo,
    eps,
    weight_decay,
    every,
    max_size,
):
    need_params("soap", params)
    rate, first = rate_at(learning_rate, state), state.count == 0
    # The first step only sets the basis up: nothing is averaged, nothing moves.
    moved = jnp.where(first, 0.0, rate)
    gradient = between(wide(grads), state.basis)
    mean = moving_average(state.mean, jnp.where(first, 0.0, one_minus_b1), gradient)
    square = moving_average(state.square, jnp.where(first, 0.0, one_minus_b2), squared(gradient))
    count = jnp.maximum(state.count, 1)
    step_size = jnp.sqrt(bias_correction(one_minus_b2, count))
    step_size = moved * step_size / bias_correction(one_minus_b1, count)
    direction = jax.tree.map(lambda m, v: m / root_plus_eps(v, eps), mean, square)
    updates = scaled(-step_size, between(direction, transposed(state.basis)))
    decayed = jax.tree.map(jnp.add, updates, wide(params))
    updates = narrowed(plus_scaled(updates, -moved * weight_decay, decayed), grads)

    gram = moving_average(state.gram, one_minus_shampoo, grams(grads, max_size))
    due = jnp.where(first, 2, jnp.asarray(state.count % every == 0, jnp.int32))
    mean, square, basis = lax.switch(
        due,
        [
            lambda: (mean, square, state.basis),
            lambda: power_iteration(mean, square, gram, state.basis),
            lambda: (mean, square, jax.tree.map(eigenbasis, gram)),
        ],
    )
    return updates, SoapState(counted(state.count), rate, mean, square, gram, basis)


def soap(
    learning_rate=3e-3,
    b1=0.95,
    b2=0.95,
    *,
    shampoo_decay=0.95,
    eps=1e-8,
    weight_decay=0.01,
    every=10,
    max_size=10_000,
) -> Optimizer:
    """Adam in the eigenbasis of Shampoo's preconditioners (Vyas et al. 2024, algorithm 3).

    With G' = Q_L^T G Q_R: m <- b1 m + (1 - b1) G', v <- b2 v + (1 - b2) G'^2,
    theta <- (1 - eta lambda) (theta - eta c Q_L m / (sqrt(v) + eps) Q_R^T),
    c = sqrt(1 - b2^t) / (1 - b1^t), lambda `weight_decay`. Then L <- b L + (1 - b) G G^T and R
    alike, b `shampoo_decay`, and every `every` steps Q_L and Q_R take a step of power iteration,
    Q <- QR(L Q), the columns by falling Q^T L Q; m turns into the new basis, v is reordered. The
    first step takes Q from an eigendecomposition and leaves the parameters alone. For `every`,
    `max_size` and a sweep's count see `shampoo`.

    As the authors' code, whose `shampoo_decay` is b2 unless given. Merging the axes of a kernel is
    `flattened(soap(...))`. In derivatives with respect to the numbers, eigenvectors of one
    eigenvalue count as constant, whose choice among themselves is arbitrary.
    """
    max_size = check_count("max_size", max_size, 1)
    update = Partial(
        fix(soap_update, every=check_count("every", every, 1), max_size=max_size),
        learning_rate=as_schedule("learning_rate", learning_rate),
        one_minus_b1=one_minus("b1", b1),
        one_minus_b2=one_minus("b2", b2),
        one_minus_shampoo=one_minus("shampoo_decay", shampoo_decay),
        eps=number("eps", eps, 0.0),
        weight_decay=number("weight_decay", weight_decay),
    )
    return Optimizer(Partial(fix(soap_init, max_size=max_size)), update)
