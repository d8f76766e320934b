"""What is left out of a fit that is trained is judged by a fit that has not seen it."""

from __future__ import annotations

from pathlib import Path
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
    run = ClassificationRun(bench.open(), spec)
    data, rows = run.train_images, left_out.target_rows(run)
    held, seen = rows[:5], rows[5:]
    fits: list[Any] = []

    def train(adapted: Any, kept: Any, table: Any, recipe: Any, *, seed: int, **_: Any) -> None:
        fits.append((kept.ids, seed, recipe, len(list(table.batches(len(kept))))))
        with torch.no_grad():
            adapted.head.weight.zero_()
            adapted.head.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))

    monkeypatch.setattr(left_out.training, "train", train)
    logits, similarity = left_out._without(left_out._Part(run, rows, held))
    ids = tuple(one for i, one in enumerate(data.ids) if i not in held)
    assert fits == [(ids, 3, run.method.recipe, 1)]
    assert logits.tolist() == [[1, 2, 3]] * 5
    bare = run.build()
    one, others = (left_out._output(run, bare, part).vectors for part in (held, seen))
    means = class_means(others, torch.from_numpy(data.labels[seen]))
    np.testing.assert_allclose(similarity, nearest(one, means).numpy(), rtol=1e-5)
