"""Networks of known blocks: every class of the table keeps the contract, to the bit of its library."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from builders import networks
from petiole.backbones.frozen_network import IMAGES
from petiole.backbones.hooks import Attach, attached
from petiole.backbones.vision.block_network import BlockNetwork
from petiole.backbones.vision.timm_families import family_of
from petiole.backbones.vision.trace import ANY, LIGHT, kind_of, probe_of, run_timm, table, traced
from petiole.errors import ConfigError
from petiole.methods.registry import create
from petiole.testing import backbones as tiny
from petiole.testing import check_backbone, check_method

TAKE_TOKENS = (
    "cait",
    "eva",
    "eva-post-norm",
    "naflex",
    "parallel",
    "parallel-diff",
    "parallel-things",
    "post-norm",
)
"""Positions are added before the first block; in the others a rotation, a bias or a window fixes the number."""


def wrapped(name: str) -> tuple[Any, BlockNetwork]:
    module, size = networks.build(name), networks.NETWORKS[name][1]
    backbone = family_of(module).wrap(f"test/{name}", module, tiny.preprocessing(size))
    assert isinstance(backbone, BlockNetwork)
    return module, backbone


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_a_family_keeps_the_contract_and_its_librarys_bits(name: str) -> None:
    module, size = networks.build(name), networks.NETWORKS[name][1]
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = module(images)
    backbone = family_of(module).wrap(f"test/{name}", module, tiny.preprocessing(size))
    # Two of these do not give their own bits twice.
    loose = 1e-5 if name in ("cait", "twins") else 0.0
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), want, rtol=loose, atol=loose)
        features = module.forward_features(images)
        seen = backbone.upper({IMAGES: images}, (backbone.vector, backbone.patches))
    if features.ndim == 3:  # else a map, whose channels are the last axis or the second
        first = features.shape[1] - seen[backbone.patches].shape[1]
        tokens = features[:, first:]
    else:
        channels = -1 if features.shape[-1] == backbone.width_of(backbone.patches) else 1
        tokens = features.movedim(channels, -1).flatten(1, 2)
    torch.testing.assert_close(seen[backbone.patches], tokens, rtol=loose, atol=loose)
    assert math.prod(backbone.grid) == tokens.shape[1]
    is_first = (
        features.ndim == 3
        and features.shape[1] > 1
        and torch.allclose(want, features[:, 0], atol=1e-5)
    )
    assert backbone.traced.class_token == is_first
    assert backbone.traced.missing == networks.NETWORKS[name][2]
    assert backbone.cuts, "it cannot be cut"
    assert backbone.takes_tokens == (name in TAKE_TOKENS)
    check_backbone(backbone)


def test_every_class_of_the_table_has_a_member_here() -> None:
    built = {kind_of(part) for name in networks.NETWORKS for part in networks.build(name).modules()}
    timms = {kind for kind in table() if not kind.startswith(("modeling_", ANY))}
    assert timms <= built


@pytest.mark.parametrize(
    ("name", "method"),
    [("dinov3", "lora-qkv"), ("swin", "adaptertune")],
)
def test_methods_fit(name: str, method: str) -> None:
    check_method(method, [wrapped(name)[1]])


def test_going_on_from_a_cut_is_trained_with_and_without_recomputing() -> None:
    _, backbone = wrapped("swin")
    images = tiny.images(backbone)
    cut = backbone.cuts[-1]
    state = backbone.lower(images, (cut,))
    layer = torch.nn.Linear(backbone.site(cut).width, backbone.site(cut).width)
    found = []
    for checkpoint in (False, True):
        layer.zero_grad()
        with attached(backbone, [Attach(cut, layer)]):
            out = backbone.upper(state, (backbone.vector,), checkpoint=checkpoint)
            out[backbone.vector].square().sum().backward()
        found.append(layer.weight.grad.clone())
    torch.testing.assert_close(*found)
    with attached(backbone, [Attach(cut, layer)]), torch.no_grad():
        whole = backbone.upper({IMAGES: images}, (backbone.vector,))[backbone.vector]
    torch.testing.assert_close(whole, out[backbone.vector].detach())


def test_a_shape_evaluates_as_the_network_does() -> None:
    module = networks.build("dinov3").train()
    probe = probe_of(module, (32, 32))
    assert not any(part.training for part in probe.modules())
    assert module.training
    own = dict(module.named_parameters())
    assert all(p is own[name] for name, p in probe.named_parameters())


def test_a_heavy_one_has_no_data_and_tells_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    module = networks.build("dinov3")
    small = traced("m", module, run_timm, (32, 32))
    work = sum(p.numel() for p in module.parameters()) * 4
    assert work < LIGHT
    monkeypatch.setattr("petiole.backbones.vision.trace.LIGHT", work)
    assert not any(p.is_meta for p in probe_of(module, (32, 32)).parameters())
    assert all(p.is_meta for p in probe_of(module, (32, 48)).parameters())
    monkeypatch.setattr("petiole.backbones.vision.trace.LIGHT", work - 1)
    probe = probe_of(module.train(), (32, 32))
    assert not any(part.training for part in probe.modules())
    assert all(p.is_meta for p in probe.parameters())
    large = traced("m", module, run_timm, (32, 32))
    assert (large.blocks, large.places, large.missing, large.vector) == (
        small.blocks, small.places, small.missing, small.vector,
    )  # fmt: skip
    assert [o.shape for o in large.outputs] == [o.shape for o in small.outputs]
    assert (large.cuttable, large.takes_tokens, large.class_token) == (
        small.cuttable, small.takes_tokens, small.class_token,
    )  # fmt: skip


def test_what_a_block_lacks_is_said() -> None:
    _, backbone = wrapped("cait")
    with pytest.raises(ConfigError, match=r"no block\.0\.mlp\.out: its blocks have in, attn\.in"):
        backbone.site("block.0.mlp.out")
    _, rotary = wrapped("dinov3")
    with pytest.raises(ConfigError, match="take no prompts"):
        create("vpt-shallow", {}).plan(rotary, 3)
