"""Golden numbers of losses: what PyTorch computes, in float64.

Run `python tests/golden/make_losses.py`; it writes `losses.npz` beside itself. It needs torch,
which the tests do not. Made with torch 2.13.0 and numpy 2.4.6; the file keeps the versions that
made it under "versions".

Each case has "case/prediction", "case/target", "case/values" [n] (`reduction="none"`, averaged
over an example's outputs where it has several), "case/gradient" of their sum, "case/mean"
(`reduction="mean"`) and "case/mean_gradient", both gradients with respect to the prediction.
"class_weight" is the weight of the classes in the cases that have one; label smoothing is 0.1 and
the ignored label -1. The cases of ROWS have no mean; "ctc/mask" [n, T] is true where there is a
step. What PyTorch does not have is written in its terms: focal and dice losses and InfoNCE.
"""

import functools
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cosine_similarity,
    cross_entropy,
    ctc_loss,
    gaussian_nll_loss,
    huber_loss,
    kl_div,
    l1_loss,
    log_softmax,
    margin_ranking_loss,
    mse_loss,
    multi_margin_loss,
    normalize,
    poisson_nll_loss,
    triplet_margin_loss,
)

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

HARD = (np.cos(WAVE) > 0.3).astype(np.float64)
KINKS = np.where(np.arange(CLASSES) < 2, np.cos(WAVE), LOGITS) + np.array([0.5, -0.5, 0, 0, 0])
DISTRIBUTIONS = np.concatenate([PROBABILITIES[:4], np.eye(CLASSES)[[1]], [[0.5, 0, 0.5, 0, 0]]])
COUNTS = np.arange(EXAMPLES * CLASSES).reshape(EXAMPLES, CLASSES) % 4.0
FAR = np.array([[1e4, -1e4, 0.0, 40.0, -40.0], [-1e4, 1e4, 0.0, -800.0, 1.0]])
FAR_HARD = np.array([[1.0, 0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0, 0.0]])
VECTORS = np.concatenate([LOGITS[:4], np.zeros((1, CLASSES)), 1e-7 * LOGITS[5:]])
TRIPLES = 3.0 * np.sin(np.arange(EXAMPLES * 3 * 4).reshape(EXAMPLES, 3, 4) ** 1.5)
TRIPLES[2, 1] = TRIPLES[2, 0]  # an anchor that is its positive
PAIRS = np.stack([LOGITS, LOGITS + 2.0 * np.cos(WAVE)], axis=1)
SPEECH = 3.0 * np.sin(np.arange(EXAMPLES * 7 * CLASSES).reshape(EXAMPLES, 7, CLASSES) ** 1.5)
SPEECH[5, ::2] = 1e4 * np.sign(SPEECH[5, ::2])
LENGTHS = np.array([7, 5, 7, 1, 3, 7])
READINGS = np.array([[1, 2, 3], [4, 4, -1], [2, 2, 2], [-1, -1, -1], [1, 3, -1], [4, 1, 4]])


def outputs(values):
    return values.reshape(len(values), -1).mean(dim=1)


def elementwise(loss, **options):
    """The mean over an example's outputs of one of PyTorch's losses."""
    return lambda p, t: outputs(loss(p, target=t, reduction="none", **options))


def hinge(p, t):
    return outputs(margin_ranking_loss(p, torch.zeros_like(p), t, 0.7, reduction="none"))


def kl_divergence(p, t):
    return kl_div(log_softmax(p, -1), t, reduction="none").sum(-1)


def focal(p, t, gamma):
    surprise = cross_entropy(p, t, reduction="none")
    return (1.0 - torch.exp(-surprise)) ** gamma * surprise


def binary_focal(p, t, gamma, alpha):
    surprise = binary_cross_entropy_with_logits(p, t, reduction="none")
    p_t = torch.sigmoid(torch.where(t == 1.0, p, -p))
    a_t = alpha * t + (1.0 - alpha) * (1.0 - t)
    return outputs(a_t * (1.0 - p_t) ** gamma * surprise)


def dice(p, t, smooth):
    p = torch.sigmoid(p)
    return 1.0 - (2.0 * (p * t).sum(1) + smooth) / ((p + t).sum(1) + smooth)


def gaussian_nll(p, t, eps=1e-6):
    mean, log_variance = p.chunk(2, dim=-1)
    variance = torch.exp(log_variance)
    return outputs(gaussian_nll_loss(mean, t, variance, eps=eps, reduction="none"))


def cosine_distance(p, t):
    return 1.0 - cosine_similarity(p, t, dim=-1)


def triplet(p, t):
    return triplet_margin_loss(p[:, 0], p[:, 1], p[:, 2], margin=0.5, reduction="none")


def info_nce(p, t):
    similarity = normalize(p[:, 0], dim=-1) @ normalize(p[:, 1], dim=-1).T / 0.3
    return cross_entropy(similarity, torch.arange(len(p)), reduction="none")


def ctc(p, t):
    log_p, lengths = log_softmax(p, -1).transpose(0, 1), torch.tensor(LENGTHS)
    return ctc_loss(log_p, t.clamp(min=0), lengths, (t >= 0).sum(1), reduction="none")


ROWS = {
    "mae": (elementwise(l1_loss), KINKS, np.cos(WAVE)),
    "huber": (elementwise(huber_loss, delta=0.5), KINKS, np.cos(WAVE)),
    "hinge": (hinge, LOGITS, 2.0 * HARD - 1.0),
    "multi_margin": (elementwise(multi_margin_loss, margin=0.7), LOGITS, LABELS),
    "multi_margin-extreme": (
        elementwise(multi_margin_loss, margin=1.0),
        EXTREME[:5],
        EXTREME_LABELS[:5],
    ),
    "kl": (kl_divergence, LOGITS, DISTRIBUTIONS),
    "kl-extreme": (kl_divergence, EXTREME[:5], DISTRIBUTIONS[1:]),
    "focal": (functools.partial(focal, gamma=1.5), LOGITS, LABELS),
    "focal-extreme": (functools.partial(focal, gamma=2.0), EXTREME[:5], EXTREME_LABELS[:5]),
    "binary_focal": (functools.partial(binary_focal, gamma=1.5, alpha=0.3), LOGITS, HARD),
    "binary_focal-extreme": (functools.partial(binary_focal, gamma=2.0, alpha=0.5), FAR, FAR_HARD),
    "dice": (functools.partial(dice, smooth=0.5), LOGITS, HARD),
    "dice-extreme": (functools.partial(dice, smooth=1.0), FAR, np.zeros_like(FAR)),
    "poisson": (elementwise(poisson_nll_loss), LOGITS, COUNTS),
    "gaussian": (gaussian_nll, np.concatenate([LOGITS, KINKS], axis=1), np.cos(WAVE)),
    "cosine": (cosine_distance, VECTORS, np.cos(WAVE)),
    "triplet": (triplet, TRIPLES, np.zeros(EXAMPLES)),
    "info_nce": (info_nce, PAIRS, np.zeros(EXAMPLES)),
    "ctc": (ctc, SPEECH, READINGS),
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
    for name, (loss, prediction, target) in ROWS.items():
        loss = functools.partial(loss, t=torch.tensor(target))
        values, gradient = with_gradient(loss, prediction)
        if not (np.isfinite(values).all() and np.isfinite(gradient).all()):
            raise FloatingPointError(f"{name} is not finite: {values}, {gradient}")
        found = {"prediction": prediction, "target": target, "values": values, "gradient": gradient}
        golden |= {f"{name}/{key}": value for key, value in found.items()}
    golden["ctc/mask"] = np.arange(SPEECH.shape[1]) < LENGTHS[:, None]
    np.savez_compressed(Path(__file__).with_name("losses.npz"), **golden)


if __name__ == "__main__":
    main()
