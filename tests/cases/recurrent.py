"""Recurrent layers, masked and not, in both directions, and the last step."""

import numpy as np

import funcnet as fn
from cases.base import Case, layer
from funcnet.chain_rule import combine, recurrent

THERE = np.array([[True, False, True], [False, True, False], [False, False, False]])

CASES = [
    *layer("rnn", fn.rnn(2, 3), (2, 3, 2)),
    Case("lstm", fn.lstm(1, 2), (3, 3, 1), mask=THERE),
    *layer("lstm-narrow", fn.lstm(1, 1), (1, 1, 1)),
    Case("gru", fn.gru(1, 3), (3, 3, 1), mask=THERE),
    *layer("carried", fn.gru(1, 2, batch=3), (3, 2, 1)),
    Case("bidirectional", fn.bidirectional(fn.rnn(2, 2), fn.rnn(2, 1)), (3, 3, 2), mask=THERE),
    Case("last_step", fn.serial(fn.rnn(1, 2), fn.last_step), (3, 3, 1), mask=THERE),
]

MUTANTS = [
    (recurrent, "project", "deltas.sum(axis=0)", "deltas.mean(axis=0)"),
    (recurrent, "project", "rows.T @ deltas", "1.001 * rows.T @ deltas"),
    (recurrent, "project", "(d @ weight.T)", "(-d @ weight.T)"),
    (recurrent, "recurred", "(rounded.T @ d, d @ weight.T)", "(rounded.T @ d, d @ weight[:, : d.shape[1]])"),
    (recurrent, "rnn_step", "d[0] + d[1]", "d[1]"),
    (recurrent, "lstm_step", "dh = dh + dy", "dh = dy"),
    (recurrent, "lstm_step", "dc = dc + o", "dc = o"),
    (recurrent, "lstm_step", "o * (1.0 - top**2) * dh", "o * dh"),
    (recurrent, "lstm_step", "c * f * (1.0 - f) * dc", "f * (1.0 - f) * dc"),
    (recurrent, "lstm_step", "f * dc)", "dc)"),
    (recurrent, "gru_step", "r * (1.0 - r) * m * dn", "r * (1.0 - r) * dn"),
    (recurrent, "gru_step", "(h - n) * dh", "(n - h) * dh"),
    (recurrent, "gru_step", "[dr, dz, r * dn]", "[dr, dz, dn]"),
    (recurrent, "gru_step", "z * dh + dbefore", "dbefore"),
    (recurrent, "gru_step", "recurrent_bias=(r * dn).sum(axis=0)", "recurrent_bias=dn.sum(axis=0)"),
    (recurrent, "through_time", "kept(there, dcarry), kept(there, dy)", "dcarry, kept(there, dy)"),
    (recurrent, "through_time", "kept(there, dcarry), kept(there, dy)", "kept(there, dcarry), dy"),
    (recurrent, "through_time", "added(dbefore, kept(~there, dcarry))", "dbefore"),
    (recurrent, "through_time", "added(dparams, share)), ddrive", "share), ddrive"),
    (recurrent, "through_time", "reverse=True", "reverse=False"),
    (recurrent, "carried", "cast(state, zero)", "zero"),
    (recurrent, "last_step", "(after == 1)", "(after == 2)"),
    (recurrent, "last_step", "dy[:, None]", "-dy[:, None]"),
    (combine, "bidirectional", "[0][:, ::-1]\n", "[0]\n"),
    (combine, "bidirectional", "delta[:, ::-1, size:]", "delta[..., size:]"),
]

STEMS = {
    "project": "rnn",
    "recurred": "rnn",
    "rnn_step": "rnn",
    "lstm_step": "lstm",
    "gru_step": "gru",
    "through_time": "gru",
}
