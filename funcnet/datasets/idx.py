"""Reader for the IDX files of MNIST and the sets that copy its format."""

import gzip
import zlib
from os import PathLike
from pathlib import Path

import numpy as np

Pair = tuple[np.ndarray, np.ndarray]


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An IDX file of unsigned bytes, gzipped or not, as uint8 with so many dimensions.

    Raises `ValueError`, naming the file, for another kind of file or length than its header says.
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from error
    magic = bytes([0, 0, 8, dimensions])
    if data[:4] != magic:
        raise ValueError(
            f"{path} is no IDX file of unsigned bytes in {dimensions} dimensions: expected it to "
            f"begin with {magic.hex(' ')}, got {data[:4].hex(' ')}"
        )
    start = 4 + 4 * dimensions
    if len(data) < start:
        raise ValueError(f"{path} is truncated: its header takes {start} bytes, got {len(data)}")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", dimensions, 4))
    expected = start + int(np.prod(shape, dtype=object))
    if len(data) != expected:
        raise ValueError(
            f"{path} is {'truncated' if len(data) < expected else 'too long'}: shape {shape} "
            f"takes {expected} bytes, got {len(data)}"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def find(folder: Path, stem: str, rank: int) -> Path:
    """The file of that stem: `train-images-idx3-ubyte`, or `.idx3` for `-idx3`, or with .gz."""
    names = [f"{stem}{dot}idx{rank}-ubyte{end}" for dot in "-." for end in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"no {stem} in {folder}: looked for {', '.join(names)}")


def read_part(folder: Path, part: str) -> Pair:
    image_file, label_file = find(folder, f"{part}-images", 3), find(folder, f"{part}-labels", 1)
    images, labels = read_idx(image_file, 3), read_idx(label_file, 1)
    if len(images) != len(labels):
        raise ValueError(
            f"{image_file} holds {len(images)} images, but {label_file} {len(labels)} labels"
        )
    if labels.size and labels.max() > 9:
        raise ValueError(f"{label_file} holds label {labels.max()}, expected 0 to 9")
    x = images.reshape(len(images), images.shape[1] * images.shape[2]).astype(np.float32) / 255
    return x, labels.astype(np.int32)


def mnist(folder: str | PathLike[str]) -> tuple[Pair, Pair]:
    """MNIST, or a set of its format, from the original four IDX files in a folder:
    `(x_train, y_train), (x_test, y_test)` (LeCun et al. 1998).

    x: float32 [n, 784], row by row, in [0, 1]; y: int32 [n], 0 to 9. Files are named
    `train-images-idx3-ubyte`, `t10k-labels-idx1-ubyte` and so on, gzipped (`.gz`) or not.
    Raises `FileNotFoundError` for a missing file and `ValueError` for a truncated or mislabelled
    one, by name.
    """
    folder = Path(folder)
    return read_part(folder, "train"), read_part(folder, "t10k")
