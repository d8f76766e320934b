"""Batches: pure in (seed, step), balanced in classes and domains."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from petiole.data.dataset import Dataset, Sample
from petiole.errors import DataError
from petiole.methods.recipe import Recipe
from petiole.tasks.classification.sampler import Sampler

Make = Callable[..., Dataset]
MODES = ("source", "target", "joint", "sequential")


def from_counts(source: list[int], target: list[int]) -> Dataset:
    from pathlib import Path

    samples = [
        Sample(Path("x"), label, f"{domain}{label}.{i:03d}", domain)
        for domain, counts in (("source", source), ("target", target))
        for label, count in enumerate(counts)
        for i in range(count)
    ]
    classes = tuple(f"c{i}" for i in range(max(len(source), len(target))))
    return Dataset("made", classes, tuple(samples))


def contents(data: Dataset, rows: torch.Tensor) -> Counter[tuple[int, str]]:
    return Counter((data.samples[r].label, data.samples[r].domain) for r in rows.tolist())


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_is_a_pure_function_of_seed_and_step(dataset: Make, mode: str) -> None:
    data, recipe = dataset(9, 5), Recipe(train_on=mode, steps=40)
    sampler, other = Sampler(data, recipe, 3), Sampler(data, recipe, 3)
    forwards = [sampler(step) for step in range(40)]
    backwards = [other(step) for step in reversed(range(40))][::-1]
    for (rows, views), (again, same) in zip(forwards, backwards, strict=True):
        assert torch.equal(rows, again)
        assert torch.equal(views, same)
    assert len({tuple(rows.tolist()) for rows, _ in forwards}) > 35
    assert not torch.equal(Sampler(data, recipe, 4)(0)[0], forwards[0][0])


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=7),
    classes=st.integers(1, 9),
    s=st.integers(1, 5),
    t=st.integers(1, 5),
    step=st.integers(0, 10**6),
)
def test_joint_batches_hold_both_domains_of_every_class(
    counts: list[tuple[int, int]], classes: int, s: int, t: int, step: int
) -> None:
    data = from_counts([a for a, _ in counts], [b for _, b in counts])
    recipe = Recipe(classes_per_batch=classes, source_per_class=s, target_per_class=t)
    seen = contents(data, Sampler(data, recipe, 0)(step)[0])
    labels = {label for label, _ in seen}
    assert len(labels) == min(classes, len(counts))
    assert all(seen[label, "source"] == s and seen[label, "target"] == t for label in labels)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_sees_equally_many_images_a_step(dataset: Make, mode: str) -> None:
    recipe = Recipe(train_on=mode, steps=10, classes_per_batch=3)
    sampler = Sampler(dataset(20, 10), recipe, 0)
    assert {len(sampler(step)[0]) for step in range(10)} == {3 * (8 + 4)}


@pytest.mark.parametrize(
    ("mode", "early", "late"),
    [
        ("source", {"source"}, {"source"}),
        ("target", {"target"}, {"target"}),
        ("joint", {"source", "target"}, {"source", "target"}),
        ("sequential", {"source"}, {"target"}),
    ],
)
def test_modes_draw_from_their_domains(
    dataset: Make, mode: str, early: set[str], late: set[str]
) -> None:
    data = dataset(6, 6)
    sampler = Sampler(data, Recipe(train_on=mode, steps=10), 0)
    for step in range(10):
        domains = {domain for _, domain in contents(data, sampler(step)[0])}
        assert domains == (early if step < 5 else late)


def test_source_is_drawn_without_target_with_replacement(dataset: Make) -> None:
    data = dataset(8, 4, classes=2)
    sampler = Sampler(data, Recipe(source_per_class=8, target_per_class=4), 0)
    repeats = 0
    for step in range(30):
        seen = Counter(sampler(step)[0].tolist())
        for row, count in seen.items():
            if data.samples[row].domain == "source":
                assert count == 1
            repeats += count > 1
    assert repeats > 20


def test_small_source_classes_are_filled_by_repeating(dataset: Make) -> None:
    data = dataset(3, 2, classes=2)
    seen = contents(data, Sampler(data, Recipe(source_per_class=8), 0)(0)[0])
    assert seen[0, "source"] == seen[1, "source"] == 8


def test_all_rows_and_views_come_up(dataset: Make) -> None:
    data = dataset(10, 5)
    sampler = Sampler(data, Recipe(views=3), 0)
    drawn = [sampler(step) for step in range(60)]
    assert set(torch.cat([rows for rows, _ in drawn]).tolist()) == set(range(len(data)))
    assert set(torch.cat([views for _, views in drawn]).tolist()) == {1, 2, 3}
    assert not Sampler(data, Recipe(views=0), 0)(0)[1].any()


def test_images_of_one_class_stand_together(dataset: Make) -> None:
    data = dataset(10, 5, classes=6)
    rows, _ = Sampler(data, Recipe(), 0)(0)
    labels = [data.samples[r].label for r in rows.tolist()]
    runs = [a for a, b in zip(labels, [None, *labels], strict=False) if a != b]
    assert len(runs) == len(set(labels)) == 6


def test_joint_falls_back_to_the_domain_that_there_is(dataset: Make) -> None:
    data = dataset(0, 5)
    rows, _ = Sampler(data, Recipe(train_on="joint", classes_per_batch=4), 0)(0)
    assert contents(data, rows) == {(label, "target"): 12 for label in range(4)}


@pytest.mark.parametrize("mode", ["source", "sequential"])
def test_a_missing_source_is_explained(dataset: Make, mode: str) -> None:
    with pytest.raises(DataError, match=r"needs source images.*--source") as caught:
        Sampler(dataset(0, 5), Recipe(train_on=mode), 0)
    assert mode in str(caught.value)


def test_a_missing_target_is_explained(dataset: Make) -> None:
    with pytest.raises(DataError, match="needs target images"):
        Sampler(dataset(5, 0), Recipe(train_on="target"), 0)


def test_a_class_without_one_domain_gives_the_other_alone() -> None:
    data = from_counts([5, 0, 5], [3, 3, 3])
    seen = contents(data, Sampler(data, Recipe(), 0)(0)[0])
    assert seen[1, "source"] == 0
    assert seen[1, "target"] == 4


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    size=st.integers(1, 30),
    seed=st.integers(0, 9),
    epoch=st.integers(0, 3),
)
def test_shuffled_passes_hold_every_image_once(
    counts: list[int], size: int, seed: int, epoch: int
) -> None:
    data = from_counts([], counts)
    sampler = Sampler(data, Recipe(batch_size=size, views=0), seed)
    batches = -(-len(data) // size)
    rows = [sampler(epoch * batches + i)[0] for i in range(batches)]
    assert all(len(r) == size for r in rows[:-1])
    assert sorted(torch.cat(rows).tolist()) == list(range(len(data)))


def test_another_pass_and_another_seed_shuffle_anew(dataset: Make) -> None:
    data, recipe = dataset(0, 40), Recipe(batch_size=16, views=0)
    sampler = Sampler(data, recipe, 0)
    assert not torch.equal(sampler(0)[0], sampler(10)[0])
    assert not torch.equal(sampler(0)[0], Sampler(data, recipe, 1)(0)[0])


@pytest.mark.parametrize(
    ("recipe", "steps"),
    [
        (
            {"epochs": 50.0, "batch_size": 1024},
            200,
        ),  # Pets with AdapterTune's launcher (arXiv 2603.14706)
        ({"epochs": 2.0, "batch_size": 100}, 2 * 37),
        ({"epochs": 0.5, "batch_size": 100}, 19),
        ({"epochs": 1.0, "batch_size": 10_000}, 1),
        ({"epochs": 1.0}, 20),  # 16 classes x (8 + 4)
        ({"steps": 7}, 7),
    ],
)
def test_epochs_are_resolved_to_steps(recipe: dict[str, float], steps: int) -> None:
    images = 3680 if steps != 200 else 3312  # Pets without its 10 % of validation
    resolved = Recipe(**recipe).resolved(images, 37)  # type: ignore[arg-type]
    assert resolved.steps == steps
    assert resolved.resolved(images, 37) == resolved
