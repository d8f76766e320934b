import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from petiole.metrics.intervals import resampled_means
from petiole.metrics.statistics import (
    Interval,
    bootstrap_interval,
    hierarchical_interval,
    t_interval,
)

RUNS = [0.7887, 0.7834, 0.7921, 0.7899, 0.7850]


def crossed(rng: np.random.Generator, runs: int, images: int, run_sd: float) -> np.ndarray:
    """Correctness with a random run effect and easy and hard images; its expectation is 0.7."""
    easy = np.where(rng.uniform(size=images) < 0.5, 0.1, -0.1)
    chance = 0.7 + rng.normal(0, run_sd, size=(runs, 1)) + easy
    return rng.uniform(size=(runs, images)) < chance


def test_t_interval_equals_scipy() -> None:
    got = t_interval(RUNS, 0.9)
    expected = stats.ttest_1samp(RUNS, 0).confidence_interval(0.9)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high))
    assert got.sd == pytest.approx(np.std(RUNS, ddof=1))
    assert (got.n, got.level) == (5, 0.9)


def test_t_interval_covers_as_it_says() -> None:
    rng = np.random.default_rng(0)
    intervals = [t_interval(rng.normal(3, 2, size=5)) for _ in range(1500)]
    assert 0.93 < np.mean([i.low <= 3 <= i.high for i in intervals]) < 0.97


def test_format_scales_and_admits_a_single_value() -> None:
    assert Interval(0.7887, 0.004, 0.784, 0.793, 5, 0.95, "t").format() == (
        "78.87 ± 0.40 [78.40, 79.30]"
    )
    assert t_interval([2.5]).format(scale=1, digits=1) == "2.5 (one value, no interval)"
    assert t_interval([2.4, 2.6]).format(scale=1, digits=1) == "2.5 ± 0.1 [1.2, 3.8]"


def test_one_value_leaves_the_interval_open() -> None:
    for interval in (t_interval([0.5]), bootstrap_interval([0.5])):
        assert math.isnan(interval.sd)
        assert (interval.low, interval.high) == (-math.inf, math.inf)


def test_equal_values_give_a_point() -> None:
    for interval in (t_interval([0.5] * 4), bootstrap_interval([0.5] * 4)):
        assert (interval.low, interval.mean, interval.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(("n", "method"), [(400, "BCa"), (2_500, "percentile")])
def test_bootstrap_agrees_with_the_normal_approximation(n: int, method: str) -> None:
    correct = np.random.default_rng(1).uniform(size=n) < 0.8
    got = bootstrap_interval(correct, seed=2)
    p = correct.mean()
    half = 1.96 * math.sqrt(p * (1 - p) / n)
    assert got.method == f"bootstrap ({method})"
    assert (got.low, got.high) == pytest.approx((p - half, p + half), abs=0.1 * half)
    assert got == bootstrap_interval(correct, seed=2)
    assert got != bootstrap_interval(correct, seed=3)


def hierarchical_by_loop(x: np.ndarray, resamples: int) -> tuple[float, float]:
    rng = np.random.default_rng(99)
    runs, images = x.shape
    means = []
    for _ in range(resamples):
        rows = rng.integers(0, runs, size=runs - 1)
        columns = rng.integers(0, images, size=images)
        means.append(x[np.ix_(rows, columns)].mean())
    low, high = np.percentile(means, [2.5, 97.5])
    return low, high


def test_hierarchical_equals_resampling_by_index() -> None:
    x = crossed(np.random.default_rng(0), runs=6, images=150, run_sd=0.05)
    got = hierarchical_interval(x, seed=5, resamples=8_000)
    low, high = hierarchical_by_loop(x.astype(float), resamples=8_000)
    assert (got.low, got.high) == pytest.approx((low, high), abs=0.006)
    assert got.mean == pytest.approx(x.mean())
    assert got.sd == pytest.approx(np.std(x.mean(axis=1), ddof=1))
    assert got.n == 6


def test_resampled_runs_vary_as_the_mean_of_runs_does() -> None:
    by_run = np.array([0.1, 0.4, 0.5, 0.9])
    means = resampled_means(np.repeat(by_run[:, None], 20, axis=1), seed=0, resamples=20_000)
    assert means.std() == pytest.approx(by_run.std(ddof=1) / 2, rel=0.02)  # √4 runs


def test_hierarchical_covers_where_images_alone_do_not() -> None:
    rng = np.random.default_rng(3)
    both, images = 0, 0
    for seed in range(150):
        x = crossed(rng, runs=8, images=300, run_sd=0.07)
        interval = hierarchical_interval(x, seed=seed, resamples=400)
        both += interval.low <= 0.7 <= interval.high
        half = 1.96 * x.mean(axis=0).std() / math.sqrt(300)
        images += abs(x.mean() - 0.7) <= half
    assert 0.85 < both / 150 <= 0.99
    assert images / 150 < 0.8


def test_one_run_is_a_bootstrap_over_images() -> None:
    correct = np.random.default_rng(1).uniform(size=500) < 0.8
    got = hierarchical_interval(correct[None], seed=0, resamples=9_999)
    expected = bootstrap_interval(correct, seed=0)
    assert got.method == "bootstrap (images)"
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=0.004)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_interval_contains_the_mean_and_grows_with_the_level(values: list[float]) -> None:
    narrow, wide = t_interval(values, 0.8), t_interval(values, 0.99)
    assert wide.low <= narrow.low <= narrow.mean <= narrow.high <= wide.high


@pytest.mark.parametrize("values", [[], [[0.1, 0.2]], [0.1, math.nan]])
def test_unusable_values_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="value"):
        t_interval(values)


def test_a_level_in_per_cent_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.95"):
        t_interval(RUNS, level=95)
    with pytest.raises(ValueError, match="matrix"):
        hierarchical_interval(RUNS)
