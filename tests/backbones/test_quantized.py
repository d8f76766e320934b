"""Frozen bases in fewer bits: what they compute, hold and weigh, and what is refused."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

import petiole
from builders.cli import say
from builders.images import write_images
from petiole.backbones import quantized
from petiole.backbones.registry import load, load_backbone
from petiole.engine.adapter import Adapter
from petiole.engine.record import read_record
from petiole.engine.thumbnail_store import KEY
from petiole.errors import AdapterError, BackboneError, ConfigError
from petiole.ledger import params
from petiole.methods.registry import create
from petiole.testing import random_weights

NAME = "petiole/tiny-vit"
MERGED = r"ignore:TorchaoLoraLinear was instantiated:UserWarning:peft"


@pytest.fixture(scope="module")
def floats() -> petiole.Backbone:
    return load_backbone(NAME)


@pytest.fixture(scope="module")
def int8() -> petiole.Backbone:
    return load_backbone(NAME, quantize="int8")


@pytest.fixture(scope="module")
def images(floats: petiole.Backbone) -> torch.Tensor:
    return random_weights.images(floats)


def test_each_output_is_256_steps_and_is_multiplied_as_what_it_stands_for(
    floats: petiole.Backbone, int8: petiole.Backbone, images: torch.Tensor
) -> None:
    plain, packed = (one.module.blocks[0].attn.qkv for one in (floats, int8))
    weight = packed.weight.dequantize()
    step = plain.weight.abs().amax(1, keepdim=True) / 127
    assert ((weight - plain.weight).abs() <= 0.51 * step).all()
    x = torch.randn(2, 5, packed.in_features, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(packed(x), linear(x, weight, packed.bias))
    with torch.no_grad():
        cosine = torch.cosine_similarity(floats(images), int8(images))
    assert 0.99 < cosine.min() < 1
    # The embedding is left alone.
    embed = [one.module.patch_embed.state_dict() for one in (floats, int8)]
    assert all(torch.equal(a, b) for a, b in zip(*map(dict.values, embed), strict=True))


def test_it_is_another_backbone_of_as_many_parameters_and_fewer_bytes(
    floats: petiole.Backbone, int8: petiole.Backbone
) -> None:
    assert int8.fingerprint != floats.fingerprint
    assert int8.fingerprint == load_backbone(NAME, quantize="int8").fingerprint
    assert int8.parameter_count == floats.parameter_count
    assert not any(p.requires_grad for p in int8.module.parameters())
    packed = [m for m in int8.module.modules() if type(m) is torch.nn.Linear]
    numbers = sum(m.weight.numel() for m in packed)
    rows = sum(m.out_features for m in packed)
    # A byte a number, a float and a zero point an output; all else as before.
    assert int8.stored_bytes == floats.stored_bytes - 3 * numbers + 5 * rows
    shape = load_backbone(NAME, device="meta", quantize="int8")
    assert shape.stored_bytes == int8.stored_bytes
    counted = petiole.params(backbone=NAME, method="lora-qkv", quantize="int8").counts
    assert counted["backbone_bytes"] == int8.stored_bytes
    one = params(NAME, create("lora-qkv"), 10).model_dump(exclude={"backbone_bytes"})
    assert one == {name: counted[name] if name != "cut" else tuple(counted[name]) for name in one}


@pytest.mark.filterwarnings(MERGED)
@pytest.mark.parametrize(
    "method", ["lora-qkv", "dora", "adaptformer", "layernorm", "linear-probe", "peft:lora"]
)
def test_methods_train_beside_it_and_come_back(
    int8: petiole.Backbone, images: torch.Tensor, tmp_path: Path, method: str
) -> None:
    before = int8.fingerprint
    model = petiole.adapt(int8, method, classes=3)
    model(images).square().sum().backward()
    trained = list(model.trainable_parameters())
    assert trained
    assert all(p.grad is not None for p in trained)
    with torch.no_grad():
        for p in trained:
            p += 0.01
    model.save(tmp_path / "adapter")
    again = petiole.load_adapter(tmp_path / "adapter")
    assert again.backbone.quantized == "int8"
    torch.testing.assert_close(again(images), model(images))
    int8.__dict__.pop("fingerprint")
    assert int8.fingerprint == before
    if method == "lora-qkv":
        with pytest.raises(AdapterError, match="this one stores them as floats"):
            Adapter.load(tmp_path / "adapter", backbone=load_backbone(NAME))


def past_its_layers(_: object) -> None:
    raise BackboneError("multiplies past its layers")


def test_what_cannot_be_is_refused(int8: petiole.Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="integers have no gradient"):
        petiole.adapt(int8, "full", classes=3)
    with pytest.raises(BackboneError, match=r"on a CUDA device, not on cpu\. Take int8"):
        load(NAME, quantize="bnb-nf4")
    with pytest.raises(BackboneError, match="language model"):
        load("petiole/tiny-vl", quantize="int8")
    with pytest.raises(BackboneError, match="quantization"):
        load(NAME, quantize="int7")
    with pytest.raises(BackboneError, match="no linear layers"):
        load("timm/resnet18", quantize="int8", device="meta")
    with monkeypatch.context() as patched:
        patched.setattr(quantized, "quantize", lambda *_: None)
        patched.setattr(quantized, "check_runs", past_its_layers)
        with pytest.raises(BackboneError, match="past its layers"):
            load(NAME, quantize="int8")
    monkeypatch.setattr(quantized, "find_spec", lambda _: None)
    with pytest.raises(BackboneError, match=r"needs torchao\. Install: .*petiole\[quantized\]"):
        load(NAME, quantize="int8")


def test_from_fit_to_eval(int8: petiole.Backbone, tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", 6, 0)
    model = ("--backbone", NAME, "--cache-dir", tmp_path / "cache", "--quiet")
    terms = ("--method", "ridge", *model, "--quantize", "int8", "--out", tmp_path / "run")
    done = say("fit", photos, *terms)
    assert not done.code, done.err
    assert read_record(tmp_path / "run").request.backbone.quantize == "int8"
    for where in (tmp_path / "run", tmp_path / "run" / "adapter"):
        assert say("inspect", where, "--json").json["facts"]["quantize"] == "int8"
    # Features of other weights are other features; what the leak check sees of the images is nobody's.
    keys = [json.loads(file.read_text()) for file in (tmp_path / "cache").glob("*/key.json")]
    assert {key["fingerprint"] for key in keys} == {int8.fingerprint, KEY.fingerprint}
    scored = say("eval", tmp_path / "run", photos, "--json").json
    assert scored["samples"] == 18
    ranked = say("backbones", photos, *model, "--quantize", "int8", "--json").json["backbones"]
    assert ranked[0]["megabytes"] == pytest.approx(int8.stored_bytes / 1e6)


def test_lora_of_an_int8_base_is_not_merged(int8: petiole.Backbone, tmp_path: Path) -> None:
    petiole.adapt(int8, "lora-qkv", classes=2).save(tmp_path / "a")
    said = say("merge", tmp_path / "a", "--out", tmp_path / "m.safetensors")
    assert "would be rounded to their few bits" in said.err.replace("\n", " ")
    said = say("export", tmp_path / "a", "--out", tmp_path / "e", "--format", "torch-export")
    assert "--format onnx --int8" in said.err


@pytest.mark.parametrize("how", ["bnb-int8", "bnb-nf4"])
def test_bitsandbytes_layers_stand_in_the_same_places(
    floats: petiole.Backbone, images: torch.Tensor, how: str
) -> None:
    """On the CPU, which the library computes on although petiole asks for CUDA."""
    pytest.importorskip("bitsandbytes")
    packed = load_backbone(NAME)
    quantized.pack(packed, how)
    packed.to("cpu")
    quantized.check_runs(packed)
    assert packed.parameter_count == floats.parameter_count
    assert packed.stored_bytes < floats.stored_bytes / 2
    with torch.no_grad():
        cosine = torch.cosine_similarity(floats(images), packed(images))
    assert 0.95 < cosine.min() < 1
    if (
        how == "bnb-nf4"
    ):  # which the library lays out for inference alone on a CPU, once it has inferred
        return
    model = petiole.adapt(packed, "lora-qkv", classes=2)
    model(images).square().sum().backward()
    assert all(p.grad is not None for p in model.trainable_parameters())


def test_a_packed_layer_stands_in_the_place_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Packed(nn.Linear):
        pass

    layer = nn.Linear(3, 2)
    bias, made = layer.bias, []
    new = quantized._like(Packed, layer)
    assert type(new) is Packed
    assert not new.training
    assert new.bias is bias
    assert (new.weight.is_meta, new.weight.shape) == (True, (2, 3))
    assert quantized._like(Packed, nn.Linear(3, 2, bias=False)).bias is None
    monkeypatch.setattr(quantized, "find_spec", lambda _: True)
    monkeypatch.setitem(quantized._PACKED, "bnb-nf4", lambda one: made.append(one) or new)
    quantized._bitsandbytes([layer], "bnb-nf4")
    assert type(layer) is Packed
    assert made == [layer]
    assert layer.weight.is_meta


def test_settings_of_the_compiler_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    library = SimpleNamespace(
        Int8WeightOnlyConfig=lambda **how: how, quantize_=lambda *given: asked.append(given)
    )
    monkeypatch.setitem(sys.modules, "torchao.quantization", library)
    monkeypatch.setattr(quantized, "find_spec", lambda _: True)
    layer = nn.Linear(2, 2)
    quantized._torchao([layer])
    assert asked == [(layer, {"set_inductor_config": False})]


def test_a_copy_keeps_its_integers(int8: petiole.Backbone) -> None:
    twin = copy.deepcopy(int8.module)
    assert type(twin.blocks[0].attn.qkv.weight) is type(int8.module.blocks[0].attn.qkv.weight)
