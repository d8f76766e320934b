"""Targets drawn by their soft scores, and the majority answer."""

import pytest

from petiole.data.text_sample import TextSample
from petiole.errors import DataError
from petiole.tasks.text.targets import drawn_target, majority


def taught(**targets: float) -> TextSample:
    return TextSample("q", targets=targets)


def test_a_target_is_drawn_in_proportion_to_its_weight_and_keeps_it() -> None:
    sample = taught(net=1.0, mesh=0.6, none=0.0, grid=0.4)
    steps = 2000
    drawn = [drawn_target(sample, (i + 0.5) / steps) for i in range(steps)]
    shares = {target: drawn.count(target) / steps for target in set(drawn)}
    assert shares == {
        ("net", 1.0): pytest.approx(0.5, abs=1e-3),
        ("mesh", 0.6): pytest.approx(0.3, abs=1e-3),
        ("grid", 0.4): pytest.approx(0.2, abs=1e-3),
    }


def test_rounding_at_the_end_still_draws_a_target() -> None:
    assert drawn_target(taught(a=0.1, b=0.2, c=0.3, d=0.0), 1 - 2**-53) == ("c", 0.3)


def test_each_target_has_a_half_open_share() -> None:
    drawn = [drawn_target(taught(a=0.5, b=0.5), u) for u in (0.0, 0.5 - 2**-53, 0.5)]
    assert drawn == [("a", 0.5), ("a", 0.5), ("b", 0.5)]


def test_without_targets_nothing_is_taught() -> None:
    assert drawn_target(taught(), 0.3) == ("", 0.0)
    assert drawn_target(taught(red=0.0), 0.3) == ("", 0.0)
    with pytest.raises(DataError, match="'q' has a target of negative weight"):
        drawn_target(taught(red=1.0, blue=-0.5), 0.3)


def test_the_majority_answer_has_the_greatest_weight_in_all() -> None:
    samples = [taught(yes=0.3), taught(yes=0.3), taught(no=1.0), taught(), taught(yes=0.3)]
    assert majority(samples) == "no"
    assert majority([*samples, taught(yes=0.9)]) == "yes"
    assert majority([taught(b=1.0), taught(a=1.0)]) == "a"
    with pytest.raises(DataError, match="No sample has a target"):
        majority([taught()])
