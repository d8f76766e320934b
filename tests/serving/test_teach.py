"""Teaching without its process: the log, the evidence, what to label next, and what is exported."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import petiole
from builders.images import CLASSES, write_images
from petiole.data.unlabelled import unlabelled
from petiole.errors import DataError
from petiole.layers.averaged_ridge import AveragedRidgeHead
from petiole.serving.teach.evidence import curve, evidence, interval
from petiole.serving.teach.exports import as_csv, as_fiftyone, as_label_studio
from petiole.serving.teach.label_log import LabelLog
from petiole.serving.teach.teacher import Teacher, projection


def clouds(
    per_class: int, classes: int = 3, width: int = 16, seed: int = 0
) -> tuple[torch.Tensor, np.ndarray]:
    """Vectors around one centre a class, and the classes."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    centres = 2 * rng.standard_normal((classes, width))
    vectors = centres[labels] + rng.standard_normal((len(labels), width))
    return torch.from_numpy(vectors.astype(np.float32)), labels


def test_the_log_survives_closing_undo_and_a_torn_line(tmp_path: Path) -> None:
    log = LabelLog(tmp_path)
    log.give(["a", "b"], "ash")
    log.give(["b"], "birch")
    log.give(["a"], None)
    log.undo()
    assert log.labels == {"a": "ash", "b": "birch"}
    with pytest.raises(DataError, match="Another process teaches"):
        LabelLog(tmp_path)
    log._lock.release()
    with open(tmp_path / "labels.jsonl", "a") as file:
        file.write('{"when": "2026-')
    again = LabelLog(tmp_path)
    assert again.labels == log.labels
    again.give(["c"], "  ash  tree ")
    assert again.labels["c"] == "ash tree"
    with pytest.raises(DataError, match="2 images and 1 labels"):
        again.give(["a", "d"], ["ash"])
    before = again.labels
    again.give(["a", "d"], ["elm", " fir"])
    assert again.labels == {**before, "a": "elm", "d": "fir"}
    again.undo()
    assert again.labels == before, "labels that were given together are undone together"
    for _ in range(3):
        again.undo()
    assert again.labels == {}
    with pytest.raises(DataError, match="nothing to undo"):
        again.undo()
    again._lock.release()
    text = (tmp_path / "labels.jsonl").read_text().replace("birch", "beech")
    (tmp_path / "labels.jsonl").write_text(text)
    with pytest.raises(DataError, match=r"damaged: line 2"):
        LabelLog(tmp_path)


def test_the_evidence_is_the_heads_own() -> None:
    vectors, truth = clouds(30)
    rows = np.sort(np.random.default_rng(1).permutation(90)[:40])
    found = evidence(vectors, rows, truth[rows])
    head = AveragedRidgeHead(16, 3)
    y = torch.from_numpy(truth[rows])
    head.solve(vectors[rows], y, torch.ones(40, dtype=torch.bool))
    np.testing.assert_allclose(found.probabilities, head(vectors).softmax(-1).numpy(), atol=1e-6)
    assert found.accuracy is not None
    assert found.accuracy.images == 40
    assert (
        found.accuracy.low < found.accuracy.value < found.accuracy.high or found.accuracy.value == 1
    )


def test_without_two_classes_nothing_is_claimed() -> None:
    vectors, truth = clouds(5)
    nothing = np.array([], dtype=np.int64)
    assert evidence(vectors, nothing, nothing).probabilities is None
    assert evidence(vectors, np.arange(3), truth[:3]).probabilities is None
    two = evidence(vectors, np.array([0, 5]), np.array([0, 1]))
    assert two.accuracy is None
    assert two.probabilities is not None
    assert two.probabilities.shape == (len(vectors), 2)


def test_a_wrong_label_is_found() -> None:
    vectors, truth = clouds(20, seed=2)
    given = truth.copy()
    given[7] = 2
    found = evidence(vectors, np.arange(60), given)
    assert found.errors[0] == 7
    assert len(found.errors) < 6


def test_an_interval_is_wilsons() -> None:
    found = interval(8, 10)
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_the_curve_rises_and_its_law_is_a_power() -> None:
    vectors, truth = clouds(60, width=40, seed=3)
    vectors += 8 * torch.randn(vectors.shape, generator=torch.Generator().manual_seed(0))
    found = curve(vectors, truth)
    sizes, accuracies = zip(*found["measured"], strict=True)
    assert sizes == (45, 90, 135)
    assert accuracies[0] < accuracies[-1]
    ahead = found["expected"]
    assert [n for n, _ in ahead] == [180, 360, 720]
    (n0, a0), (n1, a1), (n2, a2) = ahead
    slope = np.log((1 - a1) / (1 - a0)) / np.log(n1 / n0)
    assert np.log((1 - a2) / (1 - a1)) / np.log(n2 / n1) == pytest.approx(slope)
    assert curve(vectors[:0], truth[:0]) == {"measured": [], "expected": []}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    root = tmp_path_factory.mktemp("teacher")
    write_images(root / "images", 6, 0)
    data = unlabelled(root / "images", "images")
    backbone = petiole.load("petiole/tiny-vit")
    vectors = np.random.default_rng(0).standard_normal((18, backbone.width)).astype(np.float32)
    return Teacher(data, vectors, backbone, LabelLog(root / "state"))


def test_it_suggests_typical_images_then_unsure_ones_of_every_kind(teacher: Teacher) -> None:
    free = np.ones(18, dtype=bool)
    assert teacher.suggested(free, None) == teacher.typical[:12]
    free[teacher.typical] = False
    assert teacher.suggested(free, None) == []
    p = np.full((18, 3), 0.1, dtype=np.float32)
    best = np.arange(18) % 2
    p[np.arange(18), best] = 0.5 + 0.02 * np.arange(18)
    teacher.typical, kept = [], teacher.typical
    assert teacher.suggested(np.ones(18, dtype=bool), p, 4) == [0, 1, 2, 3]
    lopsided = p.copy()
    lopsided[:6] = p[0]
    assert set(lopsided[teacher.suggested(np.ones(18, dtype=bool), lopsided, 2)].argmax(1)) == {
        0,
        1,
    }
    teacher.typical = kept


def test_what_is_taught_becomes_an_adapter(teacher: Teacher, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two classes"):
        teacher.save(tmp_path / "early")
    truth = [path.parent.name for path in teacher.data.paths]
    for name in CLASSES:
        teacher.give([row for row in range(18) if truth[row] == name], name)
    state = teacher.state()
    assert [state["classes"][k] for k in state["labels"]] == truth
    assert state["suggested"] == []
    for refused in (lambda: teacher.give([18], "ash"), lambda: teacher.alike(-1)):
        with pytest.raises(DataError, match="18 images"):
            refused()
    teacher.save(tmp_path / "adapter")
    adapter = petiole.Adapter.load(tmp_path / "adapter")
    assert adapter.classes == list(CLASSES)
    assert not any(part.training for part in adapter.adapted.modules())
    assert adapter.calibration is not None
    assert (adapter.calibration.images, adapter.calibration.folds) == (18, 5)
    logits = adapter.adapted.head(teacher.vectors)
    assert logits.argmax(-1).tolist() == state["guesses"]
    teacher.log.undo()
    assert teacher.state()["labels"].count(-1) == 6
    assert len(teacher.state()["classes"]) == 2


def test_labels_leave_in_the_forms_of_others(tmp_path: Path) -> None:
    rows = [(tmp_path / "a.png", "ash"), (Path("=b.png"), "-birch")]
    read = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert read[0] == {"path": str(tmp_path / "a.png"), "label": "ash"}
    assert read[1] == {"path": "./=b.png", "label": "'-birch"}, "no formula for a spreadsheet"
    task = json.loads(as_label_studio(rows))[0]
    assert task["annotations"][0]["result"][0]["value"] == {"choices": ["ash"]}
    for form in (as_csv, as_label_studio, as_fiftyone):
        assert "bär" in form([(tmp_path / "a.png", "bär")]), "as people write it"
    assert as_label_studio(rows).startswith('[\n {\n  "data": {')
    assert as_fiftyone(rows).startswith('{\n "classes": [\n  "-birch"')
    fiftyone = json.loads(as_fiftyone(rows))
    assert fiftyone["classes"][fiftyone["labels"][str(tmp_path / "a.png")]] == "ash"


@pytest.mark.parametrize(("n", "width"), [(1, 8), (2, 8), (3, 8), (12, 8), (12, 1)])
def test_every_number_of_images_has_a_map(
    n: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = "petiole.serving.teach.teacher.MOST_TSNE"
    monkeypatch.setattr(most, 12 if width > 1 else 3)
    places = projection(np.random.default_rng(0).standard_normal((n, width)).astype(np.float32))
    assert places.shape == (n, 2)
    assert places.min() >= 0
    assert places.max() <= 1
