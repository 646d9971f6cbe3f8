"""Well-known networks, each a few lines of the library's own layers: read them, copy them, change
them."""

from jax.nn import initializers

from funcnet.combine import parallel, repeat, residual, serial, tied_embedding
from funcnet.layers.activation import relu, tanh
from funcnet.layers.conv import conv
from funcnet.layers.linear import dense
from funcnet.layers.norm import batch_norm, layer_norm
from funcnet.layers.pool import average_pool, global_average_pool, subsample
from funcnet.layers.position import learned_positions, small_normal
from funcnet.layers.shape import add, flatten, shaped, tokens
from funcnet.layers.window import sizes
from funcnet.pairs import Network
from funcnet.transformer import transformer_block

he_normal = initializers.he_normal()
"""Var(w) = 2 / fan_in (He et al. 2015): keeps the mean square through convolution and ReLU."""


def lenet(classes: int = 10, channels: int = 1) -> Network:
    """LeNet-5 (LeCun et al. 1998) for images [n, 28, 28, channels], logits [n, classes].

    As commonly given today: plain average pooling, every filter sees every feature, and the last
    layer is linear rather than made of radial basis functions. 61,706 parameters with one channel
    and ten classes.
    """
    return serial(
        *(conv(channels, 6, (5, 5)), tanh, average_pool((2, 2))),
        *(conv(6, 16, (5, 5), padding="valid"), tanh, average_pool((2, 2))),
        *(flatten, dense(400, 120), tanh, dense(120, 84), tanh, dense(84, classes)),
    )


def plain_conv(fan_in: int, fan_out: int, stride: int = 1) -> Network:
    """A 3x3 convolution for batch norm to follow, hence without bias."""
    return conv(
        fan_in, fan_out, (3, 3), stride=stride, padding=1, weight_init=he_normal, bias_init=None
    )


def resnet_branch(fan_in: int, fan_out: int, stride: int) -> Network:
    """Two 3x3 convolutions with batch norm, ReLU between them."""
    return serial(
        *(plain_conv(fan_in, fan_out, stride), batch_norm(fan_out), relu),
        *(plain_conv(fan_out, fan_out), batch_norm(fan_out)),
    )


def resnet(
    depth: int = 20, classes: int = 10, channels: int = 3, features: tuple[int, ...] = (16, 32, 64)
) -> Network:
    """The CIFAR ResNets (He et al. 2016, section 4.2) of depth 6 m + 2: 20, 32, 44, 56, 110.

    x: [n, height, width, channels], logits: [n, classes]. Three stages of m blocks with so many
    features; the first block of the second and third halves both spatial axes. Shortcuts have no
    parameters: every second position, and zeros for new features (the paper's option A). Depth 20
    has 269,722 parameters.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise ValueError(f"resnet expects a depth of 6 m + 2, such as 20 or 32, got {depth}")
    if len(features) != 3 or len(set(features)) < 3:
        raise ValueError(f"resnet expects three different numbers of features, got {features}")
    first, _, last = features
    layers = [plain_conv(channels, first), batch_norm(first), relu]
    fan_in = first
    for fan_out in features:
        same = serial(residual(resnet_branch(fan_out, fan_out, 1)), relu)
        if fan_out == fan_in:
            layers.append(repeat(same, blocks))
            continue
        down = parallel(resnet_branch(fan_in, fan_out, 2), subsample(2, fan_out))
        layers += [down, add, relu]
        if blocks > 1:
            layers.append(repeat(same, blocks - 1))
        fan_in = fan_out
    return serial(*layers, global_average_pool, dense(last, classes))


def vit(
    shape: tuple[int, int] = (32, 32),
    patch: tuple[int, int] = (4, 4),
    classes: int = 10,
    channels: int = 3,
    *,
    features: int = 192,
    depth: int = 9,
    heads: int = 3,
    dropout: float | None = None,
) -> Network:
    """A vision transformer (Dosovitskiy et al. 2021) for images [n, *shape, channels], logits
    [n, classes].

    Each patch is one step of a sequence, positions are learnt, and the mean of the last layer's
    steps is classified (Beyer et al. 2022) rather than a step of its own. `patch` divides `shape`.
    """
    shape, patch = sizes("vit", "shape", shape, 2), sizes("vit", "patch", patch, 2)
    if any(size % part for size, part in zip(shape, patch, strict=True)):
        raise ValueError(f"vit expects a patch that divides the images' {shape}, got {patch}")
    steps = (shape[0] // patch[0]) * (shape[1] // patch[1])
    block = transformer_block(features, heads, dropout=dropout)
    return serial(
        shaped((*shape, channels)),
        *(conv(channels, features, patch, stride=patch, padding="valid"), tokens),
        *(learned_positions(steps, features), repeat(block, depth), layer_norm(features)),
        *(global_average_pool, dense(features, classes)),
    )


def gpt(
    vocabulary: int,
    length: int,
    *,
    features: int = 384,
    depth: int = 6,
    heads: int = 6,
    dropout: float | None = None,
    cache: tuple[int, int] | None = None,
) -> Network:
    """A language model in the manner of GPT-2 (Radford et al. 2019): ids [n, T] to the logits of
    each next id, [n, T, vocabulary], with T <= length.

    Learnt positions, pre-norm blocks with GELU as one scan over `depth`, a last norm, and the
    embedding's own table for the output. With `cache=(batch, length)` it has the same parameters
    and generates: the state then holds the keys and values of the steps so far (see `attention`
    and `generate`).
    """
    block = transformer_block(features, heads, causal=True, dropout=dropout, cache=cache)
    body = serial(
        learned_positions(length, features, cache=cache), repeat(block, depth), layer_norm(features)
    )
    return tied_embedding(vocabulary, features, body, table_init=small_normal)
