"""Layers that look things up."""

import jax.numpy as jnp
from jax.nn import initializers
from jax.tree_util import Partial

from funcnet.layers.linear import Initializer
from funcnet.layers.shape import check_array
from funcnet.pairs import Network, check_count, fix, partial

unit_normal = initializers.normal(1.0)
"""Standard normal numbers, as PyTorch's `Embedding` begins with."""


def embedding_init(key, *, vocabulary, features, table_init):
    return {"table": table_init(key, (vocabulary, features))}, ()


def rows_of(ids, vocabulary):
    """The ids, with negative ones, which would count from the end, moved out of range too."""
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(f"embedding expects integer ids, got ids of dtype {ids.dtype}")
    ids = ids.astype(jnp.promote_types(ids.dtype, jnp.int32))
    return jnp.where(ids < 0, vocabulary, ids)


def embedding_apply(params, state, x, *, key=None, train=False):
    check_array("embedding", x)
    table = params["table"]
    rows = rows_of(jnp.asarray(x), table.shape[0])
    return table.at[rows].get(mode="fill", fill_value=jnp.nan), state


def embedding(vocabulary: int, features: int, *, table_init: Initializer = unit_normal) -> Network:
    """A row of a table for each id, y = table[x].

    x: integers [...], y: [..., features], table: [vocabulary, features]. An id out of range, or
    negative, gives NaN; it is neither clamped nor counted from the end. A row's gradient is added
    up in the table's dtype: keep that float32 where a row is read hundreds of times a batch.
    """
    sizes = {
        "vocabulary": check_count("vocabulary", vocabulary, 1),
        "features": check_count("features", features, 1),
    }
    init = fix(embedding_init, **sizes)
    return Network(Partial(init, table_init=partial(table_init)), Partial(embedding_apply))
