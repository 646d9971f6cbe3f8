"""What acts on updates of any optimizer: chains, clipping, weight decay, and applying them."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from funcnet.optimizers.arithmetic import plus_scaled, scaled
from funcnet.pairs import Optimizer, number, partial


def apply_updates(params, updates):
    """params + updates, leaf by leaf, in the parameters' dtypes."""
    return jax.tree.map(lambda p, u: jnp.asarray(p + u, jnp.result_type(p)), params, updates)


def chain_init(params, *, inits):
    return tuple(init(params) for init in inits)


def chain_update(grads, state, params=None, *, updates):
    states = []
    for update, member_state in zip(updates, state, strict=True):
        grads, member_state = update(grads, member_state, params)
        states.append(member_state)
    return grads, tuple(states)


def chain(*optimizers: Optimizer) -> Optimizer:
    """Each optimizer's updates are the next one's gradients; the state is the tuple of theirs.

    `chain(clip_by_global_norm(1.0), adam(1e-3))` clips, then takes Adam's step.
    """
    for index, optimizer in enumerate(optimizers):
        if not (isinstance(optimizer, tuple) and len(optimizer) == 2):
            raise TypeError(f"chain expects optimizers, got {optimizer!r} at position {index}")
    return Optimizer(
        Partial(chain_init, inits=tuple(partial(init) for init, _ in optimizers)),
        Partial(chain_update, updates=tuple(partial(update) for _, update in optimizers)),
    )


def wide_leaves(tree):
    """The leaves that hold anything, in float32 at least."""
    leaves = [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in jax.tree.leaves(tree)]
    return [x for x in leaves if x.size]


def scaled_norm(leaves):
    """(m, r) with norm m r: m about the largest magnitude, r = sqrt(sum |x / m|^2), in range."""
    largest = jnp.stack([jnp.abs(x).max() for x in leaves]).max()
    largest = jnp.where((largest > 0.0) & jnp.isfinite(largest), largest, 1.0)
    # A sixteenth, so that the scale has a reciprocal in range.
    largest = jnp.where(largest > 1.0, largest / 16.0, largest)
    return largest, jnp.sqrt(sum(jnp.square(jnp.abs(x / largest)).sum() for x in leaves))


@jax.custom_jvp
def norm_parts(tree):
    """(m, r) with norm m r: m is 1 where no square leaves the range."""
    leaves = wide_leaves(tree)
    if not leaves:
        return jnp.ones(()), jnp.zeros(())
    square = sum(jnp.square(jnp.abs(x)).sum() for x in leaves)
    limits = jnp.finfo(square.dtype)
    exact = jnp.isfinite(square) & (square > limits.tiny / limits.eps)
    # A loop of at most one turn: unlike `cond` it is skipped also under vmap.
    _, parts = lax.while_loop(
        lambda carry: ~carry[0],
        lambda carry: (jnp.ones_like(exact), scaled_norm(leaves)),
        (exact, (jnp.ones_like(square), jnp.sqrt(square))),
    )
    return parts


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
    return scaled(second, scaled(first, tree))


def stateless_init(params):
    return ()


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


def decay_update(grads, state, params=None, *, rate):
    if params is None:
        raise ValueError("add_decayed_weights needs the parameters: update(grads, state, params)")
    return plus_scaled(grads, rate, params), state


def add_decayed_weights(rate) -> Optimizer:
    """g <- g + rate * theta: before an optimizer it is L2 regularisation, what PyTorch's
    `weight_decay` means in `SGD`, `Adagrad`, `RMSprop` and `Adam`."""
    return Optimizer(Partial(stateless_init), Partial(decay_update, rate=number("rate", rate)))
