"""Files cut off, with a bit flipped, with pages of zeros, and under each other's names."""

import io
import random
import warnings

import jax
import ml_dtypes
import numpy as np
from faulty.base import is_tree_of, tree_of, written

from funcnet import checkpoint
from funcnet.checkpoint.store import path_of


def small_tree():
    rng = np.random.default_rng(1)
    return {
        "params": [
            {"weight": rng.standard_normal((40, 30)).astype(np.float32), "bias": np.zeros(30)},
            {"weight": rng.standard_normal((30, 5)).astype(ml_dtypes.bfloat16)},
        ],
        "mask": rng.integers(0, 2, 100).astype(bool),
        "count": np.int32(7),
        "complex": np.ones(3, complex),
        "none": np.zeros((0, 3)),
    }


def caught(data, like):
    """None for a damaged file that is refused as such, else what happened."""
    try:
        checkpoint.read_tree(io.BytesIO(data), like)
    except checkpoint.DamagedError:
        return None
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "silent"


def all_caught(cases, like):
    """(trials, failures) of (where, damaged file) pairs."""
    count, failures = 0, []
    for where, data in cases:
        count += 1
        if (happened := caught(data, like)) is not None:
            failures.append(f"{where}: {happened}")
    return count, failures


def truncated(scratch, quick):
    tree = tree_of(5) | {"wide": np.full((3, 50_000), 5.0)}
    whole = written(tree)
    ends = range(0, len(whole), 1024 * (16 if quick else 1))
    close = range(len(whole) - 100, len(whole), 7)
    cases = [(f"truncated at {end}", whole[:end]) for end in (*ends, *close)]
    cases.append(("a byte more", whole + b"\0"))
    return all_caught(cases, tree)


def flipped(scratch, quick):
    tree = {**small_tree(), "key": jax.random.key(3)}
    whole = written(tree, step=3, metric=0.5)
    rng = random.Random(2)

    def cases():
        for index in range(1_000 if quick else 10_000):
            header = 8 * (8 + int.from_bytes(whole[:8], "little"))
            bit = rng.randrange(header if index % 3 == 0 else 8 * len(whole))
            data = bytearray(whole)
            data[bit // 8] ^= 1 << bit % 8
            yield f"bit {bit}", bytes(data)

    return all_caught(cases(), tree)


def zeroed(scratch, quick):
    tree = small_tree()
    whole = written(tree)

    def cases():
        for size in (64, 512, 4096):
            for begin in range(0, len(whole), size):
                page = whole[begin : begin + size]
                if any(page):
                    yield (
                        f"zeros at {begin}",
                        whole[:begin] + bytes(len(page)) + whole[begin + size :],
                    )

    return all_caught(cases(), tree)


def swapped(scratch, quick):
    """Files of one folder under each other's names: the one between is the latest true one."""
    failures = []
    folder = scratch / "run"
    with checkpoint.Checkpoints(folder, keep_last=9) as checkpoints:
        for step in range(5):
            checkpoints.save(step, tree_of(step))
    pairs = [(2, 4), (0, 3), (1, 2)]  # one after the other
    for first, second in pairs:
        a, b, other = path_of(folder, first), path_of(folder, second), folder / "other"
        a.rename(other)
        b.rename(a)
        other.rename(b)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                found = checkpoint.restore_latest(folder, tree_of(0))
                if not is_tree_of(found.step, found.tree) or len(found.skipped) != len(caught):
                    failures.append(f"{first} and {second}: silent")
            except checkpoint.DamagedError:
                pass
        if not any("renamed" in str(w.message) for w in caught):
            failures.append(f"{first} and {second}: not reported")
    return len(pairs), failures
