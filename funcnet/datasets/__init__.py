"""Data to train on at once: `(train, test)`, each a pair (x, y) of float32 rows in [0, 1] and
int32 labels. Nothing is downloaded."""

from funcnet.datasets.digits import digits
from funcnet.datasets.idx import mnist

__all__ = ["digits", "mnist"]
