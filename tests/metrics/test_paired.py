import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from petiole.metrics.statistics import (
    holm,
    judged,
    paired_by_image,
    paired_by_seed,
    paired_hierarchical,
    runs_needed,
    verdict,
)

A = [0.78, 0.79, 0.80, 0.77, 0.81]
B = [0.76, 0.78, 0.78, 0.77, 0.78]


def sign_flip_by_loop(d: list[float]) -> float:
    sums = [
        sum(s * x for s, x in zip(signs, d, strict=True))
        for signs in itertools.product((-1, 1), repeat=len(d))
    ]
    return sum(abs(s) >= abs(sum(d)) - 1e-12 for s in sums) / len(sums)


def test_by_seed_is_the_paired_t_test_with_its_interval() -> None:
    got = paired_by_seed(A, B)
    expected = stats.ttest_rel(A, B)
    assert got.p == pytest.approx(expected.pvalue)
    bounds = expected.confidence_interval(0.95)
    assert (got.low, got.high) == pytest.approx((bounds.low, bounds.high))
    assert got.difference == pytest.approx(0.016)
    assert (got.n, got.test) == (5, "paired t over runs")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=2, max_size=8))
def test_sign_flip_equals_enumeration(d: list[int]) -> None:
    got = paired_by_seed(d, [0] * len(d))
    assert got.others["sign-flip"] == pytest.approx(sign_flip_by_loop([float(x) for x in d]))


def test_sampled_sign_flip_agrees_with_the_exact_one() -> None:
    rng = np.random.default_rng(0)
    d = np.round(rng.normal(0.4, 1, size=16), 1)
    exact = sign_flip_by_loop(d.tolist())
    assert paired_by_seed(d, np.zeros(16)).others["sign-flip"] == pytest.approx(exact, abs=0.015)


def test_five_sign_flips_can_never_be_significant() -> None:
    got = paired_by_seed([1, 2, 3, 4, 5], [0] * 5)
    assert got.others["sign-flip"] == 2 / 2**5
    assert got.others["Wilcoxon"] == 2 / 2**5
    assert got.p < 0.05


def test_equal_differences_do_not_claim_certainty() -> None:
    got = paired_by_seed([0.8, 0.7, 0.9], [0.7, 0.6, 0.8])
    assert got.test.startswith("sign-flip")
    assert got.p == 0.25
    assert verdict(got.low, got.high, got.p) == "undecided"
    assert paired_by_seed(A, A).p == 1


def test_one_draw_decides_nothing() -> None:
    got = paired_by_seed([0.9], [0.1])
    assert (got.p, got.low, got.high, got.n) == (1, -math.inf, math.inf, 1)
    assert verdict(got.low, got.high, got.p) == "unknown"


def test_mcnemar_counts_discordant_images() -> None:
    a = np.array([1] * 60 + [1] * 15 + [0] * 4 + [0] * 21)
    b = np.array([1] * 60 + [0] * 15 + [1] * 4 + [0] * 21)
    got = paired_by_image(a, b, seed=0)
    by_hand = 2 * sum(math.comb(19, k) for k in range(5)) / 2**19
    assert got.p == pytest.approx(by_hand)
    assert got.p == pytest.approx(stats.binomtest(15, 19, 0.5).pvalue)
    assert got.difference == pytest.approx(0.11)
    half = 1.96 * (a - b).std() / 10
    assert (got.low, got.high) == pytest.approx((0.11 - half, 0.11 + half), abs=0.015)
    assert (got.n, got.test) == (100, "McNemar exact")
    assert paired_by_image(a[None] == 1, b[None] == 1, seed=0) == got


def test_agreement_everywhere_is_a_tie() -> None:
    got = paired_by_image([1, 0, 1], [1, 0, 1])
    assert (got.p, got.low, got.high) == (1, 0, 0)


def test_several_runs_are_averaged_by_image() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.uniform(size=(5, 400)) < 0.8, rng.uniform(size=(5, 400)) < 0.75
    got = paired_by_image(a, b, seed=0)
    d = a.mean(axis=0) - b.mean(axis=0)
    expected = stats.ttest_1samp(d, 0)  # close to both bootstrap and sign flips for 400 images
    assert got.p == pytest.approx(expected.pvalue, abs=0.01)
    bounds = expected.confidence_interval(0.95)
    assert (got.low, got.high) == pytest.approx((bounds.low, bounds.high), abs=0.004)
    assert got == paired_by_image(a, b, seed=0)


def test_only_the_hierarchical_test_knows_of_the_draws() -> None:
    """Two equal methods whose accuracy varies by draw: images alone find a difference too often."""
    rng = np.random.default_rng(5)
    false_alarms = {"image": 0, "both": 0}
    for seed in range(120):
        chance = 0.75 + rng.normal(0, 0.05, size=(2, 6, 1))
        a, b = rng.uniform(size=(2, 6, 400)) < chance
        false_alarms["image"] += paired_by_image(a, b, seed, resamples=500).p < 0.05
        false_alarms["both"] += paired_hierarchical(a, b, seed, resamples=500).p < 0.05
    assert false_alarms["image"] / 120 > 0.3
    assert false_alarms["both"] / 120 < 0.14


def test_hierarchical_interval_and_p_agree() -> None:
    rng = np.random.default_rng(6)
    for gain in (0.0, 0.05, 0.1):
        a, b = rng.uniform(size=(6, 300)) < 0.7 + gain, rng.uniform(size=(6, 300)) < 0.7
        got = paired_hierarchical(a, b, seed=1)
        mirrored = paired_hierarchical(b, a, seed=1)
        assert (got.p < 0.05) == (got.low > 0 or got.high < 0)
        assert (mirrored.low, mirrored.high) == pytest.approx((-got.high, -got.low), abs=0.006)


def test_hierarchical_p_is_two_sided() -> None:
    rng = np.random.default_rng(7)
    a, b = rng.uniform(size=(1, 800)) < 0.73, rng.uniform(size=(1, 800)) < 0.70
    d = a.astype(float) - b
    z = d.mean() / (d.std() / math.sqrt(800))
    expected = 2 * stats.norm.sf(abs(z))
    assert 0.05 < expected < 0.5
    assert paired_hierarchical(a, b, seed=0).p == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("test", [paired_by_seed, paired_by_image, paired_hierarchical])
def test_unequal_pairs_are_refused(test: object) -> None:
    with pytest.raises(ValueError, match="equal shapes"):
        test([0, 1, 1], [0, 1])  # type: ignore[operator]


def test_probabilities_are_not_correctness() -> None:
    with pytest.raises(ValueError, match="booleans"):
        paired_by_image([0.3, 0.5], [0.2, 0.9])


def test_holm_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


probability = st.floats(0, 1)


@settings(max_examples=30, deadline=None)
@given(st.lists(probability, min_size=1, max_size=12))
def test_holm_keeps_the_order_and_lies_between_raw_and_bonferroni(p: list[float]) -> None:
    adjusted = holm(p)
    for raw, new in zip(p, adjusted, strict=True):
        assert raw <= new <= min(1, len(p) * raw) + 1e-15
    for i, j in itertools.combinations(range(len(p)), 2):
        assert (p[i] <= p[j]) <= (adjusted[i] <= adjusted[j])


@pytest.mark.parametrize("p", [[math.nan], [-0.1], [1.2]])
def test_holm_refuses_what_is_no_probability(p: list[float]) -> None:
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        holm(p)


@settings(max_examples=30, deadline=None)
@given(st.floats(-1, 1), st.floats(0, 1), probability)
def test_verdict_is_antisymmetric(middle: float, half: float, p: float) -> None:
    ab = verdict(middle - half, middle + half, p)
    ba = verdict(-middle - half, -middle + half, p)
    assert ba == {"better": "worse", "worse": "better"}.get(ab, ab)
    if p >= 0.05 or abs(middle) <= half:
        assert ab in ("tie", "undecided")


@pytest.mark.parametrize(
    ("low", "high", "p", "says"),
    [
        (0.01, 0.03, 0.01, "better"),
        (-0.03, -0.01, 0.01, "worse"),
        (0.002, 0.004, 0.01, "better"),  # small, but there
        (0.002, 0.004, 0.2, "tie"),
        (0.01, 0.03, 0.2, "undecided"),
        (0.01, 0.03, math.nan, "undecided"),
        (-0.01, 0.03, 0.01, "undecided"),  # that zero lies inside makes no tie
        (-0.2, 0.3, 0.9, "undecided"),
        (-0.01, 0.01, 0.9, "tie"),
        (-math.inf, math.inf, 1.0, "unknown"),
        (math.nan, math.nan, 0.0, "unknown"),
    ],
)
def test_verdict_needs_the_interval_and_the_adjusted_p(
    low: float, high: float, p: float, says: str
) -> None:
    assert verdict(low, high, p) == says


def test_a_tie_lies_within_the_stated_margin() -> None:
    assert verdict(-0.015, 0.012, 0.5) == "undecided"
    assert verdict(-0.015, 0.012, 0.5, margin=0.02) == "tie"
    assert verdict(-0.001, 0.001, 0.5, margin=0.0) == "undecided"
    scores = {"a": [0.5, 0.6, 0.7], "b": [0.51, 0.6, 0.69]}
    assert [judged(scores, "a", margin)["b"][1] for margin in (0.01, 0.03)] == ["undecided", "tie"]


@pytest.mark.parametrize(("ratio", "n"), [(1.0, 10), (0.5, 34), (0.2, 199)])  # as G*Power says
def test_runs_needed_equals_published_tables(ratio: float, n: int) -> None:
    assert runs_needed(sd_difference=1, effect=ratio) == n
    assert runs_needed(sd_difference=0.004, effect=-0.004 * ratio) == n


def test_runs_needed_gives_the_power_in_simulation() -> None:
    n = runs_needed(0.4, 0.5, power=0.9, alpha=0.01)
    draws = np.random.default_rng(0).normal(0.5, 0.4, size=(20_000, n))
    assert 0.89 < np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.01) < 0.95
    fewer = stats.ttest_1samp(draws[:, :-1], 0, axis=1).pvalue
    assert np.mean(fewer < 0.01) < 0.905


def test_runs_needed_edges() -> None:
    assert runs_needed(0, 0.1) == 2
    assert runs_needed(0.01, 1) == 2
    with pytest.raises(ValueError, match="non-zero effect"):
        runs_needed(0.1, 0)
    with pytest.raises(ValueError, match="Power"):
        runs_needed(0.1, 0.1, power=80)
