"""Schedules against golden numbers and closed forms."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.problems import SCHEDULE_STEPS, SCHEDULES

import funcnet as fn

GOLDEN = np.load(Path(__file__).parent / "golden" / "optimizers.npz")


@pytest.mark.parametrize("name", SCHEDULES)
def test_warmup_cosine_is_the_golden_one(name):
    values = jax.vmap(fn.warmup_cosine(**SCHEDULES[name]))
    steps, golden = np.arange(SCHEDULE_STEPS, dtype=np.int32), GOLDEN[f"schedule/{name}"]
    np.testing.assert_allclose(values(steps), golden, rtol=1e-6, atol=1e-6 * golden.max())
    with jax.enable_x64(True):
        np.testing.assert_allclose(values(steps), golden, rtol=1e-13, atol=1e-15 * golden.max())


def test_simple_schedules():
    assert fn.constant(3)(jnp.int32(7)) == 3.0
    np.testing.assert_allclose(fn.inverse_time(1, 0.5)(jnp.arange(3)), [1.0, 2 / 3, 0.5], rtol=1e-6)
