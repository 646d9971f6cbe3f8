"""What a case is."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax


class Case(NamedTuple):
    """A network and an input shape (or, as the target, integers; or with a mask of a sequence),
    or a loss with a prediction's shape (and its mask, if it has one) and a target."""

    name: str
    function: Any
    shape: tuple[int, ...]
    target: Any = None
    context: Mapping[str, Any] = MappingProxyType({})
    mask: Any = None

    def __hash__(self):
        return hash(self.name)


KEYED = {"key": jax.random.key(3), "train": True}
QUIET = {"key": None, "train": False}


def layer(name, network, *shapes, context=QUIET):
    return [Case(f"{name}-{shape}", network, shape, context=context) for shape in shapes]
