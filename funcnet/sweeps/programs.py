"""A group's sweep as a compiled program: `vmap` of the run, mapped over chunks of the members where
they do not all fit, each device on members of its own."""

import contextlib
import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from funcnet.pairs import Fixed, Tree, fix
from funcnet.sweeps.groups import Group, is_key


class Program(NamedTuple):
    """A group's compiled sweep: on each device `rounds` times `at_once` members."""

    group: Group
    at_once: int
    rounds: int
    needed: int  # bytes on each device: arguments, results and temporaries
    temporary: int  # among them, those that grow with the members at once
    kept: int  # among them, the results
    compiled: Callable[..., Tree]
    members: Tree  # as it takes them, on their devices
    everywhere: NamedSharding  # of what the members share

    def __call__(self, *shared: Tree) -> Tree:
        results = self.compiled(self.members, jax.device_put(shared, self.everywhere))
        return jax.tree.map(lambda leaf: first_rows(leaf, len(self.group.places)), results)


def chunked(run, axes, at_once, rounds):
    """`vmap(run)` over rounds * at_once members, `at_once` of them at a time; an axis for each of
    the members' leaves, 0 or None."""

    def sweep(members, shared):
        leaves, structure = jax.tree.flatten(members)

        def some(batched):
            given = iter(batched)
            filled = [
                leaf if axis is None else next(given)
                for leaf, axis in zip(leaves, axes, strict=True)
            ]
            every = (structure.unflatten(axes), *(None for _ in shared))
            return jax.vmap(run, every, axis_size=at_once)(structure.unflatten(filled), *shared)

        batched = [leaf for leaf, axis in zip(leaves, axes, strict=True) if axis == 0]
        if rounds == 1:
            return some(batched)
        cut = [leaf.reshape(rounds, at_once, *leaf.shape[1:]) for leaf in batched]
        _, results = lax.scan(lambda _, batched: (None, some(batched)), None, cut, rounds)
        return jax.tree.map(lambda a: a.reshape(rounds * at_once, *a.shape[2:]), results)

    return sweep


def spread(function, members, axes, mesh):
    """`function` on each device with its own part of the members' axis: there is nothing that the
    devices could tell each other."""
    specs = [PartitionSpec() if axis is None else PartitionSpec("members") for axis in axes]
    members = jax.tree.structure(members).unflatten(specs)
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(members, PartitionSpec()),
        out_specs=PartitionSpec("members"),
        check_vma=False,
    )


def swept(members, shared, *, run, axes, at_once, rounds, mesh):
    """What the members' runs return."""
    function = chunked(run, axes, at_once, rounds)
    if mesh.size > 1:
        function = spread(function, members, axes, mesh)
    return function(members, shared)


compiled_once = jax.jit(swept, static_argnames=("run", "axes", "at_once", "rounds", "mesh"))
"""All that is static here compares by value, so JAX, which keeps what it has compiled, knows the
same sweep of other numbers again."""


def lasting(value) -> bool:
    """Whether to keep a value keeps nothing else alive, as a function of a module: a closure's data
    would stay as long as its program."""
    if isinstance(value, Fixed):
        return lasting(value.func) and all(lasting(choice) for _, choice in value.static)
    if callable(value):
        return isinstance(value, FunctionType) and "<" not in value.__qualname__
    return True


def by_value(run):
    """`run`, so that it equals another `functools.partial` of the same function and choices."""
    if type(run) is functools.partial and not run.args:
        with contextlib.suppress(TypeError):
            return fix(run.func, **run.keywords)
    return run


def lowered(run, members, shared, **choices):
    """The sweep, ready to be compiled, or known to JAX if such a one was, unless it has a closure
    for its run: that is let go with its program."""
    run = by_value(run)
    if lasting(run):
        return compiled_once.lower(members, shared, run=run, **choices)
    return jax.jit(functools.partial(swept, run=run, **choices)).lower(members, shared)


def padded(leaf, length):
    """The last member repeated up to `length`, so that all rounds are full."""
    missing = length - len(leaf)
    return jnp.concatenate([leaf, jnp.repeat(leaf[-1:], missing, axis=0)]) if missing else leaf


def first_rows(leaf, count):
    """[count, ...] without the members that were padding, whichever devices they are on."""
    if len(leaf) == count:
        return leaf
    return leaf[:count] if is_key(leaf) else jnp.asarray(np.asarray(leaf)[:count])


def compile_program(run, group, shared, devices, at_once, rounds) -> Program:
    """A group's sweep, compiled."""
    mesh = jax.make_mesh((len(devices),), ("members",), (AxisType.Auto,), devices=devices)
    apart, everywhere = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("members",), ()))

    def place(axis, leaf):
        if axis is None:
            return jax.device_put(leaf, everywhere)
        return jax.device_put(padded(leaf, len(devices) * rounds * at_once), apart)

    members = jax.tree.map(place, group.axes, group.members, is_leaf=lambda axis: axis is None)
    given = jax.device_put(shared, everywhere)
    structure: Any = jax.tree.structure(members)
    axes = tuple(structure.flatten_up_to(group.axes))
    choices = {"axes": axes, "at_once": at_once, "rounds": rounds, "mesh": mesh}
    compiled = lowered(run, members, given, **choices).compile()
    sizes = compiled.memory_analysis()
    if sizes is None:
        raise NotImplementedError(f"the compiler for {devices[0].platform} tells no memory needed")
    kept, temporary = sizes.output_size_in_bytes, sizes.temp_size_in_bytes
    needed = sizes.argument_size_in_bytes + kept + temporary
    return Program(group, at_once, rounds, needed, temporary, kept, compiled, members, everywhere)
