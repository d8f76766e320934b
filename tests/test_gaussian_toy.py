"""CLS-Residual LoRA (Yong, 2026) in a toy: 47 Gaussian classes in 384 dimensions, shifted; each part must earn its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from petiole.backbones.base import Backbone, State
from petiole.backbones.registry import load
from petiole.data.dataset import Dataset, Sample
from petiole.engine.feature_table import Table
from petiole.methods.registry import create
from petiole.tasks.classification import training
from petiole.tasks.classification.model import AdaptedClassifier, predict

CLASSES, WIDTH, SOURCE, SHOTS, TEST = 47, 384, 40, 10, 20


class Vectors(Table):
    """Class vectors that lie in memory."""

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors

    def fetch(self, rows: Tensor, views: Tensor) -> State:  # noqa: ARG002 - one view
        return {"final.cls": self.vectors[rows]}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load("timm/vit_small_patch14_dinov2.lvd142m", device="meta")


def toy(
    seed: int, *, nonlinear: bool = False, gain: float = 0.0
) -> tuple[Dataset, Vectors, Vectors, np.ndarray]:
    """Training data (source and ten shots), their vectors, test vectors and test labels."""
    rng = np.random.default_rng(seed)
    means = 1.2 * rng.standard_normal((CLASSES, WIDTH)) / np.sqrt(WIDTH / 16)
    left, right = rng.standard_normal((2, WIDTH, 24)) / np.sqrt(WIDTH)
    spread = 0.6 + 0.6 * rng.random(CLASSES)

    def draw(count: int, target: bool) -> tuple[np.ndarray, np.ndarray]:
        y = np.repeat(np.arange(CLASSES), count)
        x = means[y] + 0.35 * rng.standard_normal((len(y), WIDTH))
        if target:
            inner = x @ right * 4
            x = x + 3.0 * (np.abs(inner) if nonlinear else inner) @ left.T
            x += 0.35 * spread[y, None] * rng.standard_normal(x.shape)
        x = x * np.exp(gain * rng.standard_normal((len(y), 1)))
        return x.astype(np.float32), y

    (xs, ys), (xt, yt), (xe, ye) = draw(SOURCE, False), draw(SHOTS, True), draw(TEST, True)
    rows = [
        (y, f"{i:05d}", d)
        for i, (y, d) in enumerate([(y, "source") for y in ys] + [(y, "target") for y in yt])
    ]
    data = Dataset(
        "toy",
        tuple(f"{c:02d}" for c in range(CLASSES)),
        tuple(Sample(Path(i), int(y), i, d) for y, i, d in rows),  # type: ignore[arg-type]
    )
    stacked = np.concatenate([xs, xt])[[int(s.id) for s in data.samples]]
    return data, Vectors(torch.from_numpy(stacked)), Vectors(torch.from_numpy(xe)), ye


def accuracy(
    backbone: Backbone,
    name: str,
    seed: int,
    settings: Mapping[str, object] | None = None,
    **shift: float,
) -> float:
    data, train, test, labels = toy(seed, **shift)
    method = create(name, {"steps": 250, "views": 0, **(settings or {})})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = AdaptedClassifier(backbone, method.plan(backbone, CLASSES))
        training.train(
            adapted, data, train, method.recipe, seed=seed, callbacks=training.Callbacks(quiet=True)
        )
    return float(
        (
            predict(adapted, test.batches(len(labels))).probabilities.argmax(1).numpy() == labels
        ).mean()
    )


def test_ten_shots_close_a_linear_shift(backbone: Backbone) -> None:
    """Source-only is worst by far.

    One would expect linear probe <= cosine. In this toy it is the other way round (0.97 against
    0.89 here, 0.999 against 0.96 after 1,000 steps; also with log-normal gains of 0.5 and 1), because
    equal, isotropic Gaussians are the linear head's own model; so only what holds is asserted.
    """
    scores = {n: accuracy(backbone, n, 0) for n in ("source-only", "linear-probe", "cosine")}
    assert scores["source-only"] + 0.05 < scores["cosine"]
    assert scores["source-only"] + 0.10 < scores["linear-probe"]


def test_the_adapter_beats_lora_on_a_nonlinear_shift(backbone: Backbone) -> None:
    lora = accuracy(backbone, "lora-cosine", 0, nonlinear=True)
    adapter = accuracy(backbone, "lora-cosine", 0, {"lora": False, "adapter": True}, nonlinear=True)
    assert adapter > lora + 0.10
