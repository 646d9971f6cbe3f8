"""The members of a sweep: how many there are, which of them are best, and taking some of them."""

import jax
import jax.numpy as jnp

from funcnet.pairs import Fixed, Trainer, Tree, fix


def least_of(metrics, *, name):
    return metrics[name]


def greatest_of(metrics, *, name):
    return -metrics[name]


def least(name: str) -> Fixed:
    """The score `metrics -> metrics[name]`: the member whose metric is least is best."""
    return fix(least_of, name=name)


def greatest(name: str) -> Fixed:
    """The score `metrics -> -metrics[name]`: the member whose metric is greatest is best."""
    return fix(greatest_of, name=name)


LEAST_LOSS = least("loss")


def count_members(trainers: Trainer) -> int:
    """The length of the leading axis that all numbers of stacked trainers have in common."""
    if not isinstance(trainers, Trainer):
        raise TypeError(
            f"expected trainers stacked as one, such as jax.vmap(build)(rates), got {trainers!r}"
        )
    shapes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(trainers)}
    if len(shapes) != 1 or shapes == {()}:
        raise ValueError(
            "expected trainers with a leading axis of members in each number, such as "
            f"jax.vmap(build)(rates), got leading axes {sorted(shapes)}"
        )
    return shapes.pop()[0]


def gathered(tree: Tree, indices):
    """The members at `indices` of a tree whose arrays have a leading axis of members."""
    return jax.tree.map(lambda a: jnp.asarray(a)[indices], tree)


def ranking(scores):
    """The members [n] from the least score to the greatest, those not finite last; of equals the
    first is first."""
    return jnp.argsort(jnp.where(jnp.isfinite(scores), scores, jnp.inf))
