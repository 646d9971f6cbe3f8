"""Backpropagation by hand: an independent witness for `jax.grad`, and a table that one can edit.

Each rule does a function's forward pass and returns, beside the result, its pullback, written out
in plain `jnp`; nothing here uses automatic differentiation. The contract is that of
`jax.vjp(..., has_aux=True)`:

    layer   rule(params, state, x, *, key, train) -> (y, pullback, state)
            pullback(dy) -> (dparams, dx)
    loss    rule(prediction, target)              -> (values, pullback)
            pullback(dvalues) -> (dprediction,)
    task    rule(params, state, batch, *, key, train) -> (loss, pullback, (state, metrics))
            pullback(dloss) -> (dparams,)

with the numbers and choices bound to the function as further keywords. `RULES` maps functions to
their rules. To add or to swap one, pass another table: `rules={**RULES, my_layer: my_rule}`.
"""

from funcnet.chain_rule.engine import Recursive, value_and_grad, vjp
from funcnet.chain_rule.rules import RULES

__all__ = ["RULES", "Recursive", "value_and_grad", "vjp"]
