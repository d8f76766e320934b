"""Numbers as text."""

import math

import pytest

from petiole.metrics.statistics import t_interval
from petiole.report import formatting


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.24, "+1.2"), (-1.26, "−1.3"), (0.0, "0.0"), (-0.04, "0.0"), (0.04, "0.0")],
)
def test_signs(value: float, text: str) -> None:
    assert formatting.signed(value, 1) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.144, "1.14"), (0.0820, "0.082"), (100.0, "100"), (0.0, "0"), (99.97, "100")],
)
def test_percentages(value: float, text: str) -> None:
    assert formatting.percent(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.6, "1.00 kB"),
        (51_240, "51.2 kB"),
        (800e6, "800 MB"),
        (12.25e9, "12.2 GB"),
    ],
)
def test_amounts(value: float, text: str) -> None:
    assert formatting.amount(value, "B") == text


def test_spread_is_left_out_where_there_is_none() -> None:
    assert formatting.mean_sd(t_interval([0.9]), 1) == "90.0"
    assert formatting.mean_sd(t_interval([0.9, 0.8]), 1) == "85.0 ± 7.1"
    assert formatting.bounds(-math.inf, math.inf, 1) == "unknown"


@pytest.mark.parametrize(
    ("items", "text"),
    [
        (["a"], "a"),
        (["a", "b"], "a and b"),
        (["a", "b", "c"], "a, b and c"),
        (["a, b", "c"], "a, b; and c"),
    ],
)
def test_lists(items: list[str], text: str) -> None:
    assert formatting.join(items) == text


@pytest.mark.parametrize(
    ("p", "text"), [(0.0004, "< 0.001"), (0.0341, "0.034"), (0.34, "0.34"), (1.0, "1.00")]
)
def test_p_values(p: float, text: str) -> None:
    assert formatting.p_value(p) == text
