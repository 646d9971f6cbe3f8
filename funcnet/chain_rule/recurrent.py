"""Rules of recurrent layers: of a cell's three functions, and backpropagation through time.

project   rule(params, x) -> (drive, pullback), pullback(ddrive) -> (dparams, dx)
start     rule(params, drive) -> (carry, pullback), pullback(dcarry) -> (dparams,)
step      rule(params, carry, drive) -> ((carry, y), pullback),
          pullback((dcarry, dy)) -> (dparams, dcarry, ddrive)
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcnet.chain_rule.activations import logistic
from funcnet.layers.sequence import join, split
from funcnet.numerics import widen, zeros_beside


def only(params, **grads):
    """The gradients of some parameters, in their dtypes, and 0 of the others."""
    return {
        name: grads[name].astype(value.dtype) if name in grads else jnp.zeros_like(value)
        for name, value in params.items()
    }


def project(params, x, *, name):
    """x W + b: dW = x' d and db = 1' d, summed over all positions; dx = d W'."""
    wide, weight = widen(x), widen(params["input"])

    def pullback(d):
        rows, deltas = wide.reshape(-1, x.shape[-1]), d.reshape(-1, d.shape[-1])
        dparams = only(params, input=rows.T @ deltas, bias=deltas.sum(axis=0))
        return dparams, (d @ weight.T).astype(x.dtype)

    return wide @ weight + widen(params["bias"]), pullback


def zeros(params, drive):
    """A constant."""
    size = params["recurrent"].shape[0]
    return zeros_beside(drive, size, dtype=drive.dtype), lambda dcarry: (only(params),)


def two_zeros(params, drive):
    zero, pullback = zeros(params, drive)
    return (zero, zero), pullback


def recurred(params, h):
    """h U, h rounded as U is: dU = h' d, dh = d U'."""
    weight = params["recurrent"].astype(h.dtype)
    rounded = h.astype(params["recurrent"].dtype).astype(h.dtype)
    return rounded @ weight, lambda d: (rounded.T @ d, d @ weight.T)


def rnn_step(params, h, drive, *, activation, vjp):
    """h' = f(a), a = drive + h U: da = f'(a) dh'."""
    share, share_back = recurred(params, h)
    h, back = vjp(activation, drive + share)

    def pullback(d):
        (da,) = back(d[0] + d[1])
        dweight, dh = share_back(da)
        return only(params, recurrent=dweight), dh, da

    return (h, h), pullback


def lstm_step(params, carry, drive):
    """c' = s(f) c + s(i) tanh(g), h' = s(o) tanh(c'): dc' gains s(o) (1 - tanh(c')^2) dh', each
    gate's da is the derivative of its s or tanh times what it multiplies, and dc = s(f) dc'."""
    h, c = carry
    share, share_back = recurred(params, h)
    a = (drive + share).reshape(len(h), 4, h.shape[-1])
    i, f, o = (logistic(a[:, gate]) for gate in (0, 1, 3))
    g = jnp.tanh(a[:, 2])
    after = f * c + i * g
    top = jnp.tanh(after)

    def pullback(d):
        (dh, dc), dy = d
        dh = dh + dy
        dc = dc + o * (1.0 - top**2) * dh
        through = (
            g * i * (1.0 - i) * dc,
            c * f * (1.0 - f) * dc,
            i * (1.0 - g**2) * dc,
            top * o * (1.0 - o) * dh,
        )
        da = jnp.concatenate(through, axis=-1)
        dweight, dbefore = share_back(da)
        return only(params, recurrent=dweight), (dbefore, f * dc), da

    return ((o * top, after), o * top), pullback


def gru_step(params, h, drive):
    """h' = n + z (h - n), n = tanh(x_n + r m), m = h_n + a: dn = (1 - z) dh', dz = (h - n) dh',
    da_n = (1 - n^2) dn, dr = m da_n, dm = r da_n; h gets z dh' and, through U, the rest."""
    share, share_back = recurred(params, h)
    x_r, x_z, x_n = (drive.reshape(len(h), 3, h.shape[-1])[:, gate] for gate in range(3))
    h_r, h_z, h_n = (share.reshape(len(h), 3, h.shape[-1])[:, gate] for gate in range(3))
    r, z = logistic(x_r + h_r), logistic(x_z + h_z)
    m = h_n + params["recurrent_bias"].astype(h.dtype)
    n = jnp.tanh(x_n + r * m)
    after = n + z * (h - n)

    def pullback(d):
        dh = d[0] + d[1]
        dn = (1.0 - n**2) * (1.0 - z) * dh
        dr, dz = r * (1.0 - r) * m * dn, z * (1.0 - z) * (h - n) * dh
        dweight, dbefore = share_back(jnp.concatenate([dr, dz, r * dn], axis=-1))
        dparams = only(params, recurrent=dweight, recurrent_bias=(r * dn).sum(axis=0))
        return dparams, z * dh + dbefore, jnp.concatenate([dr, dz, dn], axis=-1)

    return (after, after), pullback


def kept(there, tree):
    """0 in place of what is not there."""

    def one(a):
        return jnp.where(jnp.expand_dims(there, tuple(range(there.ndim, a.ndim))), a, 0)

    return jax.tree.map(one, tree)


def in_time(tree):
    return jax.tree.map(lambda a: a.swapaxes(0, 1), tree)


def added(a, b):
    return jax.tree.map(jnp.add, a, b)


def cast(tree, model):
    return jax.tree.map(lambda a, b: a.astype(b.dtype), tree, model)


def through_time(params, x, begin, *, project, step, vjp):
    """A scan that keeps the carry before each step; another goes back over them, does each step
    again, pulls dcarry through it and adds up its dparams. Where there is no step dcarry passes."""
    values, mask = split(x)
    there = jnp.ones(values.shape[:2], bool) if mask is None else mask
    drives, project_back = vjp(project, params, kept(there, values))
    start, start_back = begin(jax.tree.map(lambda drive: drive[:, 0], drives))
    drives = in_time(drives)

    def forward(carry, inputs):
        drive, there = inputs
        (after, y), _ = vjp(step, params, carry, drive)
        return added(kept(there, after), kept(~there, carry)), (kept(there, y), carry)

    last, (y, carries) = lax.scan(forward, start, (drives, in_time(there)))

    def back(ahead, inputs):
        dcarry, dparams = ahead
        carry, drive, there, dy = inputs
        _, pullback = vjp(step, params, carry, drive)
        share, dbefore, ddrive = pullback((kept(there, dcarry), kept(there, dy)))
        return (added(dbefore, kept(~there, dcarry)), added(dparams, share)), ddrive

    def backward(dy):
        delta, nothing = split(dy)
        dy = in_time(delta).astype(y.dtype)
        # In shard_map each device's dparams are its own, though the params are common to all.
        own = jnp.zeros_like(dy, shape=())
        none = jax.tree.map(lambda a: jnp.zeros_like(a) + own, (last, jax.tree.map(widen, params)))
        inputs = (carries, drives, in_time(there), dy)
        (dcarry, dparams), ddrives = lax.scan(back, none, inputs, reverse=True)
        share, dx = project_back(in_time(ddrives))
        dparams = added(added(dparams, share), *start_back(dcarry))
        return cast(dparams, params), join(kept(there, dx), nothing)

    return join(in_time(y).astype(values.dtype), mask), backward, last


def over_time(params, state, x, *, project, start, step, vjp, key=None, train=False):
    """Backpropagation through time, from the last step to the start."""

    def begin(drive):
        return vjp(start, params, drive)

    y, backward, _ = through_time(params, x, begin, project=project, step=step, vjp=vjp)
    return y, backward, state


def carried(params, state, x, *, project, start, step, vjp, key=None, train=False):
    """The same; the carry that came as the state is a constant."""

    def begin(drive):
        zero, _ = vjp(start, params, drive)
        return cast(state, zero), lambda dcarry: (jax.tree.map(jnp.zeros_like, params),)

    y, backward, last = through_time(params, x, begin, project=project, step=step, vjp=vjp)
    return y, backward, cast(last, state)


def last_step(params, state, x, *, key=None, train=False):
    """dy at the last step that is there, 0 elsewhere."""
    values, mask = split(x)
    n, steps = values.shape[:2]
    there = jnp.ones((n, steps), bool) if mask is None else mask
    after = jnp.cumsum(there[:, ::-1], axis=1)[:, ::-1]  # how many from this step on
    chosen = there & (after == 1)

    def pullback(dy):
        dx = kept(chosen, jnp.broadcast_to(dy[:, None], values.shape))
        nothing = None if mask is None else np.zeros(mask.shape, jax.dtypes.float0)
        return (), join(dx, nothing)

    return kept(chosen, values).sum(axis=1), pullback, state
