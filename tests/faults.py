"""What may happen to a checkpoint, done to it on purpose: killed writers, cut power, damaged and
hostile files, full disks, two writers, donated arrays. Nothing may be lost or silently wrong.

    PYTHONPATH=. python tests/faults.py [--quick] [--only NAME ...] [--json FILE]

prints a table. Processes are forked from this one, which never starts a JAX backend itself: a
forked child costs milliseconds, and one that has a backend of its own half a second.
"""

import argparse
import contextlib
import errno
import hashlib
import io
import itertools
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

import funcnet as fn
from funcnet import checkpoint
from funcnet.checkpoint import files, tensors
from funcnet.checkpoint.header import parse_header
from funcnet.checkpoint.store import path_of

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
        import traceback

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


# Killed writers


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


def killed_at_every_operation(scratch, quick):
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


def killed_training(scratch, quick):
    """Each process takes up what the one before had made durable, and the last state is that of a
    process that was left alone."""
    rng, kills, failures = random.Random(0), 0, []
    count, steps, longest = (4, 80, 0.15) if quick else (200, 400, 0.4)
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


# Damaged files


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


def written(tree, **keywords):
    file = io.BytesIO()
    checkpoint.write_tree(file, tree, **keywords)
    return file.getvalue()


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


# Hostile files


def file_of(header, data=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def one(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


EIGHT = bytes(8)


def of_kind(kinds, dtype="F32", shape=(2,)):
    return file_of({"__metadata__": {"funcnet.kinds": kinds}, "a": one(dtype, shape)}, EIGHT)


A = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
HOSTILE = {
    "nothing": b"",
    "seven bytes": bytes(7),
    "no header": EIGHT,
    "length beyond the file": struct.pack("<Q", 100) + b"{}",
    "huge length": struct.pack("<Q", 2**64 - 1) + b"{}",
    "length of 2^63": struct.pack("<Q", 2**63) + b"{}",
    "no JSON": file_of(b"{a}"),
    "a list": file_of(b"[]"),
    "a space before": file_of(b" {}"),
    "a byte order mark": file_of(b"\xef\xbb\xbf{}"),
    "not UTF-8": file_of(b'{"\xff":1}'),
    "deep nesting": file_of(b'{"a":' * 100_000),
    "deep lists": file_of(b'{"a":' + b"[" * 200_000),
    "wide lists": file_of(b'{"a":[' + b"[]," * 100_000 + b"0]}"),
    "wide objects": file_of(b'{"a":[' + b"{}," * 100_000 + b"0]}"),
    "many sizes": file_of(
        b'{"a":{"dtype":"F32","data_offsets":[0,8],"shape":[' + b"9," * 100_000 + b"0]}}", EIGHT
    ),
    "a long number": file_of(b'{"a":' + b"9" * 1_000_000 + b"}"),
    "NaN": file_of(A.replace("[2]", "[NaN]").join(['{"a":', "}"]).encode(), EIGHT),
    "infinity": file_of(A.replace("[2]", "[Infinity]").join(['{"a":', "}"]).encode(), EIGHT),
    "a float": file_of(A.replace("[2]", "[2.0]").join(['{"a":', "}"]).encode(), EIGHT),
    "an exponent": file_of(A.replace("[2]", "[2e0]").join(['{"a":', "}"]).encode(), EIGHT),
    "a key twice": file_of(f'{{"a":{A},"a":{A}}}'.encode(), EIGHT),
    "metadata twice": file_of(b'{"__metadata__":{},"__metadata__":{}}'),
    "metadata a number": file_of({"__metadata__": {"a": 1}}),
    "metadata a list": file_of({"__metadata__": []}),
    "an entry a number": file_of({"a": 5}, EIGHT),
    "no dtype": file_of({"a": {"shape": [2], "data_offsets": [0, 8]}}, EIGHT),
    "too much said": file_of({"a": {**one(), "more": 1}}, EIGHT),
    "unknown dtype": file_of({"a": one("F33")}, EIGHT),
    "dtype a list": file_of({"a": one(["F32"])}, EIGHT),
    "shape a number": file_of({"a": {**one(), "shape": 2}}, EIGHT),
    "shape of text": file_of({"a": one(shape=["2"])}, EIGHT),
    "shape of booleans": file_of({"a": one(shape=[True, 2])}, EIGHT),
    "negative size": file_of({"a": one(shape=[-2])}, EIGHT),
    "negative twice": file_of({"a": one(shape=[-1, -2])}, EIGHT),
    "a petabyte": file_of({"a": one(shape=[2**48])}, EIGHT),
    "a petabyte of offsets": file_of({"a": one(shape=[2**48], offsets=[0, 2**50])}, EIGHT),
    "overflow to the size": file_of({"a": one(shape=[2**62, 8, 2**3])}, EIGHT),
    "nothing of a petabyte": file_of({"a": one(shape=[0, 2**62, 2**62], offsets=[0, 0])}),
    "sixty-five axes": file_of({"a": one(shape=[1] * 64 + [2])}, EIGHT),
    "negative offset": file_of({"a": one(offsets=[-8, 0])}, EIGHT),
    "backward offsets": file_of({"a": one(offsets=[8, 0])}, EIGHT),
    "one offset": file_of({"a": one(offsets=[8])}, EIGHT),
    "offsets beyond": file_of({"a": one(offsets=[8, 16])}, EIGHT),
    "overlap": file_of({"a": one(), "b": one(offsets=[4, 12])}, bytes(12)),
    "the same twice": file_of({"a": one(), "b": one()}, EIGHT),
    "a hole": file_of({"a": one(), "b": one(offsets=[12, 20])}, bytes(20)),
    "a hole before": file_of({"a": one(offsets=[4, 12])}, bytes(12)),
    "a rest": file_of({"a": one()}, bytes(9)),
    "too short": file_of({"a": one()}, bytes(7)),
    "size and bytes differ": file_of({"a": one(shape=[3])}, EIGHT),
    "neither true nor false": file_of({"a": one("BOOL", [2], [0, 2])}, b"\x01\x02"),
    "kinds no JSON": of_kind("{"),
    "kinds deep": of_kind("[" * 100_000),
    "kinds of others": of_kind('{"b":"int4"}'),
    "an unknown kind": of_kind('{"a":"int5"}'),
    "an unknown key": of_kind('{"a":"prng:x"}', "U32"),
    "a key of floats": of_kind('{"a":"prng:threefry2x32"}'),
    "a key of one number": of_kind('{"a":"prng:threefry2x32"}', "U64", [1]),
    "a kind of another width": of_kind('{"a":"complex128"}', "U8", [8]),
    "sums of others": file_of(
        {"__metadata__": {"funcnet.crc32": "{}", "funcnet.sha256": "0" * 64}, "a": one()}, EIGHT
    ),
    "no digest": file_of(
        {
            "__metadata__": {"funcnet.crc32": '{"a":"00000000"}', "funcnet.sha256": "x"},
            "a": one(),
        },
        EIGHT,
    ),
}  # fmt: skip


def read_plain(data, folder):
    path = folder / "plain.safetensors"
    path.write_bytes(data)
    return checkpoint.load_safetensors(path)


def hostile(scratch, quick):
    """Each is refused, by type, with no more memory than some 30 times its own size."""
    failures = []
    for name, data in HOSTILE.items():
        tracemalloc.start()
        try:
            read_plain(data, scratch)
            failures.append(f"{name}: accepted")
        except checkpoint.DamagedError:
            pass
        except Exception as error:
            failures.append(f"{name}: {type(error).__name__}: {error}")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        if peak > 40 * len(data) + 4e6:
            failures.append(f"{name}: {peak / 1e6:.0f} MB for a file of {len(data) / 1e6:.1f}")
    return len(HOSTILE), failures


NASTY = (
    b"-1", b"1e3", b"NaN", b"0", b"9223372036854775807", b"18446744073709551616", b"null", b"true",
    b'"\\ud800"', b'""', b"{}", b"[]", b"[[[[", b"}", b",", b'"U8"', b'"F64"', b'"BOOL"', b"[0,0]",
    b"\xff", b"\0", b'"__metadata__"', b'"prng:rbg"', b'\\"int4\\"',
)  # fmt: skip


def mutated(data, rng):
    """A file with a few things changed, mostly in its header, whose length is then put right."""
    length = int.from_bytes(data[:8], "little")
    header, rest = bytearray(data[8 : 8 + length]), bytearray(data[8 + length :])
    for _ in range(rng.randint(1, 3)):
        begin = rng.randrange(len(header) + 1)
        end = min(len(header), begin + rng.choice((0, 1, 2, 5, 20)))
        way = rng.randrange(6)
        if way == 0:
            header[begin:end] = rng.randbytes(end - begin)
        elif way == 1:
            header[begin:end] = rng.choice(NASTY)
        elif way == 2:
            header[begin:begin] = header[begin:end] * rng.choice((1, 1, 2, 50))
        elif way == 3:
            del header[begin:end]
        elif way == 4 and (digits := [i for i, c in enumerate(header) if 48 <= c <= 57]):
            header[rng.choice(digits)] = rng.choice(b"0123456789-.")
        elif way == 5 and rest:
            at = rng.randrange(len(rest))
            rest[at : at + rng.randrange(9)] = rng.randbytes(rng.randrange(9))
    length = len(header) if rng.random() < 0.9 else rng.getrandbits(rng.choice((8, 16, 64)))
    return struct.pack("<Q", length) + bytes(header) + bytes(rest)


def fuzzed(scratch, quick):
    """Of files with sums none is accepted that differs; of those without, none that is malformed:
    what is no error is an array for each name. Memory stays where it was."""
    rng = random.Random(4)
    tree = {"a": np.arange(3.0), "b": {"c": np.int8([1]), "d": np.ones(2, complex)}}
    sure = written(tree, step=1)
    length = int.from_bytes(sure[:8], "little")
    entries, metadata = parse_header(sure[8 : 8 + length], len(sure) - 8 - length)
    table = {n: one(e.dtype.str, e.shape, (e.start, e.end)) for n, e in entries.items()}
    for entry in table.values():
        entry["dtype"] = {"<f8": "F64", "|i1": "I8", "|u1": "U8"}[entry["dtype"]]
    kinds = {"__metadata__": {"funcnet.kinds": metadata["funcnet.kinds"]}}
    plain = file_of(kinds | table, sure[8 + length :])
    if len(read_plain(plain, scratch)) != 3:
        return 0, ["the file without sums is malformed itself"]
    failures, count = [], 2_000 if quick else 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for trial in range(count):
        whole = sure if trial % 2 else plain
        data = mutated(whole, rng)
        try:
            if trial % 2:
                checkpoint.read_tree(io.BytesIO(data), tree)
                if data != whole:
                    failures.append(f"trial {trial}: silent")
            else:
                found = checkpoint.single.read_tensors(
                    io.BytesIO(data), header := checkpoint.single.read_header(io.BytesIO(data))
                )
                checkpoint.single.meanings(header)
                if {name: a.shape for name, a in found} != {
                    n: e.shape for n, e in header.entries.items()
                }:
                    failures.append(f"trial {trial}: malformed")
        except checkpoint.CheckpointError:
            pass
        except Exception as error:
            failures.append(f"trial {trial}: {type(error).__name__}: {error}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if grown > 64:
        failures.append(f"memory grew by {grown:.0f} MiB")
    return count, failures


# Errors of the disk


def failing_operations(scratch, quick):
    """Every operation of a save fails in turn: full disk, no permission, failing disk."""
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
            with interposed(around):
                go_on(folder)
            failures.append(f"{where}: silent")
        except OSError as error:
            if error.errno != code:
                failures.append(f"{where}: another error, {error}")
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


# Others at the same time


def writes(folder, steps, tag):
    with checkpoint.Checkpoints(folder, keep_last=3) as checkpoints:
        for step in steps:
            checkpoints.save(
                step, tree_of(step) | {"narrow": np.full((7, 11), tag, ml_dtypes.bfloat16)}
            )


def sweeps(folder):
    while True:
        files.remove_stale(folder, "")


def two_writers(scratch, quick):
    """Different steps, then the same ones, while a third looks for stale files all the time."""
    count, failures = 10 if quick else 100, []
    sweeper = None
    for name, ways in {
        "different steps": (range(0, 2 * count, 2), range(1, 2 * count, 2)),
        "the same steps": (range(count), range(count)),
    }.items():
        folder = scratch / name
        folder.mkdir()
        sweeper = in_child(sweeps, folder)
        pids = [in_child(writes, folder, steps, tag) for tag, steps in enumerate(ways)]
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


class Row(NamedTuple):
    fault: str
    run: Callable  # (scratch folder, quick) -> (trials, failures)


ROWS = {
    "kill": Row(
        "SIGKILL before and within each file operation of a save", killed_at_every_operation
    ),
    "power": Row("power cut after each of them, what is not synced lost", power_cut),
    "training": Row("SIGKILL of a training process at random moments", killed_training),
    "truncated": Row("truncated files", truncated),
    "flipped": Row("one bit flipped", flipped),
    "zeroed": Row("pages of zeros", zeroed),
    "swapped": Row("files swapped between steps", swapped),
    "hostile": Row("hostile headers", hostile),
    "fuzzed": Row("fuzzed files", fuzzed),
    "failing": Row("each of them fails: disk full, forbidden, broken", failing_operations),
    "disk": Row("file-size limit, permission, full file system", real_disk_errors),
    "writers": Row("saves by two writers in one folder", two_writers),
    "donated": Row("arrays donated during a background save", donated),
}


def measured(row, quick):
    """{trials, failures, seconds} of a row, done in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        result = Path(scratch) / "result.json"

        def work():
            begin = time.perf_counter()
            place = Path(scratch) / "work"
            place.mkdir()
            trials, failures = row.run(place, quick)
            seconds = time.perf_counter() - begin
            found = {"trials": trials, "failures": failures, "seconds": seconds}
            result.write_text(json.dumps(found))

        os.chmod(scratch, 0o755)
        if status := ended(in_child(work)):
            return {"trials": 0, "failures": [f"ended with {status}"], "seconds": 0.0}
        return json.loads(result.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few trials, some 15 seconds")
    parser.add_argument("--only", nargs="*", default=list(ROWS), choices=ROWS)
    parser.add_argument("--json", help="write the results to this file")
    arguments = parser.parse_args()
    print(f"{'fault':58}{'trials':>8}{'failures':>10}{'seconds':>9}")
    results = {}
    for name in arguments.only:
        results[name] = found = measured(ROWS[name], arguments.quick)
        print(
            f"{ROWS[name].fault:58}{found['trials']:8}{len(found['failures']):10}"
            f"{found['seconds']:9.1f}",
            flush=True,
        )
        for failure in found["failures"][:5]:
            print(f"    {failure}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results))
    sys.exit(any(found["failures"] for found in results.values()))


if __name__ == "__main__":
    main()
