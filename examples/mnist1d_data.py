"""MNIST-1D: ten digits as noisy signals of 40 numbers, drawn anew from a seed.

The procedure and its constants are those of S. Greydanus and D. Kobak, "Scaling down deep learning
with MNIST-1D" (ICML 2024): a template of 12 points is padded, stretched, scaled, shifted round,
laid over correlated noise, sheared and sampled at 40 points. The random numbers are NumPy's, so the
examples differ from the published ones, and their distribution does not.
"""

import numpy as np

TEMPLATES = np.array(
    [
        [5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5],
        [5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5],
        [5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5],
        [5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5],
        [5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5],
        [5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5],
        [5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5],
        [5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5],
        [5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5],
        [5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5],
    ]
)
"""The heights of the ten digits, each from left to right."""


def templates():
    """[10, 12]: each digit with a standard deviation of 1/6, and its first point at 0."""
    heights = TEMPLATES / TEMPLATES.std(axis=1, keepdims=True)
    return (heights - heights[:, :1]) / 6


def interpolate(x, places):
    """The values of each row of x [n, T] at its real-valued places [n, k], along straight lines."""
    left = np.minimum(places.astype(int), x.shape[1] - 2)
    part = places - left
    before, after = (np.take_along_axis(x, i, axis=1) for i in (left, left + 1))
    return (1 - part) * before + part * after


def smooth(noise, width=2.0):
    """Each row convolved with a Gaussian of a standard deviation of `width`, cut at four of them;
    beyond its ends a row goes on as its mirror image."""
    radius = int(4 * width + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / width) ** 2)
    mirrored = np.pad(noise, ((0, 0), (radius, radius)), mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(mirrored, len(kernel), axis=1)
    return windows @ (kernel / kernel.sum())


def signals(
    labels,
    random,
    *,
    padding=(36, 60),
    scale=0.4,
    translation=48,
    correlated_noise=0.25,
    noise=0.02,
    shear=0.75,
    length=40,
):
    """A signal for each label, [n, length], by the random numbers of a NumPy generator.

    Its 12 points and `padding` zeros are stretched over 12 + max(padding) places, scaled by
    1 ± scale / 2 and shifted round by less than `translation` places. Correlated noise fills what
    was padded, white noise comes upon all, and a line of slope ± shear / 2 is taken off.
    """
    n, points = len(labels), TEMPLATES.shape[1]
    size = points + padding[1]
    padded = np.pad(templates()[labels], ((0, 0), (0, padding[1])))
    ends = points - 1 + random.integers(padding[0], padding[1], size=(n, 1), endpoint=True)
    shifts = random.integers(translation, size=(n, 1))
    places = (np.arange(size) - shifts) % size * ends / (size - 1)
    x = interpolate(padded, places) * (1 + scale * (random.random((n, 1)) - 0.5))
    background = smooth(correlated_noise * random.standard_normal((n, size)))
    x = np.where(places < points, x, background) + noise * random.standard_normal((n, size))
    x -= shear * (random.random((n, 1)) - 0.5) * np.linspace(-0.5, 0.5, size)
    return interpolate(x, np.tile(np.linspace(0, size - 1, length), (n, 1)))


def mnist1d(seed=42, examples=5000, train=0.8, **choices):
    """(x, label) to train on and (x, label) to test on, x float32 [n, 40] and as many of each digit
    in all; x has mean 0 and standard deviation 1 over everything. `choices` are `signals`'."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(examples, dtype=np.int32) % 10)
    x = signals(labels, random, **choices)
    x = ((x - x.mean()) / x.std()).astype(np.float32)
    split = round(train * examples)
    return (x[:split], labels[:split]), (x[split:], labels[split:])
