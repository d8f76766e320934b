"""Batches of many tasks: each sample once an epoch, by the tasks' sizes, whatever came before."""

from collections import Counter
from collections.abc import Sequence
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from petiole.data.task_batches import Batch, Mode, TaskBatches
from petiole.errors import ConfigError

sizes = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 40), min_size=1)
limits = st.fixed_dictionaries({task: st.integers(1, 9) for task in "abcd"})
seeds = st.integers(0, 2**32)
MODES: Sequence[Mode] = ("proportional", "balanced", "mixed")


def seen(batches: Sequence[Batch]) -> Counter[tuple[str, int]]:
    return Counter((t, int(row)) for batch in batches for t, rows in batch for row in rows)


def epoch(draw: TaskBatches, number: int) -> list[Batch]:
    return [draw(number * len(draw) + i) for i in range(len(draw))]


@given(sizes, limits, seeds, st.integers(0, 3), st.sampled_from(["proportional", "mixed"]))
def test_an_epoch_has_every_sample_exactly_once(
    n: dict[str, int], b: dict[str, int], seed: int, number: int, mode: Mode
) -> None:
    batches = epoch(TaskBatches(n, b, seed, mode), number)
    assert len(batches) == sum(ceil(n[t] / b[t]) for t in n)
    assert seen(batches) == Counter({(t, i): 1 for t in n for i in range(n[t])})


@given(sizes, limits, seeds, st.sampled_from(["proportional", "balanced"]))
def test_a_batch_has_one_task_and_its_size(
    n: dict[str, int], b: dict[str, int], seed: int, mode: Mode
) -> None:
    for batch in epoch(TaskBatches(n, b, seed, mode), 1):
        [(task, rows)] = batch
        assert rows.dtype == np.int64
        assert len(rows) in (b[task], min(n[task], n[task] % b[task] or b[task]))


@given(sizes, limits, seeds)
def test_balanced_epochs_have_equally_many_batches_of_each_task(
    n: dict[str, int], b: dict[str, int], seed: int
) -> None:
    draw = TaskBatches(n, b, seed, "balanced")
    counts = Counter(batch[0][0] for batch in epoch(draw, 0))
    assert set(counts) == set(n)
    assert len(set(counts.values())) == 1
    proportional = len(TaskBatches(n, b, seed))
    assert proportional <= len(draw) < proportional + len(n)


@given(sizes, limits, seeds)
def test_balanced_batches_bring_each_tasks_samples_equally_often(
    n: dict[str, int], b: dict[str, int], seed: int
) -> None:
    draw = TaskBatches(n, b, seed, "balanced")
    times = seen([batch for number in range(3) for batch in epoch(draw, number)])
    for task in n:
        of_task = [times[task, i] for i in range(n[task])]
        assert max(of_task) - min(of_task) <= 1


@given(sizes, limits, seeds)
def test_mixed_batches_have_all_tasks_by_their_sizes(
    n: dict[str, int], b: dict[str, int], seed: int
) -> None:
    batches = epoch(TaskBatches(n, b, seed, "mixed"), 0)
    totals = [sum(len(rows) for _, rows in batch) for batch in batches]
    assert max(totals) - min(totals) <= 1
    assert min(totals) >= 1
    for batch, total in zip(batches, totals, strict=True):
        got = {task: len(rows) for task, rows in batch}
        assert len(got) == len(batch)
        assert list(got) == [t for t in n if t in got]
        for task, size in n.items():
            share = size / sum(n.values())
            # Evenly spaced: a stretch with m samples differs from m p by less than 1 + p T.
            assert abs(got.get(task, 0) - total * share) <= 1 + share * len(n)


@given(sizes, limits, seeds, st.lists(st.integers(0, 500), min_size=1), st.sampled_from(MODES))
def test_a_resumed_run_sees_what_it_would_have_seen(
    n: dict[str, int], b: dict[str, int], seed: int, steps: list[int], mode: Mode
) -> None:
    through = TaskBatches(n, b, seed, mode)
    for step in range(30):  # another past
        through(step)
    for step in steps:
        fresh = TaskBatches(n, b, seed, mode)(step)
        for (task, rows), (other, others) in zip(fresh, through(step), strict=True):
            assert task == other
            np.testing.assert_array_equal(rows, others)


@pytest.mark.parametrize("mode", MODES)
def test_seeds_and_epochs_differ(mode: Mode) -> None:
    n, b = {"a": 60, "b": 60}, {"a": 7, "b": 5}

    def order(seed: int, number: int) -> list[tuple[str, list[int]]]:
        batches = epoch(TaskBatches(n, b, seed, mode), number)
        return [(task, rows.tolist()) for batch in batches for task, rows in batch]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(1, 0)
    assert order(0, 0) != order(0, 1)


def test_equal_tasks_are_shuffled_apart() -> None:
    [(_, a)], [(_, b)] = (TaskBatches({"a": 50, "b": 50}, {"a": 50, "b": 50}, 0)(i) for i in (0, 1))
    assert a.tolist() != b.tolist()


def test_an_epoch_of_the_paper_has_4386_steps() -> None:
    n = {"vqa": 605_102, "gqa": 943_000 + 132_062, "nlvr": 86_373, "caption": 566_747}
    b = {"vqa": 500, "gqa": 833, "nlvr": 166, "caption": 416}
    draw = TaskBatches(n, b, seed=9595)
    assert len(draw) == 4386
    order, _ = draw._plan(0)
    assert np.bincount(order).tolist() == [1211, 1291, 521, 1363]


@pytest.mark.parametrize(
    ("n", "b", "mode", "message"),
    [
        ({}, {}, "mixed", r"No task to draw batches of"),
        ({"a": 0}, {"a": 1}, "mixed", r"Task 'a' has no samples"),
        ({"a": 1}, {"a": 0}, "mixed", r"Task 'a' has batch size 0"),
        ({"a": 1}, {"b": 1}, "mixed", r"Task 'a' has batch size None"),
        ({"a": 1}, {"a": 1}, "mixd", r"Unknown mode 'mixd'\. Did you mean mixed"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    n: dict[str, int], b: dict[str, int], mode: Mode, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        TaskBatches(n, b, 0, mode)
