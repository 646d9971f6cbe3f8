"""Matrix optimizers against Optax, PyTorch, the papers' loops in NumPy, and closed forms."""

import functools
from pathlib import Path
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.matrix_problems import SHAPES, regression, start, warm
from golden.problems import SNAPSHOTS, STEPS
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

import funcnet as fn
from funcnet.optimizers.spectral import eigenbasis, inverse_root, orthonormal

GOLDEN = np.load(Path(__file__).parent / "golden" / "matrix.npz")
OPTAX = functools.partial(fn.muon, bias_correction=True, eps=1e-8)
TORCH = functools.partial(fn.muon, clamp_norm=True, weight_decay=0.1)
MATCH_RMS = functools.partial(TORCH, decay=0.8, eps=0.5, scale="moonlight")
SOAP = fn.soap(0.03, 0.9, 0.95, shampoo_decay=0.8, eps=1e-3, weight_decay=0.1, every=3, max_size=4)
WIDE_SOAP = fn.soap(0.03, 0.9, 0.95, shampoo_decay=0.8, eps=1e-3, weight_decay=0.1, every=3)


def warm_init(params):
    """The state after a step that left `warm`'s matrices behind."""
    state = WIDE_SOAP.init(params)
    pairs = {
        shape: [[warm(size, k, jnp) for size in sizes] for k, sizes in enumerate(SHAPES[shape])]
        for shape in SHAPES
    }
    gram, basis = (
        {shape: [tuple(p[i] for p in pair) for pair in pairs[shape]] for shape in SHAPES}
        for i in (0, 1)
    )
    return state._replace(count=jnp.int32(1), gram=gram, basis=basis)


class Case(NamedTuple):
    name: str  # as in the golden file
    optimizer: fn.Optimizer
    tolerance: float = 1e-10  # relative to the distance moved


CASES = [
    Case("optax/muon", OPTAX(weight_decay=0.1)),
    Case("optax/muon-plain", OPTAX(nesterov=False, eps=1e-2)),
    Case("optax/muon-consistent_rms", OPTAX(decay=0.8, scale="moonlight", steps=3, eps=1e-2)),
    Case("optax/muon-coefficients", OPTAX(coefficients=(2.0, -1.5, 0.5))),
    Case("torch64/muon", TORCH()),
    Case("torch64/muon-plain", TORCH(nesterov=False, weight_decay=0.0)),
    Case("torch64/muon-match_rms", MATCH_RMS()),
    Case("torch/muon", TORCH(iterate_in=jnp.bfloat16), 0.05),
    Case("torch/muon-match_rms", MATCH_RMS(iterate_in=jnp.bfloat16), 0.05),
    Case("paper/shampoo", fn.shampoo(0.1, eps=0.01)),
    Case("paper/shampoo-average", fn.shampoo(0.03, 0.9, eps=1e-4, every=4)),
    Case("paper/shampoo-momentum", fn.shampoo(0.05, momentum=0.8, eps=0.01, exponent=0.4)),
    Case("paper/soap", SOAP),
    Case("paper/soap-warmed", fn.Optimizer(Partial(warm_init), WIDE_SOAP.update)),
]


@jax.jit
def descend(optimizer, params):
    """Both problems' parameters after each step: matrices do not see one another."""

    def step(carry, _):
        params, state = carry
        grads = {shape: jax.grad(regression)(params[shape], jnp) for shape in params}
        updates, state = optimizer.update(grads, state, params)
        params = fn.apply_updates(params, updates)
        return (params, state), params

    return jax.lax.scan(step, (params, optimizer.init(params)), length=STEPS)[1]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_trajectory_is_the_golden_one(case):
    with jax.enable_x64(True):
        origin = {shape: start(shape, jnp) for shape in SHAPES}
        paths = descend(case.optimizer, origin)
        for shape in SHAPES:
            path = np.concatenate([w.reshape(STEPS, -1) for w in paths[shape]], 1)
            golden = GOLDEN[f"{case.name}/{shape}"]
            moved = np.linalg.norm(golden - ravel_pytree(origin[shape])[0], axis=1) + 1e-3
            error = np.linalg.norm(path[np.array(SNAPSHOTS) - 1] - golden, axis=1)
            assert (error <= case.tolerance * moved).all(), error / moved
            print(case.name, shape, (error / np.maximum(moved, 1e-300)).max())
