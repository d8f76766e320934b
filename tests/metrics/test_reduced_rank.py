"""The simulation of docs/elbow.md against an independent run of it, cell by cell, and against a naive fit."""

import runpy
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from petiole.metrics import reduced_rank
from petiole.metrics.elbow import threshold_rank
from petiole.metrics.reduced_rank import (
    DRAWS,
    NOISE,
    RANKS,
    SAMPLES,
    SPECTRUM,
    WIDTH,
    ExcessRisk,
    simulate,
)

TABLE = {
    100: (1.00, 0.89, 1.59, 3.41, 6.61, 11.4, 16.5, 18.5),
    200: (1.00, 0.53, 0.56, 0.96, 1.69, 2.86, 4.14, 4.64),
    500: (1.00, 0.43, 0.33, 0.36, 0.56, 0.91, 1.30, 1.44),
    2_000: (1.00, 0.40, 0.25, 0.17, 0.16, 0.22, 0.30, 0.33),
    20_000: (1.00, 0.39, 0.23, 0.13, 0.071, 0.044, 0.037, 0.032),
}
BEST = {100: 1, 200: 1, 500: 2, 2_000: 8, 20_000: 64}
PREDICTED = {100: 1, 200: 2, 500: 3, 2_000: 7, 20_000: 24}


@cache
def simulated(samples: int) -> ExcessRisk:
    return simulate(samples)


@pytest.fixture(params=SAMPLES)
def risk(request: pytest.FixtureRequest) -> ExcessRisk:
    return simulated(request.param)


def test_every_cell_is_the_published_one_within_monte_carlo_error(risk: ExcessRisk) -> None:
    """Both tables are means of 20 draws, so their difference has sqrt(2) standard errors."""
    published = np.array(TABLE[risk.samples])
    rounding = [0.5 * 10.0 ** -decimals(cell) for cell in TABLE[risk.samples]]
    error = np.sqrt(2) * risk.error
    assert (np.abs(risk.mean - published) <= rounding + 3 * error).all()
    assert (error <= 0.065 * risk.mean).all()  # so the comparison says something


def decimals(cell: float) -> int:
    return 1 if cell >= 10 else 2 if cell >= 0.1 else 3


def test_the_best_rank_is_the_published_one(risk: ExcessRisk) -> None:
    assert risk.best == BEST[risk.samples]


def test_the_threshold_predicts_as_published() -> None:
    got = {n: threshold_rank(SPECTRUM, WIDTH, NOISE**2, n) for n in SAMPLES}
    assert got == PREDICTED


def test_the_full_rank_has_the_known_risk_of_least_squares(risk: ExcessRisk) -> None:
    """E |B - D|^2 = tau^2 d^2 / (n - d - 1)."""
    expected = NOISE**2 * WIDTH**2 / (risk.samples - WIDTH - 1) / (SPECTRUM**2).sum()
    assert risk.mean[-1] == pytest.approx(expected, abs=4 * risk.error[-1])


def test_a_small_one_against_a_search_over_all_maps_of_rank_1() -> None:
    """The rank-1 least squares, found by alternating between its two vectors."""
    spectrum, n, rng, expected = np.array([1.0, 0.6]), 40, np.random.default_rng(3), []
    for _ in range(2):
        x = rng.standard_normal((n, 2))
        y = x * spectrum + 0.3 * rng.standard_normal((n, 2))
        left, right = np.ones(2), np.array([1.0, 0.3])
        for _ in range(500):
            left = np.linalg.lstsq(x, y @ right, rcond=None)[0] / (right @ right)
            seen = x @ left
            right = y.T @ seen / (seen @ seen)
        wrong = np.outer(left, right) - np.diag(spectrum)
        expected.append((wrong**2).sum() / (spectrum**2).sum())
    got = simulate(n, spectrum, noise=0.3, ranks=(1,), draws=2, seed=3)
    assert got.mean[0] == pytest.approx(np.mean(expected), rel=1e-9)


def test_equal_seeds_give_equal_tables_and_others_do_not() -> None:
    again = [simulate(100, draws=3, seed=seed).mean for seed in (1, 1, 2)]
    assert (again[0] == again[1]).all()
    assert (again[0][1:] != again[2][1:]).all()


def test_fewer_samples_than_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="64 dimensions"):
        simulate(WIDTH - 1)
    assert np.isfinite(simulate(WIDTH, draws=2).mean).all()


def test_the_example_prints_the_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reduced_rank, "simulate", simulated)  # not all of it twice
    root = Path(__file__).parents[2]
    runpy.run_path(str(root / "examples" / "reduced_rank.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line.strip()}
    assert {n: int(rows[str(n)][-2]) for n in SAMPLES} == BEST
    assert {n: int(rows[str(n)][-1]) for n in SAMPLES} == PREDICTED
    tail = [float(cell) for cell in rows["tail"][1:]]
    assert tail == pytest.approx([1.00, 0.39, 0.23, 0.13, 0.063, 0.028, 0.009, 0], abs=0.0051)
    assert len(tail) == len(RANKS)
    assert f"over {DRAWS} draws" in lines[-1]
