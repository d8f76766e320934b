"""Parts of a run on labelled images, on their own: what its calibration keeps, which vectors it writes, what it says."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from builders.comparisons import images
from petiole.backbones.frozen_network import IMAGES
from petiole.engine.run import CHECKPOINT, RunSpec
from petiole.errors import ConfigError
from petiole.layers.solved import SolvedHead
from petiole.methods.recipe import Recipe
from petiole.tasks.classification import calibration, left_out, mixing, training
from petiole.tasks.classification import task as run_of
from petiole.tasks.classification.adapter import predictions_of
from petiole.tasks.classification.aligned import AlignedTable
from petiole.tasks.classification.calibration import MOST_SCORES, Calibration, scores_of
from petiole.tasks.classification.model import AdaptedClassifier, Predictions, divided, predict
from petiole.tasks.classification.novelty import Novelty
from petiole.tasks.classification.task import ClassificationRun, _reopened
from petiole.tasks.classification.workspace import Classification, Subset
from petiole.testing import backbones as tiny
from petiole.testing import image_case


def left_out_logits(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    return 2 * torch.nn.functional.one_hot(labels, 3) + torch.randn(count, 3, generator=generator), labels  # fmt: skip


@pytest.mark.parametrize("count", [18, 19, MOST_SCORES, MOST_SCORES + 1])
def test_a_calibration_keeps_so_many_scores_and_a_threshold_of_nineteen(count: int) -> None:
    logits, labels = left_out_logits(count)
    found = Calibration.fit(logits, labels, folds=4)
    assert (found.images, found.folds, len(found.scores)) == (count, 4, min(count, MOST_SCORES))
    assert found.scores == sorted(found.scores)
    p = (logits.double() / found.temperature).softmax(-1)
    assert found.scores[0] == pytest.approx(float(1 - p[range(count), labels].max()), abs=1e-4)
    largest = logits.double().amax(1).sort().values
    if count < 19:
        assert found.threshold is None
        assert found.outside(logits, logits) == [None] * count
    else:
        assert found.threshold is not None
        below = sum(bool(odd) for odd in found.outside(logits, logits))
        assert below == int((largest < found.threshold).sum()) <= 0.05 * count
        assert found.threshold in largest.tolist()


def test_labels_of_a_set_that_are_equal_by_rounding_belong_to_it() -> None:
    found = Calibration(temperature=2.0, scores=[0.1] * 9 + [0.4] * 10, threshold=None, images=19, folds=5)  # fmt: skip
    assert found.bound(0.9) == pytest.approx(0.4 + 1e-6, abs=1e-9)
    logits = torch.tensor([[2.0, 0.0]])
    assert torch.equal(found.probabilities(logits), (logits / 2).softmax(-1))


def test_macro_accuracy_comes_first_where_classes_are_uneven() -> None:
    logits = torch.eye(2)[[0, 0, 0, 0, 0, 1]]
    for labels, first in (([0, 0, 0, 1, 1, 1], "accuracy"), ([0, 0, 0, 0, 0, 1], "macro_accuracy")):
        found = scores_of(logits, np.array(labels), None)
        assert next(iter(found)) == first
        assert "calibrated_ece" not in found
    known = Calibration(temperature=0.5, scores=[0.1], threshold=None, images=1, folds=0)
    found = scores_of(logits, np.array([0, 0, 0, 0, 0, 1]), known)
    p = (logits.double() / 0.5).softmax(-1)
    assert found["calibrated_nll"] == pytest.approx(float(-p.amax(1).log().mean()), rel=1e-5)
    assert found["calibrated_ece"] == pytest.approx(float(1 - p.amax(1).mean()), rel=1e-4)


@pytest.mark.parametrize(("asked", "fitted", "folds"), [(0, "steps", None), (None, "steps", None), (3, "steps", 3), (None, "solved", 5), (4, "solved", 4), (None, "nothing", 0), (2, "nothing", 0)])  # fmt: skip
def test_what_a_calibration_is_fitted_on(
    asked: int | None, fitted: str, folds: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    found: Any = SimpleNamespace(logits=left_out_logits(6)[0], labels=left_out_logits(6)[1])
    run: Any = SimpleNamespace(subset=SimpleNamespace(calibration_folds=asked))
    monkeypatch.setattr(left_out, "fitted_by", lambda *_: fitted)
    monkeypatch.setattr(left_out, "_novelty", lambda *_: None)
    monkeypatch.setattr(left_out, "left_out", lambda _, __, n: (tried.append(n), found)[1])
    made = left_out.calibrate(run, None)  # type: ignore[arg-type]
    assert (made and made.folds) == folds
    assert tried == ([] if folds is None else [asked or left_out.FOLDS])
    monkeypatch.setattr(left_out, "left_out", lambda *_: None)
    if asked:
        with pytest.raises(ConfigError, match="here no class has two"):
            left_out.calibrate(run, None)  # type: ignore[arg-type]
    else:
        assert left_out.calibrate(run, None) is None  # type: ignore[arg-type]


def test_class_means_that_are_no_whole_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="0 bytes of class means are no rows of 2"):
        Novelty(means="", width=2, threshold=0.5)
    with pytest.raises(ValueError, match="6 bytes of class means are no rows of 2"):
        Novelty(means="AAAAAAAA", width=2, threshold=0.5)
    assert Novelty(means="AAAAAAAA", width=3, threshold=0.5).width == 3


def test_an_image_s_classes_are_told_most_probable_first() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, -1.0, 0.0]])
    found = predictions_of([Path("a"), Path("b")], Predictions(logits, logits), "xyz")
    assert [(one.label, one.outside) for one in found] == [("y", None), ("x", None)]
    assert list(found[0].probabilities) == ["y", "z", "x"]
    assert found[0].probability == pytest.approx(float(logits[0].softmax(0)[1]))
    assert sum(found[0].probabilities.values()) == pytest.approx(1)
    known = Calibration(temperature=4.0, scores=[0.1], threshold=2.5, images=1, folds=0)
    calibrated = predictions_of([Path("a"), Path("b")], Predictions(logits, logits), "xyz", known)
    assert [one.outside for one in calibrated] == [True, False]
    assert calibrated[0].probability == pytest.approx(float((logits[0] / 4).softmax(0)[1]))


# --- the run -----------------------------------------------------------------------------------------

SPEC = RunSpec(Classification("b", Path("photos")), "lora-qkv", Path("run"), options=Subset(2))


def run_on(**more: Any) -> Any:
    made = object.__new__(ClassificationRun)
    given = {"spec": SPEC, "subset": Subset(2, split_seed=3, fold=1), "_adapted_vectors": None}
    for name, value in {**given, **more}.items():
        setattr(made, name, value)
    return made


def test_a_run_is_opened_anew_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    loaded: list[str] = []
    fresh = SimpleNamespace(backbone=lambda: loaded.append("backbone"))
    workspace = SimpleNamespace(prepare=lambda spec: (opened.append(spec), fresh)[1])
    monkeypatch.setattr(run_of, "open_workspace", lambda task: (opened.append(task), workspace)[1])
    assert pickle.loads(pickle.dumps(run_on())) is fresh
    task, spec = opened
    assert task.quiet
    assert spec == replace(SPEC, task=replace(SPEC.task, quiet=True))
    assert loaded == ["backbone"]
    assert _reopened(SPEC) is fresh


def test_a_split_says_how_its_images_were_chosen(tmp_path: Path) -> None:
    train, test = images("a", [0, 1]), images("b", [0, 1, 1])
    run_on(train_images=train, scored=test, subset=Subset(2, split_seed=3, vectors=True)).begin(tmp_path)  # fmt: skip
    text = (tmp_path / "split.csv").read_text()
    assert '"split_seed": 3' in text or '""split_seed"": 3' in text
    assert "vectors" not in text
    assert "calibration_folds" not in text
    assert text.count("\ntrain,") == 2
    assert text.count("\ntest,") == 3


class Rows:
    """Vectors of images, by the number in their names."""

    def batches(self, count: int) -> int:
        return count


def test_vectors_before_and_after_are_of_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five source and five test images three each, evenly; those of the test images are known already."""
    monkeypatch.setattr(run_of, "MOST_VECTORS", 3)
    source, scored = images("s", [0, 0, 1, 1, 1]), images("t", [0, 1, 0, 1, 0])
    asked: list[Any] = []
    frozen = SimpleNamespace(cut="bare", to=lambda _: frozen)
    monkeypatch.setattr(run_of, "AdaptedClassifier", lambda *_: frozen)
    monkeypatch.setattr(run_of, "create", lambda _: SimpleNamespace(plan=lambda *_: None))

    def table(data: Any, cut: str) -> Any:
        asked.append((data.ids, cut))
        return Rows()

    monkeypatch.setattr(run_of, "predict", lambda by, count: Predictions(torch.full((count, 2), 1.0 if by is frozen else 2.0), torch.zeros(count, 1)))  # fmt: skip
    workspace = SimpleNamespace(backbone=None, shift=SimpleNamespace(source=source), table=table, features=SimpleNamespace(device="cpu"))  # fmt: skip
    adapted = SimpleNamespace(cut="above")
    known = torch.arange(10.0).reshape(5, 2)
    run = run_on(workspace=workspace, scored=scored, _adapted_vectors=known)
    found = run._vectors(adapted)
    of_source, of_test = (tuple(data.ids[i] for i in (0, 2, 4)) for data in (source, scored))
    assert asked == [(of_source, "bare"), (of_source, "above"), (of_test, "bare")]
    assert found["after"].tolist() == [[2, 2]] * 3 + known[[0, 2, 4]].tolist()
    assert found["before"].tolist() == [[1, 1]] * 6
    assert found["is_target"].tolist() == [False] * 3 + [True] * 3
    kept = [source.labels[[0, 2, 4]], scored.labels[[0, 2, 4]]]
    assert found["labels"].tolist() == np.concatenate(kept).tolist()
    assert (found["before"].dtype, found["after"].dtype) == (torch.float16, torch.float16)
    workspace.shift.source = None
    run._adapted_vectors = None
    assert len(run._vectors(adapted)["labels"]) == 3
    assert asked[-1] == (of_test, "above")


class Solved(SolvedHead):
    """A head that was solved, with something to say."""

    def solve(self, *_: Any) -> None: ...

    def remarks(self) -> list[str]:
        return ["of the head"]


@pytest.mark.parametrize("quiet", [True, False])
def test_what_a_run_says_at_its_end_is_kept_in_its_record(
    tmp_path: Path, quiet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Any] = []
    monkeypatch.setattr(run_of.console, "print", lambda text, **how: said.append((text, how)))
    checked: dict[str, float] = {"a, evaluation view": 80.0, "a, training views": 60.0}
    monkeypatch.setattr(run_of, "check_views", lambda *_: checked)
    monkeypatch.setattr(ClassificationRun, "_remarks", lambda *_: ["of the losses"])
    monkeypatch.setattr(ClassificationRun, "_vectors", lambda *_: {"v": torch.ones(1)})
    workspace = SimpleNamespace(task=SimpleNamespace(quiet=quiet))
    run = run_on(workspace=workspace, train_images=None, method=SimpleNamespace(recipe=Recipe()))
    adapted: Any = SimpleNamespace(head=Solved(1, 2))
    told = run.finish(adapted, tmp_path)
    assert told == {"training_views": checked, "remarks": ["of the losses", "of the head"]}
    assert len(said) == (0 if quiet else 3)
    for text, how in said:
        assert text.startswith("note     ")
        assert how == {"style": "yellow", "highlight": False, "markup": False}
    assert not (tmp_path / "vectors.safetensors").exists()
    checked.clear()
    said.clear()
    monkeypatch.setattr(ClassificationRun, "_remarks", lambda *_: [])
    run.subset = Subset(2, vectors=True)
    assert run.finish(SimpleNamespace(head=None), tmp_path) == {}
    assert said == []
    assert load_file(tmp_path / "vectors.safetensors")["v"].tolist() == [1]


def test_a_validation_leaves_the_test_set_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    data = images("t", [0, 1, 1])
    outputs = Predictions(torch.zeros(3, 2), torch.eye(2)[[0, 1, 0]])
    monkeypatch.setattr(run_of, "predict", lambda *_: outputs)
    workspace = SimpleNamespace(table=lambda *_: Rows())
    for validation, name in ((0.5, "validation"), (0.0, "test")):
        run = run_on(workspace=workspace, scored=data, calibration=None, subset=Subset(2, validation=validation))  # fmt: skip
        scores = run.evaluate(SimpleNamespace(cut=None), tmp_path)
        assert scores[name]["accuracy"] == pytest.approx(2 / 3)
        noted = tmp_path / "test_evaluations.jsonl"
        assert noted.exists() == (name == "test")
    assert len(noted.read_text().splitlines()) == 1
    run.evaluate(SimpleNamespace(cut=None), tmp_path)
    [line] = noted.read_text().splitlines()
    assert json.loads(line)["samples"] == 3
    assert torch.equal(run._adapted_vectors, outputs.vectors)


@pytest.mark.parametrize("there", [True, False])
def test_drift_is_noted_anew_unless_the_run_goes_on(
    tmp_path: Path, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "drift.jsonl").write_text("")
    if there:
        (tmp_path / CHECKPOINT).touch()
    monkeypatch.setattr(run_of.training, "train", lambda *_, **how: how["callbacks"].steps)
    monkeypatch.setattr(run_of, "calibrate", lambda *_: "calibrated")
    workspace = SimpleNamespace(training_table=lambda *_: None, task=SimpleNamespace(precision="fp32"))  # fmt: skip
    for select in ("last", "best"):
        run = run_on(spec=replace(SPEC, folder=tmp_path), workspace=workspace, train_images=None, method=SimpleNamespace(recipe=Recipe(select=select)))  # fmt: skip
        callbacks = SimpleNamespace(steps=4.0, selection="step 3", drift=None)
        assert run.train(None, callbacks) == 4.0
        assert (tmp_path / "drift.jsonl").exists() == there
        assert run.selection == ("step 3" if select == "best" else "last step")
        assert run.calibration == "calibrated"
    callbacks.drift(5, {"block.0.out": 0.5})
    assert json.loads((tmp_path / "drift.jsonl").read_text())["block.0.out"] == 0.5


# --- tables and batches ------------------------------------------------------------------------------


class Table:
    """Of one vector an image, or of two, or of tokens."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        self.state, self.expected = state, list[Any]()

    def batches(self, count: int) -> Any:
        yield {role: value[: count // 2] for role, value in self.state.items()}
        yield {role: value[count // 2 : count] for role, value in self.state.items()}

    def fetch(self, rows: torch.Tensor, views: torch.Tensor) -> Any:  # noqa: ARG002
        return {role: value[rows] for role, value in self.state.items()}

    def expect(self, drawn: Any) -> None:
        self.expected.append(drawn)


def test_source_vectors_are_moved_onto_the_target_s_mean() -> None:
    both = images("s", [0, 1, 0], domain="source").concat(images("t", [0]))
    h = torch.tensor([[0.0, 3.0], [3.0, 0.0], [0.0, 0.0], [10.0, 4.0]])
    table = AlignedTable(inner := Table({"v": h}), both)  # type: ignore[arg-type]
    is_target = torch.tensor([domain == "target" for domain in both.domains])
    rows = torch.tensor([3, 0, 2, 1])
    gap = h[is_target].mean(0) - h[~is_target].mean(0)
    wanted = torch.where(is_target[:, None], h, h + gap)[rows]
    assert torch.equal(table.fetch(rows, rows * 0)["v"], wanted)
    table.expect(drawn := lambda: (rows, rows))
    assert inner.expected == [drawn]
    alone = AlignedTable(Table({"v": h}), images("t", [0, 1, 0, 1]))  # type: ignore[arg-type]
    assert torch.equal(alone.fetch(rows, rows * 0)["v"], h[rows])
    elsewhere = images("s", [0, 1, 0, 1], domain="source")
    assert torch.equal(AlignedTable(Table({"v": h}), elsewhere).fetch(rows, rows * 0)["v"], h[rows])  # type: ignore[arg-type]
    for state in ({"v": h, "w": h}, {"v": h[:, None]}):
        with pytest.raises(ConfigError, match="set align_source=false"):
            AlignedTable(Table(state), both)  # type: ignore[arg-type]


def test_anchors_go_beside_what_is_adapted() -> None:
    a, b = torch.ones(1), torch.zeros(1)
    assert divided({"final.x": a, "anchor.final.x": b}) == ({"final.x": a}, {"final.x": b})


def test_predictions_are_joined_and_must_be_numbers() -> None:
    class Model(torch.nn.Module):
        def attached(self) -> Any:
            return torch.no_grad()

        def forward(self, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            assert not self.training
            return value, 2 * value

    model: Any = Model().train()
    found = predict(model, [torch.ones(2, 1).double(), torch.full((1, 1), 3.0)])  # type: ignore[list-item]
    assert (found.vectors.tolist(), found.logits.tolist()) == ([[1], [1], [3]], [[2], [2], [6]])
    assert found.logits.dtype == torch.float32
    assert model.training
    with pytest.raises(Exception, match="logits that are NaN or infinite"):
        predict(model, [torch.full((1, 1), torch.nan)])  # type: ignore[list-item]
    predict(model, [torch.tensor([[0.0, -torch.inf], [1.0, -torch.inf]])])  # type: ignore[list-item]
    with pytest.raises(Exception, match="logits that are NaN or infinite"):
        predict(model, [torch.tensor([[-torch.inf, -torch.inf], [0.0, 1.0]])])  # type: ignore[list-item]


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_box_has_the_area_that_is_left_and_stays_inside(share: float) -> None:
    rng = np.random.default_rng(0)
    whole = 0
    for _ in range(200):
        top, bottom, left, right = mixing._box((20, 40), share, rng)
        assert 0 <= top <= bottom <= 20
        assert 0 <= left <= right <= 40
        half = np.sqrt(1 - share) / 2
        assert bottom - top <= round(2 * 20 * half) + 1
        assert right - left <= round(2 * 40 * half) + 1
        whole += abs((bottom - top) * (right - left) / 800 - (1 - share)) < 0.06
    assert whole > 20 or share == 0.0


def test_images_are_needed(tmp_path: Path) -> None:
    from petiole.tasks.classification.adapter import outputs_of

    adapted = image_case.ImageCase("linear-probe", tiny.plain(), tmp_path).adapted()
    assert isinstance(adapted, AdaptedClassifier)
    none = outputs_of(adapted, [])
    assert (none.vectors.shape, none.logits.shape) == ((0, 1), (0, 1))
    assert calibration.MOST_SCORES == 1000


def test_cutmix_tells_the_share_of_the_pixels_that_stayed() -> None:
    """Of images that are no square."""
    images = torch.arange(4.0)[:, None, None, None].expand(4, 3, 10, 30)
    labels, target = torch.arange(4), torch.tensor([True, False, True, False])
    shares = []
    for step in range(20):
        state, own, domains, partner = mixing.Mixing(0.0, 1.0, 5)(step, {IMAGES: images}, labels, target)  # fmt: skip
        assert torch.equal(own, labels)
        assert torch.equal(domains, target)
        mixed = state[IMAGES]
        stays = (mixed == images).all(1)
        for row, other in enumerate(partner.labels.tolist()):
            assert set(mixed[row].unique().tolist()) <= {row, other}
            if other != row:
                assert float(stays[row].float().mean()) == pytest.approx(partner.share)
        assert torch.equal(partner.is_target, target[partner.labels])
        shares.append(partner.share)
    assert 0 <= min(shares) < max(shares) - 0.3 <= 0.7


def test_what_was_trained_is_as_in_prediction(tmp_path: Path) -> None:
    case = image_case.ImageCase("linear-probe", tiny.plain(), tmp_path)
    adapted = case.adapted().train()
    recipe = Recipe(steps=0, views=0)
    data, table = image_case.dataset(), image_case.Memory(adapted, stored=True)
    training.train(adapted, data, table, recipe, seed=0, callbacks=training.Callbacks(quiet=True))
    assert not any(part.training for part in adapted.modules())
