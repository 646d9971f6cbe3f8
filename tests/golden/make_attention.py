"""Golden numbers of attention: what PyTorch computes, in float64.

Run `python tests/golden/make_attention.py`; it writes `attention.npz` beside itself. It needs
torch, which the tests do not. Made with torch 2.13.0 and numpy 2.4.6; the file keeps the versions
that made it under "versions".

Each case has "case/params/name" for each of PyTorch's parameters, "case/x" and "case/y"
[n, T, features], a cotangent "case/dy", and with it "case/grads/name" and "case/dx". "case/mask" is
true where there is a step; dy is 0 elsewhere, and there are such in "padding" only.
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn import MultiheadAttention, TransformerEncoderLayer

N, LENGTH, FEATURES, HEADS, HIDDEN = 2, 5, 6, 3, 8
FUTURE = torch.triu(torch.ones(LENGTH, LENGTH, dtype=torch.bool), diagonal=1)
THERE = torch.tensor([[True, True, True, False, False], [False, True, True, True, True]])


def wave(shape, start):
    """Numbers that look random and are the same everywhere."""
    return torch.tensor(np.sin(start + np.arange(np.prod(shape)) ** 1.5).reshape(shape))


def causal(module, x):
    return module(x, x, x, attn_mask=FUTURE, need_weights=False)[0]


def padding(module, x):
    return module(x, x, x, key_padding_mask=~THERE, need_weights=False)[0]


def block(module, x):
    return module(x, src_mask=FUTURE)


def heads():
    return MultiheadAttention(FEATURES, HEADS, batch_first=True, dtype=torch.float64)


def layer():
    return TransformerEncoderLayer(
        FEATURES,
        HEADS,
        HIDDEN,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=True,
        dtype=torch.float64,
    )


def numbers(module, forward, there):
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            parameter.copy_(wave(tuple(parameter.shape), index + 1.0))
    x = wave((N, LENGTH, FEATURES), 0.5).requires_grad_()
    dy = wave((N, LENGTH, FEATURES), 0.7) * there[..., None]
    y = forward(module, x)
    y.backward(dy)
    found = {"x": x.detach(), "y": y.detach(), "dy": dy, "dx": x.grad, "mask": there}
    for name, parameter in module.named_parameters():
        found[f"params/{name}"], found[f"grads/{name}"] = parameter.detach(), parameter.grad
    return {name: value.numpy() for name, value in found.items()}


def main():
    golden = {"versions": np.array([f"{m.__name__} {m.__version__}" for m in (torch, np)])}
    everywhere = torch.ones_like(THERE)
    for forward, module, there in (
        (causal, heads(), everywhere),
        (padding, heads(), THERE),
        (block, layer(), everywhere),
    ):
        for key, value in numbers(module, forward, there).items():
            if not np.isfinite(value).all():
                raise FloatingPointError(f"{forward.__name__}/{key} is not finite: {value}")
            golden[f"{forward.__name__}/{key}"] = value
    np.savez_compressed(Path(__file__).with_name("attention.npz"), **golden)


if __name__ == "__main__":
    main()
