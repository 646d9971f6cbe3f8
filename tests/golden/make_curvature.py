"""Golden numbers of optimizers that need more than a gradient, in float64.

Run `python tests/golden/make_curvature.py`; it writes `curvature.npz` beside itself. It needs
torch, optax and scipy, which the tests do not. Made with torch 2.13.0, optax 0.2.8, scipy 1.17.1,
jax 0.10.2 and numpy 2.4.6; the file keeps the versions that made it under "versions".

"optax/name/problem" are the flat parameters after the steps `SNAPSHOTS` up to `CURVATURE_STEPS`,
[snapshots, size]. "torch/evaluations/problem" and "scipy/evaluations/problem" are how many times
each evaluated the loss and its gradient until it was first no greater than `GOALS[problem]`.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy
import torch
from jax.flatten_util import ravel_pytree
from optax import contrib
from problems import (
    CURVATURE_STEPS,
    CURVATURES,
    GOALS,
    PROBLEMS,
    SNAPSHOTS,
    SOPHIA,
    separate,
)
from scipy.optimize import minimize

MEMORY = 10


def start(problem):
    return [jnp.asarray(a) for a in PROBLEMS[problem].start]


def rows(path):
    return np.stack([ravel_pytree(path[s - 1])[0] for s in SNAPSHOTS if s <= CURVATURE_STEPS])


def lbfgs_path(problem, memory, rate):
    """Fixed steps along Optax's direction, whose pairs must all be of positive curvature: it keeps
    those that are not."""
    optimizer = optax.chain(optax.scale_by_lbfgs(memory), optax.scale(-rate))
    params, path = start(problem), []
    state = optimizer.init(params)
    for _ in range(CURVATURE_STEPS):
        grads = jax.grad(PROBLEMS[problem].loss)(params, jnp)
        updates, state = optimizer.update(grads, state, params)
        if (state[0].weights_memory < 0.0).any():
            raise ValueError(f"a pair of negative curvature in {problem}")
        params = optax.apply_updates(params, updates)
        path.append(params)
    return path


def sophia_path(numbers):
    """Optax's update uses the average of before its refresh, and divides the mean by 1 - b1^t. So
    that it agrees with the paper it begins with the first estimate, which is the same for any
    signs, and at a count where that division is by 1."""
    every = numbers["update_interval"]
    optimizer = contrib.sophia(**numbers)
    params = jnp.asarray(separate.start)
    state, path = list(optimizer.init(params)), []
    first = (1.0 - numbers["b2"]) * jnp.asarray(CURVATURES)
    state[0] = state[0]._replace(count=jnp.int32(1 + 10_000 * every), nu=first)
    for _ in range(CURVATURE_STEPS):
        grads = jax.grad(separate.loss)(params, jnp)
        updates, state = optimizer.update(
            grads, tuple(state), params, obj_fn=lambda p: separate.loss(p, jnp)
        )
        params = optax.apply_updates(params, updates)
        path.append(params)
    return path


def sam_path(problem, rho):
    ascent = optax.chain(contrib.normalize(), optax.sgd(rho))
    optimizer = contrib.sam(optax.sgd(0.05, momentum=0.9), ascent, opaque_mode=True)
    gradient = jax.grad(lambda params, _: PROBLEMS[problem].loss(params, jnp))
    params, path = start(problem), []
    state = optimizer.init(params)
    for _ in range(CURVATURE_STEPS):
        updates, state = optimizer.update(gradient(params, 0), state, params, grad_fn=gradient)
        params = optax.apply_updates(params, updates)
        path.append(params)
    return path


def unravelled(problem, flat):
    shapes = [np.shape(a) for a in PROBLEMS[problem].start]
    parts = torch.split(flat, [int(np.prod(shape)) for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def evaluations(values, goal):
    values = np.array(values)
    if not (values <= goal).any():
        raise ValueError(f"the goal was not reached: {values.min()} > {goal}")
    return int(np.argmax(values <= goal)) + 1


def torch_evaluations(problem):
    flat = torch.tensor(np.asarray(ravel_pytree(start(problem))[0]), requires_grad=True)
    values = []
    limits = {"max_iter": 500, "max_eval": 500, "tolerance_grad": 0.0, "tolerance_change": 0.0}
    optimizer = torch.optim.LBFGS(
        [flat], history_size=MEMORY, line_search_fn="strong_wolfe", **limits
    )

    def closure():
        optimizer.zero_grad()
        loss = PROBLEMS[problem].loss(unravelled(problem, flat), torch)
        loss.backward()
        values.append(loss.item())
        return loss

    optimizer.step(closure)
    return evaluations(values, GOALS[problem])


def scipy_evaluations(problem):
    values = []

    def loss_and_gradient(x):
        flat = torch.tensor(x, requires_grad=True)
        loss = PROBLEMS[problem].loss(unravelled(problem, flat), torch)
        loss.backward()
        values.append(loss.item())
        return loss.item(), flat.grad.numpy()

    options = {"maxcor": MEMORY, "maxfun": 500, "maxiter": 500, "ftol": 0.0, "gtol": 0.0}
    at = np.asarray(ravel_pytree(start(problem))[0])
    minimize(loss_and_gradient, at, jac=True, method="L-BFGS-B", options=options)
    return evaluations(values, GOALS[problem])


def main():
    golden = {
        "optax/lbfgs_direction/quadratic": rows(lbfgs_path("quadratic", 3, 0.9)),
        "optax/lbfgs_direction/regression": rows(lbfgs_path("regression", 3, 0.5)),
        "optax/sam/regression": rows(sam_path("regression", 0.1)),
        "optax/sam/rosenbrock": rows(sam_path("rosenbrock", 0.05)),
    }
    golden |= {f"optax/sophia/{name}": rows(sophia_path(n)) for name, n in SOPHIA.items()}
    for problem in GOALS:
        golden[f"torch/evaluations/{problem}"] = np.array(torch_evaluations(problem))
        golden[f"scipy/evaluations/{problem}"] = np.array(scipy_evaluations(problem))
    if not all(np.isfinite(a).all() for a in golden.values()):
        raise FloatingPointError("a trajectory diverged")
    versions = [f"{m.__name__} {m.__version__}" for m in (torch, optax, scipy, jax, np)]
    path = Path(__file__).with_name("curvature.npz")
    np.savez_compressed(path, versions=np.array(versions), **golden)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
