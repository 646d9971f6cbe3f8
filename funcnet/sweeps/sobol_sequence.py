"""Sobol's sequence, whose first 2^k points fill the unit cube evenly."""

import numpy as np

BITS = 32
# A primitive polynomial over the integers modulo 2, its coefficients as bits, and the first
# direction numbers: the table "new-joe-kuo-6.21201" of S. Joe & F. Y. Kuo, "Constructing Sobol
# sequences with better two-dimensional projections", SIAM J. Sci. Comput. 30 (2008).
TABLE: tuple[tuple[int, tuple[int, ...]], ...] = (
    (3, (1,)),
    (7, (1, 3)),
    (11, (1, 3, 1)),
    (13, (1, 1, 1)),
    (19, (1, 1, 3, 3)),
    (25, (1, 3, 5, 13)),
    (37, (1, 1, 5, 5, 17)),
    (41, (1, 1, 5, 5, 5)),
    (47, (1, 1, 7, 11, 19)),
    (55, (1, 1, 5, 1, 1)),
    (59, (1, 1, 1, 3, 11)),
    (61, (1, 3, 5, 5, 31)),
    (67, (1, 3, 3, 9, 7, 49)),
    (91, (1, 1, 1, 15, 21, 21)),
    (97, (1, 3, 1, 13, 27, 49)),
    (103, (1, 1, 1, 15, 7, 5)),
    (109, (1, 3, 1, 15, 13, 25)),
    (115, (1, 1, 5, 5, 19, 61)),
    (131, (1, 3, 7, 11, 23, 15, 103)),
    (137, (1, 3, 7, 13, 13, 15, 69)),
)
DIMENSIONS = len(TABLE) + 1


def directions(polynomial, first):
    """The direction numbers m_0, m_1, ... as binary fractions, uint32 [BITS]:
    m_k = m_{k-s} ^ 2^s m_{k-s} ^ (2^j m_{k-j} for each j < s whose coefficient is 1)."""
    degree, numbers = len(first), list(first)
    for k in range(degree, BITS):
        value = numbers[k - degree]
        for j in range(1, degree + 1):
            if polynomial >> (degree - j) & 1:
                value ^= numbers[k - j] << j
        numbers.append(value)
    return np.array([m << (BITS - 1 - k) for k, m in enumerate(numbers)], np.uint32)


def sobol_sequence(n: int, dimensions: int) -> np.ndarray:
    """The first n points as binary fractions, uint32 [n, dimensions], from 0 on, in the order of
    the Gray code (Antonov & Saleev 1979): point i is the sum modulo 2 of the directions at the
    bits of i ^ (i >> 1)."""
    if dimensions > DIMENSIONS:
        raise ValueError(f"sobol has {DIMENSIONS} dimensions, got {dimensions} distributions")
    if n > 2**BITS:
        raise ValueError(f"sobol has 2^{BITS} points, got n = {n}")
    index = np.arange(n)
    code = index ^ (index >> 1)
    bits = (code[:, None] >> np.arange(BITS) & 1).astype(np.uint32)
    points = np.empty((n, dimensions), np.uint32)
    for place in range(dimensions):
        # The first dimension has all its direction numbers 1, which no polynomial gives.
        entry = TABLE[place - 1] if place else (0, (1,) * BITS)
        points[:, place] = np.bitwise_xor.reduce(bits * directions(*entry), axis=1)
    return points
