"""Golden numbers of the matrix optimizers, in float64: Optax's and PyTorch's Muon, and Shampoo and
SOAP as loops in NumPy, straight from the equations, with PyTorch's gradients.

Run `python tests/golden/make_matrix.py`; it writes `matrix.npz` beside itself. It needs torch and
optax, which the tests do not. Made with torch 2.13.0, optax 0.2.8, jax 0.10.2 and numpy 2.4.6; the
file keeps the versions that made it under "versions".

Keys are "source/optimizer[-variant]/shape", with the flat parameters after the steps
`problems.SNAPSHOTS`, [snapshots, size]. "torch64" is PyTorch's Muon without its cast to bfloat16.
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
from matrix_problems import SHAPES, regression, start, warm
from problems import SNAPSHOTS, STEPS

MUON = functools.partial(optax.contrib.muon, 0.02)
OPTAX = {
    "muon": MUON(weight_decay=0.1),
    "muon-plain": MUON(nesterov=False, eps=1e-2),
    "muon-consistent_rms": MUON(beta=0.8, consistent_rms=0.2, ns_steps=3, eps=1e-2),
    "muon-coefficients": MUON(ns_coeffs=(2.0, -1.5, 0.5)),
}
TORCH = {
    "muon": {"lr": 0.02},
    "muon-plain": {"lr": 0.02, "nesterov": False, "weight_decay": 0.0},
    "muon-match_rms": {"lr": 0.02, "adjust_lr_fn": "match_rms_adamw", "momentum": 0.8, "eps": 0.5},
}


def optax_path(optimizer, shape):
    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(regression)(params, jnp), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), ravel_pytree(params)[0]

    params = start(shape, jnp)
    carry = params, optimizer.init(params)
    return np.asarray(jax.jit(lambda c: jax.lax.scan(step, c, length=STEPS))(carry)[1])


def torch_path(numbers, shape):
    """Of PyTorch's layout, [fan_out, fan_in]: the transposes are the parameters."""
    params = [w.T.clone().requires_grad_() for w in start(shape, torch)]
    optimizer, path = torch.optim.Muon(params, **numbers), []
    for _ in range(STEPS):
        optimizer.zero_grad()
        regression([w.T for w in params], torch).backward()
        optimizer.step()
        path.append(torch.cat([w.detach().T.flatten() for w in params]).numpy())
    return np.stack(path)


def gradient(params):
    params = [torch.tensor(w, requires_grad=True) for w in params]
    return [g.numpy() for g in torch.autograd.grad(regression(params, torch), params)]


def loop(rule):
    """The path of a loop whose `rule(params, memory, t)` changes both, t = 1 first."""

    def path(shape):
        params, memory, rows = start(shape, np), [{} for _ in SHAPES[shape]], []
        for t in range(1, STEPS + 1):
            params = [
                rule(w, g, m, t, k)
                for k, (w, g, m) in enumerate(zip(params, gradient(params), memory, strict=True))
            ]
            rows.append(np.concatenate([w.ravel() for w in params]))
        return np.stack(rows)

    return path


def inverse_power(matrix, exponent):
    u, s, _ = np.linalg.svd(matrix)
    return u @ np.diag(s**-exponent) @ u.T


def gupta_2018(w, g, memory, t, k, rate=0.1, eps=0.01, decay=None, every=1, exponent=0.25, mu=0.0):
    """L_t = L_{t-1} + G G^T from eps I, or an average of the G G^T without its bias, plus eps I."""
    sides = {"left": g @ g.T, "right": g.T @ g}
    for side, gram in sides.items():
        old = memory.get(side, np.zeros_like(gram))
        memory[side] = new = old + gram if decay is None else decay * old + (1 - decay) * gram
        if (t - 1) % every == 0:
            new = new if decay is None else new / (1 - decay**t)
            memory[f"root {side}"] = inverse_power(new + eps * np.eye(len(gram)), exponent)
    u = memory["root left"] @ g @ memory["root right"]
    memory["velocity"] = mu * memory.get("velocity", 0.0) + u
    return w - rate * memory["velocity"]


def vyas_2024(
    w, g, memory, t, k, rate=0.03, b1=0.9, b2=0.95, b3=0.8, eps=1e-3, decay=0.1, every=3, limit=99,
    warmed=False,
):  # fmt: skip
    """Steps count from the second one; the first sets the basis up, or `warm` does before it."""
    t = t if warmed else t - 1
    sides = [(g @ g.T, w.shape[0]), (g.T @ g, w.shape[1])]
    keep = [size <= limit for _, size in sides]
    if not memory:
        memory |= {"m": np.zeros_like(g), "v": np.zeros_like(g)}
        memory["A"] = [np.zeros((size, size)) for _, size in sides]
        memory["Q"] = [np.eye(size) for _, size in sides]
        if warmed:
            pairs = [warm(size, k, np) for _, size in sides]
            memory["A"], memory["Q"] = (list(x) for x in zip(*pairs, strict=True))
    if t > 0:
        left, right = memory["Q"]
        memory["m"] = b1 * memory["m"] + (1 - b1) * g  # kept in the parameters' own basis
        memory["v"] = b2 * memory["v"] + (1 - b2) * (left.T @ g @ right) ** 2
        step = left.T @ memory["m"] @ right / (np.sqrt(memory["v"]) + eps)
        size = rate * math.sqrt(1 - b2**t) / (1 - b1**t)
        w = w - size * (left @ step @ right.T)
        w = w - rate * decay * w
    for i, (gram, _) in enumerate(sides):
        memory["A"][i] = b3 * memory["A"][i] + (1 - b3) * gram
        if keep[i] and t == 0:
            memory["Q"][i] = np.linalg.eigh(memory["A"][i])[1][:, ::-1]
        elif keep[i] and t % every == 0:
            q = memory["Q"][i]
            order = np.argsort(-np.diag(q.T @ memory["A"][i] @ q))
            memory["Q"][i] = np.linalg.qr(memory["A"][i] @ q[:, order])[0]
            memory["v"] = np.take(memory["v"], order, axis=i)
    return w


PAPERS = {
    "shampoo": gupta_2018,
    "shampoo-average": functools.partial(gupta_2018, rate=0.03, decay=0.9, every=4, eps=1e-4),
    "shampoo-momentum": functools.partial(gupta_2018, rate=0.05, mu=0.8, exponent=0.4),
}
# A longer side's Gram matrix has, after one step, eigenvectors of 0 that are arbitrary: of the
# rectangular matrices the first takes the shorter sides, the second starts from `warm`.
SOAP = {
    "soap": functools.partial(vyas_2024, limit=4),
    "soap-warmed": functools.partial(vyas_2024, warmed=True),
}


def main():
    golden = {
        "versions": np.array([f"{m.__name__} {m.__version__}" for m in (torch, optax, jax, np)])
    }
    for shape in SHAPES:
        for name, optimizer in OPTAX.items():
            golden[f"optax/{name}/{shape}"] = optax_path(optimizer, shape)
        for name, numbers in TORCH.items():
            golden[f"torch/{name}/{shape}"] = torch_path(numbers, shape)
        for name, rule in (PAPERS | SOAP).items():
            golden[f"paper/{name}/{shape}"] = loop(rule)(shape)
    torch.Tensor.bfloat16 = torch.Tensor.clone
    for shape in SHAPES:
        for name, numbers in TORCH.items():
            golden[f"torch64/{name}/{shape}"] = torch_path(numbers, shape)
    rows = np.array(SNAPSHOTS) - 1
    golden = {key: a if key == "versions" else a[rows] for key, a in golden.items()}
    if not all(np.isfinite(a).all() for key, a in golden.items() if key != "versions"):
        raise FloatingPointError("a trajectory diverged")
    np.savez_compressed(Path(__file__).with_name("matrix.npz"), **golden)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
