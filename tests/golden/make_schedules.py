"""Golden numbers of schedules: what PyTorch and Optax compute, in float64.

Run `python tests/golden/make_schedules.py`; it writes `schedules.npz` beside itself. It needs torch
and optax, which the tests do not. Made with torch 2.13.0, optax 0.2.8, jax 0.10.2 and numpy 2.4.6;
the file keeps the versions that made it under "versions".

Keys are "source/schedule[-variant]", with the values at the steps 0, 1, ..., STEPS - 1.
"""

from pathlib import Path

import jax
import numpy as np
import optax
import torch
from torch.optim import lr_scheduler

STEPS = 61

TORCH = {  # the optimizer's rate and the scheduler
    "linear": (0.8, lr_scheduler.LinearLR, {"start_factor": 0.25, "total_iters": 20}),
    "polynomial": (0.8, lr_scheduler.PolynomialLR, {"power": 1.7, "total_iters": 30}),
    "exponential": (0.8, lr_scheduler.ExponentialLR, {"gamma": 0.93}),
    "step_decay": (0.8, lr_scheduler.StepLR, {"step_size": 8, "gamma": 0.6}),
    "piecewise": (0.8, lr_scheduler.MultiStepLR, {"milestones": [5, 20, 33], "gamma": 0.3}),
    "cosine_wave": (0.8, lr_scheduler.CosineAnnealingLR, {"T_max": 20, "eta_min": 0.05}),
    "restarts": (0.8, lr_scheduler.CosineAnnealingWarmRestarts, {"T_0": 9, "eta_min": 0.05}),
    "restarts-2": (0.8, lr_scheduler.CosineAnnealingWarmRestarts, {"T_0": 4, "T_mult": 2}),
    "restarts-3": (0.8, lr_scheduler.CosineAnnealingWarmRestarts, {"T_0": 3, "T_mult": 3}),
    "one_cycle": (0.8, lr_scheduler.OneCycleLR, {"max_lr": 0.8, "total_steps": STEPS}),
    "one_cycle-linear": (
        0.8,
        lr_scheduler.OneCycleLR,
        {"max_lr": 0.8, "total_steps": STEPS, "anneal_strategy": "linear", "pct_start": 0.4},
    ),
    "one_cycle-three_phase": (
        0.8,
        lr_scheduler.OneCycleLR,
        {"max_lr": 0.8, "total_steps": STEPS, "three_phase": True},
    ),
    "cyclic": (
        0.1,
        lr_scheduler.CyclicLR,
        {"base_lr": 0.1, "max_lr": 0.8, "step_size_up": 6, "step_size_down": 11},
    ),
    "cyclic-triangular2": (
        0.1,
        lr_scheduler.CyclicLR,
        {"base_lr": 0.1, "max_lr": 0.8, "step_size_up": 7, "mode": "triangular2"},
    ),
    "cyclic-exp_range": (
        0.1,
        lr_scheduler.CyclicLR,
        {"base_lr": 0.1, "max_lr": 0.8, "step_size_up": 7, "mode": "exp_range", "gamma": 0.97},
    ),
}

OPTAX = {
    "linear": optax.linear_schedule(0.2, 0.8, 20, 5),
    "polynomial": optax.polynomial_schedule(0.8, 0.1, 0.6, 30, 5),
    "exponential": optax.exponential_decay(0.8, 7, 0.5, 5, end_value=0.02),
    "step_decay": optax.exponential_decay(0.8, 8, 0.6, staircase=True),
    "piecewise": optax.piecewise_constant_schedule(0.8, {5: 0.5, 20: 0.1, 33: 2.0}),
    "cosine": optax.cosine_decay_schedule(0.8, 45, alpha=0.1),
    "one_cycle": optax.cosine_onecycle_schedule(50, 0.8),
    "one_cycle-linear": optax.linear_onecycle_schedule(50, 0.8, 0.3, 0.8),
    "join": optax.join_schedules(
        [optax.linear_schedule(0.1, 0.8, 10), optax.cosine_decay_schedule(0.8, 20)], [15]
    ),
}


def torch_values(rate, scheduler, options):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=rate, momentum=0.9)
    schedule, values = scheduler(optimizer, **options), []
    for step in range(STEPS):
        values.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if step + 1 < STEPS:
            schedule.step()
    return values


def main():
    versions = [f"{m.__name__} {m.__version__}" for m in (torch, optax, jax, np)]
    golden = {"versions": np.array(versions)}
    for name, case in TORCH.items():
        golden[f"torch/{name}"] = np.array(torch_values(*case))
    for name, schedule in OPTAX.items():
        # A count in float64: an int32 one divided by a number is a float32 for JAX.
        values = [schedule(np.float64(step)) for step in range(STEPS)]
        golden[f"optax/{name}"] = np.array(values, np.float64)
    np.savez_compressed(Path(__file__).with_name("schedules.npz"), **golden)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
