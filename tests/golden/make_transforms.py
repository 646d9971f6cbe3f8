"""Golden numbers of what acts on updates, as Optax and PyTorch compute them, in float64.

Run `python tests/golden/make_transforms.py`; it writes `transforms.npz` beside itself. It needs
torch and optax, which the tests do not. Made with torch 2.13.0, optax 0.2.8, jax 0.10.2 and
numpy 2.4.6; the file keeps the versions that made it under "versions".

All of `problems.PROBLEMS` are one tree here, their losses summed, and the gradient of step t is
multiplied by 1 + cos(t) / 2, so that no two are alike. Keys are "source/name", with the flat
parameters after the steps `JOINT_SNAPSHOTS`, [snapshots, size], or their average for names that
say so.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from jax.flatten_util import ravel_pytree
from optax import contrib
from problems import JOINT_SNAPSHOTS, JOINT_STEPS, PROBLEMS, plateau, total_loss


def decayed(path, _):
    """Matrices alone are decayed."""
    return path[-1].idx in (0, 2) and path[0].key == "regression"


def kinds(params):
    return {"quadratic": "fast", "rosenbrock": "still", "regression": "slow"}


def each_leaf(transform):
    """The transform of every leaf as if it were alone."""

    def update(grads, state, params=None):
        return jax.tree.map(lambda g: transform.update(g, transform.init(g))[0], grads), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def transposed(transform):
    """The transform as it acts on matrices in PyTorch's layout."""

    def update(grads, state, params=None):
        turned, state = transform.update(jax.tree.map(lambda g: g.T, grads), state)
        return jax.tree.map(lambda g: g.T, turned), state

    return optax.GradientTransformation(transform.init, update)


def masked_decay(rate):
    return optax.add_decayed_weights(
        rate, mask=lambda params: jax.tree_util.tree_map_with_path(decayed, params)
    )


MOMENTUM = optax.sgd(0.02, momentum=0.9)
OPTAX = {
    "clip_by_value": optax.chain(optax.clip(0.3), MOMENTUM),
    "clip_by_block_norm": optax.chain(each_leaf(optax.clip_by_global_norm(0.3)), MOMENTUM),
    "adaptive_clip": optax.chain(optax.adaptive_grad_clip(0.05, eps=0.1), MOMENTUM),
    "centralise": optax.chain(transposed(optax.centralize()), MOMENTUM),
    "masked_decay": optax.chain(masked_decay(0.1), MOMENTUM),
    "partition": optax.multi_transform(
        {"fast": optax.adam(0.05), "slow": optax.sgd(0.02), "still": optax.set_to_zero()}, kinds
    ),
    "reduce_on_plateau": optax.chain(
        optax.adam(0.05),
        contrib.reduce_on_plateau(0.5, 3, rtol=1e-3, cooldown=2, min_scale=0.2),
    ),
    "reduce_on_plateau-window": optax.chain(
        optax.adam(0.05), contrib.reduce_on_plateau(0.3, 2, atol=1e-2, accumulation_size=3)
    ),
}


def start():
    return {name: [jnp.asarray(a) for a in problem.start] for name, problem in PROBLEMS.items()}


def gradient(params, step):
    grads = jax.grad(total_loss)(params, jnp)
    return jax.tree.map(lambda g: (1.0 + 0.5 * np.cos(step)) * g, grads)


def optax_path(optimizer):
    """The parameters after each step."""
    params, state, path = start(), optimizer.init(start()), []
    update = jax.jit(optax.with_extra_args_support(optimizer).update)
    for step in range(JOINT_STEPS):
        updates, state = update(gradient(params, step), state, params, value=plateau(step))
        params = optax.apply_updates(params, updates)
        path.append(params)
    return path


def optax_lookahead():
    """The fast and the slow parameters after each step."""
    optimizer = optax.lookahead(optax.adam(0.05), 4, 0.3)
    params = optax.LookaheadParams.init_synced(start())
    state, fast, slow = optimizer.init(params), [], []
    for step in range(JOINT_STEPS):
        updates, state = optimizer.update(gradient(params.fast, step), state, params)
        params = optax.apply_updates(params, updates)
        fast.append(params.fast)
        slow.append(params.slow)
    return fast, slow


def optax_average(path, average):
    state, averages = average.init(path[0]), []
    for params in path:
        params, state = average.update(params, state)
        averages.append(params)
    return averages


def tensors():
    return {
        name: [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in problem.start]
        for name, problem in PROBLEMS.items()
    }


def torch_path(make, *, before=None, scheduler=None):
    """The parameters after each step, lists of tensors."""
    named = tensors()
    params = [p for name in sorted(named) for p in named[name]]
    optimizer, path = make(named), []
    schedule = scheduler(optimizer) if scheduler else None
    for step in range(JOINT_STEPS):
        optimizer.zero_grad()
        ((1.0 + 0.5 * np.cos(step)) * total_loss(named, torch)).backward()
        if before:
            before(params)
        if schedule:
            schedule.step(plateau(step))
        optimizer.step()
        path.append([p.detach().clone() for p in params])
    return path


def torch_momentum(named):
    return torch.optim.SGD([p for ps in named.values() for p in ps], lr=0.02, momentum=0.9)


def torch_adam(named):
    return torch.optim.Adam([p for ps in named.values() for p in ps], lr=0.05)


def torch_decayed(named):
    """Decoupled decay of the matrices alone."""
    ps = named["regression"]
    groups = [
        {"params": [ps[0], ps[2]], "weight_decay": 0.1},
        {"params": [*named["quadratic"], ps[1], ps[3], *named["rosenbrock"]], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.05)


def torch_plateau(optimizer):
    return torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=2, threshold=1e-3, cooldown=2
    )


def torch_swa(path):
    """The mean of the parameters after steps 5, 8, 11, ..., and the parameters before."""
    average, counted, averages = torch.optim.swa_utils.get_swa_avg_fn(), 0, []
    for step, params in enumerate(path, 1):
        if step <= 5:
            mean, counted = params, 1
        elif (step - 5) % 3 == 0:
            mean = [average(a, p, counted) for a, p in zip(mean, params, strict=True)]
            counted += 1
        averages.append(mean)
    return averages


def rows(path):
    """[snapshots, size]"""
    chosen = [path[step - 1] for step in JOINT_SNAPSHOTS]
    if isinstance(chosen[0], list):
        return np.stack([torch.cat([p.flatten() for p in params]).numpy() for params in chosen])
    return np.stack([ravel_pytree(params)[0] for params in chosen])


def main():
    golden = {f"optax/{name}": rows(optax_path(o)) for name, o in OPTAX.items()}
    # Made here, as without float64 enabled it would sum in float32.
    summing = optax.MultiSteps(optax.adam(0.05), 4, accumulator_dtype=jnp.float64)
    golden["optax/accumulate"] = rows(optax_path(summing))
    fast, slow = optax_lookahead()
    golden |= {"optax/lookahead": rows(fast), "optax/lookahead-average": rows(slow)}
    averages = optax_average(optax_path(optax.adam(0.05)), optax.ema(0.9))
    golden["optax/ema-average"] = rows(averages)
    adam = torch_path(torch_adam)
    golden["torch/swa-average"] = rows(torch_swa(adam))
    golden["torch/clip_by_value"] = rows(
        torch_path(torch_momentum, before=lambda ps: torch.nn.utils.clip_grad_value_(ps, 0.3))
    )
    golden["torch/decoupled_decay"] = rows(torch_path(torch_decayed))
    golden["torch/reduce_on_plateau"] = rows(torch_path(torch_adam, scheduler=torch_plateau))
    if not all(np.isfinite(a).all() for a in golden.values()):
        raise FloatingPointError("a trajectory diverged")
    versions = [f"{m.__name__} {m.__version__}" for m in (torch, optax, jax, np)]
    path = Path(__file__).with_name("transforms.npz")
    np.savez_compressed(path, versions=np.array(versions), **golden)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
