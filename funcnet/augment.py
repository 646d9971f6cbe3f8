"""Augmentation: what a batch goes through in training, each time with other noise.

A transform is a function `(key, batch) -> batch` of supervised batches, `(x, y)` or
`(x, y, weight)`, whose numbers are leaves. Any function of that form is one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from funcnet.layers.linear import check_inexact
from funcnet.layers.shape import check_array, stateless
from funcnet.losses.common import check_range, one_hot
from funcnet.pairs import Network, Task, check_count, fix, number, partial
from funcnet.task import unpack


def transformed(key, batch, transforms):
    """What remains of the key, and the batch after all transforms, each with a key of its own."""
    if key is None:
        raise ValueError("augmented draws noise in training: pass key=, or train=False")
    key, *keys = jax.random.split(key, 1 + len(transforms))
    for transform, transform_key in zip(transforms, keys, strict=True):
        batch = transform(transform_key, batch)
    return key, batch


def augmented_loss(params, state, batch, *, key=None, train=False, loss, transforms):
    if train:
        key, batch = transformed(key, batch, transforms)
    return loss(params, state, batch, key=key, train=train)


def augmented(task: Task, *transforms: Callable[..., Any]) -> Task:
    """The task whose batches go through the transforms, in their order, in training alone.

    Each transform has a key of its own, drawn from the step's, so an example is changed otherwise
    in each epoch and alike when a run is repeated. In evaluation batches are as they come.
    """
    if not isinstance(task, Task):
        raise TypeError(f"augmented expects a Task, such as supervised(network, loss), got {task}")
    bound = tuple(partial(transform) for transform in transforms)
    return Task(
        partial(task.init), Partial(augmented_loss, loss=partial(task.loss), transforms=bound)
    )


def each(key, batch, *, function):
    x, target, weight = unpack(batch)
    x = jax.vmap(function)(jax.random.split(key, len(jax.tree.leaves(x)[0])), x)
    return (x, target) if weight is None else (x, target, weight)


def per_example(function: Callable[..., Any]) -> Partial:
    """The transform of a function `(key, x) -> x` of one example's x, for each its own key."""
    return Partial(each, function=partial(function))


def check_image(name, image):
    if image.ndim < 2:
        raise ValueError(
            f"{name} expects images [n, height, width, ...], got x of shape [n, "
            f"{', '.join(map(str, image.shape))}]"
        )


def crop(key, image, *, padding):
    check_image("random_crop", image)
    rest = image.ndim - 2
    padded = jnp.pad(image, [(padding, padding)] * 2 + [(0, 0)] * rest)
    row, column = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    return lax.dynamic_slice(padded, (row, column) + (0,) * rest, image.shape)


def random_crop(padding: int) -> Partial:
    """Each image with a border of `padding` zeros, cut to its size at a place drawn uniformly.

    x: [n, height, width, ...]; `padding` is static.
    """
    return per_example(fix(crop, padding=check_count("padding", padding, 0)))


def flip(key, image, *, probability):
    check_image("horizontal_flip", image)
    return jnp.where(
        jax.random.bernoulli(key, jnp.asarray(probability, jnp.float32)), image[:, ::-1], image
    )


def horizontal_flip(probability: float = 0.5) -> Partial:
    """Each image, with that probability, from right to left. x: [n, height, width, ...]."""
    probability = number("probability", probability, 0.0, 1.0)
    return per_example(Partial(flip, probability=probability))


def cut(key, image, *, size):
    check_image("cutout", image)
    shape = image.shape[:2]
    first = jax.random.randint(key, (2,), 0, jnp.array(shape)) - size // 2
    rows, columns = (jnp.arange(n) - start for n, start in zip(shape, first, strict=True))
    inside = [(place >= 0) & (place < size) for place in (rows, columns)]
    hole = inside[0][:, None] & inside[1]
    return jnp.where(hole.reshape(shape + (1,) * (image.ndim - 2)), 0, image)


def cutout(size: int) -> Partial:
    """Each image with a square of `size` x `size` zeros around a pixel drawn uniformly; what lies
    beyond the border is lost (DeVries & Taylor 2017).

    x: [n, height, width, ...], best centred, so that 0 is the mean; `size` is static.
    """
    return per_example(fix(cut, size=check_count("size", size, 1)))


def noise(key, x, *, std):
    check_inexact("gaussian_noise", x)
    return x + jnp.asarray(std, x.dtype) * jax.random.normal(key, x.shape, x.dtype)


def gaussian_noise(std: float) -> Partial:
    """x + std * e, e drawn from the standard normal distribution for each element."""
    return per_example(Partial(noise, std=number("std", std, 0.0)))


def distributions(target, classes, dtype):
    """Integer labels as one-hot distributions; floats as they are."""
    if jnp.issubdtype(target.dtype, jnp.floating):
        return target
    if classes is None:
        raise ValueError("mixup makes distributions of integer labels: give it classes=")
    check_range("mixup", target, classes)
    hot, factor = one_hot(target, classes, dtype)
    return factor[..., None] * hot


def mix(key, batch, *, alpha, classes):
    x, target, weight = unpack(batch)
    check_inexact("mixup", x)
    if weight is not None:
        raise ValueError("mixup expects batches (x, y), got weights too: no mixture has one")
    drawn = jnp.where(alpha == 0.0, 1.0, alpha)
    share = jnp.where(alpha == 0.0, 1.0, jax.random.beta(key, drawn, drawn))

    def mixed(values):
        part = share.astype(values.dtype)
        return part * values + (1.0 - part) * jnp.roll(values, 1, axis=0)

    return mixed(x), mixed(distributions(target, classes, x.dtype))


def mixup(alpha: float, *, classes: int | None = None) -> Partial:
    """c x_i + (1 - c) x_{i-1}, and so for the targets, with one c a batch drawn from
    Beta(alpha, alpha) (Zhang et al. 2018).

    Integer labels [n] become distributions [n, classes], which `cross_entropy` and `accuracy` take;
    floats, distributions or numbers, are mixed as they are. Each example is mixed with the one
    before it in the batch, as good as any other in a batch that is drawn at random. alpha is a
    leaf; 0 mixes nothing, and the gradient for it is right in the mean over keys. Raises
    `ValueError` for batches with weights; a label that is no class becomes NaN where it is traced.
    """
    if classes is not None:
        classes = check_count("classes", classes, 2)
    return Partial(fix(mix, classes=classes), alpha=number("alpha", alpha, 0.0))


def normalise_apply(params, state, x, *, key=None, train=False, mean, std):
    check_array("normalise", x)
    x = jnp.asarray(x)
    x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)
    mean, std = jnp.asarray(mean, x.dtype), jnp.asarray(std, x.dtype)
    for name, value in (("mean", mean), ("std", std)):
        sizes = zip(value.shape[::-1], x.shape[:0:-1], strict=False)
        if value.ndim >= x.ndim or not all(size in (1, n) for size, n in sizes):
            raise ValueError(
                f"normalise's {name} of shape {value.shape} does not fit x of shape {x.shape}"
            )
    return (x - mean) / jnp.where(std == 0.0, 1.0, std), state


def normalise(mean: Any, std: Any) -> Network:
    """(x - mean) / std, as a network's first layer, in training and evaluation; integers, such as
    an image's bytes, become float32.

    mean, std: numbers or arrays that broadcast against an example, such as one a channel, and
    leaves. Where std is 0, as in a constant pixel, it counts as 1.
    """
    return stateless(
        Partial(normalise_apply, mean=number("mean", mean), std=number("std", std, 0.0))
    )
