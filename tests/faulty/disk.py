"""Errors of the disk, others at the same time, and arrays that are gone."""

import errno
import itertools
import os
import resource
import signal
import subprocess
import tempfile
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from faulty.base import (
    ended,
    go_on,
    in_child,
    interposed,
    left_in,
    operations_of_a_save,
    start,
    tree_of,
    wrong_afterwards,
    wrong_with,
)

from funcnet import checkpoint
from funcnet.checkpoint import files
from funcnet.checkpoint.store import NAMES, path_of


def failing_operations(scratch, quick):
    """Every operation of a save fails in turn: full disk, no permission, failing disk. Of an old
    checkpoint that cannot be removed a warning tells, here an error too."""
    log = operations_of_a_save(scratch / "log")
    codes = itertools.cycle((errno.ENOSPC, errno.EACCES, errno.EIO))
    cases = [(index, next(codes)) for index in range(len(log)) for _ in range(1 if quick else 3)]
    failures = []
    for index, code in cases:
        folder, count = scratch / f"{index}-{code}", itertools.count()
        start(folder)

        def around(name, operation, *arguments, index=index, code=code, count=count):
            if next(count) == index:
                raise OSError(code, os.strerror(code))
            return operation(*arguments)

        where = f"{os.strerror(code)}, {log[index]} ({index})"
        try:
            with interposed(around), warnings.catch_warnings():
                warnings.simplefilter("error")
                go_on(folder)
            failures.append(f"{where}: silent")
        except OSError as error:
            if error.errno != code:
                failures.append(f"{where}: another error, {error}")
        except UserWarning as warning:
            if log[index] != "remove" or os.strerror(code) not in str(warning):
                failures.append(f"{where}: another warning, {warning}")
        wrongs = [*left_in(folder), *wrong_with(folder, (2, 3), (2, 3)), *wrong_afterwards(folder)]
        failures += [f"{where}: {wrong}" for wrong in wrongs]
    return len(cases), failures


def real_disk_errors(scratch, quick):
    """The kernel's own: a file-size limit, a full file system, a folder without permission."""
    failures, trials = [], 0

    def expect(where, kinds, folder):
        try:
            go_on(folder)
        except OSError as error:
            if error.errno not in kinds:
                raise
        else:
            raise AssertionError(f"{where}: silent")
        for wrong in wrong_with(folder, (2,), (2,)):
            raise AssertionError(f"{where}: {wrong}")

    def limited(folder):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        expect("file size", {errno.EFBIG}, folder)

    def forbidden(folder):
        folder.chmod(0o555)
        if os.geteuid() == 0:
            os.setuid(65534)
        expect("permission", {errno.EACCES}, folder)

    for name, work in {"limited": limited, "forbidden": forbidden}.items():
        folder = scratch / name
        start(folder)
        for parent in (folder, *folder.parents[: len(folder.parents) - 2]):
            if parent.owner() == Path.home().owner() and str(parent).startswith(
                tempfile.gettempdir()
            ):
                parent.chmod(0o755)
        trials += 1
        if ended(in_child(work, folder)):
            failures.append(f"{name}: see above")
        folder.chmod(0o755)
        failures += [f"{name}: {wrong}" for wrong in wrong_afterwards(folder)]
    small = scratch / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=208k", "tmpfs", str(small)]
    if not quick and subprocess.run(mount, capture_output=True).returncode == 0:
        try:
            folder = small / "run"
            start(folder)
            (small / "filler").write_bytes(bytes(110_000))
            trials += 1
            try:
                expect("full file system", {errno.ENOSPC}, folder)
            except (OSError, AssertionError) as error:
                failures.append(str(error))
            (small / "filler").unlink()
            failures += [f"full file system: {wrong}" for wrong in wrong_afterwards(folder)]
        finally:
            subprocess.run(["umount", str(small)], check=True)
    return trials, failures


def writes(folder, steps, tag, opened, go):
    with checkpoint.Checkpoints(folder, keep_last=3) as checkpoints:
        os.write(opened, b"1")
        os.read(go, 1)
        for step in steps:
            checkpoints.save(
                step, tree_of(step) | {"narrow": np.full((7, 11), tag, ml_dtypes.bfloat16)}
            )


def sweeps(folder):
    while True:
        files.remove_stale(folder, NAMES)


def two_writers(scratch, quick):
    """Different steps, then the same ones, by two that both opened an empty folder, while a third
    looks for stale files all the time."""
    count, failures = 10 if quick else 100, []
    (opened, tell), (go, give) = os.pipe(), os.pipe()
    for name, ways in {
        "different steps": (range(0, 2 * count, 2), range(1, 2 * count, 2)),
        "the same steps": (range(count), range(count)),
    }.items():
        folder = scratch / name
        folder.mkdir()
        sweeper = in_child(sweeps, folder)
        pids = [in_child(writes, folder, steps, tag, tell, go) for tag, steps in enumerate(ways)]
        for _ in pids:
            os.read(opened, 1)
        os.write(give, b"12")
        statuses = [ended(pid) for pid in pids]
        if any(statuses):
            failures.append(f"{name}: a writer failed")
        os.kill(sweeper, signal.SIGKILL)
        ended(sweeper)
        failures += [f"{name}: {left}" for left in left_in(folder)]
        for tag, steps in enumerate(ways):
            for step in steps[-3:]:
                tree = checkpoint.load(path_of(folder, step), tree_of(0))
                tags = {float(t) for t in tree["narrow"].ravel()}
                if not np.all(tree["wide"] == step) or len(tags) != 1:
                    failures.append(f"{name}: step {step} is torn")
                if steps != ways[1 - tag] and tags != {float(tag)}:
                    failures.append(f"{name}: step {step} is the other's")
    return 4 * count, failures


def donated(scratch, quick):
    """As soon as `save` returns, while the file is written, JAX's arrays are donated to the next
    step, and one of NumPy's is overwritten."""
    count, failures = 50 if quick else 1_000, []
    step = jax.jit(lambda tree: jax.tree.map(lambda a: a + 1, tree), donate_argnums=0)
    like = [np.zeros((200, 500), np.float32), np.zeros(70_000, np.int32), np.float32(0.0)]
    state, host = jax.tree.map(jnp.array, like), np.zeros((300, 500))
    like.append(np.zeros_like(host))
    with checkpoint.Checkpoints(scratch / "run", keep_last=2) as checkpoints:
        for index in range(1, count + 1):
            old, state = state, step(state)
            host += 1.0
            if not all(leaf.is_deleted() for leaf in old):
                failures.append(f"step {index}: was not donated")
            checkpoints.save(index, [*state, host])
            if index > 1:
                tree = checkpoint.load(path_of(scratch / "run", index - 1), like)
                if any((leaf != index - 1).any() for leaf in tree):
                    failures.append(f"step {index - 1}: torn")
    return count, failures
