"""Exact match, consistency and error rates, by hand and by naive definitions."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petiole.metrics.answers import choice_index, consistency, edits, error_rate, matches

SHORT = st.text("abc", max_size=6)


def test_a_match_is_exact_and_with_any_reference() -> None:
    assert matches(["pipe", "Pipe", "b"], [["pipe"], ["pipe"], ["a", "b"]]) == [1, 0, 1]


def test_a_group_is_consistent_if_all_its_samples_are_right() -> None:
    right = [1, 1, 0, 1, 1, 1]
    assert consistency(right, ["s", "s", "t", "t", "u", "s"]) == pytest.approx(2 / 3)


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.integers(0, 3)), min_size=1))
def test_consistency_is_accuracy_of_groups(rows: list[tuple[float, int]]) -> None:
    groups = {g for _, g in rows}
    whole = [all(r == 1 for r, h in rows if h == g) for g in groups]
    assert consistency([r for r, _ in rows], [g for _, g in rows]) == pytest.approx(
        sum(whole) / len(whole)
    )


@pytest.mark.parametrize(
    ("answer", "index"), [("a3", 3), ("a0", 0), ("a", 0), ("", 0), ("the", 0), ("a2: red", 2)]
)
def test_a_choice_without_a_number_is_the_first(answer: str, index: int) -> None:
    assert choice_index(answer) == index


@given(SHORT, SHORT)
def test_edits_equal_the_recursion(a: str, b: str) -> None:
    @cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        same = distance(i - 1, j - 1) + (a[i - 1] != b[j - 1])
        return min(same, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    assert edits(a, b) == distance(len(a), len(b)) == edits(b, a)


def test_error_rate_adds_up_edits_before_it_divides() -> None:
    # One edit of 2 and none of 8 characters: 1/10, not the mean 1/4.
    assert error_rate(["ab", "abcdefgh"], [["ac"], ["abcdefgh"]]) == pytest.approx(0.1)
    assert error_rate(["kitten"], [["sitting", "kitten"]]) == 0
    assert error_rate([["a", "long", "answer"]], [[["no"]]]) == 3


def test_what_cannot_be_scored_is_refused() -> None:
    for call in (
        lambda: matches(["a"], [["a"], ["b"]]),
        lambda: consistency([], []),
        lambda: error_rate([], []),
    ):
        with pytest.raises(ValueError, match="pass one each, at least one"):
            call()
    with pytest.raises(ValueError, match="Sample 1 has no reference"):
        matches(["a", "b"], [["a"], []])
    with pytest.raises(ValueError, match="All references are empty"):
        error_rate(["a"], [[""]])
