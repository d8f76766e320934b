"""What tasks in sequence learn from, and matrices by hand: whatever trains is exchanged."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from builders.comparisons import QUIET, images
from petiole.errors import ConfigError
from petiole.protocols import continual
from petiole.tasks.classification.workspace import Classification, Subset


def sequence() -> tuple[continual.Continual, list[Any], list[Any]]:
    """Two tasks: four training images and three or two test images."""
    study = continual.plan(["a", "b"], "ridge", {}, shots=3, memory=1, seeds=2)
    first = (images("p", [0, 0, 1, 1]), images("s", [0, 1, 1]))
    second = (images("q", [0, 1, 1, 0], ("u", "v")), images("t", [1, 0], ("u", "v")))
    vectors = {"p": [[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]], "q": [[-1.0, 0], [0, -1], [0, -1], [-1, 0]],
               "s": [[1.0, 0.2], [0.1, 1], [-1, -0.1]], "t": [[-1.0, 0.1], [0.2, 1]]}  # fmt: skip
    spaces = [
        SimpleNamespace(parts=lambda _, data=train: (data, None), shift=SimpleNamespace(classes=train.classes, test=test),
                        vectors=lambda data: np.array(vectors[data.name], dtype=np.float32))
        for train, test in (first, second)
    ]  # fmt: skip
    return study, spaces, [QUIET, Classification("b", Path("other"), quiet=True)]


def test_replay_learns_the_new_task_and_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    study, spaces, tasks = sequence()
    queue = list(spaces)
    monkeypatch.setattr(continual, "_opened", lambda _: queue.pop(0))
    made = continual.jobs_of(study, tasks, tmp_path, resume=True)
    homes = [spec.folder.relative_to(tmp_path / "runs").as_posix() for spec in made]
    assert homes == [f"{kind}/{task}/seed-{seed}" for seed in (0, 1) for kind, task in (("adapters", "a"), ("adapters", "b"), ("replay", "b"))]  # fmt: skip
    assert [spec.options for spec in made[:3]] == [Subset(3, 0), Subset(3, 0), Subset(None, 0)]
    assert [spec.seed for spec in made] == [0] * 3 + [1] * 3
    assert all(spec.resume and spec.task.quiet for spec in made)
    replay = made[2].task
    assert replay.images.classes == ("x", "y", "u", "v")
    assert [s.label for s in replay.images.samples].count(2) == 2
    assert sorted(s.label for s in replay.images.samples) == [0, 1, 2, 2, 3, 3], (
        "one of each earlier class"
    )
    assert [s.id for s in replay.test.samples] == ["s0", "s1", "s2", "t1", "t0"]
    assert [s.label for s in replay.test.samples] == [0, 1, 1, 2, 3]
    spaces[1].shift.classes = ("x", "v")
    queue.extend(spaces)
    with pytest.raises(ConfigError, match=r"a and b both have the class 'x'\. In a sequence"):
        continual.jobs_of(study, tasks, tmp_path)


def test_matrices_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, spaces, _ = sequence()
    right = {
        "adapters/a": [True, True, True], "adapters/b": [True, False],
        "replay/b": [True, False, False, True, True],
    }  # fmt: skip
    monkeypatch.setattr(continual, "_right", lambda folder: np.array(right[folder.parent.relative_to(tmp_path / "runs").as_posix()]))  # fmt: skip
    found = continual._matrices(study, spaces, tmp_path, 0)
    assert found["told"] == [[1.0], [1.0, 0.5]]
    # The third image of a lies where the classes of b do, the second of b where those of a do.
    assert found["routed"] == [[1.0], [pytest.approx(2 / 3), 0.5]]
    assert found["replay"] == [[1.0], [pytest.approx(1 / 3), 1.0]]
    right["adapters/b"] = [True, True]
    assert continual._matrices(study, spaces, tmp_path, 0)["routed"][1] == [
        pytest.approx(2 / 3),
        0.5,
    ]
    predictions = SimpleNamespace(
        probabilities=torch.tensor([[0.9, 0.1], [0.4, 0.6]]), labels=torch.tensor([0, 0])
    )
    monkeypatch.undo()
    monkeypatch.setattr(continual, "read_predictions", lambda _: predictions)
    assert continual._right(tmp_path).tolist() == [True, False]


def test_a_sequence_writes_the_matrices_of_all_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    study, spaces, tasks = sequence()
    monkeypatch.setattr(continual, "_opened", lambda _: None)
    ran: list[Any] = []
    monkeypatch.setattr(continual, "run_jobs", lambda specs, **more: ran.append((specs, more)))
    monkeypatch.setattr(continual, "_matrices", lambda _, __, ___, seed: {way: [[float(seed)]] for way in continual.WAYS})  # fmt: skip
    continual.learn(study, ["job"], tasks, tmp_path, quiet=True)  # type: ignore[list-item]
    assert ran == [(["job"], {"quiet": True})]
    assert continual.matrices(tmp_path) == {way: [[[0.0]], [[1.0]]] for way in continual.WAYS}
    assert len(spaces) == 2
