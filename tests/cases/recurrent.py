"""Recurrent layers, masked and not, in both directions, and the last step."""

import jax
import numpy as np

import funcnet as fn
from cases.base import Case, layer
from funcnet.chain_rule import combine, recurrent

THERE = np.array([[True, False, True], [False, True, False], [False, False, False]])

# Its state, and so its first parameters too, are drawn: these at no cost.
zeros = jax.nn.initializers.zeros
CARRIED = fn.over_time(fn.gru_cell(1, 3, weight_init=zeros, recurrent_init=zeros), batch=3)

CASES = [
    Case("rnn", fn.rnn(2, 3), (3, 3, 2), mask=THERE),
    *layer("lstm", fn.lstm(1, 2), (1, 3, 1)),
    Case("gru-carried", CARRIED, (3, 3, 1), mask=THERE),
    Case("bidirectional", fn.bidirectional(fn.rnn(1, 2), fn.rnn(1, 1)), (3, 3, 1), mask=THERE),
    Case("last_step", fn.last_step, (3, 3, 2), mask=THERE),
]

MUTANTS = [
    (recurrent, "project", "deltas.sum(axis=0)", "deltas.mean(axis=0)"),
    (recurrent, "project", "(d @ weight.T)", "(-d @ weight.T)"),
    (recurrent, "recurred", "d @ weight.T", "d @ weight"),
    (recurrent, "rnn_step", "d[0] + d[1]", "d[1]"),
    (recurrent, "lstm_step", "dc = dc + o", "dc = o"),
    (recurrent, "lstm_step", "(dbefore, f * dc)", "(dbefore, dc)"),
    (recurrent, "gru_step", "[dr, dz, r * dn]", "[dr, dz, dn]"),
    (recurrent, "gru_step", "z * dh + dbefore", "1.001 * z * dh + dbefore"),
    (recurrent, "through_time", "kept(there, dcarry), kept", "dcarry, kept"),
    (recurrent, "through_time", "kept(there, dy)", "dy"),
    (recurrent, "through_time", "added(dbefore, kept(~there, dcarry))", "dbefore"),
    (recurrent, "through_time", "added(dparams, share)), ddrive", "share), ddrive"),
    (recurrent, "carried", "cast(state, zero)", "zero"),
    (recurrent, "last_step", "(after == 1)", "(after >= 1)"),
    (combine, "bidirectional", "split(other)[0][:, ::-1]", "split(other)[0]"),
]

STEMS = {
    "project": "rnn",
    "recurred": "rnn",
    "rnn_step": "rnn",
    "lstm_step": "lstm",
    "gru_step": "gru",
    "through_time": "rnn",
    "carried": "gru",
}
