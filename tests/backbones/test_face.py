"""What ``petiole.load`` returns is a module that can be called; grid and prefix tokens are what the network has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import petiole
from petiole.backbones.base import Backbone
from petiole.backbones.codebook_lvlm import LVLM
from petiole.backbones.dual_encoder import clip
from petiole.backbones.dual_encoder.towers import TwoTowers
from petiole.backbones.encoder_decoder import Inputs, Seq2Seq
from petiole.backbones.vision.transformer import Transformer
from petiole.data.image import read_image
from petiole.data.preprocessing import evaluate_transform
from petiole.engine.adapted_model import AdaptedModel
from petiole.errors import BackboneError, ConfigError
from petiole.methods.registry import create
from petiole.testing import backbones as tiny
from petiole.testing import dual_encoder as clip_for_tests

FAMILIES: dict[str, tuple[Callable[[Path], Backbone], int]] = {
    "vit": (lambda _: tiny.plain(), 1),
    "registers": (lambda _: tiny.registers(), 5),
    "no class token": (lambda _: tiny.without_class_token(), 0),
    "resnet": (lambda _: tiny.resnet(), 0),
    "dinov2": (lambda path: petiole.load(str(tiny.dinov2_folder(path))), 1),
    "clip": (lambda _: clip_for_tests.towers(), 1),
    "petiole/tiny-vit": (lambda _: petiole.load("petiole/tiny-vit"), 1),
    "petiole/tiny-grid": (lambda _: petiole.load("petiole/tiny-grid"), 0),
    "petiole/tiny-lvlm-tower": (lambda _: petiole.load("petiole/tiny-lvlm-tower"), 0),
    "timm distilled": (
        lambda _: petiole.load("timm/deit_tiny_distilled_patch16_224", device="meta"),
        2,
    ),
    "timm, another size": (
        lambda _: petiole.load("timm/vit_small_patch14_reg4_dinov2", image_size=112, device="meta"),
        5,
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_grid_and_prefix_are_those_of_the_network(family: str, tmp_path: Path) -> None:
    build, prefix = FAMILIES[family]
    backbone = build(tmp_path)
    height, width = backbone.preprocessing.size
    images = torch.rand(2, 3, height, width, device=backbone.device)
    inside = ("block.0.in",) if backbone.depth else ()
    found = backbone.features(images, (backbone.patches, *inside))
    rows, columns = backbone.grid
    assert found[backbone.patches].shape[1] == rows * columns == backbone.local_tokens
    assert rows / columns == pytest.approx(height / width)
    assert backbone.prefix_tokens == prefix
    if inside:
        assert found["block.0.in"].shape[1] == prefix + rows * columns
        assert found["block.0.in"].shape[0] == 2


def test_a_grid_need_not_be_square() -> None:
    module = tiny.timm_vit(img_size=(28, 56))
    stated = tiny.preprocessing().model_copy(update={"size": (28, 56)})
    backbone = tiny.vit.wrap("test/wide", module, stated)
    assert backbone.grid == (2, 4)
    assert backbone.features(torch.rand(1, 3, 28, 56), ("final.patches",))[
        "final.patches"
    ].shape == (1, 8, tiny.WIDTH)


def test_a_loaded_backbone_is_a_frozen_module_that_gives_vectors() -> None:
    backbone = petiole.load("petiole/tiny-vit")
    assert isinstance(backbone, nn.Module)
    images = torch.randn(2, 3, 160, 160)
    vectors = backbone(images)
    assert torch.equal(vectors, backbone.lower(images, (backbone.vector,))[backbone.vector])
    assert vectors.shape == (2, backbone.width)
    assert not vectors.requires_grad
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not backbone.train().training
    assert not any(part.training for part in backbone.modules())
    assert torch.equal(backbone.train()(images), vectors)
    own = backbone.module.state_dict()
    assert set(backbone.state_dict()) == {f"module.{name}" for name in own}
    asking = images.clone().requires_grad_()
    backbone(asking).sum().backward()
    assert asking.grad is not None
    assert asking.grad.abs().sum() > 0


def test_its_fingerprint_follows_its_weights() -> None:
    backbone = tiny.plain()
    before = backbone.fingerprint
    assert backbone.to("cpu").fingerprint == before
    assert backbone.to(torch.float64).fingerprint != before
    assert backbone(torch.rand(1, 3, 28, 28, dtype=torch.float64)).dtype == torch.float64


def test_it_prepares_any_image_as_files_are_prepared(tmp_path: Path) -> None:
    backbone = petiole.load("petiole/tiny-vit")
    pixels = np.random.default_rng(0).integers(0, 256, (90, 200, 4), dtype=np.uint8)
    for image in (Image.fromarray(pixels), Image.fromarray(pixels[..., 0])):
        image.save(tmp_path / "a.png")
        want = evaluate_transform(backbone.preprocessing)(read_image(tmp_path / "a.png"))
        got = backbone.preprocess(image)
        assert got.shape == (3, 160, 160)
        assert torch.equal(got, want)


def test_features_are_values_at_roles() -> None:
    backbone, images = tiny.plain(), torch.rand(2, 3, 28, 28)
    everything = backbone.features(images)
    assert tuple(everything) == backbone.finals
    roles = ("block.1.mlp.out", "final.cls", "block.0.attn.q")
    found = backbone.features(images, roles)
    assert tuple(found) == roles
    assert torch.equal(found["final.cls"], everything["final.cls"])
    assert found["block.0.attn.q"].shape == (2, 5, tiny.WIDTH)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in backbone.modules())
    with pytest.raises(ConfigError, match="Unknown role"):
        backbone.features(images, ("block.9.in",))


def test_an_adapted_model_does_not_hold_it_as_a_child() -> None:
    backbone = tiny.plain()
    plan = create("lora-qkv").plan(backbone, 3)
    adapted = AdaptedModel(backbone, plan)
    assert backbone not in set(adapted.modules())
    names = {name.split(".")[0] for name in adapted.state_dict()}
    assert not names & {"module", "_frozen"}


def test_towers_score_texts_against_images() -> None:
    towers = petiole.load("petiole/tiny-clip")
    assert isinstance(towers, TwoTowers)
    texts = ["a red circle.", "a large blue square left of a cross."]
    vectors = towers.encode_text(texts)
    assert vectors.shape == (2, towers.width)
    alone = torch.cat([towers.encode_text([text]) for text in texts])
    assert torch.allclose(vectors, alone, atol=1e-5), "padding does not matter"
    assert not torch.allclose(vectors[0], vectors[1], atol=1e-2)
    images = torch.rand(3, 3, *towers.preprocessing.size)
    assert torch.nn.functional.cosine_similarity(towers(images)[:, None], vectors, -1).shape == (
        3,
        2,
    )
    keys = towers.state_dict()
    assert sum("logit_scale" in key for key in keys) == 1
    assert len(list(towers.parameters())) == len(list(towers.module.parameters()))
    assert towers.scale == towers.module.logit_scale.exp()
    shape = clip.wrap("test/shape", clip_for_tests.model(), tiny.preprocessing(), None)
    with pytest.raises(ConfigError, match="no tokenizer"):
        shape.encode_text(texts)


def test_one_load_for_every_kind() -> None:
    language = petiole.load("petiole/tiny-vl")
    assert isinstance(language, Seq2Seq)
    ids = torch.tensor([language.tokenizer("how many")])
    inputs = Inputs(ids, torch.ones_like(ids, dtype=torch.bool), torch.rand(1, 36, 128))
    labels = torch.tensor([language.tokenizer("two")])
    want = language.logits(language.encode(inputs), labels)
    assert torch.equal(language(inputs, labels), want)
    assert petiole.load("clip-bart-base", device="meta", vision_width=7).vision_width == 7
    board = petiole.load("petiole/tiny-lvlm")
    assert isinstance(board, LVLM)
    seen = board.tower.encode_images(torch.rand(1, 3, 48, 48)).seen
    turns = board.turns(seen, [board.tokenizer.split("what")], [board.tokenizer.split("a")])
    assert torch.equal(board(turns), board.logits(turns))
    assert isinstance(petiole.load("petiole/tiny-vit", device="meta"), Transformer)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"hidden_act": "no such thing"}, "no such thing"),
        ({"image_size": None}, ""),
    ],
)
def test_whatever_a_library_raises_names_the_model(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    folder = tiny.dinov2_folder(tmp_path / "odd")
    (folder / "config.json").write_text(json.dumps({**tiny.HF_CONFIG, **change}))
    with pytest.raises(BackboneError, match=rf"odd cannot be loaded.*{words}"):
        petiole.load(str(folder))
