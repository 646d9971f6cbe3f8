"""Members of a sweep that are one program, and what became of them all in one order.

A member is whatever `build` makes of a point: a trainer, or a tuple of it, a key and a batch size.
Members of equal structure differ in numbers alone, so they stack and compile once; another
optimizer, network or width is another structure, and another group.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.pairs import Tree
from funcnet.sweeps.points import plain


class Group(NamedTuple):
    """Members of one structure: their places in the sweep [m], and the members stacked, each leaf
    [m, ...] where `axes` has a 0 and one for all where it has a None: `in_axes` of a `vmap`."""

    places: np.ndarray
    members: Tree
    axes: Tree


class Varied(NamedTuple):
    """What has not the same structure or shape in all groups: a tree for each of them, each leaf
    [m, ...], and the places [m] of its members. `member` looks into it."""

    places: tuple[np.ndarray, ...]
    parts: tuple[Tree, ...]


def is_number(column):
    return hasattr(column, "dtype") and np.ndim(column) == 1 and isinstance(column.dtype, np.dtype)


def members_of(points: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The points one by one, numbers as Python's, which a constructor checks and rounds once."""
    columns = {k: np.asarray(v).tolist() if is_number(v) else v for k, v in points.items()}
    for name, values in columns.items():
        if isinstance(values, str) or not hasattr(values, "__len__"):
            raise TypeError(f"points are columns, as grid(...) makes, got {name}={values!r}")
    columns = {k: [plain(value) for value in v] for k, v in columns.items()}
    lengths = {name: len(column) for name, column in columns.items()}
    if not lengths or len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise ValueError(f"points are columns of one length, at least 1, got lengths {lengths}")
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def kind(tree):
    """What members of one group share: the structure, and each leaf's shape and dtype."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)


def stack(leaves):
    """[n, ...] of n leaves; host numbers meet on the host, where it costs next to nothing."""
    if any(isinstance(leaf, jax.Array) for leaf in leaves):
        return jnp.stack([jnp.asarray(leaf) for leaf in leaves])
    return jnp.asarray(np.stack(leaves))


def is_key(leaf):
    return jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)


def agree(leaf):
    """Whether the leaf [n] is a counter or a key, and the same in all members. Floats never are:
    a rate in a state may agree at first and differ later, which would be another program."""
    if np.ndim(leaf) < 1:
        raise ValueError("share_counters expects a first axis of members, got a scalar")
    if np.ndim(leaf) > 1 or jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        return False
    values = np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
    return bool((values == values[:1]).all())


def share_counters(stacked: Tree) -> tuple[Tree, Tree]:
    """A tree whose leaves begin with the members' axis, but for the scalar integers and keys in
    which all members agree, kept once, and the axes that say so, 0 or None for each leaf.

    For `vmap(fn.resume, in_axes=(0, None, axes))` over a sweep's state: a step that all members
    share is one number, so a `lax.cond` on it stays a branch, where a batched one would compute
    both sides, and with one key the members take the same batch, gathered once. Looks at the
    values, so it is called outside of `jit`.
    """
    leaves, structure = jax.tree.flatten(stacked)
    shared = [agree(leaf) for leaf in leaves]
    kept = [leaf[0] if same else leaf for leaf, same in zip(leaves, shared, strict=True)]
    axes = [None if same else 0 for same in shared]
    return jax.tree.unflatten(structure, kept), jax.tree.unflatten(structure, axes)


def group_members(build: Callable[..., Tree], points: Mapping[str, Sequence[Any]]) -> list[Group]:
    """The members `build(**point)`, made on the host and stacked by structure, in the order in
    which each structure first occurs.

    points: a dict of columns of n values each. Any argument may vary: a number, a width, a string,
    a constructor. `jax.vmap(run, in_axes=(group.axes, ...))(group.members, ...)` runs a group.
    Make activations and losses once, outside of `build`: two lambdas are never one structure.
    """
    if not callable(build):
        raise TypeError(f"build is a function, point -> trainer, got {build!r}")
    kinds: dict[Any, list[tuple[int, Tree]]] = {}
    for place, point in enumerate(members_of(points)):
        built = build(**point)
        kinds.setdefault(kind(built), []).append((place, built))
    groups = []
    for found in kinds.values():
        places, trees = zip(*found, strict=True)
        stacked = jax.tree.map(lambda *leaves: stack(leaves), *trees)
        groups.append(Group(np.array(places), *share_counters(stacked)))
    return groups


def rows_alike(tree):
    """What results of two groups share whose rows can stand in one array."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((leaf.shape[1:], leaf.dtype) for leaf in leaves)


def merged(places, results):
    """One tree of the groups' results, in the members' order: [n, ...] wherever they are alike,
    `Varied` where they are not, or where some have nothing, such as a metric of a few."""
    if len({rows_alike(result) for result in results}) == 1:
        return jax.tree.map(lambda *arrays: in_order(places, arrays), *results)
    first = results[0]
    if len({type(result) for result in results}) == 1:
        if isinstance(first, dict):
            names = dict.fromkeys(name for result in results for name in result)
            return {name: merged_key(name, places, results) for name in names}
        if isinstance(first, tuple | list) and len({len(result) for result in results}) == 1:
            return rebuilt(first, [merged(places, part) for part in zip(*results, strict=True)])
    return Varied(tuple(places), tuple(results))


def rebuilt(like, parts):
    """A tuple, named or not, or list of the parts."""
    return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)


def merged_key(name, places, results):
    having = [index for index, result in enumerate(results) if name in result]
    places, values = [places[i] for i in having], [results[i][name] for i in having]
    whole = len(having) == len(results)
    return merged(places, values) if whole else Varied(tuple(places), tuple(values))


def in_order(places, arrays):
    """The groups' arrays as one, each row in its member's place."""
    order = np.argsort(np.concatenate(places))
    if is_key(arrays[0]):
        return jnp.concatenate(arrays)[order]
    return jnp.asarray(np.concatenate(jax.device_get(arrays))[order])


def member(result: Tree, index: int) -> Tree:
    """What a sweep's result, or any tree of arrays with a first axis of members, has of one of
    them: for `fn.run` its `Result`, as if it had run alone. Negative indices count from the end."""
    count = count_in(result)
    if not -count <= index < count:
        raise IndexError(f"there is no member {index} among {count}")
    return row_of(result, index % count)


def count_in(result) -> int:
    """How many members a sweep's result is of."""

    def length(part):
        if isinstance(part, Varied):
            return sum(map(len, part.places))
        if np.ndim(part) < 1:
            raise TypeError(f"member expects arrays with a first axis of members, got {part!r}")
        return len(part)

    parts = jax.tree.leaves(result, is_leaf=lambda part: isinstance(part, Varied))
    return max(map(length, parts), default=0)


def row_of(result, index):
    if isinstance(result, Varied):
        for places, part in zip(*result, strict=True):
            if index in places:
                row = int(np.nonzero(places == index)[0][0])
                return jax.tree.map(lambda leaf, row=row: leaf[row], part)
        raise IndexError(f"there is no member {index} among {sum(map(len, result.places))}")
    if isinstance(result, dict):
        held = {name: value for name, value in result.items() if holds(value, index)}
        return {name: row_of(value, index) for name, value in held.items()}
    if isinstance(result, tuple | list):
        return rebuilt(result, [row_of(value, index) for value in result])
    return jax.tree.map(lambda leaf: leaf[index], result)


def holds(value, index):
    return not isinstance(value, Varied) or any(index in places for places in value.places)
