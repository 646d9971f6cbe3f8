"""Every optimizer goes the way of PyTorch's and Optax's, by the keywords that are documented."""

import jax
import pytest
from parity import CASES, GOLDEN, deviations


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_trajectory_is_the_golden_one(case):
    with jax.enable_x64(True):
        worst = deviations(case)
    assert max(worst.values()) <= 1e-12, worst


def test_every_golden_trajectory_has_a_case():
    names = {key.rpartition("/")[0] for key in GOLDEN if key[:6] in ("torch/", "optax/")}
    assert names == {case.name for case in CASES}
