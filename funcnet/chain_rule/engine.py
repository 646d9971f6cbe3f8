"""Looks rules up and applies them: reverse accumulation is what the recursive rules do."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from funcnet.chain_rule.rules import RULES, Recursive
from funcnet.pairs import Task, unbind


def vjp(function: Callable[..., Any], *primals: Any, rules: Mapping[Any, Any] = RULES, **context):
    """The result of `function(*primals)` and its pullback, by the hand-written rule.

    `vjp(network.apply, params, state, x, key=key, train=True) -> (y, pullback, state)`,
    `vjp(loss, prediction, target) -> (values, pullback)`, `vjp(jax.nn.relu, x) -> (y, pullback)`.
    Raises `NotImplementedError`, naming the function, where the table has no rule for it.
    """
    function, bound = unbind(function)
    if function not in rules:
        name = getattr(function, "__name__", repr(function))
        raise NotImplementedError(
            f"no rule for {name}: pass one as rules={{**RULES, {name}: my_rule}}, "
            "with the contract in funcnet.chain_rule's docstring"
        )
    rule = rules[function]
    if isinstance(rule, Recursive):
        rule, bound = rule.rule, {**bound, "vjp": functools.partial(vjp, rules=rules)}
    return rule(*primals, **bound, **context)


def value_and_grad(
    task: Task | Callable[..., Any], *, has_aux: bool = True, rules: Mapping[Any, Any] = RULES
) -> Callable[..., Any]:
    """By hand what `jax.value_and_grad(task.loss, has_aux=True)` does by transformation:
    `(params, state, batch, *, key, train) -> ((loss, (state, metrics)), grads)`.

    `task` is a Task or its loss. `trainer(task, optimizer, chain_rule.value_and_grad)` trains
    with it; with rules of one's own, with `functools.partial(value_and_grad, rules=...)`.
    """
    if not has_aux:
        raise ValueError("a task's loss returns (loss, (state, metrics)): has_aux must be True")
    loss = task.loss if isinstance(task, Task) else task

    def by_hand(params, state, batch, *, key=None, train=False):
        value, pullback, aux = vjp(loss, params, state, batch, rules=rules, key=key, train=train)
        return (value, aux), pullback(jnp.ones_like(value))[0]

    return by_hand
