"""Vision encoders that are trained: they start as the frozen ones, and only what is declared ever moves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from petiole.backbones.base import Backbone
from petiole.backbones.registry import load
from petiole.backbones.vision import cnn
from petiole.data.image import read_image
from petiole.data.preprocessing import evaluate_transform
from petiole.engine.feature_extractor import padded
from petiole.errors import ConfigError, DataError
from petiole.methods.base import Changes
from petiole.tasks.text.grid_pool import GridPool
from petiole.tasks.text.model import VisionTower
from petiole.tasks.text.vision_tower import Trained
from petiole.tasks.text.visual import BackboneVisuals, PixelSource, open_vision_tower
from petiole.testing import backbones as small

KINDS: tuple[Trained, ...] = ("all", "last", "norms")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two pictures."""
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path


def pictures(backbone: Backbone, root: Path) -> torch.Tensor:
    sight = PixelSource(root, backbone, 1)
    return torch.stack([sight("a.png").tokens, sight("b.png").tokens])


def test_a_picture_is_the_preprocessed_image(backbone: Backbone, root: Path) -> None:
    sight = PixelSource(root, backbone, 4)
    seen = sight("a.png")
    want = evaluate_transform(backbone.preprocessing)(read_image(root / "a.png"))
    assert torch.equal(seen.tokens, want[None])
    assert (seen.visual_tokens, sight.width) == (4, backbone.width_of(backbone.patches))
    assert sight.digest != PixelSource(root, backbone, 1).digest
    with pytest.raises(DataError, match=r"absent\.png: no such file"):
        sight("absent.png")


def test_untrained_vision_give_what_frozen_features_are(backbone: Backbone, root: Path) -> None:
    vision = VisionTower(backbone, Changes(), GridPool(1))
    stored = BackboneVisuals(root, backbone, None, 1, dtype="float32")
    stored.prepare(["a.png", "b.png"], quiet=True)
    want = torch.stack([stored(name).tokens for name in ("a.png", "b.png")])
    got = vision(pictures(backbone, root))
    assert sum(p.numel() for p in vision.parameters()) == 0
    # The stored ones ran in the order of their hashes; a batch is the same function row by row.
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["petiole/tiny-vit", "petiole/efficientnet-lite0"])
def test_untrained_vision_equal_the_stored_features_bit_by_bit(name: str, root: Path) -> None:
    backbone = load(name)
    stored = BackboneVisuals(root, backbone, None, 16, dtype="float32")
    for train in ((), backbone.parameters_under()):
        vision = VisionTower(backbone, Changes(tune=tuple(train)), GridPool(16))
        # As what is stored: in a chunk of fixed size, since one image alone is rounded otherwise.
        [(chunk, _)] = padded(PixelSource(root, backbone, 16)("a.png").tokens[None])
        assert torch.equal(vision(chunk)[0], stored("a.png").tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_what_is_declared_and_nothing_else(
    backbone: Backbone, root: Path, kind: Trained
) -> None:
    before = backbone.fingerprint
    vision = open_vision_tower(backbone, 1, kind)
    rows = pictures(backbone, root)
    weights = torch.randn(vision(rows).shape, generator=torch.Generator().manual_seed(0))
    (vision(rows) * weights).sum().backward()
    assert vision.copies
    for name, copy in vision.copies.items():
        assert copy.grad is not None, name
        # Softmax does not see a shift of all scores, so a key's bias has no gradient but rounding.
        assert bool(copy.grad.any()) or "k_proj.bias" in name, name
    assert all(p.grad is None and not p.requires_grad for p in backbone.module.parameters())
    with torch.no_grad():
        for parameter in vision.parameters():
            parameter += 1
    del backbone.__dict__["fingerprint"]
    assert backbone.fingerprint == before


def test_batchnorm_statistics_stay_while_vision_are_trained(root: Path) -> None:
    backbone = small.resnet()
    before = {name: value.clone() for name, value in backbone.module.named_buffers()}
    vision = open_vision_tower(backbone, 1, "all").train()
    first = vision(pictures(backbone, root))
    first.sum().backward()
    assert torch.equal(vision(pictures(backbone, root)), first)
    assert all(torch.equal(before[name], value) for name, value in backbone.module.named_buffers())


def test_norms_are_scales_and_shifts_alone(backbone: Backbone) -> None:
    table = dict(backbone.module.named_modules())
    kinds = (nn.LayerNorm, nn.modules.batchnorm._BatchNorm)
    for name in open_vision_tower(backbone, 1, "norms").copies:
        assert isinstance(table[name.rpartition(".")[0]], kinds)


def test_the_last_block_and_the_final_norm(backbone: Backbone) -> None:
    roles = {backbone.role_of(name) for name in open_vision_tower(backbone, 1, "last").copies}
    if backbone.depth:
        assert roles <= {f"block.{backbone.depth - 1}.in", "final.tokens"}
        assert f"block.{backbone.depth - 1}.in" in roles


@pytest.mark.parametrize(
    ("architecture", "starts"),
    [
        ("test_resnet", {"layer4"}),
        ("test_byobnet", {"stages.3"}),
        ("mobilenetv3_small_050", {"blocks.4", "blocks.5"}),
    ],
)
def test_the_last_stage_is_what_comes_after_the_last_feature_map_but_one(
    architecture: str, starts: set[str]
) -> None:
    module = timm.create_model(architecture, num_classes=0)
    names = open_vision_tower(cnn.wrap("x", module, small.preprocessing(64)), 1, "last").copies
    assert names
    assert all(any(name.startswith(f"{start}.") for start in starts) for name in names)
    inside = {
        n for n, _ in module.named_parameters() if n.startswith(tuple(f"{s}." for s in starts))
    }
    assert set(names) == inside


def test_what_only_the_image_vector_needs_is_not_trained() -> None:
    module = timm.create_model("mobilenetv3_small_050", num_classes=0)
    backbone = cnn.wrap("x", module, small.preprocessing(64))
    unused = {"conv_head.weight", "conv_head.bias"}
    assert (
        set(backbone.parameters_under()) - set(open_vision_tower(backbone, 4, "all").copies)
        == unused
    )


def test_the_text_tower_is_no_part_of_the_eyes(tmp_path: Path) -> None:
    towers = small.build("clip", tmp_path)
    roles = {towers.role_of(name) for name in open_vision_tower(towers, 1, "all").copies}
    assert roles
    assert not any(role.startswith("text.") for role in roles)


def test_impossible_vision_are_explained() -> None:
    backbone = small.plain()
    assert backbone.local_tokens == 4
    with pytest.raises(ConfigError, match="2 x 2 local tokens"):
        open_vision_tower(backbone, 36)
    with pytest.raises(ConfigError, match=r"part of the vision encoder.*'lst'.*last"):
        open_vision_tower(backbone, 4, "lst")  # type: ignore[arg-type]


class _Unknown(nn.Module):
    """A CNN without stages and norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.num_features = nn.Conv2d(3, 8, 8, stride=8), 8

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(images)

    def forward_head(self, features: torch.Tensor, **_: bool) -> torch.Tensor:
        return features.mean((2, 3))


@pytest.mark.parametrize(
    ("kind", "says"), [("last", "where its last stage begins"), ("norms", "kind 'norms'")]
)
def test_a_backbone_without_such_parameters_says_so(kind: Trained, says: str) -> None:
    backbone = cnn.wrap("plain", _Unknown(), small.preprocessing(16))
    with pytest.raises(ConfigError, match=rf"plain .*{says}.*train=all"):
        open_vision_tower(backbone, 4, kind)
    assert set(open_vision_tower(backbone, 4, "all").copies) == {"conv.weight", "conv.bias"}
