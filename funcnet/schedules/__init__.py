"""Schedules, `step -> value`, the first step being 0; their numbers, lengths too, are leaves."""

from funcnet.schedules.compose import (
    as_schedule,
    join,
    piecewise,
    piecewise_cosine,
    piecewise_linear,
)
from funcnet.schedules.cosine import cosine, cosine_restarts, cosine_wave, warmup_cosine
from funcnet.schedules.cycle import cyclic, linear_one_cycle, one_cycle
from funcnet.schedules.decay import (
    constant,
    exponential,
    inverse_square_root,
    inverse_time,
    linear,
    polynomial,
    step_decay,
    warmup_stable_decay,
)

__all__ = [
    "as_schedule",
    "constant",
    "cosine",
    "cosine_restarts",
    "cosine_wave",
    "cyclic",
    "exponential",
    "inverse_square_root",
    "inverse_time",
    "join",
    "linear",
    "linear_one_cycle",
    "one_cycle",
    "piecewise",
    "piecewise_cosine",
    "piecewise_linear",
    "polynomial",
    "step_decay",
    "warmup_cosine",
    "warmup_stable_decay",
]
