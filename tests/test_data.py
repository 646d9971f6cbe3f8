"""Host data: the pure run's batches from memory, files and streams, and threads that end."""

import _thread
import gc
import io
import itertools
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet.data import feed, sources
from funcnet.data.files import Rows
from funcnet.training import check_data, run_keys

RNG = np.random.default_rng(0)
X = RNG.normal(size=(23, 3)).astype(np.float32)
LABELS = (np.arange(23) % 4).astype(np.int32)
KEY = jax.random.key(4)
STEPS, SIZE = 11, 5  # two epochs and more, none of which a batch ends
FULL = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
"""As users compile, where bits are compared."""


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("data")]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert threads() == []


def in_memory(folder):
    return X, LABELS


def from_jax(folder):
    return jnp.asarray(X), LABELS


def on_disk(folder):
    np.save(folder / "x.npy", X)
    np.save(folder / "labels.npy", LABELS)
    return tuple(np.load(folder / name, mmap_mode="r") for name in ("x.npy", "labels.npy"))


def raw_views(folder):
    """Of a raw file, other-endian, and through views whose rows lie apart or backwards."""
    wide = np.memmap(folder / "x.raw", ">f4", "w+", shape=(23, 7))
    wide[:, 2:5] = X[::-1]
    wide.flush()
    view = np.memmap(folder / "x.raw", ">f4", "r", shape=(23, 7))[::-1, 2:5]
    columns = np.lib.format.open_memmap(
        folder / "y.npy", "w+", np.int32, (23, 2), fortran_order=True
    )
    columns[:, 1] = LABELS
    columns.flush()
    return view, np.load(folder / "y.npy", mmap_mode="r")[:, 1]


def in_shards(folder):
    fn.data.write_shards(folder, (X, LABELS), rows=4)
    return fn.data.sharded(folder)


def in_unequal_shards(folder):
    """Cut otherwise in each array, one shard empty."""
    files = ([], [])
    for paths, array, cuts in zip(files, (X, LABELS), ([1, 9, 9, 20], [22]), strict=True):
        for part in np.split(array, cuts):
            paths.append(str(folder / f"{len(paths)}.{array.ndim}.npy"))
            np.save(paths[-1], part)
    return fn.data.sharded(files)


class Squares:
    """A source of one's own."""

    def __len__(self):
        return 23

    def take(self, indices):
        return X[indices], LABELS[indices]


def own(folder):
    return Squares()


class Tensor:
    """As another framework's: no array of NumPy's, but it makes one."""

    def __init__(self, values):
        self.values, self.shape, self.dtype = values, values.shape, "tensor"

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)

    def __dlpack__(self):
        raise NotImplementedError


class Dataset:
    """Like PyTorch's: one example at a time."""

    def __len__(self):
        return 23

    def __getitem__(self, index):
        assert type(index) is int
        return Tensor(X[index]), LABELS[index].astype(">i4")


def one_by_one(folder):
    return Dataset()


def tensors(folder):
    """As another framework's, in memory that is shared; and an array in another order."""
    return Tensor(X), np.asfortranarray(LABELS[:, None])[:, 0].astype(">i4")


def by_step(folder):
    data_key = run_keys(KEY)[0]

    def batch(step):
        rows = np.asarray(fn.batch_indices(data_key, step, 23, SIZE))
        return X[rows], LABELS[rows]

    return batch


SOURCES = [
    in_memory, from_jax, on_disk, raw_views, in_shards, in_unequal_shards, own, one_by_one, tensors,
    by_step,
]  # fmt: skip


def build():
    network = fn.serial(fn.dense(3, 8), fn.tanh, fn.dropout(0.2), fn.dense(8, 4))
    return fn.trainer(fn.supervised(network, fn.cross_entropy), fn.adam(1e-2))


@pytest.fixture(scope="module")
def pure():
    """The state at the start, the pure run's result, and the compiled scan over a chunk."""
    trainer = build()
    state = trainer.init(KEY)._replace(key=KEY)
    whole = jax.jit(
        lambda state: fn.resume(trainer, (X, LABELS), state, steps=STEPS, batch_size=SIZE),
        compiler_options=FULL,
    )(state)
    follow = jax.jit(
        lambda state, chunk: jax.lax.scan(trainer.step, state, chunk), compiler_options=FULL
    )
    return state, whole, follow


def same_bits(tree, other):
    for a, b in zip(*map(jax.tree.leaves, (tree, other)), strict=True):
        assert (a == b).all()


@pytest.mark.parametrize("make", SOURCES, ids=lambda make: make.__name__)
def test_every_source_trains_bit_for_bit_as_the_pure_run(make, pure, tmp_path):
    state, whole, follow = pure
    data, losses = make(tmp_path), []
    for start, steps in ((0, 7), (7, 4)):
        given = {"start": start, "steps": steps, "every": 4, "batch_size": SIZE}
        with fn.data.chunks(data, KEY, **given) as chunks:
            for chunk in chunks:
                assert all(isinstance(leaf, jax.Array) for leaf in chunk)
                state, metrics = follow(state, chunk)
                losses.append(np.asarray(metrics["loss"]))
    assert [len(loss) for loss in losses] == [4, 3, 1, 3]
    same_bits(state, whole.state)
    same_bits(np.concatenate(losses), whole.loss)


rows_of = jax.jit(fn.batch_indices, static_argnums=(2, 3))


@pytest.mark.parametrize("make", [in_memory, in_shards], ids=lambda make: make.__name__)
def test_batches_are_those_of_their_steps(make, tmp_path):
    data_key, count = run_keys(KEY)[0], feed.PLANNED + 3
    with fn.data.batches(make(tmp_path), KEY, start=6, steps=count, batch_size=SIZE) as batches:
        for step in range(6, 6 + count):
            x, labels = next(batches)
            rows = np.asarray(rows_of(data_key, step, 23, SIZE))
            assert type(x) is type(labels) is np.ndarray
            assert x.dtype == np.float32
            np.testing.assert_array_equal(x, X[rows])
            np.testing.assert_array_equal(labels, LABELS[rows])
        assert next(batches, None) is None


def test_chunks_have_the_dtypes_and_devices_of_whoever_asks():
    data = {"x": X.astype(np.float64), "y": LABELS.astype(np.int64)}
    given = {"steps": 3, "every": 2, "batch_size": 8}
    with fn.data.chunks(data, KEY, **given) as chunks:
        assert {leaf.dtype for leaf in next(chunks).values()} == {jnp.dtype("f4"), jnp.dtype("i4")}
    with (
        jax.enable_x64(True),
        jax.default_device(jax.devices()[2]),
        fn.data.chunks(data, KEY, **given) as chunks,
    ):
        chunk = next(chunks)
        assert {leaf.dtype for leaf in chunk.values()} == {jnp.dtype("f8"), jnp.dtype("i8")}
        assert chunk["x"].devices() == {jax.devices()[2]}
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.NamedSharding(mesh, jax.P(None, "batch"))
    with fn.data.chunks(data, KEY, **given, device=split) as chunks:
        for chunk in chunks:
            assert chunk["x"].sharding == split


def test_an_error_in_the_thread_reaches_the_consumer_in_its_place():
    def fails(step):
        if step == 5:
            raise OSError("disk gone")
        return np.full(2, step)

    chunks = fn.data.chunks(fails, KEY, steps=9, every=2, batch_size=2)
    got = [next(chunks).tolist() for _ in range(2)]
    assert got == [[[0, 0], [1, 1]], [[2, 2], [3, 3]]]
    with pytest.raises(OSError, match="disk gone"):
        next(chunks)
    assert threads() == []
    assert list(chunks) == []


def test_items_are_made_ahead_of_their_use_but_no_more_than_asked():
    made = [threading.Event() for _ in range(9)]

    def batch(step):
        made[step].set()
        return np.full(1, step)

    with fn.data.batches(batch, KEY, steps=9, batch_size=1, ahead=2) as batches:
        for step in range(7):
            assert made[step + 1].wait(5)
            assert next(batches)[0] == step
            assert made[step + 2].wait(5)
            assert not any(event.is_set() for event in made[step + 4 :])


def test_no_thread_outlives_its_consumer():
    given = {"steps": 100, "every": 3, "batch_size": 2}
    with pytest.raises(KeyError), fn.data.chunks(X, KEY, **given) as chunks:
        raise KeyError(next(chunks))
    assert threads() == []
    chunks = fn.data.chunks(X, KEY, **given)
    next(chunks)
    (thread,) = threads()
    del chunks
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()
    for _ in fn.data.chunks(X, KEY, steps=7, every=3, batch_size=2):
        pass
    assert threads() == []
    closed = fn.data.chunks(X, KEY, **given)
    closed.close()
    closed.close()
    assert list(closed) == []


def test_an_interrupt_while_waiting_loses_nothing():
    def slow():
        for item in range(4):
            if item == 2:
                _thread.interrupt_main()
                time.sleep(0.2)
            yield item

    got, interrupts = [], 0
    with fn.data.Ahead(slow(), ahead=1) as items:
        while len(got) < 4:
            try:
                got.append(next(items))
            except KeyboardInterrupt:
                interrupts += 1
    assert (got, interrupts) == ([0, 1, 2, 3], 1)


class Loader:
    """Batches of tensors in lists; each iteration begins again, the last batch is smaller."""

    def __init__(self, drop_last):
        self.drop_last = drop_last

    def __len__(self):
        return 4 if self.drop_last else 5

    def __iter__(self):
        for first in range(0, 5 * len(self), 5):
            yield [Tensor(X[first : first + 5]), Tensor(LABELS[first : first + 5])]


def test_a_loader_is_read_in_its_order_and_again():
    rounds = itertools.chain.from_iterable(itertools.repeat(Loader(drop_last=True)))
    for loader, steps in ((Loader(drop_last=True), 4), (fn.data.stream(rounds), 9)):
        with fn.data.chunks(loader, KEY, steps=steps, every=3, batch_size=5) as chunks:
            x, labels = jax.tree.map(lambda *a: np.concatenate(a), *chunks)
        for step in range(steps):
            first = 5 * (step % 4)
            np.testing.assert_array_equal(x[step], X[first : first + 5])
            np.testing.assert_array_equal(labels[step], LABELS[first : first + 5])


def test_a_generator_goes_on_where_it_was_and_may_reuse_its_memory():
    def counting():
        batch = np.zeros(2)
        while True:
            yield batch
            batch += 1

    batches, got = counting(), []
    for start, steps in ((0, 3), (3, 4)):
        with fn.data.batches(batches, KEY, start=start, steps=steps, batch_size=None) as feed:
            got += [batch[0] for batch in feed]
    assert got == [0, 1, 2, 3, 4, 5, 6]


BAD_STREAMS = [
    (lambda: Loader(True), {}, "the stream ended before step 14, after 4 batches"),
    (lambda: Loader(False), {}, r"\[3, 3\], 1 int32\[3\] at step 14 after 0 float32\[5, 3\], 1 i"),
    (
        lambda: Loader(True),
        {"batch_size": 6},
        r"batches must be of 6 examples, got 0 float32\[5, 3",
    ),
    (lambda: iter([{"x": X[:5], "y": "abcde"}]), {}, r"data must hold numbers, got y <U5\[\]"),
    (lambda: np.zeros, {"start": 0}, "batches must be of 5 examples, got an array float64\\[0"),
]


@pytest.mark.parametrize(("make", "changed", "message"), BAD_STREAMS)
@pytest.mark.parametrize("every", [None, 2])
def test_a_bad_stream_says_at_which_step(make, changed, message, every):
    given = {"start": 10, "steps": 6, "batch_size": 5, **changed}
    if every is None:
        items = fn.data.batches(make(), KEY, **given)
    else:
        items = fn.data.chunks(make(), KEY, every=every, **given)
    with items, pytest.raises((ValueError, TypeError), match=message):
        list(items)


class Column:
    """Like one of pandas: it makes an array, perhaps of what is not in memory."""

    def __init__(self, values):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)


class Table:
    """Like those of pandas, whose `take` gives a table."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def take(self, indices):
        return Table(self.values[indices])


class FirstOnes(Squares):
    """Of which `take` gives what it gives of a number."""

    def take(self, count):
        return {"x": X[count[0]]}


BAD_DATA = [
    ((X, LABELS[:9]), {}, ValueError, r"as many examples in each array, got shapes \{'\[0\]'"),
    ((), {}, ValueError, "arrays with a leading axis"),
    ((X, [1, 2]), {}, TypeError, "arrays of NumPy or JAX, got int; .* take"),
    ("folder", {}, TypeError, "stream expects an iterable or a function of the step, got 'folder'"),
    ([(x, 1) for x in X], {}, TypeError, "got int; stack lists of examples, and make arrays of"),
    (list(LABELS), {}, TypeError, "got int32; stack"),
    ([np.zeros(())] * 9, {}, ValueError, r"axis of examples, got \{.*'\[7\]': \(\)\} and others"),
    ({"x": Column(X)}, {}, TypeError, "got Column; .* columns by numpy.asarray"),
    (
        Table(X),
        {},
        TypeError,
        r"source's take\(indices\), int \[k\], must return .* got Table from",
    ),
    (Table([]), {}, ValueError, "at least one example, got none in"),
    (FirstOnes(), {}, ValueError, r"must return arrays \[1, ...\], got x float32\[3\]"),
    ((X, np.array(["a"] * 23)), {}, TypeError, r"must hold numbers, got 1 <U1\[23\]"),
    (X.astype([("x", "f4")]), {}, TypeError, r"got an array .*\]: give its fields, a dict"),
    (X.view("V4"), {}, TypeError, r"if these are bfloat16, .*, array.view\(jnp.bfloat16\)"),
    (7, {}, TypeError, "stream expects an iterable or a function of the step, got 7"),
    (X, {"batch_size": 24}, ValueError, "batch_size must be at most the 23 examples, got 24"),
    (X, {"batch_size": None}, ValueError, "batch_size must be an integer, got None"),
    (X, {"steps": -1}, ValueError, "steps must be at least 0, got -1"),
    (X, {"start": -1}, ValueError, "start must be at least 0, got -1"),
    (X, {"every": 0}, ValueError, "every must be at least 1, got 0"),
    (X, {"ahead": 0}, ValueError, "ahead must be at least 1, got 0"),
]


@pytest.mark.parametrize(("data", "changed", "kind", "message"), BAD_DATA)
def test_bad_arguments_say_so_before_any_thread_starts(data, changed, kind, message):
    with pytest.raises(kind, match=message):
        fn.data.chunks(data, KEY, **{"steps": 4, "every": 2, "batch_size": 5, **changed})


def test_data_in_memory_are_numbers_in_any_order_of_bytes():
    (x, labels), length = check_data((X.astype(">f4"), LABELS.astype(">i4")))
    assert (length, x.dtype, labels.dtype) == (23, jnp.float32, jnp.int32)
    same_bits((x, labels), (X, LABELS))
    with pytest.raises(TypeError, match=r"must hold numbers, got y <U1\[23\]"):
        check_data({"x": X, "y": np.array(["a"] * 23)})


TREES = {
    "tuple": ((X, LABELS), ["0-00000.npy", "0-00001.npy", "1-00000.npy", "1-00001.npy"]),
    "dict": ({"a-b": X, "1": LABELS > 1}, ["1-00000.npy", "1-00001.npy"]),
    "array": (X.astype(np.float16), ["00000.npy", "00001.npy"]),
}


@pytest.mark.parametrize(("tree", "names"), TREES.values(), ids=TREES)
def test_shards_come_back_as_they_were_written(tree, names, tmp_path):
    fn.data.write_shards(tmp_path / "set", tree, rows=15)
    assert set(names) <= {path.name for path in (tmp_path / "set").iterdir()}
    source = fn.data.sharded(tmp_path / "set")
    rows = RNG.permutation(np.append(np.arange(23), [7, 7, 22]))
    got = source.take(rows)
    assert len(source) == 23
    assert jax.tree.structure(got) == jax.tree.structure(tree)
    for leaf, spec, whole in zip(*map(jax.tree.leaves, (got, source.spec, tree)), strict=True):
        np.testing.assert_array_equal(leaf, whole[rows])
        assert leaf.dtype == spec.dtype == whole.dtype
        assert spec.shape == whole.shape[1:]
    with pytest.raises(FileExistsError, match="has shards already, such as"):
        fn.data.write_shards(tmp_path / "set", tree, rows=15)
    fn.data.write_shards(tmp_path / "again", source, rows=4)
    same_bits(fn.data.sharded(tmp_path / "again").take(rows), got)


def replace(name, array):
    return lambda folder: np.save(folder / name, array)


BAD_SHARDS = [
    (replace("0-00001.npy", X[:4, :2]), r"0-00001.npy holds rows of shape \(2,\).* expected \(3,"),
    (
        replace("0-00002.npy", X[:4].astype(int)),
        "0-00002.npy holds rows .* int64, .* float32 as in",
    ),
    (
        replace("1-00003.npy", LABELS[:3]),
        "got 23 and 22: .*0-00003.npy holds 4, but .*1-00003.npy 3",
    ),
    (replace("1-00006.npy", LABELS[:1]), "got 23 and 24: no file holds 0, but .*1-00006.npy 1"),
    (replace("0-00000.npy", np.float32(1.0)), "0-00000.npy must hold one array with a leading"),
    (replace("1-00000.npy", np.array(["a"])), "1-00000.npy must hold numbers .*, got <U1"),
    (replace("1-00000.npy", np.array([{}])), "1-00000.npy cannot be read"),
    (lambda f: (f / "0-00005.npy").write_bytes(b""), "0-00005.npy cannot be read"),
    (lambda f: (f / "0-00001.npy").write_bytes((f / "0-00002.npy").read_bytes()[:-1]), "0-00001"),
    (
        lambda f: (np.savez(f / "x.npz", X), (f / "x.npz").rename(f / "0-00002.npy")),
        "0-00002.npy must hold one array",
    ),
    (lambda f: (f / "1-00002.npy").unlink(), "no 1-00002.npy in .* but later ones"),
    (lambda f: [path.unlink() for path in f.iterdir()], "no shards in"),
]


@pytest.mark.parametrize(("damage", "message"), BAD_SHARDS, ids=[b[1][:24] for b in BAD_SHARDS])
def test_a_bad_shard_is_named(damage, message, tmp_path):
    fn.data.write_shards(tmp_path, (X, LABELS), rows=4)
    damage(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        fn.data.sharded(tmp_path)


UNWRITABLE = {
    "nested": ({"a": X, "b": (X, X)}, r"a tuple or dict of them: not so \['b'\]"),
    "second dtype": ((X, X.astype(jnp.bfloat16)), r"1-00000.npy must hold numbers .* got bfloat16"),
    "integers": ({0: X, 1: LABELS}, "expected text of one line, without slashes, got 0"),
    "no text": ({"": X}, "without slashes, got ''"),
    "slash": ({"train/x": X}, "without slashes, got 'train/x'"),
    "lines": ({"a\nb": X}, r"of one line, without slashes, got 'a\\nb'"),
    "positions": ({"0": X, "1": LABELS}, r"keys \['0', '1'\] would be read as a tuple"),
}


@pytest.mark.parametrize(("tree", "message"), UNWRITABLE.values(), ids=UNWRITABLE)
def test_what_shards_cannot_hold_is_refused_before_the_first(tree, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fn.data.write_shards(tmp_path, tree, rows=4)
    assert list(tmp_path.iterdir()) == []


def test_shards_are_of_examples(tmp_path):
    with pytest.raises(TypeError, match="another source of examples, got a stream: <generator"):
        fn.data.write_shards(tmp_path, (X for _ in range(3)), rows=4)
    with pytest.raises(ValueError, match="at least one file"):
        fn.data.sharded({"x": []})


def test_shards_that_were_not_written_to_their_end_are_refused(tmp_path, monkeypatch):
    """The disk is full at each of the four files in turn; else there would be shorter data."""
    save = np.save
    for last in range(4):
        folder, files = tmp_path / str(last), iter([save] * last)

        def full(file, array, files=files):
            try:
                next(files)(file, array)
            except StopIteration:
                raise OSError(28, "No space left on device") from None

        monkeypatch.setattr(np, "save", full)
        with pytest.raises(OSError, match="No space left"):
            fn.data.write_shards(folder, (X, LABELS), rows=12)
        monkeypatch.undo()
        with pytest.raises(ValueError, match="was not written to its end: delete it, and write"):
            fn.data.sharded(folder)
        with pytest.raises(FileExistsError, match="has shards already"):
            fn.data.write_shards(folder, (X, LABELS), rows=12)
    fn.data.write_shards(tmp_path / "whole", (X, LABELS), rows=12)
    assert len(list((tmp_path / "whole").iterdir())) == 4


def test_no_file_is_written_over(tmp_path):
    """One that comes between, as that of "x" does where it is also that of "X"."""

    class Between(Squares):
        def take(self, indices):
            if len(indices) > 1:
                (tmp_path / "1-00000.npy").touch()
            return super().take(indices)

    with pytest.raises(FileExistsError, match=r"1-00000\.npy"):
        fn.data.write_shards(tmp_path, Between(), rows=40)


def test_one_file_is_open_at_a_time(tmp_path, monkeypatch):
    fn.data.write_shards(tmp_path, X, rows=2)
    source = fn.data.sharded(tmp_path)
    opened = []
    monkeypatch.setattr(
        "builtins.open", lambda *args, **kw: opened.append(io.FileIO(args[0])) or opened[-1]
    )
    np.testing.assert_array_equal(source.take(np.array([21, 0, 22, 1])), X[[21, 0, 22, 1]])
    assert [Path(file.name).name for file in opened] == ["00000.npy", "00010.npy", "00011.npy"]
    assert all(file.closed for file in opened)


def test_a_file_that_shrank_is_named(tmp_path):
    fn.data.write_shards(tmp_path, X, rows=20)
    source = fn.data.sharded(tmp_path)
    os.truncate(tmp_path / "00001.npy", 130)
    with (
        fn.data.batches(source, KEY, steps=4, batch_size=23) as batches,
        pytest.raises(ValueError, match=r"00001.npy ends within a row, at byte 128"),
    ):
        next(batches)


def resident():
    """Bytes of files that are mapped in this process's memory."""
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(r"RssFile:\s+(\d+)", status.read())[1])


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_mapped_file_is_not_kept_in_memory(tmp_path):
    whole = np.arange(24 << 20, dtype=np.uint8).reshape(-1, 4096)
    np.save(tmp_path / "x.npy", whole)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    source = sources.as_source(mapped)
    rows = RNG.permutation(len(whole))
    before = resident()
    assert (source.take(rows) == whole[rows]).all()
    assert resident() - before < 2 << 20
    assert (mapped[rows] == whole[rows]).all()
    assert resident() - before > 20 << 20


VIEWS = {
    "rows": (lambda a: a[3:20], True),
    "backwards": (lambda a: a[::-2], True),
    "one row": (lambda a: a[4], True),
    "columns": (lambda a: a[:, 1:], True),
    "far columns": (lambda a: a[:, ::2], False),
    "copy": (lambda a: a + 0.0, False),
    "plain": (np.asarray, False),
}


@pytest.mark.parametrize(("view", "read"), VIEWS.values(), ids=VIEWS)
def test_views_of_mapped_arrays(view, read, tmp_path):
    """Of a raw file that is mapped from the middle of its second page on."""
    data = np.arange(3000.0, dtype=np.float32).reshape(-1, 3)
    data.tofile(tmp_path / "x.raw")
    mapped = np.memmap(tmp_path / "x.raw", np.float32, "r", 12 * 500, (23, 3))
    array = view(mapped)
    source = sources.as_source(array)
    rows = RNG.integers(0, len(array), 9)
    assert isinstance(source.data, Rows) == read
    np.testing.assert_array_equal(source.take(rows), view(data[500:523])[rows])


def test_a_mapped_bfloat16_is_read_from_its_file(tmp_path):
    """From a raw file, and from one of NumPy's, which forgets what it is."""
    half = X.astype(jnp.bfloat16)
    half.tofile(tmp_path / "x.raw")
    np.save(tmp_path / "x.npy", half)
    rows = RNG.permutation(23)
    for array in (
        np.memmap(tmp_path / "x.raw", jnp.bfloat16, "r", shape=(23, 3)),
        np.load(tmp_path / "x.npy", mmap_mode="r").view(jnp.bfloat16),
    ):
        source = sources.as_source(array)
        assert isinstance(source.data, Rows)
        np.testing.assert_array_equal(source.take(rows), half[rows])


def test_what_was_written_to_a_private_mapping_stays(tmp_path):
    np.save(tmp_path / "x.npy", X)
    private = np.load(tmp_path / "x.npy", mmap_mode="c")
    private[3] = 7.0
    for _ in range(2):
        np.testing.assert_array_equal(sources.as_source(private).take(np.array([3]))[0], 7.0)


@pytest.mark.slow
def test_the_interpreter_ends_while_a_feed_is_open():
    code = (
        "import jax, numpy as np, funcnet as fn\n"
        "f = fn.data.chunks(np.zeros((9, 2)), jax.random.key(0), steps=99, every=2, batch_size=3)\n"
        "print(next(f).shape)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.returncode) == ("(2, 3, 2)\n", 0), ended.stderr
