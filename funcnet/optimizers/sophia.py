"""Steps scaled by an estimate of the Hessian's diagonal."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from funcnet.optimizers.arithmetic import (
    counted,
    moving_average,
    narrowed,
    one_minus,
    plus_scaled,
    scaled,
    wide,
    wide_zeros,
)
from funcnet.optimizers.descent import rate_at, sgd_init
from funcnet.optimizers.transforms import need_objective, need_params
from funcnet.pairs import Optimizer, check_count, fix, number
from funcnet.schedules import as_schedule


class SophiaState(NamedTuple):
    count: Any  # int32, updates made
    learning_rate: Any  # the one last used, 0 at first
    key: Any  # stays as it is; each estimate folds the count in
    mean: Any  # moving average of the gradient, in float32 at least
    hessian: Any  # moving average of the estimates of the Hessian's diagonal


def sophia_init(params, *, seed):
    zeros = (wide_zeros(params) for _ in range(2))
    return SophiaState(*sgd_init(params), jax.random.key(seed), *zeros)


def random_signs(key, tree):
    """-1 or 1 for each number of a tree, by the leaf's place."""
    leaves, structure = jax.tree.flatten(tree)
    signs = [
        jax.random.rademacher(jax.random.fold_in(key, index), x.shape, x.dtype)
        for index, x in enumerate(leaves)
    ]
    return structure.unflatten(signs)


def hutchinson(objective, params, key):
    """u * (H u), u of random signs: an estimate of diag(H), right in the mean."""
    signs = random_signs(key, params)
    _, curved = jax.jvp(jax.grad(objective), (params,), (signs,))
    return jax.tree.map(jnp.multiply, wide(signs), wide(curved))


def sophia_update(
    grads,
    state,
    params=None,
    *,
    objective=None,
    learning_rate,
    one_minus_b1,
    one_minus_b2,
    gamma,
    eps,
    weight_decay,
    every,
):
    need_params("sophia", params)
    need_objective("sophia", objective, params)
    rate = rate_at(learning_rate, state)
    mean = moving_average(state.mean, one_minus_b1, wide(grads))

    def refreshed():
        estimate = hutchinson(objective, params, jax.random.fold_in(state.key, state.count))
        return moving_average(state.hessian, one_minus_b2, estimate)

    # The count is the state's own and the same in all members of a sweep: the branch stays one.
    hessian = lax.cond(state.count % every == 0, refreshed, lambda: state.hessian)

    def clipped(m, h):
        curvature = jnp.asarray(gamma, h.dtype) * h
        return jnp.clip(m / jnp.maximum(curvature, jnp.asarray(eps, h.dtype)), -1.0, 1.0)

    step = plus_scaled(jax.tree.map(clipped, mean, hessian), weight_decay, wide(params))
    updates = narrowed(scaled(-rate, step), grads)
    return updates, SophiaState(counted(state.count), rate, state.key, mean, hessian)


def sophia(
    learning_rate,
    b1=0.965,
    b2=0.99,
    *,
    gamma=0.01,
    eps=1e-8,
    weight_decay=1e-4,
    every: int = 10,
    seed: int = 0,
) -> Optimizer:
    """m <- b1 m + (1 - b1) g; each k-th update, from the first, h <- b2 h + (1 - b2) u * (H u), u
    of random signs; theta <- theta - eta (clip(m / max(gamma h, eps), 1) + lambda theta)
    (Liu et al. 2023, Sophia-H, algorithms 1 and 3).

    H is the Hessian of this batch's loss at theta: it needs the objective, `update(grads, state,
    params, objective=f)`, which `trainer`, `chain` and the wrappers hand on. H u is one derivative
    along u of the gradient; in between that branch is skipped, under `vmap` over trainers too.
    k is `every`, a choice and part of the structure; lambda is `weight_decay`. The signs are a
    function of the state's key, made of `seed`, of the count and of the leaf's place.

    Optax's `contrib.sophia` uses the average of before this refresh, and divides m by 1 - b1^t.
    The paper draws u from a normal distribution, whose estimate has the larger variance. PyTorch
    has none.
    """
    update = Partial(
        fix(sophia_update, every=check_count("every", every, 1)),
        learning_rate=as_schedule("learning_rate", learning_rate),
        one_minus_b1=one_minus("b1", b1),
        one_minus_b2=one_minus("b2", b2),
        gamma=number("gamma", gamma, 0.0),
        eps=number("eps", eps, 0.0),
        weight_decay=number("weight_decay", weight_decay, 0.0),
    )
    return Optimizer(Partial(fix(sophia_init, seed=check_count("seed", seed, 0))), update)
