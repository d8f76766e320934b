"""What is left out of a fit that is trained is judged by a fit that has not seen it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from petiole.engine.run import RunSpec
from petiole.tasks.classification import left_out
from petiole.tasks.classification.novelty import class_means, nearest
from petiole.tasks.classification.task import ClassificationRun
from petiole.tasks.classification.workspace import Classification, Subset


def test_a_part_is_judged_by_a_fit_that_has_not_seen_it(
    bench: Classification, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = RunSpec(bench, "linear-probe", Path(), {"steps": 4, "views": 0}, Subset(4), seed=3)
    workspace = bench.open()
    workspace.feature_seconds = 5.0
    run = ClassificationRun(workspace, spec)
    assert workspace.feature_seconds == 0, "each run counts its own"
    data, rows = run.train_images, left_out.target_rows(run)
    held, seen = rows[:5], rows[5:]
    fits: list[Any] = []

    def train(adapted: Any, kept: Any, table: Any, recipe: Any, *, seed: int, **_: Any) -> None:
        fits.append((kept.ids, seed, recipe, len(list(table.batches(len(kept))))))
        with torch.no_grad():
            adapted.head.weight.zero_()
            adapted.head.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))

    seeds: list[int] = []
    build = run.build
    monkeypatch.setattr(run, "build", lambda: seeds.append(torch.initial_seed()) or build())
    monkeypatch.setattr(left_out.training, "train", train)
    logits, similarity = left_out._without(left_out._Part(run, rows, held))
    ids = tuple(one for i, one in enumerate(data.ids) if i not in held)
    assert seeds == [3]
    assert fits == [(ids, 3, run.method.recipe, 1)]
    assert logits.tolist() == [[1, 2, 3]] * 5
    bare = run.build()
    one, others = (left_out._output(run, bare, part).vectors for part in (held, seen))
    means = class_means(others, torch.from_numpy(data.labels[seen]))
    np.testing.assert_allclose(similarity, nearest(one, means).numpy(), rtol=1e-5)


@pytest.mark.parametrize("fitted", ["solving", "steps", "nothing"])
def test_images_of_classes_with_two_or_more_are_judged(fitted: str, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """One class has one target image, one two and one three; a source image counts for nothing."""
    labels, domains = [0, 1, 1, 2, 2, 2, 0], ["target"] * 6 + ["source"]
    data = SimpleNamespace(labels=np.array(labels), classes=["a", "b", "c"], domains=domains)
    run: Any = SimpleNamespace(train_images=data)
    asked: list[Any] = []
    logits = torch.arange(18.0).reshape(6, 3)
    monkeypatch.setattr(left_out, "fitted_by", lambda *_: fitted)
    monkeypatch.setattr(left_out, "_solved", lambda *given: asked.append(given) or logits)
    monkeypatch.setattr(left_out, "_output", lambda *given: asked.append(given) or SimpleNamespace(logits=logits))  # fmt: skip
    monkeypatch.setattr(left_out, "_trained", lambda *given: asked.append(given) or (logits, logits[:, 0]))  # fmt: skip
    found = left_out.left_out(run, "adapted", 4)  # type: ignore[arg-type]
    assert found is not None
    assert found.several.tolist() == [False, *[True] * 5]
    assert found.labels.tolist() == labels[1:6]
    assert torch.equal(found.logits, logits[1:])
    trained = None if found.similarity is None else found.similarity.tolist()
    assert trained == (logits[1:, 0].tolist() if fitted == "steps" else None)
    [given] = asked
    assert given[:2] == (run, "adapted")
    assert given[2] == 4 if fitted == "solving" else given[2].tolist() == list(range(6))
    data.labels, data.domains = np.array([0, 1, 2, 2]), ["target"] * 3 + ["source"]
    assert left_out.left_out(run, "adapted") is None  # type: ignore[arg-type]


def test_each_part_is_judged_in_its_own_places() -> None:
    """Seven target images, at rows 1, 3, ... of the training images, in three parts; in any order of the parts' answers."""
    labels = np.array([0, 0, 0, 1, 1, 1, 1])
    rows = np.arange(1, 15, 2)
    asked: list[Any] = []
    data = SimpleNamespace(classes="ab")
    run: Any = SimpleNamespace(
        train_images=data, method=SimpleNamespace(recipe="recipe"),
        workspace=SimpleNamespace(training_table=lambda *given: asked.append(given)),
    )  # fmt: skip

    def judged(work: Any, jobs: Any) -> Any:
        assert work is left_out._without
        for job in jobs:
            asked.append(job.held.tolist())
            assert job.run is run
            assert job.rows is rows
            yield (
                np.stack([job.held, -job.held], 1).astype(np.float32),
                (job.held / 100).astype(np.float32),
            )

    executor: Any = SimpleNamespace(map=judged)
    logits, similarity = left_out._trained(run, "adapted", rows, labels, 3, executor)  # type: ignore[arg-type]
    assert logits.tolist() == [[row, -row] for row in rows.tolist()]
    assert similarity.tolist() == pytest.approx((rows / 100).tolist())
    table, *held = asked
    assert table == ("adapted", data, "recipe")
    assert len(held) == 3
    assert sorted(row for part in held for row in part) == rows.tolist()
    for part in held:
        assert {int(labels[(row - 1) // 2]) for row in part} == {0, 1}, "of each class some"
