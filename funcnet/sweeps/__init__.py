"""Many runs as one: hypergradients."""

from funcnet.sweeps.hypergradient import (
    Bijector,
    Descent,
    forward_value_and_grad,
    hypergradient,
    hypergradient_descent,
    linear_space,
    log_space,
    logit_space,
)

__all__ = [
    "Bijector",
    "Descent",
    "forward_value_and_grad",
    "hypergradient",
    "hypergradient_descent",
    "linear_space",
    "log_space",
    "logit_space",
]
