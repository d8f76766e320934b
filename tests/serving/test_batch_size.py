"""Batches are as large as is cheapest a row, by what they took."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from petiole.serving.batch_size import EXPLORE, START, BatchSize


def run(size: BatchSize, seconds: Callable[[int], float], batches: int = 200) -> list[int]:
    taken = []
    for _ in range(batches):
        rows = size.choose(100)
        size.learn(rows, seconds(rows))
        taken.append(rows)
    return taken


def test_it_grows_where_batching_pays() -> None:
    taken = run(BatchSize(16), lambda rows: 0.01 + 0.001 * rows)
    assert taken[:5] == [1, 2, 4, 8, 16]
    assert max(set(taken[5:]), key=taken.count) == 16


def test_it_stays_at_one_where_batching_loses() -> None:
    size = BatchSize(16)
    taken = run(size, lambda rows: 0.02 * rows * (1 + 0.1 * rows))
    assert taken.count(1) > 0.95 * len(taken)
    assert size.seconds == pytest.approx(0.022)


def test_it_notices_a_change() -> None:
    size = BatchSize(8)
    run(size, lambda rows: 0.02 * rows * (1 + 0.1 * rows))
    taken = run(size, lambda rows: 0.01 + 0.001 * rows, 60 * EXPLORE)
    assert taken[-1] == 8


def test_it_takes_no_more_than_wait() -> None:
    size = BatchSize(16)
    assert size.seconds == START
    run(size, lambda rows: 0.01 + 0.001 * rows)
    assert size.choose(5) == 4
    assert size.choose(1) == 1


def test_no_batch_takes_longer_than_it_may() -> None:
    size = BatchSize(32, longest=0.5)
    taken = run(size, lambda rows: 0.02 + 0.1 * rows)
    assert max(taken) == 4, "eight rows would take 0.82 s"
    slow = BatchSize(32, longest=0.5)
    assert set(run(slow, lambda rows: 0.1 + 0.9 * rows)) == {1}


def test_where_all_that_was_measured_takes_too_long_rows_go_one_by_one() -> None:
    size = BatchSize(8, longest=0.5)
    size.learn(4, 4.0)
    assert (size.best, size.choose(9)) == (1, 1)


@pytest.mark.parametrize("factor", [5.0, 0.2])
def test_what_a_row_is_expected_to_take_follows_the_machine(factor: float) -> None:
    """Sizes that were not measured since must not say what a row took before a burst, or still what it took in one."""
    size = BatchSize(32)

    def cost(rows: int) -> float:
        return rows * (0.010 + 0.001 / rows)

    run(size, cost)
    assert size.seconds == pytest.approx(0.010, rel=0.1)
    run(size, lambda rows: factor * cost(rows), 4)
    assert size.seconds == pytest.approx(factor * 0.010, rel=0.35)
    run(size, lambda rows: factor * cost(rows), 200)
    assert size.seconds == pytest.approx(factor * 0.010, rel=0.1)
