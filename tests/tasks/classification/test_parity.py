"""How an exported model is compared with its adapter: on which images, by what measures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from builders.images import write_images
from petiole.data.sources import open_data
from petiole.engine.adapter import TOLERANCE
from petiole.errors import AdapterError, ConfigError
from petiole.files import sha256
from petiole.tasks.classification.calibration import Calibration
from petiole.tasks.classification.export import folder, parity
from petiole.tasks.classification.export.format import Format
from petiole.tasks.classification.export.parity import BATCH, MADE_UP, Agreement, Comparison
from petiole.tasks.classification.model import AdaptedClassifier, Predictions, predict
from petiole.tasks.classification.novelty import Novelty
from petiole.testing import backbones as tiny
from petiole.testing import image_case


@pytest.fixture(scope="module")
def adapted() -> AdaptedClassifier:
    return image_case.ImageCase("lora-qkv", tiny.plain(), Path()).adapted().eval()


def test_made_up_images_have_all_colours_and_many_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[np.ndarray] = []
    real = Image.fromarray

    def fromarray(colours: np.ndarray) -> Image.Image:
        drawn.append(colours)
        return real(colours)

    monkeypatch.setattr(parity.Image, "fromarray", fromarray)
    stated = SimpleNamespace(preprocessing=SimpleNamespace(size=(100, 200)))
    images = parity.coloured(SimpleNamespace(backbone=stated))  # type: ignore[arg-type]
    assert len(images) == MADE_UP
    assert {one.shape for one in drawn} == {(6, 6, 3)}
    assert (np.min(drawn), np.max(drawn)) == (0, 255)
    shares = (np.array([image.size for image in images]) - 1) / (200, 100)
    assert 0.69 < shares.min() < 0.75
    assert 1.95 < shares.max() < 2.0
    again = parity.coloured(SimpleNamespace(backbone=stated))  # type: ignore[arg-type]
    assert all(np.array_equal(a, b) for a, b in zip(images, again, strict=True))


def test_two_answers_are_compared_by_their_largest_differences() -> None:
    want = Predictions(torch.tensor([[3.0, -1.0], [0.0, 1.0]]), torch.tensor([[1.0, -4.0], [2.0, 0.5]]))  # fmt: skip
    got = Predictions(want.vectors - 0.4, want.logits + torch.tensor([[0.0, 0.0], [-0.5, 1.5]]))
    found = parity._agreement(want, got)
    assert (found.images, found.same_label) == (2, 0.5)
    assert (found.largest_difference, found.largest_logit) == (1.5, 4.0)
    assert found.relative == 1.5 / 5
    assert found.vectors == pytest.approx(0.4 / 4)
    short = parity._agreement(want, got._replace(vectors=got.vectors[:, :1]))
    assert short.vectors is None
    assert Agreement(images=1, largest_difference=2.0, largest_logit=3.0, same_label=1).relative == 0.5  # fmt: skip


def compare(adapted: AdaptedClassifier, *, raw: bool, data: Any = None) -> tuple[Any, list[Tensor]]:
    """With a model that is the adapter, and what it was asked."""
    asked: list[Tensor] = []

    def run(part: Tensor) -> Predictions:
        asked.append(part)
        pixels = torch.zeros(len(part), 3, 28, 28) if raw else part
        return predict(adapted, [adapted.backbone.lower(pixels, adapted.cut)])

    comparison = Comparison(SimpleNamespace(adapted=adapted), run, raw)  # type: ignore[arg-type]
    return comparison.parity(data), asked


def test_one_image_is_asked_alone_and_the_others_together(adapted: AdaptedClassifier) -> None:
    found, asked = compare(adapted, raw=False)
    assert [len(part) for part in asked] == [1, MADE_UP - 1]
    assert found.made_up.images == MADE_UP
    assert found.made_up.relative < 1e-5
    assert found.made_up.same_label == 1
    assert (found.given, found.accuracy) == (None, None)


def test_raw_images_are_asked_one_by_one_as_they_are(adapted: AdaptedClassifier) -> None:
    found, asked = compare(adapted, raw=True)
    assert [part.shape[0] for part in asked] == [1] * MADE_UP
    assert {(part.dtype, part.ndim, part.shape[-1]) for part in asked} == {(torch.uint8, 4, 3)}
    assert found.made_up.largest_difference > 0


def test_given_images_are_scored_by_both(
    adapted: AdaptedClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_data(write_images(tmp_path / "photos", 6, 0, classes=("a", "b", "c"), side=16))
    monkeypatch.setattr(parity, "MADE_UP", 2)
    found, asked = compare(adapted, raw=False, data=data)
    assert [len(part) for part in asked] == [1, 1, 1, BATCH - 1, 1, 18 - BATCH - 1]
    assert found.given.images == 18
    labels = torch.cat([predict(adapted, [adapted.backbone.lower(p, adapted.cut)]).logits for p in asked[2:]]).argmax(1)  # fmt: skip
    right = (labels.numpy() == data.labels).mean()
    assert found.accuracy == found.adapter_accuracy == pytest.approx(right)
    assert 0 < right < 1
    exported = Comparison(SimpleNamespace(adapted=adapted), lambda part: Predictions(torch.zeros(len(part), 1), torch.eye(3)[[0] * len(part)]), False)  # type: ignore[arg-type]  # fmt: skip
    found = exported.parity(data)
    assert found.accuracy == (data.labels == 0).mean() != found.adapter_accuracy
    assert found.adapter_accuracy == pytest.approx(right)


# --- the folder --------------------------------------------------------------------------------------


def test_options_of_another_format_are_named_with_their_takers() -> None:
    with pytest.raises(
        ConfigError, match=r"timm has no use for --preprocess\. It is for onnx\. Leave"
    ):
        folder.make_format("timm", {"preprocess": True, "int8": None})
    with pytest.raises(ConfigError, match=r"timm has no use for --colour\. Leave it out"):
        folder.make_format("timm", {"colour": 3})
    with pytest.raises(
        ConfigError, match=r"no use for --int8, --preprocess\. It is for onnx\. Leave"
    ):
        folder.make_format("timm", {"preprocess": True, "int8": "dynamic"})
    assert folder.make_format("timm", {"preprocess": False, "int8": None}).raw is False


class Written(Format):
    """A format whose model says what it is given."""

    said: ClassVar[Any] = None

    def write(self, adapter: Any, place: Path) -> None:  # noqa: ARG002
        (place / "model").write_text("x")

    def open(self, place: Path, adapter: Any) -> Any:  # noqa: ARG002
        return self.said


class Rough(Written):
    """One that rounds."""

    approximate = "it rounds"  # type: ignore[assignment]


@pytest.mark.parametrize(("relative", "kind", "fits"), [(TOLERANCE, Written, True), (1.1 * TOLERANCE, Written, False), (float("nan"), Written, False), (0.5, Rough, True)])  # fmt: skip
def test_what_differs_by_more_than_rounding_is_not_left_behind(
    relative: float,
    kind: type[Written],
    fits: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = Agreement(images=1, largest_difference=relative * 2, largest_logit=1.0, same_label=1)
    monkeypatch.setattr(folder.Comparison, "parity", lambda *_: parity.Parity(made_up=found))
    monkeypatch.setattr(folder, "_golden", lambda *_: np.ones((1, 3, 2, 2), dtype=np.float32))
    said = staticmethod(lambda x: Predictions(x[:, :1, 0, 0], x[:, :2, 0, 0]))
    monkeypatch.setattr(kind, "said", said)
    if not fits:
        with pytest.raises(
            AdapterError, match=r"Written as made, the model gives logits that differ"
        ):
            folder._compared(None, kind(), "made", tmp_path, None)  # type: ignore[arg-type]
        assert not (tmp_path / folder.GOLDEN).exists()
        return
    assert folder._compared(None, kind(), "made", tmp_path, None).made_up == found  # type: ignore[arg-type]
    with np.load(tmp_path / folder.GOLDEN) as golden:
        assert {name: value.shape for name, value in golden.items()} == {"pixels": (1, 3, 2, 2), "logits": (1, 2), "vector": (1, 1)}  # fmt: skip


def test_what_no_format_has_a_form_for_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "make_format", lambda *_: None)
    backbone = SimpleNamespace(name="vit", quantized="int8", preprocessing=SimpleNamespace(patch=0))
    adapter: Any = SimpleNamespace(adapted=SimpleNamespace(backbone=backbone))

    def refused() -> str:
        with pytest.raises((AdapterError, ConfigError)) as caught:
            folder.export(adapter, tmp_path, "made")
        return str(caught.value)

    assert "are stored as int8" in refused()
    backbone.quantized, backbone.preprocessing.patch = None, 16
    assert "vit gives each image a grid of its own shape" in refused()
    backbone.preprocessing.patch = 0
    assert "exists already" in refused()
    assert list(tmp_path.iterdir()) == []


def test_libraries_that_a_format_needs_are_named_before_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    class Needs(Written):
        needs, writes_with = ("json", "no_such_a"), ("no_such_b",)

    with pytest.raises(ConfigError, match=r"^This format needs no_such_a, no_such_b\. Install: pip install no_such_a no_such_b$"):  # fmt: skip
        Needs().check()
    Written().check()
    monkeypatch.setattr(
        folder, "FORMATS", SimpleNamespace(find=lambda _: dataclass(frozen=True)(Needs))
    )
    with pytest.raises(ConfigError, match=r"^This format needs no_such_a"):
        folder.make_format("needs", {})


@pytest.mark.parametrize("scripted", [False, True])
def test_an_export_appears_whole(scripted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    asked: list[Any] = []
    told = SimpleNamespace(model_dump=lambda mode: {"mode": mode})
    monkeypatch.setattr(folder, "make_format", lambda *given: asked.append(given) or Written())
    monkeypatch.setattr(folder, "_compared", lambda *given: asked.append(given[2:]) or "parity")
    monkeypatch.setattr(folder, "_manifest", lambda *given: asked.append(given[2:]) or told)
    monkeypatch.setattr(folder, "script", lambda _: "use it" if scripted else "")
    backbone = SimpleNamespace(name="vit", quantized=None, preprocessing=SimpleNamespace(patch=0))
    adapter: Any = SimpleNamespace(adapted=SimpleNamespace(backbone=backbone))
    out = tmp_path / "a/b/out"
    assert folder.export(adapter, out, "made", {"x": 1}, "data") is told  # type: ignore[arg-type,comparison-overlap]
    (chosen, compared, described) = asked
    assert chosen == ("made", {"x": 1})
    (name, staging, data), (same, parity, again) = compared, described
    assert (name, data, same, parity, staging) == ("made", "data", "made", "parity", again)
    assert (staging.name, staging.parent.parent) == ("out", out.parent)
    files = {"model", folder.MANIFEST, *([folder.USAGE] * scripted)}
    assert {file.name for file in out.iterdir()} == files
    assert not scripted or (out / folder.USAGE).read_text() == "use it"
    assert list(out.parent.iterdir()) == [out]
    folder.export(adapter, out.parent / "other", "made")
    assert asked[3:5] == [("made", {}), ("made", asked[4][1], None)]


@pytest.mark.parametrize(("vectors", "kind", "kept"), [(TOLERANCE, Written, True), (1.1 * TOLERANCE, Written, False), (None, Rough, False), (0.5, Rough, True)])  # fmt: skip
def test_class_means_go_along_where_vectors_are_the_adapter_s(
    vectors: float | None, kind: type[Written], kept: bool, tmp_path: Path
) -> None:
    """Or nearly so by a form that rounds; the files are told with what they hold."""
    found = Agreement(images=1, largest_difference=0, largest_logit=1, same_label=1, vectors=vectors)  # fmt: skip
    known = Calibration(temperature=2.0, scores=[0.25] * 12, threshold=0.5, images=12, folds=3, novelty=Novelty(means="AAAAAAAA", width=3, threshold=0.125))  # fmt: skip
    card = SimpleNamespace(name="petiole/tiny-vit", fingerprint="f" * 64)
    stated = SimpleNamespace(backbone=SimpleNamespace(preprocessing=tiny.plain().preprocessing))
    adapter: Any = SimpleNamespace(
        manifest=SimpleNamespace(backbone=card, method="m", settings={"rank": 2}), calibration=known, adapted=stated, classes=["x", "y"],
    )  # fmt: skip
    (tmp_path / "in").mkdir()
    (tmp_path / "in/b").write_text("two")
    (tmp_path / "a").write_text("one")
    chosen = kind()
    told = folder._manifest(adapter, chosen, "made", parity.Parity(made_up=found), tmp_path)
    assert told.calibration is not None
    assert told.calibration.novelty == (known.novelty if kept else None)
    assert (told.calibration.temperature, told.calibration.ood_threshold, told.calibration.images) == (2, 0.5, 12)  # fmt: skip
    bounds = {"0.8": known.bound(0.8), "0.9": known.bound(0.9), "0.95": None, "0.99": None}
    assert told.calibration.label_sets == bounds
    assert told.files == {"a": sha256(tmp_path / "a"), "in/b": sha256(tmp_path / "in/b")}
    assert list(told.files) == ["a", "in/b"]
    assert (told.form, told.reads, told.classes, told.method, told.settings) == ("made", "pixels", ["x", "y"], "m", {"rank": 2})  # fmt: skip
    assert (told.backbone, told.fingerprint, told.format, told.needs, told.options) == (card.name, card.fingerprint, 1, (), {})  # fmt: skip
    adapter.calibration = None
    assert folder._manifest(adapter, chosen, "made", told.parity, tmp_path).calibration is None


def test_the_golden_input_is_the_adapter_s_own_or_the_first_image(adapted: AdaptedClassifier) -> None:  # fmt: skip
    adapter: Any = SimpleNamespace(adapted=adapted)
    (pixels, raw) = (folder._golden(adapter, SimpleNamespace(raw=raw)) for raw in (False, True))  # type: ignore[arg-type]
    assert pixels.shape == (1, 3, *adapted.backbone.preprocessing.size)
    assert np.array_equal(raw, np.array(parity.coloured(adapted)[0])[None])
    assert (pixels.dtype, raw.dtype) == (np.float32, np.uint8)
