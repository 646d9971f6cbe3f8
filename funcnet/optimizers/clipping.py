"""Norms that neither overflow nor underflow, and clipping by them."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from funcnet.numerics import widen
from funcnet.optimizers.arithmetic import magnitude_squared, narrowed, safe_sqrt, scaled, wide
from funcnet.optimizers.transforms import need_params, stateless_init
from funcnet.pairs import Optimizer, number


def wide_leaves(tree):
    """The leaves that hold anything, in float32 at least."""
    leaves = [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in jax.tree.leaves(tree)]
    return [x for x in leaves if x.size]


def in_range(largest):
    """The largest magnitude as a divisor: 1 for 0 and what is not finite."""
    largest = jnp.where((largest > 0.0) & jnp.isfinite(largest), largest, 1.0)
    # A sixteenth, so that the scale has a reciprocal in range.
    return jnp.where(largest > 1.0, largest / 16.0, largest)


@jax.custom_jvp
def norm_parts(tree):
    """(m, r) with norm m r: m is 1, or, where the sum of squares leaves the range, a power of 2 so
    far from 1 that the squares of x / m are in it, and those that are lost too small to count."""
    leaves = wide_leaves(tree)
    if not leaves:
        return jnp.ones(()), jnp.zeros(())
    square = sum(magnitude_squared(x).sum() for x in leaves)
    limits = jnp.finfo(square.dtype)
    far = 2.0 ** (3 * limits.maxexp // 4)
    exact = jnp.isfinite(square) & (square > limits.tiny / limits.eps)

    def scaled_again(carry):
        # A fence: of numbers that it knows XLA makes inverse^2 x^2, which is not in range.
        fenced = lax.optimization_barrier(leaves)
        inverse = jnp.where(carry[2] < 1.0, far, 1.0 / far).astype(square.dtype)
        return (
            jnp.ones_like(exact),
            inverse,
            sum(magnitude_squared(inverse * x).sum() for x in fenced),
        )

    # A loop of at most one turn: unlike `cond` it is skipped also under vmap. Its scale comes from
    # what it changes: what does not change in a loop XLA moves out of it.
    start = exact, jnp.ones_like(square), square
    _, inverse, square = lax.while_loop(lambda carry: ~carry[0], scaled_again, start)
    return 1.0 / inverse, jnp.sqrt(square)


@norm_parts.defjvp
def norm_parts_jvp(primals, tangents):
    """The scale counts as constant; d root is the tangents' component along the tree, 0 at 0."""
    scale, root = norm_parts(*primals)
    safe = jnp.where(root == 0.0, 1.0, root)
    pairs = zip(wide_leaves(*primals), wide_leaves(*tangents), strict=True)
    moved = sum(
        (jnp.vdot(x / scale / safe, t / scale).real for x, t in pairs), jnp.zeros_like(root)
    )
    return (scale, root), (jnp.zeros_like(scale), moved)


def global_norm(tree):
    """sqrt(sum |x|^2) over all numbers of a tree, a scalar in float32 at least.

    Right for any finite numbers: where the sum of squares overflows, or is too small to be exact,
    it is taken again of the scaled numbers. Inf or NaN for a tree that holds one. Its derivative
    is x / |x|, and 0 at 0.
    """
    scale, root = norm_parts(tree)
    return scale * root


def clipped(tree, max_norm):
    """The tree times min(1, max_norm / |tree|), in two factors that stay in range."""
    scale, root = norm_parts(tree)
    within = scale * root <= max_norm
    factors = 1.0 / scale, max_norm / jnp.where(root == 0.0, 1.0, root)
    factors = [jnp.where(within, 1.0, factor) for factor in factors]
    # A fence: without it XLA computes the norm again in every consumer of the factors.
    first, second = lax.optimization_barrier(factors)
    return narrowed(scaled(second, scaled(first, wide(tree))), tree)


def clip_update(grads, state, params=None, *, max_norm):
    return clipped(grads, max_norm), state


def clip_by_global_norm(max_norm) -> Optimizer:
    """g <- g min(1, max_norm / |g|), |g| the norm over the whole tree (Pascanu et al. 2013).

    Right for any finite gradient: norms do not overflow, and a zero gradient stays 0 also for
    `max_norm=0`. A NaN makes all of the gradient NaN; infinite numbers become NaN, the others 0.
    As Optax; PyTorch divides by |g| + 1e-6. Its second derivative is to be had by `jax.hessian`,
    forward over reverse; reverse over reverse meets a loop that JAX cannot turn around.
    """
    update = Partial(clip_update, max_norm=number("max_norm", max_norm, 0.0))
    return Optimizer(Partial(stateless_init), update)


def norm_over(x, axes):
    """(m, r), with axes of length 1, whose product is the norm of x over `axes`: m is about the
    largest magnitude and r = sqrt(sum |x / m|^2) in range, both in float32 at least."""
    x = widen(lax.optimization_barrier(x))  # a fence as in `norm_parts`
    scale = lax.stop_gradient(in_range(jnp.abs(x).max(axes, keepdims=True, initial=0.0)))
    return scale, safe_sqrt(magnitude_squared(x * (1.0 / scale)).sum(axes, keepdims=True))


def limited(x, max_norm, axes):
    """x times min(1, max_norm / |x|), |x| over `axes`, in two factors that stay in range."""
    scale, root = norm_over(x, axes)
    within = scale * root <= max_norm
    first = jnp.where(within, 1.0, 1.0 / scale)
    second = jnp.where(within, 1.0, max_norm / jnp.where(root == 0.0, 1.0, root))
    return (second * (first * widen(x))).astype(x.dtype)


def block_update(grads, state, params=None, *, max_norm):
    return jax.tree.map(lambda g: limited(g, max_norm, tuple(range(g.ndim))), grads), state


def clip_by_block_norm(max_norm) -> Optimizer:
    """g_i <- g_i min(1, max_norm / |g_i|) for each leaf g_i by itself.

    The same care as in `clip_by_global_norm`: right for any finite gradient, 0 stays 0. PyTorch's
    `clip_grad_norm_` of one parameter, which divides by |g_i| + 1e-6. Optax's `clip_by_block_rms`
    limits the root mean square: its threshold is max_norm / sqrt(n) for n numbers in the leaf.
    """
    return Optimizer(
        Partial(stateless_init), Partial(block_update, max_norm=number("max_norm", max_norm, 0.0))
    )


def limited_value(x, limit):
    limit = jnp.asarray(limit, x.dtype)
    return jnp.where(jnp.abs(x) <= limit, x, limit * jnp.sign(x))


def value_update(grads, state, params=None, *, limit):
    def clip(g):
        if jnp.iscomplexobj(g):
            return lax.complex(limited_value(g.real, limit), limited_value(g.imag, limit))
        return limited_value(g, limit)

    return jax.tree.map(clip, grads), state


def clip_by_value(limit) -> Optimizer:
    """g <- min(max(g, -limit), limit), number by number; of a complex one both parts.

    A NaN stays, an infinite number becomes the limit: as Optax's `clip` and PyTorch's
    `clip_grad_value_`.
    """
    return Optimizer(
        Partial(stateless_init), Partial(value_update, limit=number("limit", limit, 0.0))
    )


def unit_axes(x):
    """The axes over which one unit's weights lie: all but the last, the only one of a vector."""
    return tuple(range(max(x.ndim - 1, min(x.ndim, 1))))


def adaptive_update(grads, state, params=None, *, clipping, eps):
    need_params("adaptive_clip", params)

    def clip(g, w):
        scale, root = norm_over(w, unit_axes(w))
        return limited(g, clipping * jnp.maximum(scale * root, eps), unit_axes(g))

    return jax.tree.map(clip, grads, params), state


def adaptive_clip(clipping=0.01, *, eps=1e-3) -> Optimizer:
    """g_i <- lambda max(|w_i|, eps) g_i / |g_i| where |g_i| > lambda max(|w_i|, eps), for each unit
    i, its weights w_i and their gradient g_i (Brock et al. 2021, AGC); lambda is `clipping`.

    A unit is one index of a leaf's last axis, [fan_in, units] and [*window, fan_in, units]; a
    vector or a scalar is one unit. Optax's `adaptive_grad_clip` takes a leaf of three axes as
    [fan_in, heads, features], with one unit for each of the last two, and divides by at least 1e-6.
    The paper leaves the last layer out: `partition`.
    """
    update = Partial(
        adaptive_update, clipping=number("clipping", clipping, 0.0), eps=number("eps", eps, 0.0)
    )
    return Optimizer(Partial(stateless_init), update)
