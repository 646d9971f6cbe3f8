"""A sweep that fits: how many members run at once in the memory there is, and on which devices.

This and what it calls, the programs, is the sweep's rim: it compiles.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from funcnet.pairs import Tree, check_count
from funcnet.sweeps.groups import group_members, merged
from funcnet.sweeps.programs import Program, compile_program

SHARE = 0.9
"""Of the free memory: the rest is left to allocators and to whoever else is there."""

ENOUGH = 64
"""Members at once beyond which a processor gains nothing, and waits for its memory: of 1,024 MLPs
of 64-64-10, a step takes 45 us of processor time all at once, 35 by 256, 27 by 64, 30 by 16."""


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


def check_devices(devices) -> tuple[Any, ...]:
    found = tuple(devices) if isinstance(devices, Iterable) else ()
    if not found or not all(isinstance(device, jax.Device) for device in found):
        raise ValueError(f"devices must be some of jax.devices(), got {devices!r}")
    return found


def fitted(run, group, shared, devices, memory, at_once) -> Program:
    """The program that runs as many members at once as fit, by the compiler's own account."""
    here = -(-len(group.places) // len(devices))
    if at_once is None:
        at_once = ENOUGH if devices[0].platform == "cpu" else here
    at_once = min(at_once, here)
    while True:
        rounds = -(-here // at_once)
        at_once = -(-here // rounds)
        found = compile_program(run, group, shared, devices, at_once, rounds)
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

    A sweep of the same `run`, structure, shapes and number of members is compiled once in a
    process, whatever the points and the data, if `run` is a function of a module or a
    `functools.partial` of one; what it reads beside its arguments is, as under `jit`, what it was
    then. A closure or a lambda is compiled for each plan, and let go with it.

    Raises `ValueError` if one at a time does not fit, or the results of all do not.
    """
    groups = group_members(build, points)
    count = sum(len(group.places) for group in groups)
    devices = check_devices(jax.local_devices() if devices is None else devices)[:count]
    memory = free_memory(devices) if memory is None else check_count("memory in bytes", memory, 1)
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
