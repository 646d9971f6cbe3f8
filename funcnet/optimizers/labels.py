"""Parameters told apart by their paths."""

import jax

from funcnet.pairs import fix


def leaf_paths(tree):
    """The path of each leaf, such as "body.0.weight"."""
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path in paths]


def by_table(path, *, table):
    """The label of the branch in which the leaf lies, None if there is none."""
    for branch, label in table:
        if branch in ("", path) or path.startswith(f"{branch}."):
            return label
    return None


def as_labels(labels):
    """Labels as a function of the path: a tree of them becomes one, its leaves branches' labels."""
    if callable(labels):
        return labels
    return fix(by_table, table=tuple(zip(leaf_paths(labels), jax.tree.leaves(labels), strict=True)))


def labels_of(name, labels, tree, allowed):
    """The label of each leaf, which must be one of `allowed`."""
    paths = leaf_paths(tree)
    found = [labels(path) for path in paths]
    for path, label in zip(paths, found, strict=True):
        if label not in allowed:
            raise ValueError(
                f"{name} expects a label of {list(allowed)} for every leaf, got {label!r} for "
                f"{path!r}"
            )
    return found
