"""Checkpoints: every bit comes back, into the template or not at all; what is written is
safetensors' format; folders keep what they should."""

import hashlib
import importlib.util
import io
import itertools
import json
import os
import subprocess
import sys
import threading
import tracemalloc
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.make_safetensors import TENSORS
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import funcnet as fn
from funcnet import checkpoint
from funcnet.checkpoint import Checkpoints, files, load, restore_latest, save
from funcnet.checkpoint.store import path_of

GOLDEN = Path(__file__).parent / "golden"


def bits(leaf):
    """(kind, shape, bytes) of a leaf."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return str(leaf.dtype), leaf.shape, np.asarray(jax.random.key_data(leaf)).tobytes()
    return str(np.asarray(leaf).dtype), np.shape(leaf), np.asarray(leaf).tobytes()


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert bits(a) == bits(b)
        assert type(a) is type(b)


def through_memory(tree, like=None):
    file = io.BytesIO()
    checkpoint.write_tree(file, tree)
    return checkpoint.read_tree(file, tree if like is None else like)


# The format, by a parser that shares nothing with the library's

WIDTHS = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1, "F8_E5M2FNUZ": 1,
    "F8_E4M3FNUZ": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4,
    "C64": 8, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
DTYPES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "float8_e5m2": "F8_E5M2",
    "float8_e4m3fn": "F8_E4M3", "float8_e8m0fnu": "F8_E8M0", "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e4m3fnuz": "F8_E4M3FNUZ", "uint16": "U16", "int16": "I16", "float16": "F16",
    "bfloat16": "BF16", "uint32": "U32", "int32": "I32", "float32": "F32", "complex64": "C64",
    "uint64": "U64", "int64": "I64", "float64": "F64",
}  # fmt: skip
OTHERS = (
    "complex128", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float4_e2m1fn", "int4",
    "uint4", "int2", "uint2",
)  # fmt: skip


def parsed(data):
    """({name: (code, shape, bytes)}, metadata, header) of a file, which has neither holes nor
    tensors out of alignment."""
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length]
    table, body = json.loads(header), data[8 + length :]
    assert header[:1] == b"{"
    assert length % 8 == 0
    metadata, found, end = table.pop("__metadata__"), {}, 0
    for name, entry in sorted(table.items(), key=lambda item: item[1]["data_offsets"]):
        assert entry.keys() == {"dtype", "shape", "data_offsets"}
        begin, (start, end_) = end, entry["data_offsets"]
        end = begin + WIDTHS[entry["dtype"]] * int(np.prod(entry["shape"], dtype=int))
        assert (start, end_) == (begin, end)
        assert start % WIDTHS[entry["dtype"]] == 0
        found[name] = entry["dtype"], tuple(entry["shape"]), body[start:end_]
    assert end == len(body)
    return found, metadata, data[: 8 + length]


def of_every_dtype():
    values = np.arange(6).reshape(2, 3) % 2
    return {name: values.astype(np.dtype(name)) for name in (*DTYPES, *OTHERS)}


def test_what_is_written_is_the_format(tmp_path):
    tree = {"by": of_every_dtype(), "list": [np.float32(3.5), np.zeros((0, 2), np.int16)]}
    save(tmp_path / "a", tree, step=7, metric=0.1, metadata={"note": 'ö "0" \\'})
    found, metadata, header = parsed(data := (tmp_path / "a").read_bytes())
    kinds = json.loads(metadata["funcnet.kinds"])
    for name, code in DTYPES.items():
        assert found.pop(f"by.{name}") == (code, (2, 3), tree["by"][name].tobytes())
    for name in OTHERS:
        width = () if np.dtype(name).itemsize == 1 else (16,)
        assert found.pop(f"by.{name}") == ("U8", (2, 3, *width), tree["by"][name].tobytes())
        assert kinds.pop(f"by.{name}") == name
    assert found == {
        "list.0": ("F32", (), np.float32(3.5).tobytes()),
        "list.1": ("I16", (0, 2), b""),
    }
    assert kinds == {}
    sums = json.loads(metadata.pop("funcnet.crc32"))
    assert sums == {n: f"{zlib.crc32(b):08x}" for n, (_, _, b) in parsed(data)[0].items()}
    digest = metadata.pop("funcnet.sha256")
    without = header.replace(digest.encode(), b"0" * 64)
    assert digest == hashlib.sha256(data[len(header) :] + without).hexdigest()
    del metadata["funcnet.kinds"]
    assert metadata == {
        "note": 'ö "0" \\',
        "funcnet.schema": "1",
        "funcnet.version": fn.__version__,
        "funcnet.jax": jax.__version__,
        "funcnet.step": "7",
        "funcnet.metric": "0.1",
    }
    assert checkpoint.read_metadata(tmp_path / "a").items() > metadata.items()


def test_every_dtype_comes_back():
    tree = of_every_dtype()
    assert_same(through_memory(tree), tree)
    with jax.enable_x64(True):
        on_device = jax.tree.map(jnp.asarray, tree)
        assert_same(through_memory(on_device), on_device)


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_keys_come_back_as_keys(implementation):
    key = jax.random.key(3, impl=implementation)
    tree = {
        "one": key,
        "many": jax.random.split(key, 6).reshape(2, 3),
        "raw": jnp.zeros(2, "uint32"),
    }
    like = jax.eval_shape(lambda: tree)
    found = through_memory(tree, like)
    assert_same(found, tree)
    assert jax.random.key_impl(found["one"]) == implementation


TREES = {
    "bare": jnp.arange(3.0),
    "empty": {},
    "nothing but branches": {"a": (), "b": [None]},
    "scalar": jnp.float32(2.0),
    "sizes of 0": {"a": np.zeros((0, 3)), "b": jnp.zeros((2, 0), jnp.bfloat16)},
    "Python numbers": {"a": 0.1, "b": 3, "c": True, "d": 1 + 2j, "e": np.float64(0.1)},
    "names alike": {"a.b": np.ones(1), "a": {"b": np.zeros(2)}},
    "names of numbers": [{0: np.ones(1)}, {1: np.zeros(1)}],
    "odd names": {
        "": np.ones(1),
        "\n\"'\\": np.zeros(1),
        "é😀": np.ones(2),
        "x" * 9999: np.ones(3),
    },
    "not contiguous": {"a": np.arange(12.0).reshape(3, 4).T, "b": np.arange(9)[::-2]},
    "NaN and others": np.array([np.nan, -np.nan, np.inf, -0.0, 5e-324]).view(np.float64),
    "larger than a chunk": np.random.default_rng(0).integers(0, 256, (3 << 20) + 5, np.uint8),
    "hashed in a thread": [np.arange(2 << 20, dtype=np.float32), np.ones((5, 1 << 17), np.uint8)],
}


@pytest.mark.parametrize("name", TREES)
def test_trees_come_back(name):
    assert_same(through_memory(TREES[name]), TREES[name])


def test_names_are_the_paths(tmp_path):
    state = fn.RunState([{"weight": np.ones(2)}], (), (), np.int32(3), jax.random.key(0))
    save(tmp_path / "a", state)
    assert parsed((tmp_path / "a").read_bytes())[0].keys() == {"params.0.weight", "step", "key"}


def test_big_endian_is_turned():
    assert_same(
        through_memory(np.arange(3, dtype=">f4"), np.zeros(3, np.float32)),
        np.arange(3, dtype="<f4"),
    )


def test_weak_types_of_scalars_are_kept():
    weak = jnp.asarray(0.3)
    assert through_memory(weak, jax.eval_shape(lambda: weak)).weak_type
    assert not through_memory(jnp.float32(0.3)).weak_type


def test_the_package_reads_what_is_written_and_wrote_what_is_read(tmp_path):
    dtypes = {code: name for name, code in DTYPES.items()}
    wanted = {
        name: np.array(values, dtypes[code]).reshape(shape)
        for name, (code, shape, values) in TENSORS.items()
    }
    found = fn.load_safetensors(GOLDEN / "package.safetensors")
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert bits(found[name]) == bits(tensor), name
    assert (
        checkpoint.read_metadata(GOLDEN / "package.safetensors")["versions"][:11] == "safetensors"
    )
    fn.save_safetensors(tmp_path / "a", wanted)
    for name, (code, shape, data) in parsed((tmp_path / "a").read_bytes())[0].items():
        assert (code, shape, data) == (*TENSORS[name][:2], wanted[name].tobytes())
    if importlib.util.find_spec("safetensors"):
        from safetensors.torch import load_file

        assert {
            n: (str(t.dtype), tuple(t.shape)) for n, t in load_file(tmp_path / "a").items()
        } == {
            n: (str(t.dtype), tuple(t.shape))
            for n, t in load_file(GOLDEN / "package.safetensors").items()
        }


def golden_tree():
    return {
        "params": [{"weight": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3, jnp.bfloat16)}],
        "key": jax.random.wrap_key_data(jnp.array([1, 2], jnp.uint32), impl="threefry2x32"),
        "sums": np.array([1 + 2j, -3j]),
        "step": jnp.int32(12),
    }


def test_files_of_the_first_schema_stay_readable():
    """`checkpoint.save("tests/golden/schema-1.safetensors", golden_tree(), step=12)` wrote it."""
    assert_same(load(GOLDEN / "schema-1.safetensors", golden_tree()), golden_tree())


def test_parameters_for_others(tmp_path):
    params = [{"weight": jnp.ones((3, 4)), "bias": jnp.zeros(4)}, (), {"weight": jnp.ones((4, 2))}]
    fn.save_safetensors(tmp_path / "a", params, {"model": "mlp"})
    _, metadata, _ = parsed((tmp_path / "a").read_bytes())
    assert (metadata["format"], metadata["model"]) == ("pt", "mlp")
    flat = fn.load_safetensors(tmp_path / "a")
    assert {n: type(a) for n, a in flat.items()} == dict.fromkeys(
        ("0.weight", "0.bias", "2.weight"), np.ndarray
    )
    assert bits(flat["2.weight"]) == bits(params[2]["weight"])
    assert_same(fn.load_safetensors(tmp_path / "a", params), params)
    with pytest.raises(checkpoint.ShapeError, match=r"'0.bias': expected shape \(5,\), got \(4,\)"):
        fn.load_safetensors(tmp_path / "a", [params[0] | {"bias": jnp.zeros(5)}, *params[1:]])
    with pytest.raises(checkpoint.HeaderError, match=r"no checkpoint: .* load_safetensors"):
        load(GOLDEN / "package.safetensors", {})


def test_tensors_are_read_straight_into_their_arrays(tmp_path):
    """And written straight from them: no second copy of a file, not even of a tensor."""
    tree = [np.ones((1 << 20,)) for _ in range(3)]

    def refused():
        with pytest.raises(checkpoint.TreeError):
            load(tmp_path / "a", tree[1:])

    for work, bound in (
        (lambda: save(tmp_path / "a", tree), 1e6),
        (lambda: load(tmp_path / "a", tree), 3 * 2**23 + 1e6),
        (refused, 2**24 + 1e6),
    ):
        tracemalloc.start()
        work()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < bound


# Into the template


class Wrong(NamedTuple):
    like: Any
    error: type
    leaf: str | None
    message: str


KEY = jax.eval_shape(lambda: jax.random.key(0))
RBG = jax.eval_shape(lambda: jax.random.key(0, impl="rbg"))
F32 = jax.ShapeDtypeStruct((2, 3), jnp.float32)
STORED = {"a": jnp.ones((2, 3)), "b": {"key": jax.random.key(0)}, "n": np.arange(3)}
N = np.arange(3)
WRONG = {
    "missing": Wrong(
        {"a": F32, "b": {"key": KEY}, "n": N, "c": [N, N]},
        checkpoint.TreeError,
        "c.0",
        "leaves 2 missing: 'c.0', 'c.1'",
    ),
    "unexpected": Wrong(
        {"a": F32, "n": N}, checkpoint.TreeError, "b.key", "leaves 1 unexpected: 'b.key'"
    ),
    "renamed": Wrong(
        {"A": F32, "b": {"key": KEY}, "n": N},
        checkpoint.TreeError,
        "A",
        "1 missing: 'A'; 1 unexpected: 'a'",
    ),
    "shape": Wrong(
        {"a": jnp.ones((3, 2)), "b": {"key": KEY}, "n": N},
        checkpoint.ShapeError,
        "a",
        r"leaf 'a': expected shape \(3, 2\), got \(2, 3\)",
    ),
    "dtype": Wrong(
        {"a": jnp.ones((2, 3), jnp.bfloat16), "b": {"key": KEY}, "n": N},
        checkpoint.DtypeError,
        "a",
        "leaf 'a': expected bfloat16, got float32",
    ),
    "width": Wrong(
        {"a": F32, "b": {"key": KEY}, "n": N.astype(np.int32)},
        checkpoint.DtypeError,
        "n",
        "leaf 'n': expected int32, got int64",
    ),
    "x64": Wrong(
        {"a": F32, "b": {"key": KEY}, "n": jax.ShapeDtypeStruct((3,), np.int64)},
        checkpoint.DtypeError,
        "n",
        "leaf 'n': int64 needs jax_enable_x64",
    ),
    "kind of key": Wrong(
        {"a": F32, "b": {"key": RBG}, "n": N},
        checkpoint.KeyKindError,
        "b.key",
        "leaf 'b.key': expected key<rbg>, got key<fry>",
    ),
    "raw key": Wrong(
        {"a": F32, "b": {"key": jnp.zeros(2, jnp.uint32)}, "n": N},
        checkpoint.KeyKindError,
        "b.key",
        "leaf 'b.key': expected uint32, got key<fry>",
    ),
    "no key": Wrong(
        {"a": KEY, "b": {"key": KEY}, "n": N},
        checkpoint.KeyKindError,
        "a",
        "leaf 'a': expected key<fry>, got float32",
    ),
    "keys": Wrong(
        {"a": F32, "b": {"key": jax.random.split(jax.random.key(0))}, "n": N},
        checkpoint.ShapeError,
        "b.key",
        r"leaf 'b.key': expected shape \(2,\), got \(\)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_another_tree_is_an_error_that_names_the_leaf(name, tmp_path):
    like, error, leaf, message = WRONG[name]
    save(tmp_path / "a", STORED)
    with pytest.raises(error, match=message) as raised:
        load(tmp_path / "a", like)
    assert isinstance(raised.value, checkpoint.MismatchError)
    assert raised.value.leaf == leaf
    assert str(raised.value).startswith(f"{tmp_path / 'a'}: ")


def test_a_template_of_something_else_is_refused():
    with pytest.raises(TypeError, match=r"template's leaf 'a' must be an array, .* got 'text'"):
        through_memory({"a": N}, {"a": "text"})


def test_damage_names_the_leaf_and_goes_before_another_tree(tmp_path):
    save(tmp_path / "a", STORED)
    data = bytearray((tmp_path / "a").read_bytes())
    data[-1] ^= 1
    (tmp_path / "a").write_bytes(data)
    for like in (STORED, {"b": N}):
        with pytest.raises(checkpoint.ChecksumError, match=r"a: leaf 'b.key' is damaged") as raised:
            load(tmp_path / "a", like)
        assert raised.value.leaf == "b.key"


def test_a_later_schema_is_refused():
    file = io.BytesIO()
    original = checkpoint.single.CURRENT
    checkpoint.single.CURRENT = "2"
    try:
        checkpoint.write_tree(file, {"a": N})
    finally:
        checkpoint.single.CURRENT = original
    with pytest.raises(checkpoint.MismatchError, match="expected schema 1, got '2'"):
        checkpoint.read_tree(file, {"a": N})


REFUSED = {
    "text": ({"a": "text"}, {}, TypeError, "leaf 'a' must be an array of numbers or keys"),
    "an object": ({"a": object()}, {}, TypeError, "leaf 'a' must be"),
    "a shape": ({"a": F32}, {}, TypeError, "leaf 'a' must be"),
    "a huge integer": ({"a": 2**70}, {}, TypeError, "leaf 'a' must be"),
    "a reserved name": ({"__metadata__": N}, {}, ValueError, "keeps the name '__metadata__'"),
    "own metadata": (
        N,
        {"metadata": {"funcnet.x": "1"}},
        ValueError,
        "do not begin with 'funcnet.'",
    ),
    "metadata of numbers": (N, {"metadata": {"x": 1}}, ValueError, "metadata is text by name"),
    "a negative step": (N, {"step": -1}, ValueError, "step must be at least 0, got -1"),
    "lone surrogates": ({"\ud800": N}, {}, UnicodeEncodeError, "surrogates not allowed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_saved_is_refused_and_leaves_what_was_there(name, tmp_path):
    tree, keywords, error, message = REFUSED[name]
    save(tmp_path / "a", N)
    with pytest.raises(error, match=message):
        save(tmp_path / "a", tree, **keywords)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert_same(load(tmp_path / "a", N), N)


def test_sharded_arrays_are_gathered_and_placed_like_the_template():
    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,))
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("x",), ()))
    plain = {"w": jnp.arange(32.0).reshape(8, 4), "k": jax.random.split(jax.random.key(0), 4)}
    spread = jax.device_put(plain, split)
    like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=whole), plain)
    for tree, template in itertools.product((plain, spread), (plain, spread, like)):
        found = through_memory(tree, template)
        for name, leaf in found.items():
            assert bits(leaf) == bits(plain[name])
            assert leaf.sharding.is_equivalent_to(template[name].sharding, leaf.ndim)
            assert leaf.committed == (template is not plain)


def noisy_init(key):
    return {"weight": jax.random.normal(key, (5, 3))}, jnp.zeros(())


def noisy_loss(params, state, batch, *, key=None, train=False):
    x, labels = batch
    logits = (x + jax.random.normal(key, (5,))) @ params["weight"]
    return fn.cross_entropy(logits, labels).mean(), (state + 1.0, {})


def test_a_run_goes_on_from_its_file_bit_for_bit(tmp_path):
    """Noise from its key included: 3 steps, a file and 4 steps are 7 steps."""
    trainer = fn.trainer(fn.Task(noisy_init, noisy_loss), fn.adam(1e-2))
    rng = np.random.default_rng(0)
    batch = rng.standard_normal((10, 5)).astype(np.float32), np.arange(10) % 3
    step = jax.jit(trainer.step, compiler_options={"xla_backend_optimization_level": 3})
    states = [jax.jit(trainer.init)(jax.random.key(0))]
    for _ in range(7):
        states.append(step(states[-1], batch)[0])
    save(tmp_path / "a", states[3], step=3)
    state = load(tmp_path / "a", jax.eval_shape(trainer.init, jax.random.key(0)))
    for _ in range(4):
        state, _ = step(state, batch)
    assert_same(state, states[7])


# Folders


def names(folder):
    return [int(p.stem.removeprefix("step-")) for p in sorted(folder.iterdir())]


KEPT = {
    "the last": ({"keep_last": 2}, [], [7, 8]),
    "the least": ({"keep_last": 1, "keep_best": 2}, [5, 3, 4, 1, 2, 9, 9, 9, 9], [3, 4, 8]),
    "the greatest": (
        {"keep_last": 1, "keep_best": 2, "best": max},
        [5, 3, 4, 1, 2, 9, 7, 0, 0],
        [5, 6, 8],
    ),
    "NaN is not best": (
        {"keep_last": 1, "keep_best": 1},
        [np.nan, 2, np.nan, 3, np.inf, 4, 4, 4, 4],
        [1, 8],
    ),
    "without metrics": ({"keep_last": 1, "keep_best": 3}, [], [8]),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept(name, tmp_path):
    """Also when the folder was closed and opened again half-way."""
    keywords, metrics, kept = KEPT[name]
    for steps in (range(5), range(5, 9)):
        with Checkpoints(tmp_path / "run", **keywords) as checkpoints:
            for step in steps:
                checkpoints.save(jnp.int32(step), N + step, metrics[step] if metrics else None)
    assert names(tmp_path / "run") == kept
    found = restore_latest(tmp_path / "run", N)
    assert (found.step, found.skipped) == (8, ())
    assert_same(found.tree, N + 8)


def test_later_steps_are_left_alone(tmp_path):
    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        checkpoints.save(100, N)
    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        for step in (3, 4):
            checkpoints.save(step, N)
    assert names(tmp_path) == [4, 100]


def damage(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_the_newest_whole_one_is_restored_and_the_others_are_reported(tmp_path):
    with Checkpoints(tmp_path, keep_last=9) as checkpoints:
        assert checkpoints.restore(N) is None
        for step in range(6):
            checkpoints.save(step, N + step)
        checkpoints.wait()
        damage(path_of(tmp_path, 5))
        path_of(tmp_path, 4).write_bytes(b"")
        path_of(tmp_path, 2).rename(path_of(tmp_path, 3))
        path_of(tmp_path, 7).mkdir()
        (tmp_path / "step-9.safetensors").write_bytes(b"another's name")
        with pytest.warns(UserWarning, match="skipped a checkpoint") as warned:
            found = checkpoints.restore(N)
    assert (found.step, found.tree.tolist()) == (1, [1, 2, 3])
    assert [path for path, _ in found.skipped] == [path_of(tmp_path, s) for s in (7, 5, 4, 3)]
    assert len(warned) == 4
    for (path, reason), part in zip(
        found.skipped,
        (
            "IsADirectoryError",
            "leaf '' is damaged",
            "0 bytes are too few",
            "expected step 3, got 2",
        ),
        strict=True,
    ):
        assert part in reason
        assert str(path) in reason
    for step in (0, 1):
        damage(path_of(tmp_path, step))
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(checkpoint.DamagedError, match=r"none of the 6 checkpoints in .* is whole: "),
    ):
        restore_latest(tmp_path, N)


def test_another_tree_is_no_reason_to_go_back(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, N)
        checkpoints.save(2, {"a": N})
        with pytest.raises(checkpoint.TreeError, match="missing: ''; 1 unexpected: 'a'"):
            checkpoints.restore(N)


def test_no_folder_is_an_error_to_a_reader_alone(tmp_path):
    with pytest.raises(FileNotFoundError):
        restore_latest(tmp_path / "none", N)
    with Checkpoints(tmp_path / "a" / "b") as checkpoints:
        assert checkpoints.restore(N) is None


def failing(monkeypatch, name, times=1):
    """The operation raises the first few times."""
    operation, count = getattr(files, name), itertools.count()

    def once(*arguments):
        if next(count) < times:
            raise OSError(28, "No space left on device")
        return operation(*arguments)

    monkeypatch.setattr(files, name, once)


def test_an_error_in_the_background_comes_up_once_at_the_next_call(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, N)
    checkpoints.wait()
    for call in (
        lambda: checkpoints.save(3, N),
        lambda: checkpoints.restore(N),
        checkpoints.wait,
        checkpoints.close,
    ):
        failing(monkeypatch, "sync")
        checkpoints.save(2, N)
        with pytest.raises(OSError, match="No space left"):
            call()
        assert names(tmp_path) == [1]
        checkpoints.wait()
    with pytest.raises(RuntimeError, match="are closed"):
        checkpoints.save(4, N)


def test_an_error_in_the_body_is_kept_and_told_of_the_save(tmp_path, monkeypatch):
    failing(monkeypatch, "rename", times=2)
    with pytest.raises(KeyError, match="body") as raised, Checkpoints(tmp_path) as checkpoints:  # noqa: PT012
        checkpoints.save(1, N)
        raise KeyError("body")
    assert "was not saved: OSError: [Errno 28]" in raised.value.__notes__[0]
    with pytest.raises(OSError, match="No space"), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, N)
    assert names(tmp_path) == []


def test_one_save_is_pending_and_the_caller_goes_on(tmp_path, monkeypatch):
    """The first call returns while its file is not written, the second only when it is."""
    gate, sync = threading.Event(), files.sync
    monkeypatch.setattr(files, "sync", lambda file: (gate.wait(10), sync(file)))
    with Checkpoints(tmp_path) as checkpoints:
        array = np.zeros(3)
        checkpoints.save(1, array)
        array += 1.0
        assert not path_of(tmp_path, 1).exists()
        threading.Timer(0.1, gate.set).start()
        checkpoints.save(2, array)
        assert path_of(tmp_path, 1).exists()
    assert_same(load(path_of(tmp_path, 1), array), np.zeros(3))
    assert_same(load(path_of(tmp_path, 2), array), np.ones(3))


def test_the_order_of_a_save(tmp_path, monkeypatch):
    done = []
    for name in ("create", "write", "sync", "rename", "sync_folder", "remove"):
        operation = getattr(files, name)
        monkeypatch.setattr(files, name, lambda *a, n=name, o=operation: (done.append(n), o(*a))[1])
    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        checkpoints.save(1, N)
        checkpoints.save(2, N)
    one = ["create", "write", "write", "write", "sync", "rename", "sync_folder"]
    assert done == [*one, *one, "remove"]


def test_stale_temporary_files_go_and_living_ones_stay(tmp_path):
    killed, living = (f".step-000000000{n}.safetensors.{n:016x}.tmp" for n in (1, 2))
    others = {".other.tmp", ".step-0000000001.safetensors.00.tmp", ".step-a.0123456789abcdef.tmp"}
    for name in (killed, *others):
        (tmp_path / name).touch()
    with files.create(tmp_path / living):
        Checkpoints(tmp_path).close()
        assert {path.name for path in tmp_path.iterdir()} == {living, *others}
    Checkpoints(tmp_path).close()
    assert {path.name for path in tmp_path.iterdir()} == others


def test_of_stale_files_those_of_the_very_name_go(tmp_path):
    mine, others = ".a.0123456789abcdef.tmp", {".ab.0123456789abcdef.tmp", ".a.tmp", ".a.b.tmp"}
    for name in (mine, *others):
        (tmp_path / name).touch()
    save(tmp_path / "a", N)
    assert {path.name for path in tmp_path.iterdir()} == {"a", *others}


def test_what_cannot_be_removed_stops_no_save(tmp_path, monkeypatch):
    """Nor is a folder of a checkpoint's name counted or touched."""
    path_of(tmp_path, 1).mkdir()
    with Checkpoints(tmp_path, keep_last=2) as checkpoints:
        for step in (2, 3, 4):
            checkpoints.save(step, N)
        checkpoints.wait()
        assert names(tmp_path) == [1, 3, 4]
        failing(monkeypatch, "remove")
        checkpoints.save(5, N)
        with pytest.warns(UserWarning, match="could not remove an old checkpoint: OSError: .* 28"):
            checkpoints.save(6, N)
        checkpoints.save(7, N)
    assert names(tmp_path) == [1, 3, 6, 7]
    with Checkpoints(tmp_path, keep_last=2) as checkpoints:
        checkpoints.save(8, N)
    assert names(tmp_path) == [1, 7, 8]


def test_the_digest_of_a_thread_is_that_of_the_whole(tmp_path):
    tree = TREES["hashed in a thread"]
    save(tmp_path / "a", tree)
    data = bytearray((tmp_path / "a").read_bytes())
    _, metadata, header = parsed(data)
    digest = metadata["funcnet.sha256"].encode()
    assert hashlib.sha256(data[len(header) :] + header.replace(digest, b"0" * 64)).hexdigest() == (
        digest.decode()
    )
    with open(tmp_path / "a", "rb") as file:
        reading = checkpoint.tensors.read_tensors(file, checkpoint.header.read_header(file))
        next(reading)
        assert "digest" in {thread.name for thread in threading.enumerate()}
        reading.close()
    assert "digest" not in {thread.name for thread in threading.enumerate()}
    data[-1] ^= 1  # its CRC-32 is made to agree, so that the SHA-256 alone can tell
    sums = json.loads(metadata["funcnet.crc32"])
    crc = f"{zlib.crc32(data[-tree[1].nbytes :]):08x}"
    (tmp_path / "a").write_bytes(data.replace(sums["1"].encode(), crc.encode()))
    with pytest.raises(checkpoint.ChecksumError, match="expected the SHA-256"):
        load(tmp_path / "a", tree)


def test_where_no_thread_can_start_it_goes_without(monkeypatch):
    def refused(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert_same(through_memory(tree := TREES["hashed in a thread"]), tree)


@pytest.mark.slow
def test_python_does_not_end_before_a_save_is_written(tmp_path):
    code = (
        "import sys, time, numpy as np\n"
        "from funcnet.checkpoint import Checkpoints, files\n"
        "sync = files.create\n"
        "files.create = lambda path: (time.sleep(0.5), sync(path))[1]\n"
        "Checkpoints(sys.argv[1]).save(1, np.ones(2 << 20))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(fn.__file__).parents[1])}
    command = [sys.executable, "-c", code, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert told.stderr == ""
    assert load(path_of(tmp_path, 1), np.ones(2 << 20)).all()


def test_a_file_taken_for_stale_before_it_is_locked_is_made_anew(tmp_path, monkeypatch):
    flock, path, count = files.fcntl.flock, tmp_path / ".a.tmp", itertools.count()

    def late(file, operation):
        if next(count) < 2:
            path.unlink()
        flock(file, operation)

    monkeypatch.setattr(files.fcntl, "flock", late)
    with files.create(path) as file:
        assert path.stat().st_ino == os.fstat(file.fileno()).st_ino
    assert next(count) == 3


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"keep_last": 0}, "keep_last must be at least 1, got 0"),
        ({"keep_best": -1}, "keep_best must be at least 0"),
        ({"best": "min"}, "best must be min or max, the functions, got 'min'"),
    ],
)
def test_wrong_numbers(keywords, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Checkpoints(tmp_path, **keywords)
