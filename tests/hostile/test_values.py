"""Values that are not finite are found where features are made, and named."""

from collections.abc import Callable
from pathlib import Path

import pytest

from petiole.backbones.base import State
from petiole.backbones.vision.cnn import ConvNet
from petiole.data.sources import open_data
from petiole.engine.feature_extractor import Features
from petiole.engine.feature_store import FeatureCache
from petiole.errors import BackboneError

Tiny = Callable[..., ConvNet]


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
