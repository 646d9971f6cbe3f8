"""Golden numbers of a residual network: what PyTorch computes, in float64.

Run `python tests/golden/make_networks.py`; it writes `networks.npz` beside itself. It needs torch,
which the tests do not. Made with torch 2.13.0 and numpy 2.4.6; the file keeps the versions that
made it under "versions".

The network is the CIFAR ResNet of depth 14 with 2, 4 and 8 features, in training mode. "x" and
"labels" are a batch, channels first; "parameters" are PyTorch's in the order of `parameters()`,
raveled and joined, "gradients" those of the mean cross-entropy, "logits" the outputs, "dx" the
input's gradient, "statistics" the running means and variances after that one batch in the order of
`buffers()`, and "evaluated" the logits in evaluation mode then.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, fan_in, fan_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(fan_out)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(fan_out)
        self.stride, self.new = stride, fan_out - fan_in

    def forward(self, x):
        y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return functional.relu(y + functional.pad(shortcut, (0, 0, 0, 0, 0, self.new)))


class ResNet(nn.Module):
    def __init__(self, features, blocks):
        super().__init__()
        self.conv = nn.Conv2d(3, features[0], 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(features[0])
        layers, fan_in = [], features[0]
        for fan_out in features:
            for index in range(blocks):
                layers.append(Block(fan_in, fan_out, 2 if fan_out > fan_in and not index else 1))
                fan_in = fan_out
        self.blocks = nn.Sequential(*layers)
        self.last = nn.Linear(fan_in, 5)

    def forward(self, x):
        x = functional.relu(self.norm(self.conv(x)))
        return self.last(self.blocks(x).mean(dim=(2, 3)))


def joined(tensors):
    return np.concatenate([t.detach().numpy().ravel() for t in tensors])


def main():
    torch.manual_seed(0)
    net = ResNet((2, 4, 8), 2).double()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(6, 3, 8, 10, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(6) % 5
    logits = net(x)
    functional.cross_entropy(logits, labels).backward()
    statistics = [b for b in net.buffers() if b.ndim]
    golden = {
        "versions": np.array([f"{m.__name__} {m.__version__}" for m in (torch, np)]),
        "x": x.detach().numpy(),
        "labels": labels.numpy(),
        "parameters": joined(net.parameters()),
        "gradients": joined(p.grad for p in net.parameters()),
        "logits": logits.detach().numpy(),
        "dx": x.grad.numpy(),
        "statistics": joined(statistics),
        "evaluated": net.eval()(x).detach().numpy(),
    }
    np.savez_compressed(Path(__file__).with_name("networks.npz"), **golden)


if __name__ == "__main__":
    main()
