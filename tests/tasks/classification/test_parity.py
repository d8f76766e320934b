"""How an exported model is compared with its adapter: on which images, by what measures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from builders.images import write_images
from petiole.data.sources import open_data
from petiole.tasks.classification.export import parity
from petiole.tasks.classification.export.parity import BATCH, MADE_UP, Agreement, Comparison
from petiole.tasks.classification.model import AdaptedClassifier, Predictions, predict
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
