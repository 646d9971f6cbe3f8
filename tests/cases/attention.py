"""Attention, positions and products."""

import numpy as np

import funcnet as fn
from cases.base import Case, layer
from funcnet.chain_rule import attention, layers

THERE = np.array([[True, False, True], [True, True, False], [False, False, False]])

# A bias of keys that are not rotated changes nothing: its gradient is rounding, 0 in truth.
CASES = [
    Case(
        "attention-causal", fn.attention(2, 1, causal=True, rotary_base=10.0), (3, 3, 2), mask=THERE
    ),
    *layer(
        "attention-grouped",
        fn.attention(4, 2, kv_heads=1, causal=True, rotary_base=10.0, bias_init=None),
        (1, 3, 4),
    ),
    Case("sinusoidal", fn.sinusoidal(4), (2, 3, 4), mask=np.ones((2, 3), bool)),
    *layer("learned_positions", fn.learned_positions(5, 3), (2, 3, 3)),
    *layer(
        "multiply",
        fn.serial(fn.parallel(fn.dense(3, 3), fn.identity, fn.tanh), fn.multiply),
        (3, 3),
    ),
]

MUTANTS = [
    (attention, "turned", "sign * jnp.sin(angle)", "jnp.sin(angle)"),
    (attention, "dot_product", "dp - (p * dp).sum(-1, keepdims=True)", "dp"),
    (attention, "dot_product", "keepdims=True)) * scale", "keepdims=True))"),
    (attention, "dot_product", '"nhts,nthd->nshd", ds, q', '"nhst,nthd->nshd", ds, q'),
    (attention, "dot_product", ".sum(3)", "[:, :, :, 0]"),
    (attention, "dot_product", "sees & (jnp.arange(queries)", "sees | (jnp.arange(queries)"),
    (attention, "dot_product", "jnp.where(sees, scale", "jnp.where(True, scale"),
    (attention, "attention", "turned(dy, rotary_base, -1.0) if turns else dy", "dy"),
    (attention, "attention", 'name != "value"', "True"),
    (attention, "attention", "dx = dx + share", "dx = share"),
    (attention, "sinusoidal", "((), dy)", "((), -dy)"),
    (attention, "learned_positions", ".sum(axis=0)", ".mean(axis=0)"),
    (layers, "multiply", "(*x[:i], *x[i + 1 :])", "x[i + 1 :]"),
]

STEMS = {"turned": "attention-grouped", "dot_product": "attention-grouped"}
