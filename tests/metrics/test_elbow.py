"""The elbow rules against cases worked by hand, naive recomputation and simulated sweeps."""

import math
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from petiole.metrics.elbow import (
    Curve,
    energy_rank,
    excess_risk,
    growth,
    kneedle,
    marginal,
    one_se,
    resampled_elbows,
    threshold_rank,
    trend,
)

DOUBLINGS = (1, 2, 4, 8, 16, 32, 64, 128)


def curve(means: list[float], half: float = 0.0, ranks: tuple[int, ...] = ()) -> Curve:
    """Two seeds, ``half`` above and below each mean: their standard error is ``half``."""
    middle = np.array(means)[:, None]
    return Curve(ranks or DOUBLINGS[: len(means)], middle + half * np.array([1.0, -1.0]))


# one-SE


def test_one_se_takes_the_least_rank_within_one_error_of_the_best() -> None:
    means = [0.70, 0.78, 0.795, 0.80, 0.799]
    assert one_se(curve(means, half=0.004)) == 8
    assert one_se(curve(means, half=0.006)) == 4
    assert one_se(curve(means, half=0.0201)) == 2
    assert one_se(curve(means, half=0.2)) == 1


def test_its_error_is_the_best_rank_s_own() -> None:
    values = np.array([[0.78, 0.78, 0.78], [0.70, 0.80, 0.90], [0.806, 0.81, 0.814]])
    best = values[2]
    bar = best.mean() - best.std(ddof=1) / math.sqrt(3)
    assert values[1].mean() < bar  # 0.80 is within its own error of 0.81, but not within the best's
    assert one_se(Curve((1, 2, 4), values)) == 4


@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=2, max_size=8))
def test_one_se_is_never_beyond_the_best(rows: list[list[float]]) -> None:
    c = Curve(DOUBLINGS[: len(rows)], np.array(rows))
    assert one_se(c) <= c.best
    naive = [
        r
        for r, row in zip(c.ranks, c.accuracies, strict=True)
        if row.mean() >= c.mean.max() - c.error[c.mean.argmax()]
    ]
    assert one_se(c) == naive[0]


# marginal gain


def test_marginal_gain_stops_where_doubling_gives_less_than_a_fifth_of_a_point() -> None:
    assert marginal(curve([0.70, 0.75, 0.76, 0.7619, 0.80])) == 4
    assert marginal(curve([0.70, 0.75, 0.76, 0.7621, 0.80])) is None
    assert marginal(curve([0.70, 0.69, 0.80])) == 1


def test_marginal_gain_asks_for_more_where_seeds_differ() -> None:
    base = np.array([0.70, 0.75, 0.76])[:, None]
    gains = np.array([[0, 0, 0], [0, 0, 0], [0.02, 0.0, -0.02]])  # the last gain's error: 0.0115
    assert marginal(Curve((1, 2, 4), base + gains)) == 2
    together = np.array([[0.02, 0.0, -0.02]] * 3)  # a spread that all ranks share is no doubt
    assert marginal(Curve((1, 2, 4), base + together)) is None


def test_wider_steps_count_by_the_doubling() -> None:
    assert marginal(curve([0.70, 0.7039], ranks=(1, 4))) == 1
    assert marginal(curve([0.70, 0.7041], ranks=(1, 4))) is None


# Kneedle


def naive_kneedle(ranks: tuple[int, ...], means: list[float]) -> int | None:
    """The paper's online walk: the threshold is set at each local maximum, and watched."""
    x = [math.log2(r) for r in ranks]
    x = [(v - x[0]) / (x[-1] - x[0]) for v in x]
    y = [(v - min(means)) / (max(means) - min(means)) for v in means]
    d = [b - a for a, b in zip(x, y, strict=True)]
    step = sum(b - a for a, b in pairwise(x)) / (len(x) - 1)
    knee, threshold = None, -math.inf
    for i in range(1, len(d)):
        if i < len(d) - 1 and d[i - 1] < d[i] and d[i] >= d[i + 1]:
            knee, threshold = i, d[i] - step
        elif knee is not None and d[i] < threshold:
            return ranks[knee]
    return None


def test_kneedle_finds_the_corner_of_a_bent_line() -> None:
    assert kneedle(curve([0.5, 0.6, 0.7, 0.8, 0.81, 0.82, 0.83, 0.84])) == 8


def test_kneedle_finds_none_in_a_straight_a_flat_and_a_sagging_line() -> None:
    assert kneedle(curve([0.5, 0.6, 0.7, 0.8])) is None
    assert kneedle(curve([0.5, 0.5, 0.5, 0.5])) is None
    assert kneedle(curve([0.5, 0.51, 0.53, 0.6, 0.8])) is None


def test_kneedle_takes_the_first_of_two_equal_peaks() -> None:
    # On x = 0, 1/4, ..., 1 the curve is above the line by 0, 1/4, 1/4, 1/8, 0.
    assert kneedle(curve([0.0, 0.5, 0.75, 0.875, 1.0]), sensitivity=0.4) == DOUBLINGS[1]


def test_kneedle_is_the_paper_s_knee_of_a_saturating_curve() -> None:
    """y = -1 / x + 5 on x = 0, 0.1, ..., 1 has its knee at 0.22 for dense points (figure 2)."""
    x = np.linspace(0, 1, 10)
    means = (-1 / (x + 0.1) + 5).tolist()
    ranks = tuple(2**i for i in range(10))
    knee = kneedle(curve(means, ranks=ranks))
    assert knee == ranks[2]  # x = 0.222


@given(st.lists(st.integers(0, 50), min_size=3, max_size=8))
def test_kneedle_equals_a_naive_walk(heights: list[int]) -> None:
    means = [h / 50 for h in heights]
    if len(set(means)) > 1:
        assert kneedle(curve(means)) == naive_kneedle(DOUBLINGS[: len(means)], means)


# trend


def test_the_width_is_tukey_s_in_a_block_design() -> None:
    """Against a two-way analysis of variance written out as loops."""
    rng = np.random.default_rng(0)
    a = 0.8 + 0.01 * rng.standard_normal((4, 3)) + 0.05 * rng.standard_normal((1, 3))
    total = 0.0
    for i in range(4):
        for j in range(3):
            total += (a[i, j] - a[i].mean() - a[:, j].mean() + a.mean()) ** 2
    expected = stats.studentized_range.ppf(0.95, 4, 6) * math.sqrt(total / 6 / 3)
    got = trend(Curve((1, 2, 4, 8), a))
    assert got.width == pytest.approx(expected, rel=1e-9)
    falls = {(i, j): a[i].mean() - a[j].mean() for i, j in combinations(range(4), 2)}
    (i, j), worst = max(falls.items(), key=lambda item: item[1])
    assert (got.after, got.at) == ((1, 2, 4, 8)[i], (1, 2, 4, 8)[j])
    assert got.fall == pytest.approx(worst)
    assert got.open == pytest.approx(worst + expected)


def test_a_rising_curve_that_seeds_agree_on_is_monotone() -> None:
    got = trend(curve([0.70, 0.75, 0.78, 0.79]))
    assert (got.verdict, got.after, got.at, got.fall) == ("monotone", None, None, 0.0)


def test_a_clear_fall_is_named() -> None:
    a = np.array([0.70, 0.80, 0.79, 0.75])[:, None] + 0.01 * np.array([1, 0, -1])
    a[0, 0] += 0.002
    got = trend(Curve((1, 2, 4, 8), a))
    assert (got.verdict, got.after, got.at) == ("falls", 2, 8)
    assert got.fall == pytest.approx(0.05)


def test_a_fall_within_the_spread_cannot_be_told() -> None:
    rng = np.random.default_rng(1)
    a = np.array([0.70, 0.80, 0.795, 0.79])[:, None] + 0.02 * rng.standard_normal((4, 3))
    got = trend(Curve((1, 2, 4, 8), a))
    assert got.verdict == "cannot tell"
    assert got.open > got.fall


def test_flat_curves_are_called_falling_at_most_as_often_as_stated() -> None:
    rng = np.random.default_rng(2)
    sweeps = 0.8 + 0.01 * rng.standard_normal((400, 8, 3)) + 0.03 * rng.standard_normal((400, 1, 3))
    falls = sum(trend(Curve(DOUBLINGS, a)).verdict == "falls" for a in sweeps)
    assert falls / 400 < 0.05  # half of Tukey's 5 %: rises are no falls


# how sure the elbow is, and whether it grows


def correct(chances: list[float], seeds: int, images: int, seed: int = 0) -> np.ndarray:
    """(ranks, seeds, images); an image is as hard for every rank and seed."""
    hard = np.random.default_rng(seed).uniform(size=images)
    noise = np.random.default_rng(seed + 1).normal(0, 0.05, (len(chances), seeds, images))
    return np.asarray(hard + noise < np.array(chances)[:, None, None])


def test_a_clear_elbow_stays_where_it_is() -> None:
    x = correct([0.3, 0.9, 0.9, 0.9], 3, 400)
    x[2:] = x[1]  # larger ranks predict the same
    assert set(resampled_elbows((1, 2, 4, 8), x[None]).ravel()) == {2}


def test_a_doubtful_elbow_moves() -> None:
    x = correct([0.3, 0.78, 0.79, 0.80], 3, 200)
    assert len(set(resampled_elbows((1, 2, 4, 8), x[None]).ravel())) > 1


@pytest.mark.parametrize("images", [23, 30])
def test_resamples_are_those_of_a_naive_loop(images: int) -> None:
    """Seeds that disagree on few images, so that every term of the error decides somewhere."""
    wins = np.random.default_rng(0).random((3, 3, images))
    x = (wins < np.array([0.5, 0.6, 0.7])[:, None, None]).astype(float)
    rng, want = np.random.default_rng(5), []
    for _ in range(200):
        weights = rng.multinomial(images, np.full(images, 1 / images)) / images
        chosen = rng.integers(0, 3, 3)
        accuracy = [[float(x[r, s] @ weights) for s in chosen] for r in range(3)]
        means = [float(np.mean(row)) for row in accuracy]
        best = int(np.argmax(means))
        shares = x[best, chosen].mean(axis=0)  # of the seeds that get an image right
        spread = float((shares - means[best]) ** 2 @ weights) / (images - 1)
        bar = means[best] - math.sqrt(float(np.var(accuracy[best], ddof=1)) / 2 + spread)
        want.append(next(r for r, m in zip((1, 2, 4), means, strict=True) if m >= bar - 1e-12))
    got = resampled_elbows((1, 2, 4), x[None], seed=5, resamples=200)
    assert got[0].tolist() == want


def test_all_sizes_are_resampled_alike() -> None:
    x = correct([0.5, 0.7, 0.72], 3, 60)
    first, second = resampled_elbows((1, 2, 4), np.stack([x, x]))
    assert (first == second).all()


def test_growth_needs_nearly_all_resamples() -> None:
    ones, fours = np.ones(100, int), np.full(100, 4)
    assert growth(np.stack([ones, fours]), 8) == ("grows", 1.0)
    assert growth(np.stack([fours, ones, fours]), 8) == ("does not grow", 0.0)
    mixed = np.where(np.arange(100) < 60, 4, 1)
    assert growth(np.stack([ones, mixed]), 8) == ("cannot tell", 0.6)


def test_an_elbow_at_the_end_of_the_grid_denies_no_growth() -> None:
    fours = np.full(100, 4)
    assert growth(np.stack([fours, fours]), 4) == ("cannot tell", 0.0)


# spectra


def test_energy_rank_counts_the_leading_directions() -> None:
    assert energy_rank([3, 1, 0]) == 1  # 9 of 10: exactly 90 %
    assert energy_rank([3, 1.01, 0]) == 2
    assert energy_rank(np.ones(10)) == 9
    assert energy_rank([0.0, 0.0]) == 0
    assert energy_rank([1, 2], share=1.0) == 2


@given(
    st.lists(st.floats(0.01, 10), min_size=1, max_size=20),
    st.floats(1e-4, 1),
    st.integers(1, 10_000),
)
def test_the_bound_is_least_about_the_threshold(
    values: list[float], noise: float, samples: int
) -> None:
    """One more rank saves sigma_j^2 and costs tau^2 (2d - 2r - 1) / n, at most the threshold's 2d."""
    width = len(values) + 5
    bound = excess_risk(values, width, noise, samples, range(width + 1))
    predicted = threshold_rank(values, width, noise, samples)
    for r in range(width + 1):
        tail = sum(sorted((v * v for v in values), reverse=True)[r:])
        cost = noise * r * (2 * width - r) / samples
        assert bound.approximation[r] == pytest.approx(tail, abs=1e-9)
        assert bound.estimation[r] == pytest.approx(cost, abs=1e-12)
    steps = np.diff(bound.total)
    assert (steps[:predicted] < 1e-12).all()  # every kept direction pays


def test_ranks_beyond_the_width_are_full_rank() -> None:
    bound = excess_risk([1.0, 0.5], 2, 0.1, 10, (2, 64))
    assert bound.total[0] == bound.total[1] == pytest.approx(0.1 * 2 * 2 / 10)


# what a curve is


@pytest.mark.parametrize(
    ("ranks", "shape"), [((1, 2), (2, 1)), ((1,), (1, 3)), ((1, 2, 4), (2, 3)), ((1, 2), (2,))]
)
def test_curves_of_the_wrong_shape_are_refused(
    ranks: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="two of each"):
        Curve(ranks, np.zeros(shape))


@pytest.mark.parametrize("ranks", [(2, 1), (1, 1), (0, 1)])
def test_ranks_that_do_not_rise_are_refused(ranks: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="rise"):
        Curve(ranks, np.zeros((2, 2)))


def test_images_count_in_every_width() -> None:
    x = correct([0.5, 0.7, 0.72], 3, 50).astype(float)
    seen = Curve((1, 2, 4), x.mean(axis=2), x.mean(axis=1))
    blind = replace(seen, by_image=None)
    want = blind.error**2 + x.mean(axis=1).var(axis=1, ddof=1) / 50
    np.testing.assert_allclose(seen.error**2, want)
    assert trend(seen).width > trend(blind).width


def test_equal_answers_on_fifty_images_rule_nothing_out() -> None:
    x = np.zeros((2, 3, 50))
    x[..., :15] = 1  # both ranks 30.0 ± 0.0
    got = trend(Curve((1, 2), x.mean(axis=2), x.mean(axis=1)))
    assert got.verdict == "cannot tell"
    assert got.open == pytest.approx(3 / 50)
    many = np.zeros((2, 3, 2000))
    assert trend(Curve((1, 2), many.mean(axis=2), many.mean(axis=1))).verdict == "monotone"


def test_a_fall_of_many_images_is_one() -> None:
    x = correct([0.5, 0.9, 0.6], 3, 400).astype(float)
    assert trend(Curve((1, 2, 4), x.mean(axis=2), x.mean(axis=1))).verdict == "falls"
