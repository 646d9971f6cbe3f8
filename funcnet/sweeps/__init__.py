"""Many runs at once: where to look, and what was found."""

from funcnet.sweeps.early import Stopped, Watch, early_stopping, resume_early_stopping, watch
from funcnet.sweeps.halving import Halved, Rungs, geometric_rungs, successive_halving
from funcnet.sweeps.horizon import until
from funcnet.sweeps.hyperband import Hyperband, brackets, hyperband
from funcnet.sweeps.members import greatest, least
from funcnet.sweeps.population_based import (
    Population,
    ancestors,
    perturb,
    population_based,
    resample,
)

__all__ = [
    "Halved",
    "Hyperband",
    "Population",
    "Rungs",
    "Stopped",
    "Watch",
    "ancestors",
    "brackets",
    "early_stopping",
    "geometric_rungs",
    "greatest",
    "hyperband",
    "least",
    "perturb",
    "population_based",
    "resample",
    "resume_early_stopping",
    "successive_halving",
    "until",
    "watch",
]
