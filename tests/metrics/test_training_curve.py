"""What a loss by step says of a run."""

import numpy as np
import pytest

from petiole.metrics.training_curve import at_chance, recovered, remarks, still_falls

FLAT = [*np.linspace(2, 1, 20), *[1.0] * 60]
STEEP = [*np.linspace(2, 1, 80)]
PEAK = [*[2.0] * 10, *[90.0] * 5, *[1.0] * 40]


@pytest.mark.parametrize(
    ("losses", "falls", "came_back"),
    [(FLAT, False, False), (STEEP, True, False), (PEAK, False, True), (STEEP[:11], False, False)],
    ids=["flat", "steep", "peak", "short"],
)
def test_curves(losses: list[float], falls: bool, came_back: bool) -> None:
    assert (still_falls(losses), recovered(losses)) == (falls, came_back)


@pytest.mark.parametrize(
    ("last", "noise", "falls"), [(0.3, 0, True), (0.1, 0, False), (0.3, 1, False)]
)
def test_it_still_falls_by_a_tenth_of_the_whole_and_more_than_its_noise(
    last: float, noise: float, falls: bool
) -> None:
    losses = np.array([3.0] * 20 + [1.0 + last] * 20 + [1.0 + last] * 20 + [1.0] * 20)
    losses[40:] += noise * np.resize([1, -1], 40)  # means of quarters stay
    assert still_falls(losses) is falls


def test_chance_is_the_commonest_class_within_two_errors() -> None:
    labels = [0] * 60 + [1] * 40
    assert at_chance(0.6, labels)
    assert at_chance(0.65, labels)
    assert not at_chance(0.8, labels)
    assert not at_chance(1.0, [0, 0])


def test_remarks_name_what_is_odd_alone() -> None:
    labels = [0, 1] * 50
    assert remarks(FLAT, 0.9, labels) == []
    assert [r[:12] for r in remarks(STEEP, 0.5, labels)] == ["The run ends", "The loss sti"]
