"""Shuffling without sorting: the examples of a batch as a function of the key and the step.

The epochs' permutations, laid end to end, form one endless sequence of indices, of which batch k
is the k-th slice. Each permutation is a keyed bijection that is evaluated only where it is needed,
so a batch costs its own length, whatever the size of the data, and there is no iterator to save.
"""

import math
import operator

import jax
import jax.numpy as jnp
from jax import lax

ROUNDS = 12


def mix(x):
    """A bijective hash of uint32 in which each input bit flips half of the output bits
    (C. Wellons, "lowbias32", 2018)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def permute(index, epoch, seeds, n: int):
    """The image of `index` (uint32 below n) under the permutation of 0..n-1 that `epoch` and
    `seeds` (uint32, [ROUNDS + 1]) select.

    A Feistel network over a grid of a x b >= n cells, a and b about sqrt(n): in turn one
    coordinate is shifted by a hash of the other (Black & Rogaway 2002). Cells from n on, fewer
    than sqrt(n), are walked through until the cycle is back below n. A rotation beforehand makes
    each image equally likely at each index.
    """
    rows = math.isqrt(n - 1) + 1
    columns = -(-n // rows)
    epoch_hash = mix(epoch.astype(jnp.uint32) ^ seeds[ROUNDS])

    def network(cell):
        row, column = cell // columns, cell % columns
        for seed in range(0, ROUNDS, 2):
            row = (row + mix(column + seeds[seed] ^ epoch_hash) % rows) % rows
            column = (column + mix(row + seeds[seed + 1] ^ epoch_hash) % columns) % columns
        return row * columns + column

    def walk(carry):
        start, cell = carry
        return start & False, jnp.where(start | (cell >= n), network(cell), cell)

    start = (index.astype(jnp.uint32) + epoch_hash % n) % n
    # All cells take a first turn; the loop holds the network once, which halves its compilation.
    carry = (jnp.bool_(True), start)
    return lax.while_loop(lambda carry: carry[0] | (carry[1] >= n).any(), walk, carry)[1]


def position(step, n: int, batch_size, largest: int):
    """(epoch, offset) of the batch's first example, divmod(step * batch_size, n), in uint32.

    The product does not fit, so it is divided digit by digit; n must be below 2^31. `batch_size`
    may be traced, of at most `largest`.
    """
    # After n steps a batch begins an epoch again.
    turns, step = jnp.divmod(step.astype(jnp.uint32), jnp.uint32(n))
    bits = 32 - (n - 1).bit_length() if n > 1 else 31
    epoch = offset = jnp.uint32(0)
    for shift in range(largest.bit_length() // bits * bits, -1, -bits):
        digit = (batch_size >> shift) & ((1 << bits) - 1)
        high, low = offset << bits, step * jnp.uint32(digit)
        epoch = (epoch << bits) + high // n + low // n
        offset = high % n + low % n
        epoch, offset = epoch + offset // n, offset % n
    return epoch + turns * jnp.uint32(batch_size), offset


def batch_indices(key: jax.Array, step, n: int, batch_size: int):
    """The indices, int32 [batch_size], of the examples in batch `step` (0, 1, ...) of n.

    A function of (key, step) alone. Each epoch is a fresh permutation of all n; where `batch_size`
    does not divide n, the batch that ends an epoch is filled up from the next one, so every
    batch is full and every example counts once an epoch (one may stand twice in such a batch).
    Called from Python it is traced anew each time: `jit` it where it is called often.
    """
    n, batch_size = operator.index(n), operator.index(batch_size)
    if n >= 2**31:
        raise ValueError(f"batch_indices counts up to 2^31 - 1 examples, got {n}")
    if not 1 <= batch_size <= n:
        raise ValueError(f"batch_size must be from 1 to the {n} examples, got {batch_size}")
    return padded_indices(key, step, n, batch_size, batch_size)


def padded_indices(key, step, n: int, batch_size, largest: int):
    """int32 [largest]: first those of batch `step` for a traced `batch_size`, of at most `largest`,
    then others, in range too."""
    seeds = jax.random.bits(key, (ROUNDS + 1,), jnp.uint32)
    epoch, offset = position(jnp.asarray(step), n, batch_size, largest)
    offsets = offset + jnp.arange(largest, dtype=jnp.uint32)
    later = offsets >= n
    index = jnp.where(later, offsets - n, offsets)
    return permute(index, epoch + later.astype(jnp.uint32), seeds, n).astype(jnp.int32)
