"""The shipped digits, and MNIST's files whole, gzipped and damaged."""

import gzip
import struct

import numpy as np
import pytest

import funcnet as fn

RNG = np.random.default_rng(0)
IMAGES = {"train": 7, "t10k": 3}


def test_digits():
    (x, y), (x_test, y_test) = fn.datasets.digits()
    assert (x.shape, y.shape, x_test.shape, y_test.shape) == (
        (1198, 64),
        (1198,),
        (599, 64),
        (599,),
    )
    assert x.dtype == x_test.dtype == np.float32
    assert y.dtype == y_test.dtype == np.int32
    assert (x.min(), x.max()) == (0.0, 1.0)
    np.testing.assert_array_equal(
        np.bincount(np.concatenate([y, y_test])), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    )
    # The first image of the source, a zero, opens the held-out third.
    assert y_test[0] == 0
    np.testing.assert_array_equal(x_test[0, :8] * 16, [0, 0, 5, 13, 9, 1, 0, 0])
    assert not {row.tobytes() for row in x} & {row.tobytes() for row in x_test}


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    """The four files: one gzipped, one with a dot in its name."""
    for part, count in IMAGES.items():
        images = RNG.integers(0, 256, (count, 28, 28), np.uint8)
        labels = np.arange(count, dtype=np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    plain = tmp_path / "train-images-idx3-ubyte"
    plain.with_name(plain.name + ".gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    (tmp_path / "t10k-labels-idx1-ubyte").rename(tmp_path / "t10k-labels.idx1-ubyte")
    return tmp_path


def test_mnist(folder):
    (x, y), (x_test, y_test) = fn.datasets.mnist(str(folder))
    assert (x.shape, x_test.shape) == ((7, 784), (3, 784))
    np.testing.assert_array_equal(y, np.arange(7))
    np.testing.assert_array_equal(y_test, np.arange(3))
    raw = np.frombuffer((folder / "t10k-images-idx3-ubyte").read_bytes(), np.uint8, offset=16)
    np.testing.assert_array_equal((x_test * 255).round().ravel(), raw)


def cut(data):
    return data[:-1]


def swap_magic(data):
    return b"\0\0\x08\x01" + data[4:]


DAMAGES = [
    (
        "t10k-images-idx3-ubyte",
        cut,
        r"is truncated: shape \(3, 28, 28\) takes 2368 bytes, got 2367",
    ),
    ("t10k-images-idx3-ubyte", lambda d: d + b"\0", "is too long"),
    ("t10k-images-idx3-ubyte", lambda d: d[:9], "is truncated: its header"),
    ("t10k-images-idx3-ubyte", swap_magic, "begin with 00 00 08 03, got 00 00 08 01"),
    ("t10k-images-idx3-ubyte", lambda d: b"", "no IDX file"),
    ("t10k-images-idx3-ubyte", lambda d: d[:4] + b"\xff" * 8 + d[12:], "is truncated"),
    ("train-images-idx3-ubyte.gz", cut, "is truncated or damaged"),
    ("train-images-idx3-ubyte.gz", lambda d: d[:30] + b"xxxx" + d[34:], "is truncated or damaged"),
    ("train-labels-idx1-ubyte", lambda d: idx(np.arange(6, dtype=np.uint8)), "7 images, but .* 6"),
    ("train-labels-idx1-ubyte", lambda d: d[:-1] + b"\x0a", "holds label 10, expected 0 to 9"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGES, ids=[d[2][:28] for d in DAMAGES])
def test_a_damaged_file_is_named(folder, name, damage, message):
    file = folder / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=message) as caught:
        fn.datasets.mnist(folder)
    assert name in str(caught.value)


def test_a_missing_file_is_named(folder):
    (folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no train-labels in .*train-labels-idx1-ubyte\.gz"
    ):
        fn.datasets.mnist(folder)
