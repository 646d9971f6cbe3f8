"""Writers killed, and power cut, at every operation of a save; training killed at any moment."""

import hashlib
import itertools
import os
import random
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
from faulty.base import (
    allowed,
    ended,
    go_on,
    in_child,
    interposed,
    operations_of_a_save,
    start,
    written,
    wrong_afterwards,
    wrong_with,
)

import funcnet as fn
from funcnet import checkpoint


def kill_at(index, half):
    """Ends the process before the operation of that index, or half-way in writing."""
    count = itertools.count()

    def around(name, operation, *arguments):
        if next(count) == index:
            if half:
                file, data = arguments
                operation(file, memoryview(data)[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return operation(*arguments)

    return around


def killed(folder, index, half):
    with interposed(kill_at(index, half)):
        go_on(folder)
    os.kill(os.getpid(), signal.SIGKILL)  # after the last


def at_every_operation(scratch, quick):
    log = operations_of_a_save(scratch / "log")
    points = [
        (index, half)
        for index, name in enumerate([*log, "the end"])
        for half in ((False, True) if name == "write" else (False,))
    ]
    failures = []
    for index, half in points:
        folder = scratch / f"{index}-{half}"
        start(folder)
        if ended(in_child(killed, folder, index, half)) != -signal.SIGKILL:
            failures.append(f"{index}: was not killed")
        for wrong in (*wrong_with(folder, *allowed(log, index)), *wrong_afterwards(folder)):
            failures.append(f"{'within' if half else 'before'} operation {index} of {log}: {wrong}")
    return len(points), failures


def after_a_power_cut(log, names, content):
    """Every folder that may be found after the operations of `log`: what was not synced may be
    there or not, the names in any combination, the bytes in part or as zeros."""
    durable, pending, unsynced = dict(names), [], set()
    content = dict(content)
    for name, *arguments in log:
        if name == "create":
            content[arguments[0]] = b""
            pending.append((arguments[0], arguments[0], None))
            unsynced.add(arguments[0])
        elif name == "write":
            path, offset, data = arguments
            old = content[path]
            content[path] = old[:offset] + data + old[offset + len(data) :]
            unsynced.add(path)
        elif name == "sync":
            unsynced.discard(arguments[0])
        elif name == "rename":
            pending.append((arguments[1], arguments[0], arguments[0]))
        elif name == "remove":
            pending.append((arguments[0], None, None))
        elif name == "sync_folder":
            for change in pending:
                apply(durable, *change)
            pending = []
    for chosen in itertools.product((False, True), repeat=len(pending)):
        found = dict(durable)
        for change in itertools.compress(pending, chosen):
            apply(found, *change)
        for lost in (
            lambda data: b"",
            lambda data: data[: len(data) // 2],
            lambda data: bytes(len(data)),
        ):
            yield {
                name: lost(content[inode]) if inode in unsynced else content[inode]
                for name, inode in found.items()
            }


def apply(names, name, inode, gone):
    names.pop(gone, None)
    if inode is None:
        names.pop(name, None)
    else:
        names[name] = inode


def power_cut(scratch, quick):
    folder = scratch / "disk"
    start(folder)
    names = {path.name: path.name for path in folder.iterdir()}
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    log = []

    def around(name, operation, *arguments):
        if name == "write":
            file, data = arguments
            log.append((name, Path(file.name).name, file.tell(), bytes(data)))
        else:
            paths = (Path(getattr(a, "name", a) if name == "sync" else a).name for a in arguments)
            log.append((name, *paths))
        return operation(*arguments)

    with interposed(around):
        go_on(folder)
    kinds = [name for name, *_ in log]
    count, failures, seen = 0, [], set()
    for cut in range(len(log) + 1):
        steps_and_ones = allowed(kinds, cut)
        for found in after_a_power_cut(log[:cut], names, content):
            case = (steps_and_ones, *sorted((name, hash(data)) for name, data in found.items()))
            if case in seen:
                continue
            seen.add(case)
            place = scratch / f"{cut}-{count}"
            count += 1
            place.mkdir()
            for name, data in found.items():
                (place / name).write_bytes(data)
            for wrong in wrong_with(place, *steps_and_ones):
                failures.append(f"after {cut} operations of {kinds}: {wrong}")
            shutil.rmtree(place)
    return count, failures


CACHED = {
    "jax_compilation_cache_dir": lambda folder: str(folder.parent / "programs"),
    "jax_persistent_cache_min_compile_time_secs": lambda folder: 0.0,
    "jax_persistent_cache_min_entry_size_bytes": lambda folder: -1,
}
"""So that a process need not compile what the undisturbed one has."""


def init(key):
    return jax.random.normal(key, (4, 3)), ()


def softmax_loss(params, state, batch, *, key=None, train=False):
    x, y = batch
    noise = jax.random.normal(key, (4,))
    return fn.cross_entropy((x + noise) @ params, y).mean(), (state, {})


def train(folder, steps, report):
    """Train to the end from the latest checkpoint, saving every step; tells what is durable."""

    def say(*words):
        os.write(report, (" ".join(map(str, words)) + "\n").encode())

    for name, value in CACHED.items():
        jax.config.update(name, value(folder))
    key, rng = jax.random.key(0), np.random.default_rng(0)
    batch = (rng.standard_normal((20, 4)).astype(np.float32), np.arange(20) % 3)
    trainer = fn.trainer(fn.Task(init, softmax_loss), fn.momentum(1e-2))
    like = jax.eval_shape(trainer.init, key)
    step = jax.jit(trainer.step, donate_argnums=0).lower(like, batch).compile()
    with checkpoint.Checkpoints(folder, keep_last=2) as checkpoints:
        found = checkpoints.restore(like)
        state, first = (jax.jit(trainer.init)(key), 0) if found is None else found[:2]
        say("restored", first)
        for index in range(first, steps):
            state, _ = step(state, batch)
            checkpoints.save(index + 1, state)  # which waits for the one before
            say("durable", index)
    say("done", hashlib.sha256(written(state)).hexdigest())


def a_life(folder, steps, kill_after=None):
    """Train, to the end or until killed, so many seconds after the latest was restored, or if
    they are negative after the start: {what was told: its last value}."""
    reading, writing = os.pipe()
    pid = in_child(train, folder, steps, writing)
    os.close(writing)
    with os.fdopen(reading) as report:
        first = [] if kill_after is None or kill_after < 0.0 else [report.readline()]
        if kill_after is not None:
            time.sleep(abs(kill_after))
            os.kill(pid, signal.SIGKILL)
        lines = first + report.readlines()
    if ended(pid) not in (0, -signal.SIGKILL):
        raise RuntimeError("training failed")
    return dict(line.split() for line in lines if line.endswith("\n"))


def at_any_moment(scratch, quick):
    """Each process takes up what the one before had made durable, and the last state is that of a
    process that was left alone."""
    rng, kills, failures = random.Random(0), 0, []
    count, steps, longest = (4, 60, 0.15) if quick else (200, 400, 0.4)
    wanted = a_life(scratch / "undisturbed", steps)["done"]
    while kills < count:
        folder, durable, told = scratch / f"run-{kills}", 0, {}
        while "done" not in told:
            seconds = rng.uniform(-1.0, 0.0) if rng.random() < 0.1 else rng.uniform(0.0, longest)
            told = a_life(folder, steps, seconds if kills < count else None)
            kills += kills < count
            if int(told.get("restored", durable)) < durable:
                failures.append(f"kill {kills}: lost {durable}, restored {told['restored']}")
            durable = int(told.get("durable", durable))
        if told["done"] != wanted:
            failures.append(f"until kill {kills}: the last state differs")
        shutil.rmtree(folder)
    return kills, failures
