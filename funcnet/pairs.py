"""The contracts: pairs of pure functions in which every number is a pytree leaf.

Each member of a pair is a `jax.tree_util.Partial` of a top-level function. The function is part
of the tree's structure and the numbers bound to it are leaves, so a pair passes through `jit`
without recompiling when a number changes, stacks under `vmap(constructor)` into a sweep, and is
an argument that `grad` can differentiate.
"""

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

Tree = Any
"""A pytree of arrays."""


class Network(NamedTuple):
    """A network: `init(key) -> (params, state)` draws its parameters and makes its state;
    `apply(params, state, x, *, key=None, train=False) -> (y, state)` is the forward pass.

    `x` and `y` have the batch in their first axis. `state` is what a forward pass changes
    (running statistics) and `()` where there is none. `train` is a Python bool; a layer that
    draws noise in training needs a `key` and consumes it.
    """

    init: Callable[..., tuple[Tree, Tree]]
    apply: Callable[..., tuple[Any, Tree]]


class Task(NamedTuple):
    """What is to be learnt: `init(key) -> (params, state)` and
    `loss(params, state, batch, *, key=None, train=False) -> (loss, (state, metrics))`.

    `loss` is a scalar and `metrics` a dict of scalars. Any loss of this form trains: a physics
    residual or a policy gradient is `Task(init, loss)` with functions of your own.
    """

    init: Callable[..., tuple[Tree, Tree]]
    loss: Callable[..., tuple[Any, tuple[Tree, dict[str, Any]]]]


class Optimizer(NamedTuple):
    """`init(params) -> opt_state` and `update(grads, opt_state, params) -> (updates, opt_state)`.

    The updates are added to the parameters (`apply_updates`). They have the gradients' structure
    and dtypes, and the new state has the old one's. This is Optax's contract, so pairs of either
    library fit into the other's `chain`. An update may take three keywords more, `value`, the loss,
    `weight`, what it was divided by, and `objective`, a function params -> loss of this very batch
    with this very key; who has them hands them on to those that take them.
    """

    init: Callable[..., Tree]
    update: Callable[..., tuple[Tree, Tree]]


class Trainer(NamedTuple):
    """`init(key) -> run_state` and `step(run_state, batch) -> (run_state, metrics)`.

    `run` needs `run_state.step` (int32, batches seen) and `run_state.key`, and `metrics["loss"]`;
    `trainer` makes such a pair from a task and an optimizer. To pass one of your own through `jit`,
    wrap its functions in `Partial`.
    """

    init: Callable[..., Any]
    step: Callable[..., tuple[Any, dict[str, Any]]]


@dataclass(frozen=True)
class Fixed:
    """A function with static keywords, equal to any other of the same function and keywords."""

    func: Callable[..., Any]
    static: tuple[tuple[str, Any], ...]
    kinds: tuple[type, ...]  # 2, 2.0 and True are equal, but not the same choice

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.func(*args, **dict(self.static), **kwargs)


def fix(func: Callable[..., Any], /, **static: Any) -> Fixed:
    """`func` with keywords that are choices, not numbers to learn or sweep: sizes, strides, names.

    Two calls with equal arguments give equal functions, so they share one compilation (two
    lambdas or two `functools.partial`s would not). The values must be hashable.
    """
    if isinstance(func, Partial):
        raise TypeError(f"fix goes inside Partial, Partial(fix(f, ...), ...): got {func}")
    for name, value in static.items():
        try:
            hash(value)
        except TypeError:
            raise TypeError(
                f"fix expects hashable choices, got {name}={value!r}; bind arrays with Partial"
            ) from None
    items = tuple(sorted(static.items()))
    return Fixed(func, items, tuple(type(value) for _, value in items))


def partial(func: Callable[..., Any]) -> Partial:
    """`func` as a Partial: itself if it is one already, so that its numbers stay leaves.

    Raises `TypeError` for what would hide numbers: a Partial of a Partial, of which JAX makes the
    inner one part of the function, a `functools.partial`, and a Partial that binds anything but
    floats, which could not be differentiated.
    """
    if not callable(func):
        raise TypeError(f"expected a function, got {func!r}")
    if not isinstance(func, functools.partial):
        return Partial(func)
    if not isinstance(func, Partial):
        raise TypeError(f"bind numbers with Partial and choices with fix, got {func!r}")
    if type(func.func).__name__ == "_HashableCallableShim":
        raise TypeError(f"bind all keywords in one Partial; a Partial of a Partial hides {func}")
    if func.args:
        raise TypeError(f"bind by keyword, got positional arguments {func.args} of {func.func}")
    for path, leaf in jax.tree_util.tree_flatten_with_path(func.keywords)[0]:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"Partial binds numbers, which must be floats, got {leaf!r} for "
                f"{jax.tree_util.keystr(path, simple=True)}; bind choices with fix"
            )
    return func


def unbind(func: Callable[..., Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The top-level function beneath `Partial`, `fix` and `functools.partial`, and the keywords
    that they bind (the outermost binding of a name counts, as in a call)."""
    bound: dict[str, Any] = {}
    while isinstance(func, functools.partial | Fixed):
        if isinstance(func, Fixed):
            keywords = dict(func.static)
        elif func.args:
            raise ValueError(f"bind {func.func} by keyword, got positional arguments {func.args}")
        else:
            keywords = func.keywords
        bound = {**keywords, **bound}
        func = func.func
    return func, bound


def leaf_names(tree: Tree) -> list[str]:
    """The leaves' paths, such as `params.0.weight`, in the leaves' order; where two of them would
    be alike, JAX's own paths, such as `.params[0]['weight']`."""
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]

    def name(path):
        # A Partial numbers its two parts, arguments and keywords, which says nothing.
        keys = [k for k in path if not isinstance(k, jax.tree_util.FlattenedIndexKey)]
        return jax.tree_util.keystr(keys, simple=True, separator=".")

    names = [name(path) for path in paths]
    if len(set(names)) < len(names):
        names = [jax.tree_util.keystr(path) for path in paths]
    return names


def hyperparameters(pair: Tree) -> dict[str, Any]:
    """Every number in a pair by its name, such as `{"step.update.learning_rate.value": 0.001}`.

    Of a gradient with respect to a pair, the derivative for each of them. Where two names would be
    alike, they are JAX's own paths.
    """
    return dict(zip(leaf_names(pair), jax.tree.leaves(pair), strict=True))


def number(name: str, value: Any, low: float = -np.inf, high: float = np.inf) -> Any:
    """`value` as a float leaf.

    Integers become floats, so that they can be differentiated. A host number outside
    `[low, high]` raises `ValueError`; arrays, which may be traced, are not looked into.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(
        value, int | float | np.number | np.ndarray | jnp.ndarray
    ):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if isinstance(value, int | float | np.number):
        value = float(value)
        if not low <= value <= high:
            raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {value:g}")
        return value
    if value.dtype == bool or jnp.issubdtype(value.dtype, jnp.complexfloating):
        raise TypeError(f"{name} must be a real number, got an array of {value.dtype}")
    return value if jnp.issubdtype(value.dtype, jnp.floating) else 1.0 * value


def check_count(name, value, low) -> int:
    """`value`, which must be an integer of at least `low`: a static count or size."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(f"{name} is static: name it in static_argnames, got {value}")
    try:  # an array of one float has an __index__ too, which raises
        count = operator.index(value)
    except TypeError:
        count = None
    if count is None or isinstance(value, bool):
        raise ValueError(f"{name} must be an integer, got {value!r}")
    if count < low:
        raise ValueError(f"{name} must be at least {low}, got {count}")
    return count


def check_network(name, network) -> None:
    """`TypeError` for what is not a network, such as a plain function."""
    if not isinstance(network, Network):
        raise TypeError(
            f"{name} expects a Network, such as dense(3, 2), got {network!r}: "
            "activation(f) makes a layer of a function"
        )


def check_networks(name, networks) -> None:
    """`TypeError` for a sequence in which anything is not a network, a list of them included."""
    for index, network in enumerate(networks):
        if not isinstance(network, Network):
            raise TypeError(
                f"{name} expects networks, got {network!r} at position {index}: "
                "activation(f) makes a layer of a function, and *networks arguments of a list"
            )


def check_trainer(trainer) -> None:
    """`TypeError` for what is not a trainer, such as the optimizer that is to be in it."""
    if not (hasattr(trainer, "init") and hasattr(trainer, "step")):
        raise TypeError(f"expected a trainer made by trainer(task, optimizer), got {trainer!r}")


def check_key(key) -> None:
    """`TypeError` for what is not a key, such as its seed."""
    dtype = getattr(key, "dtype", None)
    if dtype is None or not (dtype == np.uint32 or jnp.issubdtype(dtype, jax.dtypes.prng_key)):
        raise TypeError(f"expected a key, such as jax.random.key(0), got {key!r}")
