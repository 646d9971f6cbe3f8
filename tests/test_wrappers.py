"""What acts on any optimizer's updates: against Optax and PyTorch, the papers' formulas in NumPy,
and what it must never do."""

import functools
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.problems import JOINT_SNAPSHOTS, JOINT_STEPS, PROBLEMS, plateau, total_loss
from jax.flatten_util import ravel_pytree
from protocol import QUICK

import funcnet as fn
from funcnet.optimizers import Known, hand_on
from funcnet.verify_optimizer import check_contract

GOLDEN = np.load(Path(__file__).parent / "golden" / "transforms.npz")
MOMENTUM, ADAM = fn.momentum(0.02), fn.adam(0.05)


def matrices(path):
    return path in ("regression.0", "regression.2")


def kind(path):
    return {"quadratic": "fast", "rosenbrock": "still", "regression": "slow"}[path.split(".")[0]]


LABELS = {"quadratic": "fast", "rosenbrock": "still", "regression": ["slow"] * 4}
KINDS = {"fast": ADAM, "slow": fn.sgd(0.02), "still": fn.freeze()}
FIRST = {"factor": 0.5, "rtol": 1e-3, "cooldown": 2}
CASES = {
    "optax/clip_by_value": fn.chain(fn.clip_by_value(0.3), MOMENTUM),
    "torch/clip_by_value": fn.chain(fn.clip_by_value(0.3), MOMENTUM),
    "optax/clip_by_block_norm": fn.chain(fn.clip_by_block_norm(0.3), MOMENTUM),
    "optax/adaptive_clip": fn.chain(fn.adaptive_clip(0.05, eps=0.1), MOMENTUM),
    "optax/centralise": fn.chain(fn.centralise(), MOMENTUM),
    "optax/masked_decay": fn.chain(fn.add_decayed_weights(0.1, matrices), MOMENTUM),
    "torch/decoupled_decay": fn.chain(ADAM, fn.add_decayed_weights(-0.05 * 0.1, matrices)),
    "optax/accumulate": fn.accumulate(ADAM, 4),
    "optax/partition": fn.partition(kind, KINDS),
    "optax/partition by a tree": fn.partition(LABELS, KINDS),
    "optax/reduce_on_plateau": fn.chain(
        ADAM, fn.reduce_on_plateau(patience=3, min_scale=0.2, **FIRST)
    ),
    "torch/reduce_on_plateau": fn.chain(ADAM, fn.reduce_on_plateau(patience=3, **FIRST)),
    "optax/reduce_on_plateau-window": fn.chain(
        ADAM, fn.reduce_on_plateau(0.3, 2, atol=1e-2, window=3)
    ),
    "optax/lookahead": fn.lookahead(ADAM, 4, 0.3),
    "optax/lookahead-average": fn.lookahead(ADAM, 4, 0.3),
    "optax/ema-average": fn.ema(ADAM, 0.9),
    "torch/swa-average": fn.swa(ADAM, 5, every=3),
}


@functools.partial(jax.jit, static_argnames=("average",), compiler_options=QUICK)
def descend(optimizer, start, values, average=False):
    """The flat parameters, or their average, after each step, [steps, size]."""

    def step(carry, inputs):
        params, state = carry
        count, value = inputs
        grads = jax.grad(total_loss)(params, jnp)
        grads = jax.tree.map(lambda g: (1.0 + 0.5 * jnp.cos(count)) * g, grads)
        updates, state = hand_on(optimizer.update, grads, state, params, Known(value))
        params = fn.apply_updates(params, updates)
        shown = fn.averaged_params(state, params) if average else params
        return (params, state), ravel_pytree(shown)[0]

    carry = start, optimizer.init(start)
    return jax.lax.scan(step, carry, (jnp.arange(float(JOINT_STEPS)), values))[1]


@pytest.mark.parametrize("name", CASES)
def test_trajectory_is_the_golden_one(name):
    golden = GOLDEN[name.removesuffix(" by a tree")]
    with jax.enable_x64(True):
        start = {name: [jnp.asarray(a) for a in p.start] for name, p in PROBLEMS.items()}
        values = plateau(np.arange(float(JOINT_STEPS)))
        path = descend(CASES[name], start, values, average=name.endswith("-average"))
        moved = np.linalg.norm(golden - ravel_pytree(start)[0], axis=1)
    error = np.linalg.norm(np.asarray(path)[np.array(JOINT_SNAPSHOTS) - 1] - golden, axis=1)
    assert moved[-1] > 0.0
    assert (error <= 1e-12 * moved).all(), (error, moved)


def test_every_case_has_its_golden_numbers():
    names = {name.removesuffix(" by a tree") for name in CASES}
    assert names == set(GOLDEN.files) - {"versions"}
