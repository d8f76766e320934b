"""Labels that are given, evidence from them, and what is suggested next."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from builders.sized_data import SizedData

pytest.importorskip("httpx2", reason="the extra serve is not installed")
pytest.importorskip("fastapi", reason="the extra serve is not installed")
from petiole.errors import DataError
from petiole.serving.process import Refused, WorkerGone
from petiole.serving.teach import evidence
from petiole.serving.teach.label_log import LabelLog
from petiole.serving.teach.routes import Lessons
from petiole.serving.teach.teacher import Teacher, projection


def test_labels_are_cleaned_and_classes_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr("petiole.serving.teach.label_log.MOST_CLASSES", 3)
    log = LabelLog(tmp_path)
    assert (log.version, log.labels, log.classes) == (0, {}, [])
    log.give(["a", "b"], ["x", " y  z "])
    assert (log.version, log.classes) == (1, ["x", "y z"])
    log.give(["a"], "l" * 100)
    for ids, label, said in (
        ([], "x", "Choose an image first"),
        (["a"], " ", "1 to 100 characters"),
        (["a"], "l" * 101, "1 to 100 characters"),
        (["a"], "fourth", "There may be 3 classes"),
        (["a", "b"], ["x"], "2 images and 1 labels"),
    ):
        with pytest.raises(DataError, match=said):
            log.give(ids, label)
    assert log.version == 2
    log.give(["b"], None)
    assert log.labels == {"a": "l" * 100}
    assert log.classes == ["x", "y z", "l" * 100], "a class keeps its place"
    log.undo()
    assert (log.labels["b"], log.version) == ("y z", 4)
    log._lock.release()
    again = LabelLog(tmp_path)
    assert (again.version, again.labels) == (4, log.labels)
    again._lock.release()


def test_labels_that_another_class_would_get() -> None:
    p = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4], [0.49, 0.51, 0.0], [0.0, 0.0, 1.0], [0.5, 0.25, 0.25]], dtype=np.float32)  # fmt: skip
    assert evidence._doubted(p, np.array([0, 0, 0, 0, 0, 1])) == [4, 1, 3], "one of 0.5 is not sure"
    many = np.tile([0.1, 0.9], (30, 1)).astype(np.float32)
    assert evidence._doubted(many, np.zeros(30, dtype=np.int64)) == list(range(24))


def test_a_law_of_two_points_and_more() -> None:
    assert evidence._law([], 10) == evidence._law([[4, 0.5]], 10) == []
    ahead = evidence._law([[10, 0.5], [40, 0.75]], 40)
    assert [n for n, _ in ahead] == [40, 80, 160]
    assert [a for _, a in ahead] == pytest.approx([0.75, 1 - 0.25 / 2**0.5, 0.875])
    worse = evidence._law([[10, 0.75], [40, 0.5]], 40)
    assert len({round(a, 9) for _, a in worse}) == 1, "it never falls"
    perfect = evidence._law([[10, 1.0], [40, 1.0]], 50)
    assert [a for _, a in perfect] == pytest.approx([0.99] * 3), "half an image of those there are"


def test_sizes_of_a_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(evidence, "_once", lambda _, __, size, ___: asked.append(size) or 0.5)

    def sizes(labels: list[int]) -> list[float]:
        asked.clear()
        found = evidence.curve(torch.zeros(len(labels), 2), np.array(labels))
        assert asked == [size for size, _ in found["measured"] for _ in range(5)]
        return [size for size, _ in found["measured"]]

    assert sizes([0, 1] * 10) == [5, 10, 15]
    assert sizes([0, 1, 2, 0]) == [3], "one of each class at least"
    assert sizes([0, 1]) == []
    assert sizes([0] * 8) == []
    assert sizes([]) == []


def test_once_learns_from_one_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[Any] = []

    class Head(torch.nn.Module):
        def __init__(self, width: int, classes: int) -> None:
            super().__init__()
            self.shape = (width, classes)

        def solve(self, x: Any, y: Any, target: Any) -> None:
            learned.append((x.clone(), y.clone(), target.clone(), self.shape))

        def forward(self, x: Any) -> Any:
            return torch.nn.functional.one_hot(x[:, 0].long(), self.shape[1]).float()

    monkeypatch.setattr(evidence, "AveragedRidgeHead", Head)
    labels = np.array([0, 0, 1, 2, 2, 2, 1])
    vectors = torch.tensor([[0.0, 0], [0, 1], [1, 2], [2, 3], [2, 4], [0, 5], [1, 6]])
    for seed in range(6):
        score = evidence._once(vectors, labels, 4, np.random.default_rng(seed))
        x, y, target, shape = learned[-1]
        assert (len(x), shape, target.all().item()) == (4, (2, 3), True)
        assert set(y.tolist()) == {0, 1, 2}
        left = sorted(set(range(7)) - set(x[:, 1].long().tolist()))
        assert score == pytest.approx(np.mean([vectors[i, 0].item() == labels[i] for i in left]))


def taught(n: int = 8) -> Teacher:
    made = object.__new__(Teacher)
    made.typical = [5, 2, 7]
    made.data = SizedData(SimpleNamespace(classes=[], samples=[]), n)  # type: ignore[assignment]
    made.vectors = torch.tensor(
        [[1.0, 0], [2, 0.1], [0, 1], [-1, 0], [1, 1], [0, -1], [5, 0.2], [1, -1]]
    )[:n]
    return made


def test_typical_images_then_those_that_the_head_is_least_sure_of() -> None:
    made = taught()
    free = np.ones(8, dtype=bool)
    p = np.array([[0.6, 0.4], [0.55, 0.45], [0.1, 0.9], [0.5, 0.5], [0.3, 0.7], [0.2, 0.8], [0.9, 0.1], [0.45, 0.55]], dtype=np.float32)  # fmt: skip
    assert made.suggested(free, p) == [5, 2, 7]
    assert made.suggested(free, None, most=2) == [5, 2]
    free[[5, 2, 7]] = False
    assert made.suggested(free, None) == []
    assert made.suggested(free, p) == [3, 4, 1, 0, 6], "one of each predicted class in turn"
    assert made.suggested(free, p, most=2) == [3, 4]
    free[3] = False
    assert made.suggested(free, p) == [1, 4, 0, 6]


def test_images_alike_by_the_cosine() -> None:
    made = taught()
    assert made.alike(0, 3) == [0, 6, 1]
    assert made.alike(0, 8)[-1] == 3
    for row in (-1, 8):
        with pytest.raises(DataError, match=r"^There are 8 images; a row beyond them was named.$"):
            made.alike(row)
        with pytest.raises(DataError, match=r"a row beyond them was named"):
            made.thumbnail(row)


def test_maps_of_few_images_are_points_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petiole.serving.teach.teacher.MOST_TSNE", 6)
    for n in (0, 1, 2):
        assert projection(np.zeros((n, 4))).tolist() == [[0.5, 0.5]] * n
    assert len(np.unique(projection(np.eye(3)), axis=0)) == 3, "three have places of their own"
    rng = np.random.default_rng(0)
    wide = projection(rng.standard_normal((7, 3)) * [10, 3, 1])
    assert wide.shape == (7, 2)
    assert (wide.min(0).tolist(), wide.max(0).tolist()) == ([0, 0], [1, 1])
    flat = projection(rng.standard_normal((7, 1)))
    assert np.array_equal(flat[:, 0], flat[:, 1])


def test_lessons_begin_when_they_are_first_asked_for() -> None:
    async def main() -> None:
        lessons = Lessons({"images": "x"})
        ready = asyncio.Event()
        starts: list[Any] = []

        async def start() -> dict[str, Any]:
            starts.append(1)
            if len(starts) == 1:
                raise Refused("it cannot be read", "DataError")
            ready.set()
            return {}

        async def call(value: Any) -> Any:
            return SimpleNamespace(value={"asked": value}, blobs=[b"x"])

        stopped: list[int] = []

        async def stop() -> None:
            stopped.append(1)

        lessons.process = SimpleNamespace(start=start, ready=ready, call=call, stop=stop)  # type: ignore[assignment]
        await lessons.stop()
        assert stopped == [], "it was never started"
        assert not lessons.ready()
        await asyncio.sleep(0)
        with pytest.raises(Refused, match=r"it cannot be read"):
            lessons.ready()
        with pytest.raises(WorkerGone):
            await lessons.ask("state", since=3)
        await asyncio.sleep(0)
        assert await lessons.ask("state", since=3) == (
            {"asked": {"do": "state", "since": 3}},
            [b"x"],
        )
        assert len(starts) == 2
        await lessons.stop()
        assert stopped == [1]

    asyncio.run(main())


def test_exactly_as_many_images_as_fit_are_mapped_by_their_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr("petiole.serving.teach.teacher.MOST_TSNE", 7)
    given: list[Any] = []

    class Neighbours:
        def __init__(self, **more: Any) -> None:
            given.append(more)

        def fit_transform(self, x: Any) -> Any:
            given.append(x.shape)
            return np.stack([np.arange(len(x)), -np.arange(len(x))], axis=1).astype(float)

    monkeypatch.setattr("sklearn.manifold.TSNE", Neighbours)
    rng = np.random.default_rng(0)
    found = projection(rng.standard_normal((7, 3)))
    assert given == [{"perplexity": 2.0, "init": "pca", "random_state": 0, "max_iter": 500}, (7, 3)]
    assert np.allclose(found[:, 0], 1 - found[:, 1])
    assert np.allclose(found[1:-1, 0], (np.arange(1, 6) - 0.03) / 5.94)
    few = projection(1e-3 * rng.standard_normal((8, 3)))
    assert (few.min(0).tolist(), few.max(0).tolist()) == ([0, 0], [1, 1]), "in any unit"
    assert len(given) == 2, "more are not"
    monkeypatch.setattr("petiole.serving.teach.teacher.MOST_TSNE", 200)
    projection(rng.standard_normal((120, 60)))
    assert (given[2]["perplexity"], given[3]) == (30.0, (120, 50))


@pytest.mark.parametrize("known", [False, True])
def test_all_that_the_labels_say(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made, times = taught(4), iter([5.0, 5.25])
    monkeypatch.setattr("petiole.serving.teach.teacher.perf_counter", lambda: next(times))
    made.typical = []
    made.log = SimpleNamespace(version=3)  # type: ignore[assignment]
    p = np.array([[0.25, 0.75], [0.5, 0.5], [0.875, 0.125], [0.375, 0.625]], dtype=np.float32)
    found = evidence.Evidence(p, evidence.Accuracy(0.5, 0.1, 0.9, 2), [2]) if known else evidence.Evidence()  # fmt: skip
    monkeypatch.setattr(made, "_labelled", lambda: (["a", "b"], np.array([0, 2]), np.array([1, 0])))
    monkeypatch.setattr(made, "_evidence", lambda *given: found if [one.tolist() for one in given] == [[0, 2], [1, 0]] else None)  # fmt: skip
    assert made.state() == {
        "version": 3, "classes": ["a", "b"], "labels": [1, -1, 0, -1],
        "guesses": [1, 0, 0, 1] if known else [-1] * 4, "sure": [0.75, 0.5, 0.88, 0.62] if known else [0] * 4,
        "accuracy": {"value": 0.5, "low": 0.1, "high": 0.9, "images": 2} if known else None,
        "errors": [2] if known else [], "suggested": [1, 3] if known else [], "milliseconds": 250.0,
    }  # fmt: skip


def test_evidence_is_computed_once_for_each_version_of_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    made, computed = taught(4), list[Any]()
    monkeypatch.setattr("petiole.serving.teach.teacher.evidence", lambda *given: computed.append(given) or len(computed))  # fmt: skip
    made._seen, made.log = None, SimpleNamespace(version=7)  # type: ignore[assignment]
    rows, labels = np.array([0, 2]), np.array([1, 0])
    assert [made._evidence(rows, labels) for _ in range(3)] == [1, 1, 1]  # type: ignore[comparison-overlap]
    made.log.version = 8
    assert [made._evidence(rows, labels) for _ in range(2)] == [2, 2]  # type: ignore[comparison-overlap]
    assert computed == [(made.vectors, rows, labels)] * 2
