"""Dense and elementwise layers, noise, norms and combinators."""

import jax
import numpy as np

import funcnet as fn
from cases.base import KEYED, Case, layer
from funcnet.chain_rule import activations, combine, layers, norm

THERE = np.array([[True, False, True], [True, True, False]])

CASES = [
    *layer("dense", fn.dense(3, 5), (7, 3), (1, 3), (2, 3, 3), (3,)),
    *layer("dense-narrow", fn.dense(1, 1), (5, 1)),
    *layer("dense-without-bias", fn.dense(3, 4, bias_init=None), (5, 3)),
    *layer("flatten", fn.flatten, (3, 2, 5), (1, 7)),
    *layer("identity", fn.identity, (3, 5)),
    *layer("dropout", fn.dropout(0.3), (7, 5), (1, 1), context=KEYED),
    *layer("dropout-all", fn.dropout(1.0), (3, 5), context=KEYED),
    *layer("dropout-off", fn.dropout(0.3), (3, 5)),
    *(
        case
        for name in ("relu", "tanh", "sigmoid", "gelu", "silu", "softplus", "elu")
        for case in layer(name, getattr(fn, name), (7, 5), (1,))
    ),
    *layer("gelu-tanh", fn.activation(fn.fix(jax.nn.gelu, approximate=True)), (7, 5)),
    *layer("leaky_relu", fn.leaky_relu(0.2), (7, 5)),
    *layer(
        "serial",
        fn.serial(fn.dense(3, 2), fn.serial(fn.tanh, fn.dropout(0.5)), fn.dense(2, 1)),
        (5, 3),
        context=KEYED,
    ),
    *layer("drop_path", fn.drop_path(0.4), (7, 3, 2), context=KEYED),
    Case("embedding", fn.embedding(5, 3), (), np.array([[0, 4, 4], [1, 0, 4]])),
    *layer("layer_norm", fn.layer_norm(5, eps=0.1), (4, 5), (2, 3, 5)),
    *layer("layer_norm-narrow", fn.layer_norm(1), (3, 1)),
    *layer("rms_norm", fn.rms_norm(5, eps=0.1), (4, 5), (2, 3, 5)),
    *layer("group_norm", fn.group_norm(2, 6, eps=0.1), (3, 2, 6), (2, 6)),
    *layer("instance_norm", fn.instance_norm(3, eps=0.1), (2, 5, 3)),
    *layer("batch_norm", fn.batch_norm(3, eps=0.1), (7, 3), (2, 3, 3), (1, 3), context=KEYED),
    *layer("batch_norm-running", fn.batch_norm(3, eps=0.1), (7, 3)),
    *layer("residual", fn.residual(fn.serial(fn.dense(3, 3), fn.tanh)), (5, 3)),
    *layer("parallel-add", fn.serial(fn.parallel(fn.dense(3, 2), fn.dense(3, 2)), fn.add), (5, 3)),
    *layer(
        "parallel-concatenate",
        fn.serial(fn.parallel(fn.dense(3, 2), fn.identity, fn.tanh), fn.concatenate),
        (4, 3),
    ),
    *layer(
        "repeat",
        fn.repeat(fn.residual(fn.serial(fn.dense(3, 3), fn.gelu, fn.dropout(0.2))), 3),
        (3, 3),
        context=KEYED,
    ),
    *layer(
        "remat",
        fn.remat(fn.serial(fn.dense(3, 3), fn.dropout(0.3), fn.tanh)),
        (3, 3),
        context=KEYED,
    ),
    Case(
        "tied_embedding",
        fn.tied_embedding(4, 3, fn.serial(fn.dense(3, 3), fn.tanh)),
        (),
        np.array([[0, 3, 3], [1, 0, 3]]),
    ),
    Case("masked", fn.residual(fn.masked(fn.dense(2, 2))), (2, 3, 2), mask=THERE),
    *layer("named", fn.named("block", fn.dense(3, 2)), (3, 3)),
    *layer("frozen", fn.serial(fn.frozen(fn.dense(3, 3)), fn.dense(3, 2)), (3, 3)),
]

MUTANTS = [
    (layers, "dense", "dy @ weight.T", "-(dy @ weight.T)"),
    (layers, "dense", "rows.T @ deltas", "1.001 * rows.T @ deltas"),
    (layers, "dense", "rows.T @ deltas", "jnp.flip(rows, 0).T @ deltas"),
    (layers, "dense", "deltas.sum(axis=0)", "deltas.mean(axis=0)"),
    (layers, "dense", "deltas.sum(axis=0)", "0.0 * deltas.sum(axis=0)"),
    (layers, "dropout", "((), scaled(dy))", "((), factor * dy)"),
    (layers, "dropout", "scaled(dy)", "dy"),
    (layers, "flatten", "dy.reshape(x.shape)", "1.001 * dy.reshape(x.shape)"),
    (layers, "flatten", "dy.reshape(x.shape)", "jnp.flip(dy, -1).reshape(x.shape)"),
    (layers, "identity", "((), dy)", "((), -dy)"),
    (layers, "activation", "*pullback(dy)", "*pullback(dy * y)"),
    (layers, "drop_path", "scaled(dy)", "dy"),
    (layers, "embedding", ".add(widen", ".set(widen"),
    (layers, "concatenate", "jnp.split(dy", "jnp.split(-dy"),
    (layers, "add", "(dy,) * len(x)", "(dy, *x[1:])"),
    (norm, "standardise", "- through_variance", ""),
    (norm, "standardise", "- dn.mean(axes, keepdims=True)", ""),
    (norm, "rms_norm", "- n * (n * dn).mean(-1, keepdims=True)", ""),
    (norm, "rms_norm", "summed(n * widen(dy)", "summed(wide * widen(dy)"),
    (norm, "scale_and_bias", "n * dy", "1.001 * n * dy"),
    (norm, "scale_and_bias", 'params["scale"] * dy', "dy"),
    (norm, "group_norm", "back(grouped(dn, groups))", "grouped(dn, groups)"),
    (norm, "batch_norm", "return r * dn", "return dn"),
    (combine, "residual", "delta + through", "through"),
    (combine, "tied_embedding", '+ below["table"]', ""),
    (combine, "tied_embedding", "above.astype(table.dtype) +", "0.0 * above +"),
    (combine, "tied_embedding", "(dy @ table)", "(1.001 * dy @ table)"),
    (combine, "masked", "join(cleared(dx, mask), nothing)", "join(dx, nothing)"),
    (combine, "masked", "cleared(values, mask), key", "values, key"),
    (combine, "summed", "sum(others, first)", "first"),
    (combine, "repeat", "reverse=True", "reverse=False"),
    (combine, "frozen", "pullback(dy)[1]", "dy"),
    (combine, "frozen", "jax.tree.map(jnp.zeros_like, params)", "pullback(dy)[0]"),
    (combine, "remat", "return pullback(dy)", "return pullback(-dy)"),
    (combine, "serial", "reversed(grads)", "grads"),
    (combine, "serial", "grads.append(layer_grads)", "grads.insert(0, layer_grads)"),
    (activations, "relu", "jnp.where(x > 0.0, dy, 0.0)", "dy"),
    (activations, "leaky", "(bent(dy),)", "(dy,)"),
    (activations, "leaky", "bent(dy)", "jnp.where(x >= 0.0, dy, 0.0)"),
    (activations, "tanh", "(1.0 + y) * dy", "dy"),
    (activations, "sigmoid", "y * logistic(-x)", "1.001 * y * logistic(-x)"),
    (activations, "sigmoid", "logistic(-x)", "logistic(x)"),
    (activations, "softplus", "(logistic(x) * dy,)", "(logistic(-x) * dy,)"),
    (activations, "silu", "1.0 + x * logistic(-x)", "1.0"),
    (activations, "elu", "jnp.where(x > 0.0, dy, alpha * jnp.exp(below) * dy)", "dy"),
    (activations, "gelu", "phi_cdf + x * slope", "phi_cdf"),
    (activations, "gelu", "phi_cdf + x * slope", "phi_cdf - x * slope"),
    (activations, "gelu", "3.0 * 0.044715", "0.044715"),
]

STEMS = {
    "leaky": "leaky_relu",
    "activation": "tanh",
    "add": "parallel-add",
    "concatenate": "parallel-concatenate",
    "standardise": "batch",
    "summed": "parallel-add",
    "scale_and_bias": "layer",
}
