"""Two backbones side by side: one vector, each with its own preprocessing, features kept by part."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

import petiole
from builders.images import CLASSES, write_images
from petiole.backbones.joined import JoinedBackbone
from petiole.backbones.registry import load_backbone
from petiole.data.preprocessing import augmentation, view
from petiole.engine.feature_extractor import Features
from petiole.engine.feature_store import FeatureCache
from petiole.errors import BackboneError, ConfigError
from petiole.methods.adversary import perturb
from petiole.testing import backbones as tiny

A, B = "petiole/tiny-vit", "petiole/tiny-clip"


@pytest.fixture(scope="module")
def joined() -> JoinedBackbone:
    found = load_backbone(f"{A}+{B}")
    assert isinstance(found, JoinedBackbone)
    return found


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 255, (50, 90, 3), dtype=np.uint8))


def test_an_image_is_seen_by_each_as_its_own_weights_want_it(
    joined: JoinedBackbone, picture: Image.Image
) -> None:
    alone = [load_backbone(name) for name in (A, B)]
    each = [model(model.preprocess(picture)[None]) for model in alone]

    found = joined(joined.preprocess(picture)[None])

    assert found.shape == (1, joined.width) == (1, sum(model.width for model in alone))
    assert torch.equal(found, torch.cat([normalize(vector, dim=-1) for vector in each], dim=-1))


def test_a_random_view_is_the_same_crop_for_all(
    joined: JoinedBackbone, picture: Image.Image
) -> None:
    spec = augmentation("default")
    whole = view(picture, joined.preprocessing, spec, "id", 2)
    first = view(picture, joined.parts[0].preprocessing, spec, "id", 2).flatten(1)
    assert torch.equal(whole[:, 0, : first.shape[1]], first)


def test_each_backbones_own_features_are_stored_and_found(
    joined: JoinedBackbone, tmp_path: Path
) -> None:
    from petiole.data.inputs import as_dataset

    data = as_dataset(write_images(tmp_path / "images", 2, 0))
    cache = FeatureCache(tmp_path / "cache")
    alone = Features(joined.parts[0], cache, quiet=True)
    alone.table(data, (joined.parts[0].vector,))
    both = Features(joined, cache, quiet=True)
    none = augmentation("none")
    rows = torch.arange(len(data))

    assert set(both.missing(joined.finals, 0, none, data.ids)) == set(data.ids)
    stored = both.table(data, joined.finals).fetch(rows, torch.zeros_like(rows))
    assert both.missing(joined.finals, 0, none, data.ids) == []
    live = Features(joined, None, quiet=True).table(data, joined.finals)
    fresh = live.fetch(rows, torch.zeros_like(rows))
    torch.testing.assert_close(stored, fresh, rtol=0, atol=1e-5)


def test_an_adapter_on_both_is_kept_and_predicts(tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", 6, 0)
    petiole.fit(photos, backbone=f"{A}+{B}", shots=3, out=tmp_path / "run", cache_dir=tmp_path)

    found = petiole.predict(tmp_path / "run" / "adapter", photos / CLASSES[1] / "0.png")

    assert found.model == f"{A}+{B}"
    assert found.predictions[0].label == CLASSES[1]


def test_pixels_are_changed_on_each_ones_own_scale(joined: JoinedBackbone) -> None:
    images = torch.zeros(1, 3, *joined.preprocessing.size)
    changed = perturb(total, images, joined.preprocessing, 0.01)
    std = joined.preprocessing.statistics()[1]
    torch.testing.assert_close((changed * std)[0], torch.full_like(std, 0.01), atol=1e-6, rtol=0)


def total(images: torch.Tensor) -> torch.Tensor:
    return images.sum()


def test_what_needs_one_backbone_says_so(joined: JoinedBackbone) -> None:
    with pytest.raises(
        ConfigError, match=r"gives one vector, final\.joined, and no final\.patches"
    ):
        petiole.adapt(joined, "linear-probe", classes=2, representation="patch")
    with pytest.raises(ConfigError, match="has none"):
        petiole.adapt(joined, "lora-qkv", classes=2)
    with pytest.raises(BackboneError, match="weights does not say for which"):
        load_backbone(f"{A}+{B}", weights="some.safetensors")
    with pytest.raises(BackboneError, match=r"tiny-vl in .* is no backbone of images"):
        load_backbone(f"{A}+petiole/tiny-vl")
    with pytest.raises(BackboneError, match="joins 1 backbone"):
        JoinedBackbone("x", [tiny.build("resnet", Path())])
