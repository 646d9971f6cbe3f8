"""A sweep that fits: how many members run at once in the memory there is, and on which devices.

This is the sweep's rim: it compiles. What it compiles is `vmap` of the run, mapped over chunks of
the members where they do not all fit, each device on members of its own.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from funcnet.pairs import Tree, check_count
from funcnet.sweeps.groups import Group, group_members, is_key, merged

SHARE = 0.9
"""Of the free memory: the rest is left to allocators and to whoever else is there."""

ENOUGH = 64
"""Members at once beyond which a processor gains nothing, and waits for its memory: of 1,024 MLPs
of 64-64-10, a step takes 45 us of processor time all at once, 35 by 256, 27 by 64, 30 by 16."""


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


class Plan(NamedTuple):
    """A compiled sweep. `str` is the plan in words; called with the shared arguments, or with
    others of their shapes, it runs, without compiling anything."""

    programs: tuple[Program, ...]
    devices: tuple[Any, ...]
    memory: int  # bytes for it on each device

    def __str__(self) -> str:
        count = sum(len(program.group.places) for program in self.programs)
        each = " each" if len(self.devices) > 1 else ""
        lines = [
            f"{amount(count, 'member')} in {amount(len(self.programs), 'program')} on "
            f"{amount(len(self.devices), 'device')} with {size(self.memory)}{each}:"
        ]
        for program in self.programs:
            times = f"{program.rounds} times " if program.rounds > 1 else ""
            lines.append(
                f"  {amount(len(program.group.places), 'member')}, {times}{program.at_once} at once"
                f"{each and ' on each device'}, {size(program.needed)}{each}"
            )
        return "\n".join(lines)

    def __call__(self, *shared: Tree) -> Tree:
        results = [program(*shared) for program in self.programs]
        if len(results) == 1:
            return results[0]
        return merged([program.group.places for program in self.programs], results)


def amount(count, noun):
    return f"{count} {noun}{'' if count == 1 else 's'}"


def size(count):
    """Bytes in a unit that leaves few digits."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def free_memory(devices) -> int:
    """Bytes that a sweep may take on each of the devices; those of the host share its memory."""
    free = []
    for device in devices:
        if stats := device.memory_stats():
            free.append(stats["bytes_limit"] - stats["bytes_in_use"])
        else:
            host = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            free.append(host // len(devices))
    return int(SHARE * min(free))


def chunked(run, axes, at_once, rounds):
    """`vmap(run)` over rounds * at_once members, `at_once` of them at a time."""

    def sweep(members, shared):
        leaves, structure = jax.tree.flatten(members)
        leaf_axes = structure.flatten_up_to(axes)

        def some(batched):
            given = iter(batched)
            filled = [
                leaf if axis is None else next(given)
                for leaf, axis in zip(leaves, leaf_axes, strict=True)
            ]
            every = (axes, *(None for _ in shared))
            return jax.vmap(run, every, axis_size=at_once)(structure.unflatten(filled), *shared)

        batched = [leaf for leaf, axis in zip(leaves, leaf_axes, strict=True) if axis == 0]
        if rounds == 1:
            return some(batched)
        cut = [leaf.reshape(rounds, at_once, *leaf.shape[1:]) for leaf in batched]
        _, results = lax.scan(lambda _, batched: (None, some(batched)), None, cut, rounds)
        return jax.tree.map(lambda a: a.reshape(rounds * at_once, *a.shape[2:]), results)

    return sweep


def spread(function, axes, mesh):
    """`function` on each device with its own part of the members' axis: there is nothing that the
    devices could tell each other."""
    members = jax.tree.map(
        lambda axis: PartitionSpec() if axis is None else PartitionSpec("members"),
        axes,
        is_leaf=lambda axis: axis is None,
    )
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(members, PartitionSpec()),
        out_specs=PartitionSpec("members"),
        check_vma=False,
    )


def padded(leaf, length):
    """The last member repeated up to `length`, so that all rounds are full."""
    missing = length - len(leaf)
    return jnp.concatenate([leaf, jnp.repeat(leaf[-1:], missing, axis=0)]) if missing else leaf


def first_rows(leaf, count):
    """[count, ...] without the members that were padding, whichever devices they are on."""
    if len(leaf) == count:
        return leaf
    return leaf[:count] if is_key(leaf) else jnp.asarray(np.asarray(leaf)[:count])


def program(run, group, shared, devices, at_once, rounds) -> Program:
    """A group's sweep, compiled."""
    mesh = jax.make_mesh((len(devices),), ("members",), (AxisType.Auto,), devices=devices)
    apart, everywhere = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("members",), ()))

    def place(axis, leaf):
        if axis is None:
            return jax.device_put(leaf, everywhere)
        return jax.device_put(padded(leaf, len(devices) * rounds * at_once), apart)

    members = jax.tree.map(place, group.axes, group.members, is_leaf=lambda axis: axis is None)
    function = chunked(run, group.axes, at_once, rounds)
    if len(devices) > 1:
        function = spread(function, group.axes, mesh)
    given = jax.device_put(shared, everywhere)
    compiled = jax.jit(function).lower(members, given).compile()
    sizes = compiled.memory_analysis()
    if sizes is None:
        raise NotImplementedError(f"the compiler for {devices[0].platform} tells no memory needed")
    kept, temporary = sizes.output_size_in_bytes, sizes.temp_size_in_bytes
    needed = sizes.argument_size_in_bytes + kept + temporary
    return Program(group, at_once, rounds, needed, temporary, kept, compiled, members, everywhere)


def fitted(run, group, shared, devices, memory, at_once) -> Program:
    """The program that runs as many members at once as fit, by the compiler's own account."""
    here = -(-len(group.places) // len(devices))
    if at_once is None:
        at_once = ENOUGH if devices[0].platform == "cpu" else here
    at_once = min(at_once, here)
    while True:
        rounds = -(-here // at_once)
        at_once = -(-here // rounds)
        found = program(run, group, shared, devices, at_once, rounds)
        fixed = found.needed - found.temporary
        if found.needed <= memory:
            return found
        if at_once == 1 or fixed >= memory:
            raise ValueError(
                f"{amount(len(group.places), 'member')} on {amount(len(devices), 'device')}, "
                f"{at_once} at once, need {size(found.needed)} on each, of which {size(fixed)} are "
                f"arguments and results, of {size(memory)}: sweep over fewer, or return less of "
                "each run"
            )
        share = (memory - fixed) / found.temporary
        at_once = max(1, min(at_once - 1, int(at_once * share)))


def plan(
    build: Callable[..., Tree],
    points: Mapping[str, Sequence[Any]],
    run: Callable[..., Tree],
    *shared: Tree,
    memory: int | None = None,
    devices: Sequence[Any] | None = None,
    at_once: int | None = None,
) -> Plan:
    """How the sweep of `run(build(**point), *shared)` over the points fits, compiled.

    Members of one structure are one program (`group_members`). Each device has members of its own
    and hears nothing of the others. If their arguments, results and temporaries exceed `memory`
    bytes a device (default: nine tenths of what is free), fewer run at once, one round after
    another, as many as fit by the compiler's own account, which costs a second compilation. On a
    processor at most 64 run at once; `at_once` is a limit of your own in place of that. `devices`:
    those to use, default all local ones. How many run at once, and where, changes roundings alone:
    losses over 200 steps stayed within 7e-7.

    Raises `ValueError` if one at a time does not fit, or the results of all do not.
    """
    groups = group_members(build, points)
    count = sum(len(group.places) for group in groups)
    devices = tuple(jax.local_devices() if devices is None else devices)[:count]
    memory = free_memory(devices) if memory is None else memory
    if at_once is not None:
        at_once = check_count("at_once", at_once, 1)
    programs, left = [], memory
    for group in groups:
        programs.append(fitted(run, group, shared, devices, left, at_once))
        left -= programs[-1].kept  # on the device while the others run
    return Plan(tuple(programs), devices, memory)


def sweep(
    build: Callable[..., Tree],
    points: Mapping[str, Sequence[Any]],
    run: Callable[..., Tree],
    *shared: Tree,
    memory: int | None = None,
    devices: Sequence[Any] | None = None,
    at_once: int | None = None,
    report: Callable[[Plan], Any] | None = None,
) -> Tree:
    """What `run(build(**point), *shared)` returns for all points, with a first axis of members.

        run = functools.partial(fn.run, steps=1000, batch_size=32)
        result = fn.sweep(build, points, run, train, key, report=print)
        result.loss  # [n, steps]
        fn.member(result, 7).state  # of member 7, also where networks or optimizers differ

    It is `plan(...)`, which `report` is handed, called. Where groups differ in structure or shape,
    as the states of two optimizers do, the result has a `Varied`, and `member` tells them apart.
    """
    planned = plan(build, points, run, *shared, memory=memory, devices=devices, at_once=at_once)
    if report is not None:
        report(planned)
    return planned(*shared)
