"""Weights are complete or refused; names, sizes and devices that do not fit say what to do."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from petiole.backbones.frozen_network import IMAGES
from petiole.backbones.registry import load
from petiole.backbones.weights import fingerprint, load_strictly, read_safetensors
from petiole.errors import BackboneError
from petiole.testing import backbones as tiny

DINOV2 = "timm/vit_small_patch14_dinov2.lvd142m"


# --- strictness ---------------------------------------------------------------------------------


def damaged(tensors: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    name = sorted(tensors)[3]
    if how == "missing":
        return {k: v for k, v in tensors.items() if k != name}
    if how == "unexpected":
        return {**tensors, "surplus.weight": torch.zeros(2)}
    return {**tensors, name: torch.zeros(7, 7)}


@pytest.mark.parametrize("how", ["missing", "unexpected", "misshapen"])
def test_a_local_file_fits_wholly_or_not_at_all(tmp_path: Path, how: str) -> None:
    module = timm.create_model("test_vit", num_classes=0)
    save_file(damaged(module.state_dict(), how), tmp_path / "weights.safetensors")
    with pytest.raises(BackboneError, match=rf"weights\.safetensors.*1 {how}"):
        load("timm/test_vit", weights=tmp_path / "weights.safetensors")


@pytest.mark.parametrize("how", ["missing", "unexpected", "misshapen"])
def test_a_refused_load_leaves_the_module_as_it_was(how: str) -> None:
    module = tiny.timm_vit()
    before = fingerprint(module.state_dict())
    other = {k: v + 1 for k, v in module.state_dict().items()}
    with pytest.raises(BackboneError, match=how):
        load_strictly(module, damaged(other, how), "here")
    assert fingerprint(module.state_dict()) == before


@pytest.mark.parametrize("content", [b"", b"no safetensors at all", None], ids=str)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(100)}, file)
    file.write_bytes(file.read_bytes()[:-40] if content is None else content)
    with pytest.raises(BackboneError, match=r"weights\.safetensors: is not a complete"):
        read_safetensors(file)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"nothing\.safetensors"):
        load("timm/test_vit", weights=tmp_path / "nothing.safetensors")


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
            return (sys.exit, ("unpickled",))

    torch.save({"a": Trap()}, tmp_path / "weights.pth")
    with pytest.raises(BackboneError, match=r"weights\.pth: is not a complete safetensors"):
        load("timm/test_vit", weights=tmp_path / "weights.pth")


def test_local_weights_arrive_to_the_bit_and_the_classifier_is_dropped(tmp_path: Path) -> None:
    with tiny.seeded():
        module = tiny.shaken(timm.create_model("test_vit", num_classes=5))
    save_file(module.state_dict(), tmp_path / "w.safetensors")
    backbone = load("timm/test_vit", weights=tmp_path / "w.safetensors")
    own = backbone.module.state_dict()
    assert not any(name.startswith("head.") for name in own)
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in own.items())


def test_half_precision_files_load_in_single(tmp_path: Path) -> None:
    module = timm.create_model("test_vit", num_classes=0)
    halves = {k: v.half() for k, v in module.state_dict().items()}
    save_file(halves, tmp_path / "w.safetensors")
    backbone = load("timm/test_vit", weights=tmp_path / "w.safetensors")
    for name, value in backbone.module.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, halves[name].float())


# --- the hub -------------------------------------------------------------------------------------


def hub(monkeypatch: pytest.MonkeyPatch, answer: Callable[..., Any]) -> None:
    from timm.models import _builder

    monkeypatch.setattr(_builder, "load_state_dict_from_hf", answer)


def test_a_failing_download_is_an_error_never_random_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("the hub does not answer")

    hub(monkeypatch, fail)
    with pytest.raises(BackboneError, match=r"could not be had.*does not answer.*--weights"):
        load("timm/test_vit.r160_in1k")


def test_the_hub_is_not_asked_when_it_is_switched_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BackboneError, match=r"could not be had.*petiole/efficientnet-lite0"):
        load("timm/test_vit.r160_in1k")


@pytest.mark.parametrize("model", ["test_vit.r160_in1k", "test_resnet.r160_in1k"])
def test_a_partial_hub_file_is_refused(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    # timm itself accepts it when asked for no classifier.
    whole = timm.create_model(model).state_dict()
    gone = next(k for k in whole if k.endswith(("norm1.weight", "bn1.weight")))
    hub(monkeypatch, lambda *_, **__: {k: v for k, v in whole.items() if k != gone})
    with pytest.raises(BackboneError, match="could not be had"):
        load(f"timm/{model}")


@pytest.mark.parametrize("model", ["test_vit.r160_in1k", "test_resnet.r160_in1k"])
def test_a_whole_hub_file_arrives_to_the_bit(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    with tiny.seeded():
        whole = tiny.shaken(timm.create_model(model)).state_dict()
    hub(monkeypatch, lambda *_, **__: {k: v.clone() for k, v in whole.items()})
    own = load(f"timm/{model}").module.state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in own.items())


def test_a_model_without_weights_is_no_backbone() -> None:
    with pytest.raises(BackboneError, match="could not be had"):
        load("timm/lcnet_035")


# --- names, sizes, devices -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("timm/vit_smal_patch14_dinov2", "vit_small_patch14_dinov2"),
        ("timm/resnet1", "resnet18"),
        ("petiole/tiny-vti", "petiole/tiny-vit"),
        ("petiole/efficientnet", "petiole/efficientnet-lite0"),
        ("tim/resnet18", "timm/<model>"),
        ("tiny-vit", "petiole/tiny-vit"),
    ],
)
def test_unknown_names_suggest_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(BackboneError) as caught:
        load(name, device="meta")
    assert nearest in str(caught.value)


def test_an_unknown_tag_is_an_error() -> None:
    with pytest.raises(BackboneError, match="tag"):
        load("timm/vit_small_patch14_dinov2.lvd9000", device="meta")


@pytest.mark.parametrize(
    ("size", "nearest"), [(223, 224), (225, 224), (230, 224), (232, 238), (1, 14), (13, 14)]
)
def test_a_size_that_patches_do_not_tile_names_the_nearest(size: int, nearest: int) -> None:
    with pytest.raises(BackboneError, match=rf"image size of {size} .* e\.g\. {nearest}\."):
        load(DINOV2, image_size=size, device="meta")


@pytest.mark.parametrize("size", [0, -14])
@pytest.mark.parametrize("name", [DINOV2, "timm/resnet18", "petiole/efficientnet-lite0"])
def test_an_impossible_size_is_an_error(name: str, size: int) -> None:
    with pytest.raises(BackboneError, match="size"):
        load(name, image_size=size, device="meta")


@pytest.mark.parametrize(
    ("name", "size"),
    [
        (DINOV2, 224),
        ("timm/deit_tiny_patch16_224", 96),
        ("timm/deit_tiny_distilled_patch16_224", 96),
        ("timm/vit_tiny_patch16_224", 64),
        ("timm/vit_small_patch14_reg4_dinov2", 112),
        ("timm/resnet18", 96),
        ("timm/mobilenetv3_small_050", 128),
    ],
)
def test_other_sizes_that_the_model_accepts_work(name: str, size: int) -> None:
    backbone = load(name, image_size=size, device="meta")
    assert backbone.preprocessing.size == (size, size)
    state = {IMAGES: torch.zeros(2, 3, size, size, device="meta")}
    for role, value in backbone.upper(state, backbone.finals).items():
        assert value.shape[-1] == backbone.width_of(role)
        assert len(value) == 2


@pytest.mark.parametrize("name", ["timm/crossvit_9_240", "timm/coat_tiny"])
def test_what_gives_no_features_is_refused_before_anything_is_fetched(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    asked: list[object] = []
    hub(monkeypatch, lambda *a, **_: asked.append(a))
    with pytest.raises(BackboneError, match=r"no network that maps images to features"):
        load(name)
    assert not asked, "weights were fetched for a model that cannot be used"


def test_an_absent_device_says_what_to_do() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(BackboneError, match=r"device 'cuda'.*Use cpu"):
        load("petiole/efficientnet-lite0", device="cuda")


# --- what weights state --------------------------------------------------------------------------


def test_preprocessing_is_that_of_the_weights() -> None:
    stated = load(DINOV2, device="meta").preprocessing
    assert stated.size == (518, 518)
    assert (stated.crop, stated.interpolation) == (1.0, "bicubic")
    assert stated.mean == (0.485, 0.456, 0.406)
    assert stated.std == (0.229, 0.224, 0.225)
    demo = load("petiole/efficientnet-lite0", device="meta")
    assert not [name for name in demo.module.state_dict() if name.startswith("classifier")]
    half = load("timm/vit_small_patch16_224.augreg_in21k_ft_in1k", device="meta").preprocessing
    assert (half.mean, half.std, half.crop) == ((0.5,) * 3, (0.5,) * 3, 0.9)


def test_a_file_beside_the_weights_states_their_preprocessing(tmp_path: Path) -> None:
    module = timm.create_model("test_vit", num_classes=0)
    save_file(module.state_dict(), tmp_path / "w.safetensors")
    fields = tiny.preprocessing(64).model_dump() | {"crop": 0.5}
    (tmp_path / "w.json").write_text(json.dumps(fields))
    stated = load("timm/test_vit", weights=tmp_path / "w.safetensors").preprocessing
    assert (stated.size, stated.crop) == ((64, 64), 0.5)
    (tmp_path / "w.json").write_text(json.dumps({**fields, "crop_percent": 1}))
    with pytest.raises(BackboneError, match=r"w\.safetensors is not usable: crop_percent"):
        load("timm/test_vit", weights=tmp_path / "w.safetensors")
    (tmp_path / "w.json").write_text(json.dumps({"size": [64, 64]}))
    with pytest.raises(BackboneError, match=r"w\.safetensors is not usable: .*crop"):
        load("timm/test_vit", weights=tmp_path / "w.safetensors")
    (tmp_path / "w.json").write_text("{")
    with pytest.raises(BackboneError, match=r"w\.json: cannot be read"):
        load("timm/test_vit", weights=tmp_path / "w.safetensors")


def test_parameter_counts_of_dinov2_small(tmp_path: Path) -> None:
    assert load(DINOV2, device="meta").parameter_count == 22_056_192
    folder = tiny.dinov2_folder(tmp_path / "m")
    small = {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 12}
    config = {**tiny.HF_CONFIG, **small, "image_size": 518, "patch_size": 14}
    (folder / "config.json").write_text(json.dumps(config))
    backbone = load(str(folder), device="meta")
    assert backbone.parameter_count == 22_056_576
    assert backbone.is_meta
    assert backbone.module.get_parameter("embeddings.mask_token").numel() == 384
