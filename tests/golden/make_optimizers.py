"""Golden numbers of optimizers and schedules: what PyTorch and Optax compute, in float64.

Run `python tests/golden/make_optimizers.py`; it writes `optimizers.npz` beside itself. It needs
torch and optax, which the tests do not. Made with torch 2.13.0, optax 0.2.8, jax 0.10.2 and
numpy 2.4.6; the file keeps the versions that made it under "versions".

Keys are "source/optimizer[-variant]/problem", with the flat parameters after the steps
`problems.SNAPSHOTS`, [snapshots, size]; and "schedule/name", with the values at steps 0, 1, ...
"""

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from jax.flatten_util import ravel_pytree
from problems import PROBLEMS, SCHEDULE_STEPS, SCHEDULES, SNAPSHOTS, STEPS


def changing_rate(step, peak=0.05, warmup=5, total=40, start=0.01, end=0.002):
    """A line from start to peak, then half a cosine down to end."""
    if step < warmup:
        return start + (peak - start) * step / warmup
    progress = min((step - warmup) / (total - warmup), 1.0)
    return end + (peak - end) * (1.0 + math.cos(math.pi * progress)) / 2.0


SGD, ADAGRAD, RMSPROP, ADAM = (
    functools.partial(functools.partial, optimizer)
    for optimizer in (torch.optim.SGD, torch.optim.Adagrad, torch.optim.RMSprop, torch.optim.Adam)
)

TORCH = {
    "sgd": SGD(lr=0.05),
    "sgd-momentum": SGD(lr=0.02, momentum=0.9),
    "sgd-dampening": SGD(lr=0.05, momentum=0.9, dampening=0.3),
    "sgd-nesterov": SGD(lr=0.02, momentum=0.9, nesterov=True),
    "sgd-weight_decay": SGD(lr=0.05, weight_decay=0.1),
    "sgd-momentum-changing_rate": SGD(lr=0.0, momentum=0.8),
    "sgd-nesterov-changing_rate": SGD(lr=0.0, momentum=0.8, nesterov=True),
    "adagrad": ADAGRAD(lr=0.1),
    "adagrad-lr_decay": ADAGRAD(lr=0.1, lr_decay=0.05),
    "adagrad-initial_accumulator_value": ADAGRAD(lr=0.1, initial_accumulator_value=0.5, eps=1e-3),
    "rmsprop": RMSPROP(lr=0.01),
    "rmsprop-centered": RMSPROP(lr=0.01, centered=True),
    "rmsprop-momentum": RMSPROP(lr=0.002, alpha=0.95, momentum=0.9, eps=1e-4),
    "rmsprop-momentum-centered-changing_rate": RMSPROP(lr=0.0, momentum=0.7, centered=True),
    "adam": ADAM(lr=0.05),
    "adam-betas-eps": ADAM(lr=0.05, betas=(0.7, 0.95), eps=1e-3),
    "adam-b1_zero": ADAM(lr=0.02, betas=(0.0, 0.999)),
    "adam-weight_decay": ADAM(lr=0.05, weight_decay=0.1),
}

WARMUP_COSINE = optax.warmup_cosine_decay_schedule(0.01, 0.05, 5, 40, 0.002)


def falling(count):
    """In float64 throughout: an int32 count divided by a number is a float32 for JAX."""
    return WARMUP_COSINE(count.astype(jnp.float64))


OPTAX = {
    "sgd": optax.sgd(0.05),
    "sgd-momentum": optax.sgd(0.02, momentum=0.9),
    "sgd-nesterov": optax.sgd(0.02, momentum=0.9, nesterov=True),
    "adagrad": optax.adagrad(0.1),
    "rmsprop": optax.rmsprop(0.015),
    "rmsprop-centered": optax.rmsprop(0.015, centered=True),
    "rmsprop-momentum-changing_rate": optax.rmsprop(falling, momentum=0.7),
    "adam": optax.adam(0.05),
    "adam-clip_by_global_norm": optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.05)),
    "adam-warmup_cosine": optax.adam(falling),
}


def torch_path(make, problem, changing):
    """The flat parameters after each step, [STEPS, size]."""
    params = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in problem.start]
    optimizer, path = make(params), []
    for step in range(STEPS):
        if changing:
            optimizer.param_groups[0]["lr"] = changing_rate(step)
        optimizer.zero_grad()
        problem.loss(params, torch).backward()
        optimizer.step()
        path.append(torch.cat([p.detach().flatten() for p in params]).numpy())
    return np.stack(path)


def optax_path(optimizer, problem):
    """The flat parameters after each step, [STEPS, size]."""

    def step(carry, _):
        params, state = carry
        grads = jax.grad(lambda params: problem.loss(params, jnp))(params)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), ravel_pytree(params)[0]

    params = [jnp.asarray(a) for a in problem.start]
    _, path = jax.jit(lambda c: jax.lax.scan(step, c, length=STEPS))(
        (params, optimizer.init(params))
    )
    return np.asarray(path)


def schedule_values(peak, warmup_steps, total_steps, start, end):
    schedule = optax.warmup_cosine_decay_schedule(start, peak, warmup_steps, total_steps, end)
    return np.asarray([schedule(step) for step in range(SCHEDULE_STEPS)], np.float64)


def main():
    rows = np.array(SNAPSHOTS) - 1
    golden = {
        "versions": np.array([f"{m.__name__} {m.__version__}" for m in (torch, optax, jax, np)])
    }
    for problem_name, problem in PROBLEMS.items():
        for name, make in TORCH.items():
            path = torch_path(make, problem, name.endswith("changing_rate"))
            golden[f"torch/{name}/{problem_name}"] = path[rows]
        for name, optimizer in OPTAX.items():
            golden[f"optax/{name}/{problem_name}"] = optax_path(optimizer, problem)[rows]
    for name, numbers in SCHEDULES.items():
        golden[f"schedule/{name}"] = schedule_values(**numbers)
    if not all(np.isfinite(a).all() for key, a in golden.items() if key != "versions"):
        raise FloatingPointError("a trajectory diverged")
    np.savez_compressed(Path(__file__).with_name("optimizers.npz"), **golden)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
