"""Golden numbers of optimizers and schedules: what PyTorch and Optax compute, in float64.

Run `python tests/golden/make_optimizers.py`; it writes `optimizers.npz` beside itself. It needs
torch and optax, which the tests do not. Made with torch 2.13.0, optax 0.2.8, jax 0.10.2 and
numpy 2.4.6; the file keeps the versions that made it under "versions".

Keys are "source/optimizer[-variant]/problem", with the flat parameters after the steps
`problems.SNAPSHOTS`, [snapshots, size], or where the variant ends in "average" the average of them
that is to be evaluated; and "schedule/name", with the values at steps 0, 1, ...
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
from optax import contrib
from problems import PROBLEMS, SCHEDULE_STEPS, SCHEDULES, SNAPSHOTS, STEPS


def changing_rate(step, peak=0.05, warmup=5, total=40, start=0.01, end=0.002):
    """A line from start to peak, then half a cosine down to end."""
    if step < warmup:
        return start + (peak - start) * step / warmup
    progress = min((step - warmup) / (total - warmup), 1.0)
    return end + (peak - end) * (1.0 + math.cos(math.pi * progress)) / 2.0


def maker(optimizer):
    return functools.partial(functools.partial, optimizer)


SGD, ADAGRAD, RMSPROP, ADAM = (
    maker(optimizer)
    for optimizer in (torch.optim.SGD, torch.optim.Adagrad, torch.optim.RMSprop, torch.optim.Adam)
)
ADAMW, ADAMAX, NADAM, RADAM = (
    maker(optimizer)
    for optimizer in (torch.optim.AdamW, torch.optim.Adamax, torch.optim.NAdam, torch.optim.RAdam)
)
ADADELTA, ASGD, RPROP, ADAFACTOR = (
    maker(optimizer)
    for optimizer in (
        torch.optim.Adadelta, torch.optim.ASGD, torch.optim.Rprop, torch.optim.Adafactor
    )
)  # fmt: skip
AVERAGING = ASGD(lr=0.1, lambd=0.05, alpha=0.6, t0=8)

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
    "adamw": ADAMW(lr=0.05),
    "adamw-weight_decay": ADAMW(lr=0.05, weight_decay=0.3),
    "adamw-changing_rate": ADAMW(lr=0.0, weight_decay=0.3),
    "adamax": ADAMAX(lr=0.05),
    "adamax-weight_decay": ADAMAX(lr=0.05, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1),
    "nadam": NADAM(lr=0.05),
    "nadam-weight_decay": NADAM(lr=0.05, momentum_decay=0.5, weight_decay=0.1),
    "nadam-decoupled_weight_decay": NADAM(
        lr=0.05, betas=(0.8, 0.99), weight_decay=0.1, decoupled_weight_decay=True
    ),
    "amsgrad": ADAM(lr=0.05, amsgrad=True),
    "amsgrad-betas": ADAM(lr=0.05, betas=(0.8, 0.7), amsgrad=True),
    "radam": RADAM(lr=0.05),
    "radam-betas-eps": RADAM(lr=0.05, betas=(0.8, 0.97), eps=1e-3),
    "radam-short": RADAM(lr=0.01, betas=(0.9, 0.5)),
    "radam-decoupled_weight_decay": RADAM(lr=0.05, weight_decay=0.1, decoupled_weight_decay=True),
    "adadelta": ADADELTA(),
    "adadelta-rho-eps": ADADELTA(lr=0.5, rho=0.8, eps=1e-3, weight_decay=0.1),
    "asgd": ASGD(),
    "asgd-average": AVERAGING,
    "asgd-weight_decay": ASGD(lr=0.1, lambd=0.05, weight_decay=0.1),
    "rprop": RPROP(),
    "rprop-etas-step_sizes": RPROP(lr=0.3, etas=(0.3, 1.5), step_sizes=(1e-3, 0.4)),
    "adafactor": ADAFACTOR(),
    "adafactor-capped": ADAFACTOR(lr=0.3, beta2_decay=-0.6, eps=(1e-3, 0.3), d=1.5),
    "adafactor-weight_decay": ADAFACTOR(lr=0.4, weight_decay=0.1),
}

WARMUP_COSINE = optax.warmup_cosine_decay_schedule(0.01, 0.05, 5, 40, 0.002)


def falling(count):
    """In float64 throughout: an int32 count divided by a number is a float32 for JAX."""
    return WARMUP_COSINE(count.astype(jnp.float64))


def rise(low, high, steps):
    return lambda count: low + (high - low) * jnp.minimum(count.astype(jnp.float64) / steps, 1.0)


def adafactor(learning_rate, weight_decay=0.0, power=0.8, **factored):
    """`optax.adafactor`, part by part, with t^-p in float64: its own is in float32."""

    def decay_rate(count, power):
        return 1.0 - (count + 1.0).astype(jnp.float64) ** -power

    return optax.chain(
        optax.scale_by_factored_rms(decay_rate=power, decay_rate_fn=decay_rate, **factored),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_learning_rate(learning_rate, flip_sign=False),
        optax.scale_by_param_block_rms(),
        optax.add_decayed_weights(weight_decay),
        optax.scale(-1),
    )


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
    "adamw": optax.adamw(0.05),
    "adamw-changing_rate": optax.adamw(falling, weight_decay=0.3),
    "adamax": optax.adamax(0.05),
    "adamaxw": optax.adamaxw(0.05, b1=0.8, weight_decay=0.1),
    "nadam": optax.nadam(0.05),
    "nadamw": optax.nadamw(0.05, b1=0.8, b2=0.99, weight_decay=0.1),
    "amsgrad": optax.amsgrad(0.05, b1=0.8, b2=0.7),
    "amsgrad-uncorrected": optax.amsgrad(
        0.01, b1=0.8, b2=0.97, bias_correction_mu=False, bias_correction_nu=False
    ),
    "radam": optax.radam(0.05),
    "radam-betas-eps": optax.radam(0.05, b1=0.8, b2=0.97, eps=1e-3),
    "adadelta": optax.adadelta(1.0),
    "lion": optax.lion(0.01, weight_decay=0.0),
    "lion-weight_decay": optax.lion(falling, b1=0.8, b2=0.95, weight_decay=0.3),
    "sign_sgd": optax.sign_sgd(0.02),
    "signum": optax.signum(0.02),
    "signum-changing_rate": optax.signum(falling, beta=0.7),
    "adan": optax.adan(0.05),
    "adan-weight_decay": optax.adan(
        0.03, b1=0.9, b2=0.8, b3=0.95, eps=1e-3, eps_root=1e-2, weight_decay=0.3
    ),
    "adopt": contrib.adopt(0.05),
    "adopt-unclipped": contrib.adopt(0.02, b1=0.8, b2=0.99, eps=1e-3, use_clipping=False),
    "ademamix": contrib.ademamix(0.01),
    "ademamix-rising": contrib.ademamix(
        0.01, b1=0.8, b3=rise(0.9, 0.999, 30), alpha=rise(0.0, 4.0, 30), weight_decay=0.3
    ),
    "lamb": optax.lamb(0.03),
    "lamb-weight_decay": optax.lamb(falling, b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.3),
    "adafactor": adafactor(0.02, min_dim_size_to_factor=1),
    "adafactor-whole": adafactor(0.02),
    "adafactor-weight_decay": adafactor(
        0.02, 0.01, power=0.6, epsilon=1e-3, min_dim_size_to_factor=2
    ),
    "schedule_free_sgd": contrib.schedule_free_sgd(0.05),
    "schedule_free_sgd-average": contrib.schedule_free_sgd(0.05, b1=0.7),
    "schedule_free_adamw": contrib.schedule_free_adamw(0.05),
    "schedule_free_adamw-average": contrib.schedule_free_adamw(
        0.05, b1=0.95, b2=0.99, eps=1e-3, weight_decay=0.3
    ),
    "prodigy": contrib.prodigy(),
    "prodigy-changing_rate": contrib.prodigy(
        lambda count: 20.0 * falling(count), (0.8, 0.99), estim_lr0=1e-2, estim_lr_coef=0.7
    ),
    "prodigy-safeguard": contrib.prodigy(
        0.7, beta3=0.9, eps=1e-3, estim_lr0=1e-3, weight_decay=0.3, safeguard_warmup=True
    ),
}


def torch_path(make, problem, changing, average):
    """The flat parameters, or ASGD's average of them, after each step, [STEPS, size]."""
    params = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in problem.start]
    optimizer, path = make(params), []
    for step in range(STEPS):
        if changing:
            optimizer.param_groups[0]["lr"] = changing_rate(step)
        optimizer.zero_grad()
        problem.loss(params, torch).backward()
        optimizer.step()
        shown = [optimizer.state[p]["ax"] for p in params] if average else params
        path.append(torch.cat([p.detach().flatten() for p in shown]).numpy())
    return np.stack(path)


def optax_path(optimizer, problem, average):
    """The flat parameters, or the schedule-free average, after each step, [STEPS, size]."""

    def step(carry, _):
        params, state = carry
        grads = jax.grad(lambda params: problem.loss(params, jnp))(params)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        shown = contrib.schedule_free_eval_params(state, params) if average else params
        return (params, state), ravel_pytree(shown)[0]

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
            path = torch_path(make, problem, *(name.endswith(e) for e in ("_rate", "average")))
            golden[f"torch/{name}/{problem_name}"] = path[rows]
        for name, optimizer in OPTAX.items():
            path = optax_path(optimizer, problem, name.endswith("average"))
            golden[f"optax/{name}/{problem_name}"] = path[rows]
    for name, numbers in SCHEDULES.items():
        golden[f"schedule/{name}"] = schedule_values(**numbers)
    if not all(np.isfinite(a).all() for key, a in golden.items() if key != "versions"):
        raise FloatingPointError("a trajectory diverged")
    np.savez_compressed(Path(__file__).with_name("optimizers.npz"), **golden)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    # ASGD's and NAdam's own numbers are in the default type.
    torch.set_default_dtype(torch.float64)
    main()
