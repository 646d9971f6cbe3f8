"""What a network consists of, as a table: nothing is computed or allocated, only traced."""

import inspect
import itertools
import math
from typing import Any, NamedTuple

import jax

from funcnet.pairs import Network, unbind


class Row(NamedTuple):
    """One layer of a summary, or a network made of those below it that stand further in."""

    depth: int
    layer: str
    output: Any  # its shape, or a tuple of shapes
    parameters: int
    bytes: int
    multiply_adds: int


class Summary(NamedTuple):
    """Every layer in the order of its call, and the network as a whole; `str` is the table."""

    rows: tuple[Row, ...]
    total: Row

    def __str__(self) -> str:
        cells: list[tuple[str, ...]] = [("layer", "output", "parameters", "bytes", "multiply-adds")]
        for row in (*self.rows, self.total):
            figures = (f"{n:,}" for n in (row.parameters, row.bytes, row.multiply_adds))
            cells.append(("  " * row.depth + row.layer, str(row.output), *figures))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        formats = [f"{{:{side}{width}}}" for side, width in zip("<<>>>", widths, strict=True)]
        lines = ["  ".join(formats).format(*row) for row in cells]
        rule = "-" * len(lines[0])
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def is_layer(value):
    """Whether something bound to a network is itself a layer, by its first three arguments."""
    if not callable(value):
        return False
    try:
        names = list(inspect.signature(unbind(value)[0]).parameters)
    except (TypeError, ValueError):
        return False
    return names[:3] == ["params", "state", "x"]


def name_of(apply):
    """`dense` for dense_apply, `relu` for an activation, and what a repetition or a name binds."""
    function, bound = unbind(apply)
    function = unbind(bound.get("function", function))[0]
    name = getattr(function, "__name__", repr(function)).removesuffix("_apply")
    choices = [str(bound[choice]) for choice in ("name", "count") if choice in bound]
    if "step" in bound:
        choices.append(name_of(bound["step"]).removesuffix("_step"))
    return " ".join([name, *choices])


def spied(apply, seen):
    """`apply` with each layer bound in it noting in `seen`, by its place, how it is called."""

    def spy(layer):
        place = len(seen)
        seen[place] = None

        def called(params, state, x, **context):
            seen[place] = (layer, abstract((params, state, x)))
            return layer(params, state, x, **context)

        return called

    function, bound = unbind(apply)
    bound = {
        name: jax.tree.map(lambda v: spy(v) if is_layer(v) else v, value, is_leaf=callable)
        for name, value in bound.items()
    }
    return lambda params, state, x: function(params, state, x, **bound)


def programs(value):
    """The programs among a primitive's parameters."""
    for part in value if isinstance(value, tuple | list) else (value,):
        if hasattr(inner := getattr(part, "jaxpr", part), "eqns"):
            yield inner


def multiply_adds(jaxpr):
    """Those of matrix products and convolutions, padding included; of a choice between platforms
    those of the general form, of any other the most."""
    total = 0
    for equation in jaxpr.eqns:
        name, choices = equation.primitive.name, equation.params
        if name == "dot_general":
            (axes, _), _ = choices["dimension_numbers"]
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += math.prod(out) * math.prod(left[axis] for axis in axes)
        elif name == "conv_general_dilated":
            total += of_convolution(equation)
        elif name == "cond":
            counts = [multiply_adds(inner) for inner in programs(choices["branches"])]
            platforms = choices.get("branches_platforms") or ()
            total += counts[platforms.index(None)] if None in platforms else max(counts)
        else:
            inner = [multiply_adds(i) for value in choices.values() for i in programs(value)]
            total += (choices["length"] if name == "scan" else 1) * sum(inner)
    return total


def of_convolution(equation):
    """A window at each output; where the input is spread out, at each input."""
    x, weight = (v.aval.shape for v in equation.invars)
    numbers = equation.params["dimension_numbers"]
    window = math.prod(weight[axis] for axis in numbers.rhs_spec[2:])
    if max(equation.params["lhs_dilation"]) > 1:
        groups = equation.params["feature_group_count"]
        return math.prod(x) * window * weight[numbers.rhs_spec[0]] // groups
    out = math.prod(equation.outvars[0].aval.shape)
    return out * window * weight[numbers.rhs_spec[1]]


def shapes_of(tree):
    """An array's shape, or those of a tuple of arrays."""
    shapes = [leaf.shape for leaf in jax.tree.leaves(tree)]
    return shapes[0] if len(shapes) == 1 else tuple(shapes)


def abstract(tree):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)


def walk(apply, primals, depth):
    """The row of a layer, then those of the layers it calls; of a `serial` that is all it calls
    only the layers."""
    seen: dict[int, Any] = {}
    jaxpr, (y, _) = jax.make_jaxpr(spied(apply, seen), return_shape=True)(*primals)
    leaves = jax.tree.leaves(primals[0])
    yield Row(
        depth,
        name_of(apply),
        shapes_of(y),
        sum(leaf.size for leaf in leaves),
        sum(leaf.size * leaf.dtype.itemsize for leaf in leaves),
        multiply_adds(jaxpr.jaxpr),
    )
    calls = [call for call in seen.values() if call is not None]
    alone = len(calls) == 1 and name_of(calls[0][0]) == "serial"
    for call in calls:
        rows = walk(*call, depth + (not alone))
        yield from itertools.islice(rows, int(alone), None)


def summary(network: Network, x: Any) -> Summary:
    """A table of the network's layers for an input like x (arrays, or `jax.ShapeDtypeStruct`s), as
    text when printed: output shapes, number and bytes of the parameters, and the multiply-adds of
    matrix products and convolutions in one forward pass over the batch.

    A network made of others stands above them with all that is theirs; below a `repeat`, a row is
    of one repetition. Convolutions count a product for each tap of each window, padding included,
    however they are computed; of a `while` loop one turn counts. A layer is what has (params,
    state, x) for its first arguments. `rows` and `total` hold the figures. Raises what the network
    raises for an x that does not fit.
    """
    params, state = jax.eval_shape(network.init, jax.random.key(0))
    whole = name_of(network.apply) == "serial"
    rows = list(walk(network.apply, (params, state, abstract(x)), -1 if whole else 0))
    return Summary(tuple(rows[whole:]), rows[0]._replace(depth=0, layer="total"))
