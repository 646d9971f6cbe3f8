"""The step of one optimizer at the length of another's."""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcnet.optimizers.arithmetic import magnitude_squared, narrowed, safe_sqrt, wide
from funcnet.optimizers.transforms import Known, hand_on, members
from funcnet.pairs import Optimizer


def matrix_norm(x):
    """|X| of each matrix, of the whole where there are fewer axes than two."""
    return safe_sqrt(magnitude_squared(x).sum((-2, -1) if x.ndim > 1 else None, keepdims=True))


def graft_init(params, *, inits):
    direction, magnitude = inits
    return direction(params), magnitude(params)


def graft_update(grads, state, params=None, *, updates, value=None, weight=None, objective=None):
    known = Known(value, weight, objective)
    directions, direction_state = hand_on(updates[0], wide(grads), state[0], params, known)
    magnitudes, magnitude_state = hand_on(updates[1], wide(grads), state[1], params, known)

    def step(direction, magnitude):
        norm = matrix_norm(direction)
        return matrix_norm(magnitude) / jnp.where(norm == 0.0, 1.0, norm) * direction

    steps = jax.tree.map(step, directions, magnitudes)
    return narrowed(steps, grads), (direction_state, magnitude_state)


def graft(magnitude: Optimizer, direction: Optimizer) -> Optimizer:
    """|M| D / |D| of each matrix, M and D the two optimizers' updates (Agarwal et al. 2020).

    `graft(adam(1e-3), shampoo(1.0))` steps where Shampoo does and as far as Adam: the direction's
    own rate cancels. Norms are of each matrix, or of the whole of a parameter with fewer axes; a
    direction of 0 stays 0. The state is that of both, the direction's first.
    """
    magnitude, direction = members("graft", magnitude), members("graft", direction)
    inits, updates = zip(direction, magnitude, strict=True)
    return Optimizer(Partial(graft_init, inits=inits), Partial(graft_update, updates=updates))
