"""Limited-memory BFGS: an inverse Hessian made of the last moves, and how far to go along it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from funcnet.optimizers.arithmetic import (
    counted,
    dot,
    narrowed,
    plus_scaled,
    scaled,
    wide,
    wide_zeros,
)
from funcnet.optimizers.clipping import global_norm
from funcnet.optimizers.linesearch import Point, wolfe_search
from funcnet.optimizers.transforms import need_objective, need_params
from funcnet.optimizers.wrappers import chosen
from funcnet.pairs import Optimizer, check_count, fix, number


class Memory(NamedTuple):
    """The last m pairs, the newest last, in float32 at least; a place not yet taken is 0."""

    steps: Any  # s = theta' - theta, [m, *shape] a leaf
    changes: Any  # y = g' - g, likewise
    rho: Any  # 1 / (s . y), [m]


class LbfgsState(NamedTuple):
    count: Any  # int32, updates made
    learning_rate: Any  # the last step's length along H g, 0 at first
    evaluations: Any  # int32, of the loss and its gradient in the last search
    memory: Memory


class DirectionState(NamedTuple):
    count: Any
    params: Any  # where the last gradient was taken, in float32 at least
    grads: Any  # that gradient
    memory: Memory


def memory_init(params, size):
    def zeros():
        return jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), wide(params))

    return Memory(zeros(), zeros(), jnp.zeros(size))


def remembered(memory, step, change):
    """The memory with one pair more and the oldest dropped; as it was where s . y is not positive,
    up to rounding, or not finite."""
    product, square = dot(step, change), dot(change, change)
    least = jnp.finfo(product.dtype).eps * jnp.sqrt(dot(step, step) * square)
    good = (product > least) & jnp.isfinite(square)
    rho = (1.0 / jnp.where(good, product, 1.0)).astype(memory.rho.dtype)
    after = jax.tree.map(
        lambda kept, new: jnp.concatenate([kept[1:], new[None]]), memory, Memory(step, change, rho)
    )
    return chosen(good, after, memory)


def inverse_hessian_times(memory, grads):
    """H g by the two loops of algorithm 7.4, from H0 = s . y / y . y of the newest pair; of no pair
    H0 = min(1, 1 / |g|)."""
    newest = jax.tree.map(lambda y: y[-1], memory.changes)
    known = memory.rho[-1] > 0.0
    square = jnp.where(known, memory.rho[-1] * dot(newest, newest), 1.0)
    first = 1.0 / jnp.maximum(1.0, global_norm(grads))

    def backward(q, pair):
        s, y, rho = pair
        alpha = rho * dot(s, q)
        return plus_scaled(q, -alpha, y), alpha

    def forward(r, pair_and_alpha):
        (s, y, rho), alpha = pair_and_alpha
        beta = rho * dot(y, r)
        return plus_scaled(r, alpha - beta, s), None

    q, alphas = lax.scan(backward, grads, memory, reverse=True)
    r, _ = lax.scan(forward, scaled(jnp.where(known, 1.0 / square, first), q), (memory, alphas))
    return r


def direction_init(params, *, memory):
    zeros = (wide_zeros(params) for _ in range(2))
    return DirectionState(jnp.zeros((), jnp.int32), *zeros, memory_init(params, memory))


def direction_update(grads, state, params=None):
    need_params("lbfgs_direction", params)
    x, g = wide(params), wide(grads)
    step = jax.tree.map(jnp.subtract, x, state.params)
    change = jax.tree.map(jnp.subtract, g, state.grads)
    pairs = remembered(state.memory, step, change)
    pairs = chosen(state.count > 0, pairs, state.memory)
    updates = narrowed(inverse_hessian_times(pairs, g), grads)
    return updates, DirectionState(counted(state.count), x, g, pairs)


def lbfgs_direction(memory: int = 10) -> Optimizer:
    """g <- H g, H the limited-memory BFGS inverse Hessian of the last `memory` moves and changes of
    the gradient (Nocedal & Wright 2006, algorithm 7.4).

    With a fixed step, or a scheduled one, it is `chain(lbfgs_direction(), sgd(1.0))`; `lbfgs`
    searches for the step. H0 is s . y / y . y of the newest pair, at first min(1, 1 / |g|); pairs
    whose s . y is not positive are left out. The pairs are of gradients at successive updates, so
    batches should be the whole data, or nearly. Optax's `scale_by_lbfgs`, which keeps all pairs.
    `memory` is a choice, part of the structure.
    """
    size = check_count("memory", memory, 1)
    return Optimizer(Partial(fix(direction_init, memory=size)), Partial(direction_update))


def lbfgs_init(params, *, memory):
    count, used = (jnp.zeros((), jnp.int32) for _ in range(2))
    return LbfgsState(count, jnp.zeros(()), used, memory_init(params, memory))


def lbfgs_update(
    grads, state, params=None, *, value=None, objective=None, decrease, curvature, evaluations
):
    need_params("lbfgs", params)
    need_objective("lbfgs", objective, params)
    value = objective(params) if value is None else value
    g = wide(grads)
    direction = scaled(-1.0, inverse_hessian_times(state.memory, g))

    def at(length):
        return narrowed(plus_scaled(wide(params), length, direction), params)

    def evaluate(length):
        loss, slopes = jax.value_and_grad(objective)(at(length))
        return Point(length, loss, dot(wide(slopes), direction)), wide(slopes)

    start = Point(0.0, value, dot(g, direction))
    end, slopes, used = wolfe_search(
        evaluate, start, g, decrease=decrease, curvature=curvature, evaluations=evaluations
    )
    # The pair is of this batch at both ends, and of the parameters as they are rounded.
    step = jax.tree.map(jnp.subtract, wide(at(end.length)), wide(params))
    pairs = remembered(state.memory, step, jax.tree.map(jnp.subtract, slopes, g))
    # Where nothing was lower along H g, H is no use: the next direction is the gradient's.
    pairs = jax.tree.map(lambda x: jnp.where(end.length > 0.0, x, jnp.zeros_like(x)), pairs)
    length = end.length.astype(state.learning_rate.dtype)
    # An H g that overflows is no step, but a gradient that is not finite must not become one of 0.
    still = (end.length == 0.0) & jnp.isfinite(global_norm(g))
    updates = jax.tree.map(lambda d: jnp.where(still, 0.0, d), scaled(end.length, direction))
    updates = narrowed(updates, grads)
    return updates, LbfgsState(counted(state.count), length, used, pairs)


def lbfgs(memory: int = 10, *, decrease=1e-4, curvature=0.9, evaluations: int = 25) -> Optimizer:
    """theta <- theta - alpha H g: H as in `lbfgs_direction`, alpha from a search for the strong
    Wolfe conditions, f(alpha) <= f(0) + c1 alpha f'(0) and |f'(alpha)| <= c2 |f'(0)|, that tries 1
    first (Nocedal & Wright 2006, algorithms 7.4, 3.5 and 3.6).

    c1 is `decrease`, c2 `curvature`. It needs the objective, `update(grads, state, params,
    objective=f)`, which `trainer`, `chain` and the wrappers hand on: the loss of this batch, of
    which `grads` must be the gradient, so nothing that changes gradients comes before it, and
    nothing that changes updates after it. Near the minimum, where differences of the loss are
    rounding, the decrease is judged by slopes (Hager & Zhang 2005, approximate Wolfe conditions). A
    point where the loss is not finite is too far. When `evaluations` of loss and gradient are used
    up, the lowest point found is taken, which may be theta; then the memory is emptied.

    The state's `learning_rate` is alpha, its `evaluations` how many the search took. A pair is of
    the same batch at both ends, hence consistent also under mini-batches, and the memory holds
    nothing else; the gradient at the new point is computed again by the next step, of its own
    batch. Derivatives through a run with respect to numbers of the loss are forward ones,
    `jax.jvp`: reverse meets a loop that JAX cannot turn around. As PyTorch's `LBFGS` with
    `line_search_fn="strong_wolfe"` and Optax's `lbfgs`, whose searches interpolate otherwise.
    `memory` and `evaluations` are choices, part of the structure.
    """
    update = Partial(
        fix(lbfgs_update, evaluations=check_count("evaluations", evaluations, 1)),
        decrease=number("decrease", decrease, 0.0, 1.0),
        curvature=number("curvature", curvature, 0.0, 1.0),
    )
    size = check_count("memory", memory, 1)
    return Optimizer(Partial(fix(lbfgs_init, memory=size)), update)
