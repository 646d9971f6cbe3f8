"""Rules of networks made of networks: they call the rules of their parts."""

import jax
import jax.numpy as jnp
from jax import lax

from funcnet.combine import layer_keys
from funcnet.layers.embedding import embedding_apply
from funcnet.layers.sequence import cleared, join, split
from funcnet.precision import cast


def serial(params, state, x, *, layers, vjp, key=None, train=False):
    """y = f_k(... f_1(x)): the pullbacks in the opposite order, dx of each the dy of the one
    before it."""
    pullbacks, states = [], []
    for layer, layer_params, layer_state, layer_key in zip(
        layers, params, state, layer_keys(key, len(layers)), strict=True
    ):
        x, pullback, layer_state = vjp(
            layer, layer_params, layer_state, x, key=layer_key, train=train
        )
        pullbacks.append(pullback)
        states.append(layer_state)

    def backward(delta):
        grads = []
        for pullback in reversed(pullbacks):
            layer_grads, delta = pullback(delta)
            grads.append(layer_grads)
        return tuple(reversed(grads)), delta

    return x, backward, tuple(states)


def residual(params, state, x, *, branch, vjp, key=None, train=False):
    """y = x + f(x): dx = dy + that of f."""
    y, pullback, state = vjp(branch, params, state, x, key=key, train=train)
    (values, mask), (moved, _) = split(x), split(y)

    def backward(dy):
        dparams, dx = pullback(dy)
        (delta, nothing), (through, _) = split(dy), split(dx)
        return dparams, join(delta + through, nothing)

    return join(values + moved, mask), backward, state


def masked(params, state, x, *, layer, vjp, key=None, train=False):
    """The layer's rule on the steps that are there; a mask has no derivative."""
    values, mask = split(x)
    y, pullback, state = vjp(layer, params, state, cleared(values, mask), key=key, train=train)

    def backward(dy):
        delta, nothing = split(dy)
        dparams, dx = pullback(delta)
        return dparams, join(cleared(dx, mask), nothing)

    return join(y, mask), backward, state


def summed(first, *others):
    """Their sum; of the cotangents of integers and masks, which are nothing, the first."""
    return first if first.dtype == jax.dtypes.float0 else sum(others, first)


def parallel(params, state, x, *, branches, vjp, key=None, train=False):
    """y = (f_1(x), f_2(x), ...): dx is the sum of theirs."""
    keys = layer_keys(key, len(branches))
    parts = [
        vjp(branch, branch_params, branch_state, x, key=branch_key, train=train)
        for branch, branch_params, branch_state, branch_key in zip(
            branches, params, state, keys, strict=True
        )
    ]

    def backward(dy):
        pairs = [pullback(part) for (_, pullback, _), part in zip(parts, dy, strict=True)]
        grads = tuple(dparams for dparams, _ in pairs)
        return grads, jax.tree.map(summed, *(dx for _, dx in pairs))

    return tuple(y for y, _, _ in parts), backward, tuple(state for _, _, state in parts)


def bidirectional(params, state, x, *, forward, backward, vjp, key=None, train=False):
    """y_t = (f(x)_t, g(x reversed)_{T - t}): dy cut in two, and dx the one's and the other's."""

    def turned(x):
        return jax.tree.map(lambda a: a[:, ::-1], x)

    keys = layer_keys(key, 2)
    ahead, ahead_back, ahead_state = vjp(forward, params[0], state[0], x, key=keys[0], train=train)
    behind, behind_back, behind_state = vjp(
        backward, params[1], state[1], turned(x), key=keys[1], train=train
    )
    first, mask = split(ahead)
    y = jnp.concatenate([first, split(turned(behind))[0]], axis=-1)

    def pullback(dy):
        delta, nothing = split(dy)
        size = first.shape[-1]
        ahead_grads, dx = ahead_back(join(delta[..., :size], nothing))
        behind_grads, other = behind_back(join(delta[:, ::-1, size:], nothing))
        total = split(dx)[0] + split(other)[0][:, ::-1]
        return (ahead_grads, behind_grads), join(total, nothing)

    return join(y, mask), pullback, (ahead_state, behind_state)


def repeat(params, state, x, *, layer, count, vjp, key=None, train=False):
    """y = f(... f(x)) by a scan that keeps each layer's input; another goes back over them, does
    each layer's forward pass again, and pulls the delta through."""

    def one(layer_params, layer_state, x, index):
        layer_key = None if key is None else jax.random.fold_in(key, index)
        return vjp(layer, layer_params, layer_state, x, key=layer_key, train=train)

    def forward(x, inputs):
        y, _, after = one(*inputs[:2], x, inputs[2])
        return y, (x, after)

    y, (xs, after) = lax.scan(forward, x, (params, state, jnp.arange(count, dtype=jnp.uint32)))

    def backward(dy):
        def step(delta, inputs):
            layer_params, layer_state, index, x = inputs
            _, pullback, _ = one(layer_params, layer_state, x, index)
            grads, delta = pullback(delta)
            return delta, grads

        dx, grads = lax.scan(
            step, dy, (params, state, jnp.arange(count, dtype=jnp.uint32), xs), reverse=True
        )
        return grads, dx

    return y, backward, after


def remat(params, state, x, *, layer, vjp, key=None, train=False):
    """The layer's rule, applied once forward and once more in the pullback."""
    y, _, after = vjp(layer, params, state, x, key=key, train=train)

    def backward(dy):
        # A fence: without it XLA would find the first pass again and keep its values.
        again = lax.optimization_barrier((params, state, x))
        _, pullback, _ = vjp(layer, *again, key=key, train=train)
        return pullback(dy)

    return y, backward, after


def named(params, state, x, *, layer, name, vjp, key=None, train=False):
    y, pullback, after = vjp(layer, params[name], state[name], x, key=key, train=train)

    def backward(dy):
        dparams, dx = pullback(dy)
        return {name: dparams}, dx

    return y, backward, {name: after}


def frozen(params, state, x, *, layer, vjp, key=None, train=False):
    """The parameters are constants: dparams = 0."""
    y, pullback, after = vjp(layer, params, state, x, key=key, train=train)
    return y, lambda dy: (jax.tree.map(jnp.zeros_like, params), pullback(dy)[1]), after


def tied_embedding(params, state, x, *, body, vjp, key=None, train=False):
    """y = h E', h = body(E[x]): dh = dy E, and E gets dy' h from above and its rows from below."""
    table = params["table"]
    rows, rows_back, _ = vjp(embedding_apply, params, (), x)
    h, body_back, after = vjp(body, params["body"], state, rows, key=key, train=train)

    def backward(dy):
        above = dy.reshape(-1, len(table)).T @ h.reshape(-1, table.shape[1])
        dbody, drows = body_back((dy @ table).astype(h.dtype))
        below, dx = rows_back(drows)
        return {"table": above.astype(table.dtype) + below["table"], "body": dbody}, dx

    return h @ table.T, backward, after


def like(grads, primals):
    """Gradients in the dtypes of what they are gradients of; an integer's is nothing."""
    nothing = jax.dtypes.float0
    return jax.tree.map(lambda g, p: g if g.dtype == nothing else g.astype(p.dtype), grads, primals)


def compute_dtype(params, state, x, *, layer, dtype, vjp, key=None, train=False):
    """The layer's rule in that dtype; a cast's derivative is the cast back."""
    narrow = cast(params, dtype), state, cast(x, dtype)
    y, pullback, after = vjp(layer, *narrow, key=key, train=train)

    def backward(dy):
        dparams, dx = pullback(dy)
        return like(dparams, params), like(dx, x)

    return y, backward, after
