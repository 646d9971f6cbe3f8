"""Many runs at once: where to look, and what was found."""

from funcnet.sweeps.distributions import choice, integers, log_uniform, normal, uniform
from funcnet.sweeps.learning_rate_finder import LearningRates, find_learning_rate
from funcnet.sweeps.points import crossed
from funcnet.sweeps.space import grid, latin_hypercube, sample, sobol
from funcnet.sweeps.table import Table, table

__all__ = [
    "LearningRates",
    "Table",
    "choice",
    "crossed",
    "find_learning_rate",
    "grid",
    "integers",
    "latin_hypercube",
    "log_uniform",
    "normal",
    "sample",
    "sobol",
    "table",
    "uniform",
]
