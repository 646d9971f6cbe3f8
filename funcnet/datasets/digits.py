"""The UCI handwritten digits, shipped with the package (see digits.md for source and licence)."""

from importlib import resources

import numpy as np

Pair = tuple[np.ndarray, np.ndarray]


def digits() -> tuple[Pair, Pair]:
    """1,797 handwritten digits of 8 x 8 pixels: `(x_train, y_train), (x_test, y_test)`.

    x: float32 [n, 64], row by row, in [0, 1]; y: int32 [n], 0 to 9. Every third image, from the
    first on, is held out for testing: 1,198 to train on and 599 to test. The same 13 writers
    wrote both parts. Source: Alpaydin & Kaynak (1998), UCI repository, CC BY 4.0.
    """
    with resources.files(__package__).joinpath("digits.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        images, labels = arrays["images"], arrays["labels"]
    x = images.reshape(len(images), -1).astype(np.float32) / 16
    y = labels.astype(np.int32)
    held_out = np.arange(len(y)) % 3 == 0
    return (x[~held_out], y[~held_out]), (x[held_out], y[held_out])
