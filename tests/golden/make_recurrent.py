"""Golden numbers of recurrent layers: what PyTorch computes, in float64.

Run `python tests/golden/make_recurrent.py`; it writes `recurrent.npz` beside itself. It needs
torch, which the tests do not. Made with torch 2.13.0 and numpy 2.4.6; the file keeps the versions
that made it under "versions".

Each case has "case/params/name" for each of PyTorch's parameters, "case/x" [n, T, features] and
"case/y", a cotangent "case/dy", and with it "case/grads/name" and "case/dx". "case/mask" is true
where there is a step; the cases that have fewer are packed, and y is 0 elsewhere. "case/last" is
the last carry: h, and c of an LSTM, each [layers * directions, n, hidden].
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

N, LENGTH, FEATURES, HIDDEN = 3, 5, 2, 3
LENGTHS = torch.tensor([3, 5, 1])
CASES = {
    "rnn-single": (torch.nn.RNN, {}, False),
    "gru-single": (torch.nn.GRU, {}, False),
    "lstm-packed": (torch.nn.LSTM, {}, True),
    "rnn-bidirectional": (torch.nn.RNN, {"bidirectional": True}, False),
    "lstm-stacked": (torch.nn.LSTM, {"num_layers": 2}, False),
    "gru-all": (torch.nn.GRU, {"num_layers": 2, "bidirectional": True}, True),
}


def wave(shape, start):
    """Numbers that look random and are the same everywhere."""
    return torch.tensor(np.sin(start + np.arange(np.prod(shape)) ** 1.5).reshape(shape))


def numbers(kind, options, packed):
    module = kind(FEATURES, HIDDEN, batch_first=True, dtype=torch.float64, **options)
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            parameter.copy_(wave(tuple(parameter.shape), index + 1.0))
    x = wave((N, LENGTH, FEATURES), 0.5).requires_grad_()
    if packed:
        mask = torch.arange(LENGTH) < LENGTHS[:, None]
        y, last = module(pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False))
        y, _ = pad_packed_sequence(y, batch_first=True)
    else:
        mask = torch.ones(N, LENGTH, dtype=torch.bool)
        y, last = module(x)
    dy = wave(tuple(y.shape), 0.7)
    y.backward(dy)
    last = torch.stack(last if isinstance(last, tuple) else (last,))
    found = {"x": x, "y": y, "dy": dy, "dx": x.grad, "mask": mask, "last": last}
    for name, parameter in module.named_parameters():
        found[f"params/{name}"], found[f"grads/{name}"] = parameter, parameter.grad
    return {name: value.detach().numpy() for name, value in found.items()}


def main():
    golden = {"versions": np.array([f"{m.__name__} {m.__version__}" for m in (torch, np)])}
    for name, case in CASES.items():
        for key, value in numbers(*case).items():
            if not np.isfinite(value).all():
                raise FloatingPointError(f"{name}/{key} is not finite: {value}")
            golden[f"{name}/{key}"] = value
    np.savez_compressed(Path(__file__).with_name("recurrent.npz"), **golden)


if __name__ == "__main__":
    main()
