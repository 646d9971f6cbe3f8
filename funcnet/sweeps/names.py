"""Which of a trainer's numbers are meant: by their names, or the ends of them."""

from collections.abc import Callable, Mapping
from typing import Any

from funcnet.pairs import Tree, hyperparameters


def named(what: str, given: Mapping[str, Any] | Callable[[str], Any], tree: Tree) -> dict[str, Any]:
    """What is given for some of the numbers in a tree, by their whole names in `hyperparameters`.

    A number goes by its whole name, such as `"step.update.learning_rate.value"`, or by an end of
    it, from a dot on, that is no other number's: `"learning_rate.value"`. For many numbers, give a
    function of the whole name, None for those that are not meant.

    Raises `ValueError`, which lists all names, for one that is no number's, or of several.
    """
    names = list(hyperparameters(tree))
    if callable(given):
        return {name: value for name in names if (value := given(name)) is not None}
    found: dict[str, Any] = {}
    for end, value in given.items():
        fitting = [name for name in names if name == end or name.endswith(f".{end}")]
        if end in fitting:
            fitting = [end]
        if len(fitting) != 1 or not end:
            told = f"stands for {fitting}" if fitting else "is none of them"
            raise ValueError(f"{what} expects names of {names}, or their ends: {end!r} {told}")
        if fitting[0] in found:
            raise ValueError(f"{what} names {fitting[0]!r} twice, got {list(given)}")
        found[fitting[0]] = value
    return found
