"""Images that keep their shape: pixels, features and places as timm and transformers compute them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.data.naflex_dataset import NaFlexCollator
from timm.data.naflex_transforms import get_image_size_for_seq
from transformers import (
    AutoImageProcessor,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    Siglip2Tokenizer,
)

import petiole
from petiole.backbones.base import Backbone
from petiole.backbones.frozen_network import IMAGES
from petiole.backbones.registry import load
from petiole.backbones.vision import naflex
from petiole.backbones.vision.timm_models import preprocessing_of
from petiole.data.inputs import as_dataset
from petiole.data.naflex import grid_for, grids_of, patches_of
from petiole.data.preprocessing import Preprocessing, _strip, augmentation, view
from petiole.engine.run import RunSpec, run
from petiole.errors import ConfigError
from petiole.tasks.classification.workspace import Classification, Subset
from petiole.testing import backbones as tiny
from petiole.testing import check_backbone

SIZES = ((600, 300), (200, 600), (64, 64), (900, 100))
BUDGET = 16


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in SIZES
    ]


def letters() -> dict[str, int]:
    marks = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    return {word: i for i, word in enumerate([*marks, *"abcdefghijklmnopqrstuvwxyz.", "▁"])}


@pytest.fixture(scope="module")
def siglip2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers saves it."""
    folder = tmp_path_factory.mktemp("siglip2")
    shape = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}
    text = {**shape, "num_attention_heads": 2, "vocab_size": len(letters()), "projection_size": 24}
    vision = {**shape, "num_attention_heads": 3, "patch_size": 8, "num_patches": 9}
    config = Siglip2Config(
        text_config={**text, "max_position_embeddings": 24}, vision_config=vision
    )
    with tiny.seeded():
        model = tiny.shaken(Siglip2Model(config))
    model.save_pretrained(folder)
    Siglip2ImageProcessor(patch_size=8, max_num_patches=BUDGET).save_pretrained(folder)
    Siglip2Tokenizer(vocab=letters(), padding_side="right").save_pretrained(folder)
    return folder


def from_every_cut(backbone: Backbone, images: torch.Tensor, want: torch.Tensor) -> None:
    for cut in (IMAGES, *backbone.cuts):
        below = {
            role: value.half().float() for role, value in backbone.lower(images, (cut,)).items()
        }
        got = backbone.upper(below if cut != IMAGES else {IMAGES: images}, (backbone.vector,))
        torch.testing.assert_close(got[backbone.vector], want, rtol=1e-2, atol=5e-3)


def test_siglip_2_is_that_of_transformers(siglip2: Path) -> None:
    backbone = load(str(siglip2))
    assert isinstance(backbone, Backbone)
    theirs: Any = AutoImageProcessor.from_pretrained(siglip2, backend="pil")
    inputs = theirs(pictures(), return_tensors="pt")
    images = torch.stack([backbone.preprocess(picture) for picture in pictures()])
    assert torch.equal(grids_of(images), inputs["spatial_shapes"])
    torch.testing.assert_close(patches_of(images), inputs["pixel_values"], rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        model: Any = Siglip2Model.from_pretrained(siglip2).eval()
        want = model.vision_model(**inputs)
        got = backbone.features(images)
        ids = torch.tensor([[7, 8, 1], [9, 10, 1]])
        padded = torch.cat([ids, torch.zeros(2, 21, dtype=torch.long)], dim=1)
        text = model.text_model(padded).pooler_output
        torch.testing.assert_close(backbone.encode(ids), text, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got["final.image"], want.pooler_output, rtol=1e-5, atol=1e-5)
    own = inputs["pixel_attention_mask"].bool()
    tokens = want.last_hidden_state
    torch.testing.assert_close(got["final.patches"][own], tokens[own], rtol=1e-5, atol=1e-5)
    mean = torch.stack([row[mask].mean(0) for row, mask in zip(tokens, own, strict=True)])
    torch.testing.assert_close(got["final.patches"].mean(1), mean, rtol=1e-5, atol=1e-5)
    from_every_cut(backbone, images, want.pooler_output)


def test_it_keeps_the_contract_and_has_no_one_grid(siglip2: Path) -> None:
    check_backbone(str(siglip2))
    backbone = petiole.load(str(siglip2), image_size=40)
    assert backbone.preprocessing.budget == 25
    with pytest.raises(ConfigError, match="a grid of its own shape"):
        _ = backbone.grid
    assert "final.attention" not in backbone.finals


def test_methods_train_on_it_and_come_back(siglip2: Path, tmp_path: Path) -> None:
    backbone = load(str(siglip2))
    assert isinstance(backbone, Backbone)
    images = torch.stack([backbone.preprocess(picture) for picture in pictures()])
    for method in ("zero-shot", "linear-probe", "coop", "lora-qkv"):
        model = petiole.adapt(backbone, method, classes=["red", "blue"])
        assert model(images).shape == (len(images), 2)
    data = {"red": pictures()[:2], "blue": pictures()[2:]}
    task = Classification(str(siglip2), as_dataset(data), test_fraction=0.5, quiet=True)
    settings = {"steps": 2, "views": 1}
    run(RunSpec(task, "lora-qkv", tmp_path / "run", settings, Subset(1)))
    model = petiole.load_adapter(tmp_path / "run" / "adapter")
    torch.testing.assert_close(model(images)[1:2], model(images[1:2]), rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="images of two grids have no mean"):
        run(RunSpec(task, "lora-qkv", tmp_path / "mixed", {**settings, "mixup": 0.2}, Subset(1)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"class_token": True, "global_pool": "token"},
        {"global_pool": "map"},
        {"rope_type": "axial"},
        {"pos_embed": "factorized"},
    ],
)
def test_a_naflexvit_is_timms(options: dict[str, Any]) -> None:
    with tiny.seeded():
        module = tiny.shaken(
            timm.create_model(
                "naflexvit_base_patch16_gap",
                **{"num_classes": 0, "embed_dim": 24, "depth": 2, "num_heads": 2, **options},
            )
        ).eval()
    stated = preprocessing_of(module.pretrained_cfg).naflex(16, BUDGET)
    backbone = naflex.NaFlexNetwork("test/naflex", module, stated, naflex.run_timm)
    config = resolve_data_config(pretrained_cfg=module.pretrained_cfg)
    theirs = create_transform(
        **config, naflex=True, max_seq_len=BUDGET, patchify=True, patch_size=16
    )
    inputs, _ = NaFlexCollator(max_seq_len=BUDGET)([(theirs(p), 0) for p in pictures()])
    images = torch.stack([backbone.preprocess(picture) for picture in pictures()])
    assert torch.equal(patches_of(images), inputs["patches"])
    with torch.no_grad():
        want = module(inputs)
        torch.testing.assert_close(backbone(images), want, rtol=1e-5, atol=1e-5)
    assert len([role for role in backbone.sites if role.startswith("block.1.")]) == 15
    assert not backbone.takes_tokens
    from_every_cut(backbone, images, want)


def test_names_of_timm_load_on_grids_of_their_own() -> None:
    backbone = load("naflex/naflexvit_base_patch16_gap.e300_s576_in1k", device="meta")
    assert isinstance(backbone, Backbone)
    assert backbone.preprocessing.budget == 576
    with pytest.raises(petiole.PetioleError, match="is a VisionTransformer, whose images have one"):
        load("naflex/vit_tiny_patch16_224", device="meta")


def test_grids_are_timms_and_views_keep_the_shape_of_their_crop() -> None:
    for width, height in [(w, h) for w in (1, 17, 333, 4000) for h in (5, 224, 1999)]:
        _, sides = get_image_size_for_seq((height, width), 16, 196)
        assert grid_for((width, height), 16, 196) == tuple(side // 16 for side in sides)
    stated = preprocessing_of({"input_size": (3, 32, 32)}).naflex(8, BUDGET)
    seen = torch.stack(
        [view(pictures()[3], stated, augmentation("default"), "a", k) for k in (0, 1)]
    )
    assert grids_of(seen)[0].tolist() == [1, 9] != grids_of(seen)[1].tolist()
    assert int(grids_of(seen)[1].prod()) <= BUDGET


def test_a_strip_has_the_grid_of_its_box_and_says_it() -> None:
    p = Preprocessing.symmetric(32).naflex(4, 16)
    boxes = [(0, 0, 80, 20), (30, 0, 50, 80), (0, 5, 64, 21)]
    strips = torch.stack([_strip(Image.new("RGB", (80, 80)), p, box) for box in boxes])
    assert grids_of(strips).tolist() == [[2, 8], [8, 2], [2, 8]]  # all sixteen patches
