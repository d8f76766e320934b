"""Small members of timm's families with random weights: every class of block in block_roles.toml."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
from timm.models.eva import Eva
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from timm.models.nest import Nest
from timm.models.pvt_v2 import PyramidVisionTransformerV2
from timm.models.vision_transformer import (
    DiffParallelScalingBlock,
    ParallelScalingBlock,
    ParallelThingsBlock,
    ResPostBlock,
    VisionTransformer,
)
from timm.models.volo import VOLO
from torch import nn

from petiole.testing import backbones as tiny

PLAIN = {"embed_dim": 48, "depth": 2, "num_heads": 4}


def named(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=0, **options)


def vit(**options: Any) -> Callable[[], nn.Module]:
    return lambda: VisionTransformer(
        img_size=32, patch_size=16, num_classes=0, **{**PLAIN, "init_values": 0.5, **options}
    )


STAGES = {"depths": (1, 2), "num_heads": (2, 4)}
SWIN = {"img_size": 32, "window_size": 2, "embed_dim": 16, **STAGES}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, tuple[str, ...]]] = {
    "dinov3": (named("vit_small_patch16_dinov3", img_size=32, **PLAIN), 32, ()),
    "eva": (named("eva_giant_patch14_224", img_size=28, **PLAIN), 28, ()),
    "eva02": (named("eva02_tiny_patch14_224", img_size=28, **PLAIN), 28, ()),
    "eva02-gated": (named("eva02_base_patch14_448", img_size=28, **PLAIN), 28, ("mlp.hidden",)),
    "eva-post-norm": (
        lambda: Eva(
            img_size=32, patch_size=16, num_classes=0, use_post_norm=True, qkv_fused=False, **PLAIN
        ),
        32,
        (),
    ),
    "pe-core": (named("vit_pe_core_tiny_patch16_384", img_size=32, **PLAIN), 32, ()),
    "pe-spatial": (named("vit_pe_spatial_tiny_patch16_512", img_size=32, **PLAIN), 32, ()),
    "rope": (named("vit_small_patch16_rope_224", img_size=32, **PLAIN), 32, ()),
    "rope-mixed": (named("vit_small_patch16_rope_mixed_224", img_size=32, **PLAIN), 32, ()),
    "beit": (named("beit_base_patch16_224", img_size=32, **PLAIN), 32, ()),
    "cait": (
        named("cait_xxs24_224", img_size=32, **PLAIN),
        32,
        ("attn.out", "mid", "mlp.out"),
    ),
    "xcit": (
        named("xcit_nano_12_p16_224", img_size=32, embed_dim=32, depth=2, num_heads=4),
        32,
        (),
    ),
    "swin": (named("swin_tiny_patch4_window7_224", **SWIN), 32, ()),
    "swinv2": (named("swinv2_tiny_window8_256", **SWIN), 32, ()),
    "hiera": (
        named("hiera_tiny_224", img_size=(64, 64), embed_dim=16, num_heads=1, stages=(1, 1, 1, 1)),
        64,
        (),
    ),
    "mvitv2": (
        lambda: MultiScaleVit(
            MultiScaleVitCfg(depths=(1, 1, 1, 1), embed_dim=16, num_heads=1),
            img_size=64,
            num_classes=0,
        ),
        64,
        ("mid",),
    ),
    "volo": (
        lambda: VOLO(
            layers=(1, 1, 1, 1),
            img_size=64,
            embed_dims=(24, 48, 48, 48),
            num_heads=(2, 4, 4, 4),
            num_classes=0,
            use_mix_token=False,
            downsamples=(True, False, False, False),
            outlook_attention=(True, False, False, False),
        ),
        64,
        (),
    ),
    "levit": (
        named(
            "levit_128s", img_size=64, embed_dim=(32, 48, 64), num_heads=(2, 3, 4), depth=(1,) * 3
        ),
        64,
        ("attn.q", "attn.k", "attn.v", "mlp.hidden"),
    ),
    "naflex": (named("naflexvit_base_patch16_gap", **PLAIN), 32, ()),
    "relpos": (named("vit_relpos_small_patch16_224", img_size=32, **PLAIN), 32, ()),
    "relpos-post": (named("vit_relpos_base_patch32_plus_rpn_256", img_size=64, **PLAIN), 64, ()),
    "sam": (
        named(
            "samvit_base_patch16_224",
            img_size=64,
            global_attn_indexes=(1,),
            window_size=2,
            **PLAIN,
        ),
        64,
        (),
    ),
    "pvt": (
        lambda: PyramidVisionTransformerV2(
            depths=(1,) * 4, embed_dims=(8, 16, 16, 16), num_heads=(1, 2, 2, 2), num_classes=0
        ),
        64,
        ("attn.k", "attn.v"),
    ),
    "twins": (
        named(
            "twins_svt_small",
            img_size=64,
            embed_dims=(16, 16, 32, 32),
            num_heads=(2, 2, 4, 4),
            depths=(1,) * 4,
            wss=(2,) * 4,
        ),
        64,
        ("attn.q", "attn.k", "attn.v"),
    ),
    "nest": (
        lambda: Nest(img_size=32, num_levels=2, embed_dims=(16, 32), num_classes=0, **STAGES),
        32,
        (),
    ),
    "post-norm": (vit(block_fn=ResPostBlock, init_values=None), 32, ()),
    "parallel": (
        vit(block_fn=ParallelScalingBlock),
        32,
        ("attn.q", "attn.k", "attn.v", "attn.out", "mid", "mlp.hidden"),
    ),
    "parallel-diff": (
        vit(block_fn=DiffParallelScalingBlock),
        32,
        ("attn.q", "attn.k", "attn.v", "attn.out", "mid", "mlp.hidden"),
    ),
    "parallel-things": (
        vit(block_fn=ParallelThingsBlock),
        32,
        (
            "attn.in",
            "attn.q",
            "attn.k",
            "attn.v",
            "attn.out",
            "mid",
            "mlp.in",
            "mlp.hidden",
            "mlp.out",
        ),
    ),
}
"""Name -> how it is built, the side of its images, and the roles that its blocks lack."""


def build(name: str) -> nn.Module:
    """A member with weights that hide no mistake."""
    with tiny.seeded():
        return tiny.shaken(NETWORKS[name][0]()).eval()
