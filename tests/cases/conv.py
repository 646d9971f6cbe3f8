"""Convolutions and pools."""

import funcnet as fn
from cases.base import layer
from funcnet.chain_rule import conv, layers

CASES = [
    *layer("conv", fn.conv(2, 3, (2,), dilation=2), (2, 5, 2)),
    *layer("conv-stride", fn.conv(1, 2, (3, 2), stride=(2, 1), padding=((1, 0), 0)), (1, 4, 3, 1)),
    *layer("conv-groups", fn.conv(4, 6, (1, 2), groups=2, padding="valid"), (2, 1, 3, 4)),
    *layer("conv-depthwise", fn.conv(2, 4, (2, 3), groups=2, bias_init=None), (1, 3, 4, 2)),
    *layer("conv-volume", fn.conv(1, 1, (2, 1, 3), stride=2), (1, 3, 2, 3, 1)),
    *layer("conv_transpose", fn.conv_transpose(2, 2, (3,), stride=2), (2, 3, 2)),
    *layer(
        "conv_transpose-groups",
        fn.conv_transpose(4, 2, (2, 2), stride=(1, 2), padding=((0, 1), 0), groups=2),
        (1, 2, 2, 4),
    ),
    *layer("max_pool", fn.max_pool((2, 3), stride=(1, 2), padding="same"), (2, 3, 4, 2)),
    *layer("average_pool", fn.average_pool((2, 2), padding=((1, 0), 0)), (2, 3, 5, 2)),
    *layer(
        "average_pool_inside",
        fn.average_pool((3,), stride=2, padding=1, count_padding=False),
        (2, 5, 3),
    ),
    *layer("global_max_pool", fn.global_max_pool, (2, 3, 2, 3)),
    *layer("subsample", fn.subsample(2, 3), (2, 3, 4, 2)),
    *layer("tokens", fn.tokens, (2, 3, 1, 2)),
    *layer("global_average_pool", fn.global_average_pool, (3, 5, 1)),
]

WINOGRAD = layer("conv-winograd", fn.conv(8, 9, (3, 3)), (2, 5, 4, 8))
"""Too large for a whole Jacobian."""

MUTANTS = [
    (conv, "gather", "taps.read(padded, start)", "taps.read(padded[::-1], start)"),
    (conv, "scatter", "by_group(y, groups), tap", "by_group(-y, groups), tap"),
    (conv, "outer", "jnp.stack(", "1.001 * jnp.stack("),
    (conv, "conv", "outer(taps, x, dy, groups)", "outer(taps, x, 1.001 * dy, groups)"),
    (conv, "with_bias", "dy.sum(", "dy.mean("),
    (conv, "conv_transpose", "outer(taps, dy, x, groups)", "outer(taps, dy, -x, groups)"),
    (conv, "max_pool", "jnp.where(first == tap, dy, 0.0)", "dy"),
    (conv, "max_pool", "first == tap, dy", "first == tap, 1.001 * dy"),
    (conv, "mean_of_taps", "widen(dy) / counts", "widen(dy)"),
    (
        conv,
        "average_pool_inside",
        "taps.read(ones, start)",
        "jnp.ones_like(taps.read(ones, start))",
    ),
    (conv, "global_max_pool", "jnp.where(here, dy[:, None], 0.0)", "dy[:, None] + 0.0 * rows"),
    (conv, "global_average_pool", "dy / count", "dy"),
    (conv, "subsample", "taps.written(dy[", "taps.written(-dy["),
    (layers, "tokens", "dy.reshape(x.shape)", "1.001 * dy.reshape(x.shape)"),
]

STEMS = {
    "gather": "conv",
    "scatter": "conv",
    "outer": "conv",
    "with_bias": "conv",
    "mean_of_taps": "average_pool",
}
