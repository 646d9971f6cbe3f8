"""What acts on updates of any optimizer: chains, weight decay, centring, noise, and applying."""

import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcnet.numerics import widen
from funcnet.optimizers.arithmetic import counted, plus_scaled, safe_sqrt
from funcnet.optimizers.labels import as_labels, labels_of
from funcnet.pairs import Optimizer, check_count, fix, number, partial, unbind


def apply_updates(params, updates):
    """params + updates, leaf by leaf, in the parameters' dtypes."""
    return jax.tree.map(lambda p, u: jnp.asarray(p + u, jnp.result_type(p)), params, updates)


def takes(update, name):
    """Whether an update takes a keyword of this name, and has none bound to it."""
    function, bound = unbind(update)
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a built-in without a signature
        return False
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return name not in bound and (name in parameters or any_name)


class Known(NamedTuple):
    """What else than its gradient is known of a step, each by the keyword of updates that take it,
    and None where it is not."""

    value: Any = None  # the loss
    weight: Any = None  # what the loss was divided by
    objective: Any = None  # params -> loss, of this very batch with this very key


NOTHING = Known()


def hand_on(update, grads, state, params=None, known: Known = NOTHING):
    """The update, with what else is known, if it takes it: a choice by its signature."""
    items = known._asdict().items()
    wanted = {name: x for name, x in items if x is not None and takes(update, name)}
    return update(grads, state, params, **wanted)


def members(name, optimizer):
    """The two functions of an optimizer to be wrapped, as Partials."""
    if not (isinstance(optimizer, tuple) and len(optimizer) == 2):
        raise TypeError(f"{name} expects an optimizer, got {optimizer!r}")
    return partial(optimizer[0]), partial(optimizer[1])


def need_params(name, params):
    if params is None:
        raise ValueError(f"{name} needs the parameters: update(grads, state, params)")


def need_objective(name, objective, params):
    """Of real parameters: a direction in complex ones is not what `jax.grad` gives."""
    if any(map(jnp.iscomplexobj, jax.tree.leaves(params))):
        raise ValueError(f"{name} expects real parameters, got complex ones")
    if objective is None:
        raise ValueError(
            f"{name} needs the objective, params -> loss of this batch: "
            "update(grads, state, params, objective=objective). trainer offers it, and chain and "
            "the wrappers hand it on, but for accumulate, whose update is of several batches"
        )


def chain_init(params, *, inits):
    return tuple(init(params) for init in inits)


def chain_update(grads, state, params=None, *, updates, value=None, weight=None, objective=None):
    states, known = [], Known(value, weight, objective)
    for update, member_state in zip(updates, state, strict=True):
        grads, member_state = hand_on(update, grads, member_state, params, known)
        states.append(member_state)
    return grads, tuple(states)


def chain(*optimizers: Optimizer) -> Optimizer:
    """Each optimizer's updates are the next one's gradients; the state is the tuple of theirs.

    `chain(clip_by_global_norm(1.0), adam(1e-3))` clips, then takes Adam's step. The loss's value
    and weight, and the objective, reach those that take them.
    """
    for index, optimizer in enumerate(optimizers):
        if not (isinstance(optimizer, tuple) and len(optimizer) == 2):
            raise TypeError(f"chain expects optimizers, got {optimizer!r} at position {index}")
    return Optimizer(
        Partial(chain_init, inits=tuple(partial(init) for init, _ in optimizers)),
        Partial(chain_update, updates=tuple(partial(update) for _, update in optimizers)),
    )


def stateless_init(params):
    return ()


def decay_update(grads, state, params=None, *, rate):
    need_params("add_decayed_weights", params)
    return plus_scaled(grads, rate, params), state


def plus_scaled_where(tree, rate, params, *, mask):
    """tree + rate * params in the leaves whose path the mask chooses."""
    chosen = labels_of("a mask", mask, params, (True, False))
    leaves = [
        plus_scaled(g, rate, p) if here else g
        for g, p, here in zip(*map(jax.tree.leaves, (tree, params)), chosen, strict=True)
    ]
    return jax.tree.structure(tree).unflatten(leaves)


def masked_decay_update(grads, state, params=None, *, rate, mask):
    need_params("add_decayed_weights", params)
    return plus_scaled_where(grads, rate, params, mask=mask), state


def add_decayed_weights(rate, mask: Any = None) -> Optimizer:
    """g <- g + rate * theta: before an optimizer it is L2 regularisation, what PyTorch's
    `weight_decay` means in `SGD`, `Adagrad`, `RMSprop` and `Adam`.

    After an optimizer, whose updates are added to theta, a negative rate is decoupled decay,
    theta <- theta + u - |rate| theta (Loshchilov & Hutter 2019): PyTorch's `AdamW` is
    `chain(adam(eta), add_decayed_weights(-eta * weight_decay))`. `mask` chooses the leaves: a
    function of the leaf's path, such as "body.0.weight", or a tree of booleans, each of which may
    stand for a whole branch. It is a choice, part of the structure: pass a top-level function.
    """
    update = decay_update
    if mask is not None:
        update = fix(masked_decay_update, mask=as_labels(mask))
    return Optimizer(Partial(stateless_init), Partial(update, rate=number("rate", rate)))


def centralise_update(grads, state, params=None):
    def centred(g):
        if g.ndim < 2:
            return g
        wide = widen(g)
        return (wide - wide.mean(tuple(range(g.ndim - 1)), keepdims=True)).astype(g.dtype)

    return jax.tree.map(centred, grads), state


def centralise() -> Optimizer:
    """g_i <- g_i - mean(g_i) for each unit i (Yong et al. 2020, gradient centralisation).

    A unit is one index of the last axis, [fan_in, units] and [*window, fan_in, units]; vectors and
    scalars stay as they are. Optax's `centralize` takes the first axis for the units', as PyTorch
    lays weights out, and hence averages over the wrong one here.
    """
    return Optimizer(Partial(stateless_init), Partial(centralise_update))


class NoiseState(NamedTuple):
    count: Any  # int32, updates made
    key: Any  # stays as it is; each update folds its count in


def noise_init(params, *, seed):
    return NoiseState(jnp.zeros((), jnp.int32), jax.random.key(seed))


def noise_update(grads, state, params=None, *, variance, decay):
    key = jax.random.fold_in(state.key, state.count)
    steps = 1.0 + state.count.astype(jnp.result_type(float))
    deviation = safe_sqrt(variance / steps**decay)
    leaves, structure = jax.tree.flatten(grads)
    noisy = []
    for index, g in enumerate(leaves):
        wide = jnp.promote_types(g.dtype, jnp.float32)
        noise = jax.random.normal(jax.random.fold_in(key, index), g.shape, wide)
        noisy.append(plus_scaled(g, deviation, noise))
    return structure.unflatten(noisy), state._replace(count=counted(state.count))


def add_noise(variance, decay=0.55, *, seed: int = 0) -> Optimizer:
    """g <- g + N(0, variance / (1 + t)^decay), t = 0 first (Neelakantan et al. 2015).

    The paper's eta is `variance`, its gamma `decay`. The noise of update t is a function of the
    state's key, made of `seed`, of t and of the leaf's place: a run repeats exactly, and members of
    a sweep have the same noise unless their states are given keys of their own. Optax splits the
    key at each update.
    """
    update = Partial(
        noise_update, variance=number("variance", variance, 0.0), decay=number("decay", decay)
    )
    return Optimizer(Partial(fix(noise_init, seed=check_count("seed", seed, 0))), update)
