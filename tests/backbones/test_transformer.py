"""Roles and halves of transformers against timm, transformers and a naive attention in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, linear

from petiole.backbones.base import Backbone
from petiole.backbones.frozen_network import IMAGES
from petiole.backbones.hooks import Attach, attached
from petiole.backbones.vision import vit
from petiole.backbones.vision.transformer import Transformer
from petiole.errors import ConfigError
from petiole.testing import backbones as tiny


class Record(nn.Module):
    """Keeps what it sees and adds nothing."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x.detach().clone()
        return torch.zeros_like(x)


def record(backbone: Backbone, roles: list[str], images: Tensor) -> dict[str, Tensor]:
    taps = {role: Record() for role in roles}
    with attached(backbone, [Attach(role, tap) for role, tap in taps.items()]), torch.no_grad():
        backbone.upper({IMAGES: images}, (backbone.vector,))
    return {role: tap.seen for role, tap in taps.items()}


def close(got: Tensor, want: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(got.double(), want.double(), rtol=tolerance, atol=tolerance)


def finals(backbone: Backbone, images: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        return backbone.upper({IMAGES: images}, backbone.finals)


@pytest.mark.parametrize("build", [tiny.plain, tiny.registers, tiny.without_class_token])
def test_finals_are_those_of_timm(build: Callable[[], Transformer]) -> None:
    backbone = build()
    images = tiny.images(backbone)
    module: Any = backbone.module
    with torch.no_grad():
        tokens = module.forward_features(images)
        vector = module.forward_head(tokens, pre_logits=True)
    got = finals(backbone, images)
    close(got["final.patches"], tokens[:, module.num_prefix_tokens :])
    close(got[backbone.vector], vector)
    assert ("final.cls" in got) == (module.cls_token is not None)
    if "final.cls" in got:
        close(got["final.pooled"], tokens[:, module.num_prefix_tokens :].mean(1))


@pytest.mark.parametrize("depth", [3, 4, 6])
def test_the_class_tokens_of_the_last_four_blocks_are_one_vector(depth: int) -> None:
    module: Any = tiny.timm_vit(depth=depth, reg_tokens=2)
    backbone = vit.wrap("test/vit", module, tiny.preprocessing())
    images = tiny.images(backbone)
    assert ("final.cls4" in backbone.finals) == (depth >= 4)
    if depth < 4:
        return
    after = record(backbone, [f"block.{i}.out" for i in range(depth)], images)
    want = torch.cat([module.norm(after[f"block.{i}.out"])[:, 0] for i in range(depth)[-4:]], dim=1)
    assert want.shape == (len(images), backbone.width_of("final.cls4"))
    cut = backbone.cut_below(["final.tokens"], ("final.cls4",))
    assert cut == (("block.2.in",) if depth == 6 else (IMAGES,))  # where the first of them begins
    with torch.no_grad():
        below = backbone.lower(images, cut)
        for state in ({IMAGES: images}, below):
            assert list(backbone.upper(state, ("final.pooled",))) == ["final.pooled"]
            both = backbone.upper(state, ("final.cls4", "final.cls"))
            close(both["final.cls4"], want)
            close(both["final.cls"], want[:, -backbone.width :])


def test_finals_are_those_of_hugging_face(tmp_path: Path) -> None:
    backbone = tiny.dinov2(tmp_path / "m")
    images = tiny.images(backbone)
    with torch.no_grad():
        want = backbone.module(images)
    got = finals(backbone, images)
    close(got["final.cls"], want.pooler_output)
    close(got["final.patches"], want.last_hidden_state[:, 1:])


@pytest.mark.parametrize(
    "options",
    [
        {"global_pool": "map", "class_token": False},
        {"global_pool": "avg"},
        {"global_pool": "avg", "reg_tokens": 2, "class_token": False},
        {"global_pool": "token", "fc_norm": True},
        {"pre_norm": True},
        {"pos_embed": "none"},
        {"no_embed_class": True, "reg_tokens": 2},
    ],
    ids=str,
)
def test_every_pooling_of_timm_is_its_own_image_vector(options: dict[str, Any]) -> None:
    module: Any = tiny.timm_vit(**options)
    backbone = vit.wrap("test/vit", module, tiny.preprocessing())
    images = tiny.images(backbone)
    with torch.no_grad():
        want = module(images)
    close(finals(backbone, images)[backbone.vector], want)


def naive_block(module: Any, index: int, x: Tensor) -> dict[str, Tensor]:
    """One timm block in float64, written out from its weights, head by head."""
    block = module.blocks[index]
    w = {name: p.detach().double() for name, p in block.named_parameters()}
    d = x.shape[-1]
    dh = d // tiny.HEADS
    out = {"in": x}
    out["attn.in"] = layer_norm(x, (d,), w["norm1.weight"], w["norm1.bias"], block.norm1.eps)
    for i, name in enumerate("qkv"):
        rows = slice(i * d, (i + 1) * d)
        out[f"attn.{name}"] = linear(
            out["attn.in"], w["attn.qkv.weight"][rows], w["attn.qkv.bias"][rows]
        )
    heads = []
    for h in range(tiny.HEADS):
        q, k, v = (out[f"attn.{n}"][..., h * dh : (h + 1) * dh] for n in "qkv")
        heads.append(torch.softmax(q @ k.transpose(1, 2) / math.sqrt(dh), -1) @ v)
    out["attn.context"] = torch.cat(heads, -1)
    out["attn.proj"] = linear(out["attn.context"], w["attn.proj.weight"], w["attn.proj.bias"])
    out["attn.out"] = out["attn.proj"] * w.get("ls1.gamma", 1.0)
    out["mid"] = x + out["attn.out"]
    out["mlp.in"] = layer_norm(
        out["mid"], (d,), w["norm2.weight"], w["norm2.bias"], block.norm2.eps
    )
    out["mlp.hidden"] = linear(out["mlp.in"], w["mlp.fc1.weight"], w["mlp.fc1.bias"])
    out["mlp.act"] = gelu(out["mlp.hidden"])
    out["mlp.narrow"] = linear(out["mlp.act"], w["mlp.fc2.weight"], w["mlp.fc2.bias"])
    out["mlp.out"] = out["mlp.narrow"] * w.get("ls2.gamma", 1.0)
    out["out"] = out["mid"] + out["mlp.out"]
    return out


@pytest.mark.parametrize("build", [tiny.plain, tiny.registers, tiny.without_class_token])
def test_every_role_holds_what_it_says(build: Callable[[], Transformer]) -> None:
    backbone = build()
    images = tiny.images(backbone)
    roles = [role for role in backbone.sites if role.startswith("block.")]
    got = record(backbone, roles, images)
    x = got["block.0.in"].double()
    for i in range(tiny.DEPTH):
        want = naive_block(backbone.module, i, x)
        assert {f"block.{i}.{name}" for name in want} == {
            r for r in roles if r.startswith(f"block.{i}.")
        }
        for name, value in want.items():
            close(got[f"block.{i}.{name}"], value, 1e-4)
        x = want["out"]


def test_hugging_face_roles_hold_what_they_say(tmp_path: Path) -> None:
    backbone = tiny.dinov2(tmp_path / "m")
    got = record(backbone, list(backbone.sites), tiny.images(backbone))
    module: Any = backbone.module
    for i, layer in enumerate(module.encoder.layer):
        at = {name: got[f"block.{i}.{name}"] for name in ("in", "attn.in", "mid", "mlp.in", "out")}
        close(at["attn.in"], layer.norm1(at["in"]))
        for name in "qkv":
            projection = getattr(layer.attention, f"{name}_proj")
            close(got[f"block.{i}.attn.{name}"], projection(at["attn.in"]))
        close(got[f"block.{i}.attn.proj"], layer.attention.o_proj(got[f"block.{i}.attn.context"]))
        close(at["mid"], at["in"] + got[f"block.{i}.attn.out"])
        close(at["mlp.in"], layer.norm2(at["mid"]))
        close(got[f"block.{i}.mlp.narrow"], layer.mlp.fc2(got[f"block.{i}.mlp.act"]))
        close(at["out"], at["mid"] + got[f"block.{i}.mlp.out"])
        if i:
            assert torch.equal(at["in"], got[f"block.{i - 1}.out"])
    close(got["final.tokens"], module.layernorm(got[f"block.{tiny.DEPTH - 1}.out"]))


def test_a_change_at_q_changes_q_alone() -> None:
    backbone = tiny.plain()

    class One(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ones_like(x)

    taps = {name: Record() for name in "qkv"}
    attach = [Attach("block.0.attn.q", One())]
    attach += [Attach(f"block.0.attn.{name}", tap) for name, tap in taps.items()]
    images = tiny.images(backbone)
    bare = record(backbone, [f"block.0.attn.{n}" for n in "qkv"], images)
    with attached(backbone, attach), torch.no_grad():
        backbone.upper({IMAGES: images}, backbone.finals)
    assert torch.equal(taps["q"].seen, bare["block.0.attn.q"] + 1)
    assert torch.equal(taps["k"].seen, bare["block.0.attn.k"])
    assert torch.equal(taps["v"].seen, bare["block.0.attn.v"])


def test_registers_and_class_token_never_reach_the_patches() -> None:
    backbone = tiny.registers()
    tokens = torch.full((2, 1 + 4 + 4, tiny.WIDTH), 1.0)
    tokens[:, 0], tokens[:, 1:5] = 100.0, 1000.0
    assert torch.equal(backbone._final("final.cls", tokens), tokens[:, 0])
    assert torch.equal(backbone._final("final.patches", tokens), tokens[:, 5:])
    assert torch.equal(backbone._final("final.pooled", tokens), torch.ones(2, tiny.WIDTH))
    assert finals(backbone, tiny.images(backbone))["final.patches"].shape == (3, 4, tiny.WIDTH)


def test_lower_stops_below_the_block_that_the_cut_names(transformer: Backbone) -> None:
    images = tiny.images(transformer)
    seen = record(transformer, ["block.2.in"], images)
    assert torch.equal(transformer.lower(images, ("block.2.in",))["block.2.in"], seen["block.2.in"])


def test_cut_below_is_the_highest_that_is_low_enough() -> None:
    backbone = tiny.plain()
    cut = backbone.cut_below
    assert cut([], ("final.cls",)) == ("final.cls",)
    assert cut(["block.0.attn.q"], ("final.cls",)) == (IMAGES,)
    assert cut(["block.1.in"], ("final.cls",)) == ("block.1.in",)
    assert cut(["block.2.mlp.out", "block.1.out"], ("final.cls",)) == ("block.1.in",)
    assert cut(["final.tokens"], ("final.cls",)) == ("block.2.in",)
    assert cut([IMAGES], ("final.cls",)) == (IMAGES,)


def test_wrong_roles_cuts_and_reads_name_the_nearest() -> None:
    backbone = tiny.plain()
    with pytest.raises(ConfigError, match=r"block\.1\.attn\.q"):
        backbone.site("block.1.atn.q")
    with pytest.raises(ConfigError, match=r"final\.pooled"):
        backbone.cut_below([], ("final.poled",))
    with pytest.raises(ConfigError, match="role of"):
        backbone.cut_below(["block.9.out"], ("final.cls",))
    for wrong in ((), ("block.0.in",), ("block.1.in", "block.2.in"), ("final.cls", "block.1.in")):
        with pytest.raises(ConfigError, match=r"block\.1\.in"):
            backbone.lower(tiny.images(backbone), wrong)
    with pytest.raises(ConfigError, match=r"cannot give final\.patches from final\.cls"):
        backbone.upper({"final.cls": torch.zeros(1, tiny.WIDTH)}, ("final.patches",))
    with pytest.raises(ConfigError, match=r"cannot give final\.nothing"):
        backbone.upper({IMAGES: tiny.images(backbone)}, ("final.nothing",))
    with pytest.raises(ConfigError, match=r"block\.1"):
        backbone.parameters_under("blok.1")


def test_parameters_under_a_role_are_that_blocks(transformer: Backbone) -> None:
    names = transformer.parameters_under("block.1")
    assert names
    assert all(".1." in name for name in names)
    every = transformer.parameters_under()
    names = [name for name, _ in transformer.module.named_parameters()]
    assert set(every) == {n for n in names if not transformer.role_of(n).startswith("text.")}
    parts = [transformer.parameters_under(f"block.{i}") for i in range(tiny.DEPTH)]
    rest = [transformer.parameters_under(p) for p in (IMAGES, "final.tokens")]
    assert sum(map(len, parts + rest)) == len(every)


def test_dynamic_size_changes_neither_keys_nor_fingerprint() -> None:
    fixed = vit.wrap("a", tiny.timm_vit(), tiny.preprocessing())
    free = vit.wrap("b", tiny.timm_vit(dynamic_img_size=True), tiny.preprocessing(42))
    before = free.fingerprint
    assert fixed.fingerprint == before
    assert list(fixed.module.state_dict()) == list(free.module.state_dict())
    larger = free.lower(tiny.images(free), ("final.patches",))["final.patches"]
    assert larger.shape == (3, 9, tiny.WIDTH)
    own = torch.randn(2, 3, 28, 28)
    close(finals(free, own)["final.cls"], finals(fixed, own)["final.cls"])
    del free.__dict__["fingerprint"]
    assert free.fingerprint == before


def test_every_final_value_has_the_width_that_is_stated() -> None:
    for network in (vit.wrap("test/deep", tiny.timm_vit(depth=5), tiny.preprocessing()), tiny.two_towers()):  # fmt: skip
        finals = network.finals
        values = network.lower(tiny.images(network), finals)
        widths = {role: value.shape[-1] for role, value in values.items()}
        if "final.attention" in widths:  # a share a patch
            assert widths.pop("final.attention") == network.local_tokens
        assert widths == {role: network.width_of(role) for role in widths}
        assert ("final.cls4" in widths) == (network.depth == 5)
