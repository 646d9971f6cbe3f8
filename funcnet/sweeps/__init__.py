"""Many runs at once: where to look, how they fit on a machine, and what was found."""

from funcnet.sweeps.bands import Hyperband, brackets, hyperband
from funcnet.sweeps.distributions import choice, integers, log_uniform, normal, uniform
from funcnet.sweeps.early import Stopped, Watch, early_stopping, resume_early_stopping, watch
from funcnet.sweeps.groups import Group, Varied, group_members, member, share_counters
from funcnet.sweeps.halving import Halved, Rungs, geometric_rungs, successive_halving
from funcnet.sweeps.horizon import until
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
from funcnet.sweeps.learning_rate_finder import LearningRates, find_learning_rate
from funcnet.sweeps.members import greatest, least
from funcnet.sweeps.padded import resume_padded, run_padded
from funcnet.sweeps.planner import Plan, plan, sweep
from funcnet.sweeps.points import crossed
from funcnet.sweeps.populations import (
    Population,
    ancestors,
    perturb,
    population_based,
    resample,
)
from funcnet.sweeps.space import grid, latin_hypercube, sample, sobol
from funcnet.sweeps.tables import Table, table

__all__ = [
    "Bijector",
    "Descent",
    "Group",
    "Halved",
    "Hyperband",
    "LearningRates",
    "Plan",
    "Population",
    "Rungs",
    "Stopped",
    "Table",
    "Varied",
    "Watch",
    "ancestors",
    "brackets",
    "choice",
    "crossed",
    "early_stopping",
    "find_learning_rate",
    "forward_value_and_grad",
    "geometric_rungs",
    "greatest",
    "grid",
    "group_members",
    "hyperband",
    "hypergradient",
    "hypergradient_descent",
    "integers",
    "latin_hypercube",
    "least",
    "linear_space",
    "log_space",
    "log_uniform",
    "logit_space",
    "member",
    "normal",
    "perturb",
    "plan",
    "population_based",
    "resample",
    "resume_early_stopping",
    "resume_padded",
    "run_padded",
    "sample",
    "share_counters",
    "sobol",
    "successive_halving",
    "sweep",
    "table",
    "uniform",
    "until",
    "watch",
]
