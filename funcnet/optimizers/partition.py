"""An optimizer for each kind of parameter, told apart by their paths."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcnet.optimizers.labels import as_labels, labels_of
from funcnet.optimizers.transforms import Known, hand_on, members, stateless_init
from funcnet.pairs import Optimizer, fix


def part(tree, labels, name):
    """The leaves with this label, and None, which holds nothing, in the others' places."""
    leaves, structure = jax.tree.flatten(tree)
    pairs = zip(leaves, labels, strict=True)
    return structure.unflatten([leaf if label == name else None for leaf, label in pairs])


def partition_init(params, *, inits, labels):
    found = labels_of("partition", labels, params, tuple(inits))
    return {name: init(part(params, found, name)) for name, init in inits.items()}


def of_part(objective, params, labels, name):
    """The objective as a function of the leaves with this label, the others as they are."""
    if objective is None or params is None:
        return None
    leaves, structure = jax.tree.flatten(params)

    def objective_of_part(own):
        moved = iter(jax.tree.leaves(own))
        pairs = zip(leaves, labels, strict=True)
        whole = [next(moved) if label == name else leaf for leaf, label in pairs]
        return objective(structure.unflatten(whole))

    return objective_of_part


def partition_update(
    grads, state, params=None, *, updates, labels, value=None, weight=None, objective=None
):
    found = labels_of("partition", labels, grads, tuple(updates))
    moved, states = {}, {}
    for name, update in updates.items():
        own = None if params is None else part(params, found, name)
        known = Known(value, weight, of_part(objective, params, found, name))
        new, states[name] = hand_on(update, part(grads, found, name), state[name], own, known)
        moved[name] = iter(jax.tree.leaves(new))
    leaves = [next(moved[name]) for name in found]
    return jax.tree.structure(grads).unflatten(leaves), states


def partition(labels: Any, optimizers: Mapping[str, Optimizer]) -> Optimizer:
    """Each leaf is moved by the optimizer that its label names, which sees the leaves of its own
    label and no others; the state is a dict of theirs.

    `labels` is a function of the leaf's path, such as "body.0.weight", or a tree of labels, each of
    which may stand for a whole branch: `partition({"body": "still", "head": "fast"}, {"still":
    freeze(), "fast": adam(1e-2)})`. It is a choice, part of the structure: pass a top-level
    function, or one of `fix`. A leaf without a label, or with one that names no optimizer, raises
    `ValueError` with its path. Optax's `masked` lets the gradients of the leaves that it leaves out
    through as updates; here every leaf has its optimizer, and `freeze()` is one that holds still.
    """
    if not isinstance(optimizers, Mapping):
        raise TypeError(f"partition expects a dict of optimizers, got {optimizers!r}")
    pairs = {name: members("partition", pair) for name, pair in optimizers.items()}
    function = as_labels(labels)
    return Optimizer(
        Partial(
            fix(partition_init, labels=function), inits={name: p[0] for name, p in pairs.items()}
        ),
        Partial(
            fix(partition_update, labels=function),
            updates={name: p[1] for name, p in pairs.items()},
        ),
    )


def freeze_update(grads, state, params=None):
    return jax.tree.map(jnp.zeros_like, grads), state


def freeze() -> Optimizer:
    """theta stays: updates of 0, whatever the gradient, and no state. Optax's `set_to_zero`."""
    return Optimizer(Partial(stateless_init), Partial(freeze_update))
