"""What all faults share: a tree that tells its step, child processes, and file operations under
one's hand."""

import contextlib
import io
import os
import sys
import traceback
import warnings

import ml_dtypes
import numpy as np

from funcnet import checkpoint
from funcnet.checkpoint import files, tensors

tensors.CHUNK = 1 << 14  # so that files of several are small
OPERATIONS = ("create", "write", "sync", "rename", "sync_folder", "remove")


def tree_of(step):
    """A tree whose every number tells the step, with more than one chunk in a leaf."""
    return {
        "wide": np.full((3, 1_000), float(step)),
        "narrow": np.full((7, 11), step, ml_dtypes.bfloat16),
        "count": np.int32(step),
        "none": np.zeros((0, 4), np.float32),
    }


def is_tree_of(step, tree):
    wanted = tree_of(step)
    return all(
        leaf.dtype == wanted[name].dtype and np.array_equal(leaf, wanted[name])
        for name, leaf in tree.items()
    )


def restored(folder):
    """(step, tree) of the latest, with the warnings kept quiet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = checkpoint.restore_latest(folder, tree_of(0))
    return found.step, found.tree


def in_child(work, *arguments):
    """Fork, do the work and exit: the child's process id."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        work(*arguments)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ended(pid):
    """The child's exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextlib.contextmanager
def interposed(around):
    """Every file operation of the library becomes `around(name, operation, *arguments)`."""
    kept = {name: getattr(files, name) for name in OPERATIONS}
    for name, operation in kept.items():
        setattr(files, name, lambda *a, n=name, o=operation: around(n, o, *a))
    try:
        yield
    finally:
        for name, operation in kept.items():
            setattr(files, name, operation)


def start(folder):
    """A folder with steps 1 and 2, of which the next save removes the first, and with one file by
    itself that says 2."""
    with checkpoint.Checkpoints(folder, keep_last=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, tree_of(step))
    checkpoint.save(folder / "one", tree_of(2))


def go_on(folder, step=3):
    """Save the next step, and the one file anew."""
    with checkpoint.Checkpoints(folder, keep_last=2) as checkpoints:
        checkpoints.save(step, tree_of(step))
    checkpoint.save(folder / "one", tree_of(step))


def left_in(folder):
    return [f"left {path.name}" for path in folder.iterdir() if path.name.endswith(".tmp")]


def wrong_with(folder, steps, ones):
    """What is wrong with a folder in which the latest must be one of `steps`, and the file say one
    of `ones`."""
    step, tree = restored(folder)
    if not is_tree_of(step, tree):
        yield f"step {step} is wrong"
    if step not in steps:
        yield f"expected a step of {steps}, got {step}"
    one = checkpoint.load(folder / "one", tree_of(0))
    if not any(is_tree_of(step, one) for step in ones):
        yield f"the file is none of {ones}"


def wrong_afterwards(folder):
    """Likewise once it was taken up again."""
    go_on(folder, 4)
    yield from wrong_with(folder, (4,), (4,))
    yield from left_in(folder)


def operations_of_a_save(folder):
    log = []

    def around(name, operation, *arguments):
        log.append(name)
        return operation(*arguments)

    start(folder)
    with interposed(around):
        go_on(folder)
    return log


def allowed(log, done):
    """(steps, ones) that may be found when the first `done` operations of a save were done: after
    the folder was synced, nothing but the new."""
    first = log.index("sync_folder") + 1
    second = len(log) - log[::-1].index("sync_folder")
    return (3,) if done >= first else (2, 3), (3,) if done >= second else (2, 3)


def written(tree, **keywords):
    file = io.BytesIO()
    checkpoint.write_tree(file, tree, **keywords)
    return file.getvalue()
