"""Golden numbers of losses: what PyTorch computes, in float64.

Run `python tests/golden/make_losses.py`; it writes `losses.npz` beside itself. It needs torch,
which the tests do not. Made with torch 2.13.0 and numpy 2.4.6; the file keeps the versions that
made it under "versions".

Each case has "case/prediction", "case/target", "case/values" [n] (`reduction="none"`, averaged
over an example's outputs where it has several), "case/gradient" of their sum, "case/mean"
(`reduction="mean"`) and "case/mean_gradient", both gradients with respect to the prediction.
"class_weight" is the weight of the classes in the cases that have one; label smoothing is 0.1 and
the ignored label -1.
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

EXAMPLES, CLASSES = 6, 5
WAVE = np.arange(EXAMPLES * CLASSES, dtype=np.float64).reshape(EXAMPLES, CLASSES)
LOGITS = 3.0 * np.sin(WAVE**1.5)
LABELS = np.arange(EXAMPLES) * 3 % CLASSES
SOME_IGNORED = np.where(np.arange(EXAMPLES) % 3 == 1, -1, LABELS)
PROBABILITIES = np.exp(2.0 * np.cos(WAVE)) / np.exp(2.0 * np.cos(WAVE)).sum(axis=1, keepdims=True)
CLASS_WEIGHT = np.array([0.5, 1.0, 2.0, 0.25, 3.0])

EXTREME = np.array(
    [
        [1e4, -1e4, 0.0, 0.0, 1.0],  # the label's logit is the largest
        [1e4, -1e4, 0.0, 0.0, 1.0],  # ... the smallest
        [1e4, 1e4 - 1.0, 0.0, 0.0, 0.0],  # close to the largest
        [7.0, 7.0, 7.0, 7.0, 7.0],
        [-1e4, -1e4, -1e4, -1e4, -1e4],
        [0.5, -np.inf, 1.0, -0.5, 0.0],
    ]
)
EXTREME_LABELS = np.array([0, 1, 1, 3, 4, 2])

WEIGHT = {"weight": torch.tensor(CLASS_WEIGHT)}
SMOOTHING = {"label_smoothing": 0.1}
IGNORE = {"ignore_index": -1}

CASES = {
    "mse": (mse_loss, LOGITS, np.cos(WAVE), {}),
    "cross_entropy": (cross_entropy, LOGITS, LABELS, {}),
    "cross_entropy-weight": (cross_entropy, LOGITS, LABELS, WEIGHT),
    "cross_entropy-smoothing": (cross_entropy, LOGITS, LABELS, SMOOTHING),
    "cross_entropy-ignore": (cross_entropy, LOGITS, SOME_IGNORED, IGNORE),
    "cross_entropy-all": (cross_entropy, LOGITS, SOME_IGNORED, WEIGHT | SMOOTHING | IGNORE),
    "cross_entropy-extreme": (cross_entropy, EXTREME, EXTREME_LABELS, {}),
    "probabilities": (cross_entropy, LOGITS, PROBABILITIES, {}),
    "probabilities-weight": (cross_entropy, LOGITS, PROBABILITIES, WEIGHT),
    "probabilities-smoothing": (cross_entropy, LOGITS, PROBABILITIES, SMOOTHING),
    "probabilities-both": (cross_entropy, LOGITS, PROBABILITIES, WEIGHT | SMOOTHING),
    "binary": (binary_cross_entropy_with_logits, LOGITS, PROBABILITIES, {}),
    "binary-extreme": (
        binary_cross_entropy_with_logits,
        np.array([[1e4, -1e4, 0.0, 40.0], [1e4, -1e4, 0.0, -40.0], [-800.0, 800.0, 1e-9, 1.0]]),
        np.array([[1.0, 0.0, 0.5, 1.0], [0.0, 1.0, 1.0, 0.25], [0.5, 0.1, 0.0, 1.0]]),
        {},
    ),
}


def with_gradient(function, prediction):
    """function(prediction) and the gradient of its sum."""
    prediction = torch.tensor(prediction, requires_grad=True)
    value = function(prediction)
    value.sum().backward()
    return value.detach().numpy(), prediction.grad.numpy()


def numbers(loss, prediction, target, options):
    labels = torch.tensor(target)

    def values(p):
        return loss(p, labels, reduction="none", **options).reshape(len(target), -1).mean(dim=1)

    def mean(p):
        return loss(p, labels, reduction="mean", **options)

    found = {"prediction": prediction, "target": target}
    found["values"], found["gradient"] = with_gradient(values, prediction)
    found["mean"], found["mean_gradient"] = with_gradient(mean, prediction)
    return found


def main():
    golden = {
        "versions": np.array([f"{m.__name__} {m.__version__}" for m in (torch, np)]),
        "class_weight": CLASS_WEIGHT,
    }
    for name, case in CASES.items():
        for key, value in numbers(*case).items():
            if key not in ("prediction", "target") and not np.isfinite(value).all():
                raise FloatingPointError(f"{name}/{key} is not finite: {value}")
            golden[f"{name}/{key}"] = value
    np.savez_compressed(Path(__file__).with_name("losses.npz"), **golden)


if __name__ == "__main__":
    main()
