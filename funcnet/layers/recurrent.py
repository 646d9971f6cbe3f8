"""Recurrent layers: a cell takes one step, and `over_time` takes it through a sequence."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers
from jax.tree_util import Partial

from funcnet.layers.linear import Initializer, check_floating, lecun_normal
from funcnet.layers.sequence import check_mask, cleared, join, split
from funcnet.numerics import whole, zeros_beside
from funcnet.pairs import Network, fix, partial

orthogonal = initializers.orthogonal()
"""A random orthogonal matrix (Saxe et al. 2014): a step neither stretches nor shrinks the state."""


class Cell(NamedTuple):
    """One step of a recurrence, in four functions:

    `init(key) -> params`;
    `project(params, x) -> drive`: what the input alone decides, for any leading axes of x, so that
    a whole sequence is one matrix product;
    `start(params, drive) -> carry`: what the first step carries on from, a row for each of the
    drive's first axis; of the drive's values nothing counts, only its dtype;
    `step(params, carry, drive) -> (carry, y)`: one step, the new carry like the old one.

    The batch is the first axis of each leaf of the carry, and of y. Step by step:

        carry = cell.start(params, cell.project(params, x))
        carry, y = cell.step(params, carry, cell.project(params, x))
    """

    init: Callable[..., Any]
    project: Callable[..., Any]
    start: Callable[..., Any]
    step: Callable[..., Any]


def cell_init(key, *, fan_in, hidden, gates, weight_init, recurrent_init):
    input_key, *gate_keys = jax.random.split(key, gates + 1)
    squares = [recurrent_init(gate_key, (hidden, hidden)) for gate_key in gate_keys]
    return {
        "input": weight_init(input_key, (fan_in, gates * hidden)),
        "recurrent": jnp.concatenate(squares, axis=1),
        "bias": jnp.zeros(gates * hidden),
    }


def lstm_init(key, *, init, hidden):
    params = init(key)
    return {**params, "bias": params["bias"].at[hidden : 2 * hidden].set(1.0)}


def gru_init(key, *, init, hidden):
    return {**init(key), "recurrent_bias": jnp.zeros(hidden)}


def drive_of(params, x, *, name):
    """x W + b, in float32 at least, as is all that follows from it."""
    weight, bias = params["input"], params["bias"]
    check_floating(name, x)
    if x.ndim < 1 or x.shape[-1] != weight.shape[0]:
        raise ValueError(
            f"{name} expects {weight.shape[0]} features in the last axis, got x of shape {x.shape}"
        )
    wide = jnp.promote_types(jnp.result_type(x, weight), jnp.float32)
    return jnp.matmul(x, weight, preferred_element_type=wide) + bias.astype(wide)


def recurred(params, h):
    """h U: h rounded as U is, the sums as wide as h."""
    weight = params["recurrent"]
    return jnp.matmul(h.astype(weight.dtype), weight, preferred_element_type=h.dtype)


def zeros(params, drive):
    return zeros_beside(drive, params["recurrent"].shape[0], dtype=drive.dtype)


def two_zeros(params, drive):
    return zeros(params, drive), zeros(params, drive)


def rnn_step(params, h, drive, *, activation):
    h = activation(drive + recurred(params, h))
    return h, h


def lstm_step(params, carry, drive):
    h, c = carry
    i, f, g, o = jnp.split(drive + recurred(params, h), 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def gru_step(params, h, drive):
    ends = (h.shape[-1], 2 * h.shape[-1])
    x_r, x_z, x_n = jnp.split(drive, ends, axis=-1)
    h_r, h_z, h_n = jnp.split(recurred(params, h), ends, axis=-1)
    r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
    n = jnp.tanh(x_n + r * (h_n + params["recurrent_bias"].astype(h.dtype)))
    h = (1.0 - z) * n + z * h
    return h, h


def gated(name, fan_in, hidden, gates, weight_init, recurrent_init):
    """`init` and `project` of a cell with so many gates."""
    for what, size in (("fan_in", fan_in), ("hidden", hidden)):
        if not whole(size) or size < 1:
            raise ValueError(f"{name} expects {what} to be a positive integer, got {size!r}")
    init = Partial(
        fix(cell_init, fan_in=int(fan_in), hidden=int(hidden), gates=gates),
        weight_init=partial(weight_init),
        recurrent_init=partial(recurrent_init),
    )
    return init, Partial(fix(drive_of, name=name))


def rnn_cell(
    fan_in: int,
    hidden: int,
    *,
    activation: Callable[[Any], Any] = jnp.tanh,
    weight_init: Initializer = lecun_normal,
    recurrent_init: Initializer = orthogonal,
) -> Cell:
    """h' = f(x W + b + h U) (Elman 1990), with y = h' and f the activation, such as `jax.nn.relu`.

    "input" W: [fan_in, hidden], "recurrent" U: [hidden, hidden], "bias" b: [hidden]. PyTorch's
    are W = weight_ih', U = weight_hh' and b = bias_ih + bias_hh.
    """
    init, project = gated("rnn", fan_in, hidden, 1, weight_init, recurrent_init)
    step = Partial(rnn_step, activation=partial(activation))
    return Cell(init, project, Partial(zeros), step)


def lstm_cell(
    fan_in: int,
    hidden: int,
    *,
    weight_init: Initializer = lecun_normal,
    recurrent_init: Initializer = orthogonal,
) -> Cell:
    """c' = s(f) c + s(i) tanh(g), h' = s(o) tanh(c'), with (i, f, g, o) = x W + b + h U, s the
    sigmoid, y = h' and the carry (h, c) (Hochreiter & Schmidhuber 1997, Gers et al. 2000).

    "input" W: [fan_in, 4 hidden], "recurrent" U: [hidden, 4 hidden], each gate's columns drawn as
    a matrix of their own, "bias" b: [4 hidden], 1 for the forget gate f (Jozefowicz et al. 2015).
    PyTorch's are W = weight_ih', U = weight_hh' and b = bias_ih + bias_hh, the gates in this order.
    """
    init, project = gated("lstm", fan_in, hidden, 4, weight_init, recurrent_init)
    init = Partial(fix(lstm_init, hidden=int(hidden)), init=init)
    return Cell(init, project, Partial(two_zeros), Partial(lstm_step))


def gru_cell(
    fan_in: int,
    hidden: int,
    *,
    weight_init: Initializer = lecun_normal,
    recurrent_init: Initializer = orthogonal,
) -> Cell:
    """h' = (1 - s(z)) n + s(z) h with n = tanh(x_n + s(r) (h_n + a)), r = x_r + h_r, z = x_z + h_z,
    (x_r, x_z, x_n) = x W + b, (h_r, h_z, h_n) = h U and s the sigmoid; y = h' (Cho et al. 2014,
    the reset gate after the product).

    "input" W: [fan_in, 3 hidden], "recurrent" U: [hidden, 3 hidden], "bias" b: [3 hidden],
    "recurrent_bias" a: [hidden]. PyTorch's are W = weight_ih' and U = weight_hh', b = bias_ih with
    bias_hh added for r and z, and a = bias_hh's part for n.
    """
    init, project = gated("gru", fan_in, hidden, 3, weight_init, recurrent_init)
    init = Partial(fix(gru_init, hidden=int(hidden)), init=init)
    return Cell(init, project, Partial(zeros), Partial(gru_step))


def where_there(there, new, old):
    """`new` in the rows that are there, `old` in the others; None is all rows."""
    if there is None:
        return new

    def chosen(a, b):
        return jnp.where(there.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(chosen, new, old)


def in_time(tree):
    """The first two axes exchanged: [n, T, ...] and [T, n, ...]."""
    return jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), tree)


def driven(params, x, project):
    """Each step's drive, time in front; x is made 0 where nothing is there."""
    values, mask = split(x)
    if values.ndim < 3 or values.shape[1] < 1:
        raise ValueError(
            f"over_time expects [n, T, features], T >= 1, got x of shape {values.shape}"
        )
    check_mask("over_time", values, mask)
    if mask is not None:
        values = cleared(values, mask)
    return in_time(project(params, values))


def scanned(params, carry, drives, x, step):
    """(y, carry) after all steps; where nothing is there, the carry stays and y is 0."""
    values, mask = split(x)

    def one(carry, inputs):
        drive, there = inputs
        after, y = step(params, carry, drive)
        return where_there(there, after, carry), where_there(there, y, jnp.zeros_like(y))

    carry, y = lax.scan(one, carry, (drives, in_time(mask)))
    return join(in_time(y).astype(values.dtype), mask), carry


def first(drives):
    return jax.tree.map(lambda drive: drive[0], drives)


def like(tree, model):
    """The tree in the dtypes of another."""
    return jax.tree.map(lambda a, b: a.astype(b.dtype), tree, model)


def over_time_init(key, *, init):
    return init(key), ()


def over_time_apply(params, state, x, *, key=None, train=False, project, start, step):
    drives = driven(params, x, project)
    y, _ = scanned(params, start(params, first(drives)), drives, x, step)
    return y, state


def carried_init(key, *, init, start, batch):
    params = init(key)
    return params, start(params, jnp.zeros((batch, 1)))


def carried_apply(params, state, x, *, key=None, train=False, project, start, step):
    drives = driven(params, x, project)
    shape, rows = split(x)[0].shape, jax.tree.leaves(state)[0].shape[0]
    if rows != shape[0]:
        raise ValueError(f"over_time carries on a batch of {rows}, got x of shape {shape}")
    carry = like(state, start(params, first(drives)))
    y, carry = scanned(params, carry, drives, x, step)
    return y, like(carry, state)


def over_time(cell: Cell, *, batch: int | None = None) -> Network:
    """The cell through a sequence, one step after another: x [n, T, fan_in] -> y [n, T, hidden].

    x may be `Masked`, and y then is so too: at a step that is not there the carry stays as it was
    and y is 0, and what x holds there, NaN even, has no influence.

    With a `batch`, the state is the carry of so many rows, at first the cell's `start`, and
    x [batch, t, fan_in] is the next t steps: to generate, or to train on a long sequence piece by
    piece (the gradient ends where a piece begins).

    Raises `ValueError`, at trace time, for x of another form and for a mask that is not [n, T].
    """
    if not isinstance(cell, Cell):
        raise TypeError(f"over_time expects a Cell, got {cell!r}")
    init, project, start, step = map(partial, cell)
    parts = {"project": project, "start": start, "step": step}
    if batch is None:
        return Network(Partial(over_time_init, init=init), Partial(over_time_apply, **parts))
    if not whole(batch) or batch < 1:
        raise ValueError(f"over_time expects batch to be a positive integer, got {batch!r}")
    init = Partial(fix(carried_init, batch=int(batch)), init=init, start=start)
    return Network(init, Partial(carried_apply, **parts))


def rnn(
    fan_in: int,
    hidden: int,
    *,
    activation: Callable[[Any], Any] = jnp.tanh,
    batch: int | None = None,
) -> Network:
    """`over_time` of an `rnn_cell`: [n, T, fan_in] -> [n, T, hidden]."""
    return over_time(rnn_cell(fan_in, hidden, activation=activation), batch=batch)


def lstm(fan_in: int, hidden: int, *, batch: int | None = None) -> Network:
    """`over_time` of an `lstm_cell`: [n, T, fan_in] -> [n, T, hidden]."""
    return over_time(lstm_cell(fan_in, hidden), batch=batch)


def gru(fan_in: int, hidden: int, *, batch: int | None = None) -> Network:
    """`over_time` of a `gru_cell`: [n, T, fan_in] -> [n, T, hidden]."""
    return over_time(gru_cell(fan_in, hidden), batch=batch)
