import math

import numpy as np
import pytest

from petiole.metrics.shift import (
    _subsample,
    centroid_distances,
    domain_classifier_accuracy,
    mmd,
    project,
    shift_report,
)


def gaussian(seed: int, n: int, shift: float = 0.0, d: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)) + shift


def mmd_by_loop(x: np.ndarray, y: np.ndarray) -> float:
    pooled = [*x, *y]
    distances = [math.dist(pooled[i], pooled[j]) for i in range(len(pooled)) for j in range(i)]
    sigma = float(np.median(distances))

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return math.exp(-(math.dist(a, b) ** 2) / (2 * sigma**2))

    def within(z: np.ndarray) -> float:
        terms = [kernel(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j]
        return sum(terms) / len(terms)

    between = [kernel(a, b) for a in x for b in y]
    return within(x) + within(y) - 2 * sum(between) / len(between)


def test_mmd_equals_the_loop() -> None:
    x, y = gaussian(0, 17), gaussian(1, 12, shift=0.4)
    assert mmd(x, y, seed=0) == pytest.approx(mmd_by_loop(x, y))


def test_mmd_is_unbiased_at_zero_and_grows_with_the_shift() -> None:
    null = [mmd(gaussian(2 * s, 60), gaussian(2 * s + 1, 60), seed=s) for s in range(60)]
    assert abs(np.mean(null)) < 3 * np.std(null) / math.sqrt(60)
    assert min(null) < 0  # unbiased, not the biased estimate, which is never negative
    values = [mmd(gaussian(1, 200), gaussian(2, 200, shift), seed=0) for shift in (0, 0.3, 1, 5)]
    assert values == sorted(values)
    assert 1 < values[-1] <= 2


def test_mmd_of_constant_features_is_zero_and_the_cap_is_seeded() -> None:
    assert mmd(np.ones((5, 3)), np.ones((4, 3)), seed=0) == 0
    x, y = gaussian(0, 100), gaussian(1, 100, 0.5)
    assert mmd(x, y, seed=3, cap=30) == mmd(x, y, seed=3, cap=30) != mmd(x, y, seed=4, cap=30)


def test_domain_classifier_sees_a_shift_and_no_other() -> None:
    same = domain_classifier_accuracy(gaussian(0, 600), gaussian(1, 400), seed=0)
    apart = domain_classifier_accuracy(gaussian(0, 600), gaussian(1, 400, 4.0), seed=0)
    assert 0.42 < same < 0.58  # 0.6 would come of guessing the larger domain
    assert apart > 0.99


def test_domain_classifier_works_with_few_samples() -> None:
    assert domain_classifier_accuracy(gaussian(0, 2), gaussian(1, 50, 9.0), seed=0) > 0.5


def test_centroid_distances_by_hand() -> None:
    source = [[1, 0], [3, 0], [0, 5], [7, 7]]
    target = [[0, 2], [0, 3], [0, 1]]
    got = centroid_distances(source, target, ["a", "a", "b", "c"], ["a", "b", "b"])
    # source centroids a (2, 0), b (0, 5); target centroids a (0, 2), b (0, 2); c is source only
    assert got["centroid_euclidean"] == pytest.approx((math.sqrt(8) + 3) / 2)
    assert got["centroid_euclidean_other"] == pytest.approx((3 + math.sqrt(8)) / 2)
    assert got["centroid_cosine"] == pytest.approx((1 + 0) / 2)
    assert got["centroid_cosine_other"] == pytest.approx((0 + 1) / 2)


def test_the_other_centroid_is_the_nearest_to_each_of_the_targets() -> None:
    """And not to each of the source's: the two differ where classes lie unevenly."""
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    got = centroid_distances(source, target, range(4), range(4))
    away = [
        min(float(np.linalg.norm(target[c] - source[k])) for k in range(4) if k != c)
        for c in range(4)
    ]
    assert got["centroid_euclidean_other"] == pytest.approx(np.mean(away))


def test_rows_that_stand_for_many_are_drawn_once() -> None:
    """With a row drawn twice, the mean over other pairs would hold pairs of a row with itself."""
    x = np.arange(50.0)[:, None]
    drawn = _subsample(x, 40, np.random.default_rng(0))
    assert len(set(drawn.ravel())) == 40


def test_one_shared_class_has_no_other() -> None:
    got = centroid_distances([[1, 0]], [[1, 1]], [0], [0])
    assert got["centroid_euclidean"] == 1
    assert math.isnan(got["centroid_euclidean_other"])


def test_report_combines_all() -> None:
    x, y = gaussian(0, 40), gaussian(1, 30, 1.0)
    a, b = np.arange(40) % 3, np.arange(30) % 3
    report = shift_report(x, y, a, b, seed=1)
    assert report["mmd2"] == mmd(x, y, seed=1)
    assert report["domain_accuracy"] == domain_classifier_accuracy(x, y, seed=1)
    assert report["centroid_cosine"] == centroid_distances(x, y, a, b)["centroid_cosine"]
    assert all(isinstance(value, float) for value in report.values())


def test_projection_separates_clusters_and_repeats() -> None:
    x = np.concatenate([gaussian(0, 25, d=60), gaussian(1, 25, shift=8.0, d=60)])
    picture = project(x, seed=0, perplexity=10)
    assert picture.shape == (50, 2)
    left, right = picture[:25], picture[25:]
    gap = np.linalg.norm(left.mean(axis=0) - right.mean(axis=0))
    assert gap > 2 * max(left.std(), right.std())
    assert (picture == project(x, seed=0, perplexity=10)).all()


@pytest.mark.parametrize("n", [5, 7])
def test_projection_of_few_samples(n: int) -> None:
    assert np.isfinite(project(gaussian(0, n), seed=0)).all()


def test_unusable_features_say_why() -> None:
    x = gaussian(0, 10)
    with pytest.raises(ValueError, match="same backbone"):
        mmd(x, gaussian(0, 10, d=4), seed=0)
    with pytest.raises(ValueError, match="n ≥ 2"):
        mmd(x, x[:1], seed=0)
    with pytest.raises(ValueError, match="NaN"):
        domain_classifier_accuracy(x, x * math.nan, seed=0)
    with pytest.raises(ValueError, match="both domains"):
        centroid_distances(x, x, [0] * 10, [1] * 10)
    with pytest.raises(ValueError, match="one label a row"):
        centroid_distances(x, x, [0] * 9, [1] * 10)
    with pytest.raises(ValueError, match="n ≥ 5"):
        project(x[:4], seed=0)
    with pytest.raises(ValueError, match="two features"):
        project(x[:, :1], seed=0)


def test_two_features_are_enough_and_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    class Neighbours:
        def __init__(self, size: int, **_: object) -> None:
            assert size == 2

        def fit_transform(self, x: np.ndarray) -> np.ndarray:
            return x

    monkeypatch.setattr("petiole.metrics.shift.TSNE", Neighbours)
    assert project(gaussian(0, 6, d=2), seed=0).shape == (6, 2)
    with pytest.raises(ValueError, match="at least two features"):
        project(gaussian(0, 6, d=1), seed=0)
