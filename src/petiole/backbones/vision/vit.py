"""timm vision transformers (ViT, DeiT, DINOv2, registers) as roles."""

from __future__ import annotations

from typing import Any

from timm.layers import Mlp, PatchEmbed
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.frozen_network import Site
from petiole.backbones.vision import timm_blocks
from petiole.backbones.vision.timm_families import timm_family
from petiole.backbones.vision.transformer import (
    Branches,
    Parts,
    Transformer,
    first_cut,
    whole_patches,
)
from petiole.data.preprocessing import Preprocessing


# Interpolating the position table at run time keeps the weights, hence the fingerprint.
@timm_family("VisionTransformer", dynamic_img_size=True)
def wrap(name: str, module: VisionTransformer, preprocessing: Preprocessing) -> Backbone:
    """Turn a timm ViT into a backbone.

    Its blocks may be post-norm or parallel; then roles are those of ``block_roles.toml``.

    Raises:
        BackboneError: its patches do not tile the image.
    """
    if module.dynamic_img_size:
        for side in preprocessing.size:
            whole_patches(name, side, module.patch_embed.feat_ratio())
    if not all(
        type(block) is Block and isinstance(block.attn, Attention) for block in module.blocks
    ):
        return timm_blocks.wrap(name, module, preprocessing)
    return Transformer(name, module, preprocessing, module.embed_dim, parts_of(module))


def parts_of(module: VisionTransformer) -> Parts:
    """Name the modules of a timm ViT; see ``wrap``."""

    def tokenise(images: Tensor) -> Tensor:
        tokens = module._pos_embed(module.patch_embed(images))
        normalised: Tensor = module.norm_pre(module.patch_drop(tokens))
        return normalised

    def pool(tokens: Tensor) -> Tensor:
        vector: Tensor = module.forward_head(tokens, pre_logits=True)
        return vector

    return Parts(
        tokenise=tokenise,
        embed=module.patch_embed,
        blocks=[_branches(block) for block in module.blocks],
        norm=module.norm,
        patch=module.patch_embed.feat_ratio(),
        prefix=module.num_prefix_tokens,
        pool=None if _reads_class_token(module) else pool,
        block_prefix="blocks.",
        top_prefixes=("norm.", "fc_norm.", "attn_pool."),
        heads=module.blocks[-1].attn.num_heads,
        first_cut=first_cut(
            len(module.blocks), deep_stem=not isinstance(module.patch_embed, PatchEmbed)
        ),
    )


def _reads_class_token(module: VisionTransformer) -> bool:
    """Whether timm's own image vector is the class token and nothing else."""
    return (
        module.cls_token is not None
        and module.global_pool == "token"
        and isinstance(module.fc_norm, nn.Identity)
        # A distilled DeiT averages two tokens.
        and type(module).forward_head is VisionTransformer.forward_head
    )


def _branches(block: nn.Module) -> Branches:
    attn: Any = block.attn
    size = attn.qkv.out_features // 3
    q, k, v = (Site(attn.qkv, "out", size, slice(i * size, (i + 1) * size)) for i in range(3))
    part = block.get_submodule
    return Branches(
        block=block,
        attn_in=Site(attn, "in", attn.qkv.in_features),
        q=q,
        k=k,
        v=v,
        attn_out=part("ls1"),
        norm2=part("norm2"),
        mlp=part("mlp"),
        hidden=block.mlp.fc1 if isinstance(block.mlp, Mlp) else None,
        mlp_out=part("ls2"),
        proj=attn.proj,
        narrow=getattr(block.mlp, "fc2", None),
    )
