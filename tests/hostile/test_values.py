"""Values that are not finite are found where features are made, and named."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import petiole
from petiole.backbones.base import State
from petiole.backbones.frozen_network import IMAGES
from petiole.backbones.vision.cnn import ConvNet
from petiole.data.sources import open_data
from petiole.engine.feature_extractor import Features
from petiole.engine.feature_store import FeatureCache
from petiole.errors import BackboneError, RunError
from petiole.methods.registry import create
from petiole.tasks.classification.model import AdaptedClassifier, predict
from petiole.testing.random_weights import images

Tiny = Callable[..., ConvNet]


@pytest.mark.parametrize(("steps", "lr"), [(1, 1e300), (2, 1e30)])
def test_what_diverges_in_the_last_step_is_no_result(
    tmp_path: Path, photos: Path, steps: int, lr: float
) -> None:
    """Its loss was finite."""
    settings = {"steps": steps, "views": 0, "lr": lr}
    with pytest.raises(RunError, match="NaN or infinity after training: the run diverged"):
        petiole.fit(
            photos, method="linear-probe", backbone="petiole/tiny-vit", settings=settings, out=tmp_path / "run",
            cache_dir=tmp_path / "cache", quiet=True,
        )  # fmt: skip
    assert not (tmp_path / "run" / "record.json").exists()
    assert not (tmp_path / "run" / "test_evaluations.jsonl").exists()


def test_logits_that_overflow_are_no_answer(tiny: Tiny) -> None:
    backbone = tiny()
    adapted = AdaptedClassifier(backbone, create("linear-probe").plan(backbone, 3))
    with torch.no_grad():
        for value in adapted.parameters():
            value.fill_(3e38)
    with pytest.raises(RunError, match="logits that are NaN or infinite"):
        predict(adapted, [{IMAGES: images(backbone)}])


@pytest.mark.parametrize(
    ("factor", "dtype", "said"),
    [(float("nan"), "float32", "NaN or infinity"), (1e12, "float16", "float16 cannot hold")],
)
def test_no_feature_is_stored_that_is_not_finite(
    tmp_path: Path,
    photos: Path,
    tiny: Tiny,
    factor: float,
    dtype: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = tiny()
    lower = type(backbone).lower

    def scaled(self: ConvNet, images: State, cut: tuple[str, ...]) -> State:
        return {role: value * factor for role, value in lower(self, images, cut).items()}

    monkeypatch.setattr(type(backbone), "lower", scaled)
    cache = FeatureCache(tmp_path / "cache")
    with pytest.raises(BackboneError, match=said):
        Features(backbone, cache, dtype=dtype, quiet=True).table(
            open_data(photos), (backbone.vector,)
        )
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
