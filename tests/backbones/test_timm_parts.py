"""Sizes, families and errors of timm's models, of stand-ins for its networks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import nn

from petiole.backbones.registry import LoadRequest
from petiole.backbones.vision import timm_models
from petiole.backbones.vision.cnn import ConvNet
from petiole.backbones.vision.timm_blocks import fuse_biases
from petiole.backbones.vision.timm_models import _create, _heads, _rebuilt, _sized
from petiole.backbones.vision.transformer import first_cut
from petiole.data.preprocessing import Preprocessing
from petiole.errors import BackboneError

P = Preprocessing.symmetric(8)
REQUEST = LoadRequest("timm/n")


def network(places: tuple[int, ...] = (1, 5, 3), patch: tuple[int, int] = (4, 4)) -> Any:
    """A class token and 2 x 2 patches."""
    embed = SimpleNamespace(img_size=(8, 8), grid_size=(2, 2), patch_size=patch)
    return SimpleNamespace(patch_embed=embed, pos_embed=torch.zeros(places))


@pytest.mark.parametrize(
    ("of", "table", "found"),
    [
        (network(), (1, 10, 3), {"img_size": (12, 12)}),
        (network(patch=(4, 2)), (1, 10, 3), {"img_size": (12, 6)}),
        (network((1, 9, 3)), (1, 14, 3), {"img_size": (12, 12)}),  # behind four registers more
        (network(), (1, 9, 3), {}),  # 8 patches are no square
        (network(), (1, 5, 3), {}),  # its own
        (network(), (10, 3), {}),
        (network((5, 3)), (1, 10, 3), {}),
    ],
)
def test_a_files_position_table_tells_the_size(
    monkeypatch: pytest.MonkeyPatch, of: Any, table: tuple[int, ...], found: dict[str, Any]
) -> None:
    family = SimpleNamespace(options={})
    monkeypatch.setattr(timm_models, "family_of", lambda _: family)
    monkeypatch.setattr(timm_models, "_rebuilt", lambda _s, _r, p: {"asked": p.size})
    stored = {"pos_embed": torch.zeros(table)}
    assert _sized(of, REQUEST, P, stored) == found
    # Another size that is asked for: of the family's own accord, or built anew.
    wider = Preprocessing.symmetric(16)
    asked = _sized(of, LoadRequest("timm/n", image_size=16), wider, {})
    assert asked == {"asked": (16, 16)}
    family.options = {"dynamic": True}
    assert _sized(of, LoadRequest("timm/n", image_size=16), wider, {}) == {"dynamic": True}


def test_a_network_that_takes_any_size_is_not_built_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_models, "traced", lambda *_: None)
    assert _rebuilt(nn.Identity(), REQUEST, P) == {}

    def refused(*_: Any) -> None:
        raise BackboneError("no")

    monkeypatch.setattr(timm_models, "traced", refused)
    assert _rebuilt(nn.Identity(), REQUEST, P) == {"img_size": (8, 8)}


def test_classifiers_are_named_as_the_library_states_them() -> None:
    for stated, found in (("head", ("head",)), (["a", "b"], ("a", "b")), (None, ())):
        assert _heads(SimpleNamespace(pretrained_cfg={"classifier": stated})) == found  # type: ignore[arg-type]
    assert _heads(nn.Identity()) == ()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "Check the tag after the dot"),
        ({"img_size": (9, 9)}, "images of its own size only"),
        ({"pretrained": True, "img_size": (9, 9)}, r"could not be had \(ValueError: odd\)"),
    ],
)
def test_what_the_library_cannot_build(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], said: str
) -> None:
    def odd(*_: Any, **__: Any) -> None:
        raise ValueError("odd")

    monkeypatch.setattr(timm, "create_model", odd)
    with pytest.raises(BackboneError, match=said):
        _create(REQUEST, "n", **options)


def test_the_lowest_cut_leaves_a_quarter_below() -> None:
    assert [first_cut(depth) for depth in (1, 3, 4, 8, 12, 27)] == [1, 1, 1, 2, 3, 6]
    assert first_cut(12, deep_stem=True) == 0


def test_convolutions_of_images_alone_run_channels_last() -> None:
    flat = ConvNet("n", nn.Conv2d(3, 2, 2), P, 2, 2, (1, 1)).module
    assert isinstance(flat, nn.Conv2d)
    assert flat.weight.is_contiguous(memory_format=torch.channels_last)
    deep = nn.ModuleList([nn.Conv2d(3, 2, 2), nn.Conv3d(3, 2, 2)])
    found: Any = ConvNet("n", deep, P, 2, 2, (1, 1)).module
    assert found[0].weight.is_contiguous()


@pytest.mark.parametrize("separate", [True, False])
def test_biases_that_the_library_adds_by_hand_are_fused(separate: bool) -> None:
    part, x = nn.Module(), torch.ones(1, 2)
    part.qkv = nn.Linear(2, 3, bias=False)
    part.q_bias, part.v_bias = (nn.Parameter(torch.tensor([value])) for value in (1.0, 3.0))
    part.register_buffer("k_bias", torch.tensor([2.0]))
    part.qkv_bias_separate = separate
    bare = part.qkv(x)
    fuse_biases(part)
    assert (part.q_bias is None) == (not separate)
    added = part.qkv(x) - bare
    torch.testing.assert_close(added, torch.tensor([[0.0, 0, 0] if separate else [1.0, 2, 3]]))
