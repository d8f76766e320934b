"""Draws that a difference needs, from draws and seeds at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from petiole.errors import ConfigError
from petiole.metrics.statistics import runs_needed
from petiole.report.planning import _planned, plan_rows


def test_one_seed_plans_by_the_spread_over_draws() -> None:
    d = np.array([[0.0], [2.0], [4.0]])
    row = _planned("r", d, 1.0, 0.8)
    assert row.spread == pytest.approx(2.0)
    assert row.draws == runs_needed(2.0, 1.0)
    assert row.spread_of_seeds is None
    assert row.draws_with_more_seeds is None


def test_more_seeds_help_only_against_the_spread_of_seeds() -> None:
    draws_only = np.array([[0.0, 0.0], [2.0, 2.0], [4.0, 4.0]])
    row = _planned("r", draws_only, 1.0, 0.8)
    assert row.spread_of_seeds == 0
    assert row.draws_with_more_seeds == row.draws
    seeds_only = np.array([[-2.0, 2.0], [-3.0, 3.5], [2.0, -2.5]])
    row = _planned("r", seeds_only, 1.0, 0.8)
    assert row.spread_of_seeds == pytest.approx(3.61, abs=0.02)
    assert row.draws_with_more_seeds is not None
    assert row.draws_with_more_seeds >= 2


def test_variances_add_up() -> None:
    rng = np.random.default_rng(0)
    d = rng.normal(0, 2, (4000, 1)) + rng.normal(0, 3, (4000, 2))
    row = _planned("r", d, 1.0, 0.8)
    assert row.spread == pytest.approx((4 + 9 / 2) ** 0.5, rel=0.05)
    assert row.spread_of_seeds == pytest.approx(3, rel=0.05)
    assert row.draws_with_more_seeds == pytest.approx(
        runs_needed((4 + 9 / 6) ** 0.5, 1.0), rel=0.06
    )


@pytest.mark.parametrize(("difference", "power"), [(0.0, 0.8), (-1.0, 0.8), (1.0, 0.0), (1.0, 1.0), (float("nan"), 0.5)])  # fmt: skip
def test_a_plan_needs_a_difference_and_a_chance(difference: float, power: float, tmp_path: Path) -> None:  # fmt: skip
    with pytest.raises(ConfigError, match=r"^A plan needs a difference above 0 points"):
        plan_rows(tmp_path, difference, power)
