"""CLIP (Radford et al., 2021) as transformers builds it: a folder, or only its shape.

The folder holds config.json, model.safetensors, and the preprocessor's and tokenizer's files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.dual_encoder.text_tower import CausalTower, Tokenizer
from petiole.backbones.dual_encoder.tokenizers import FolderTokenizer
from petiole.backbones.dual_encoder.towers import ImageTower, TwoTowers
from petiole.backbones.folders import read_weights
from petiole.backbones.frozen_network import Site
from petiole.backbones.preprocessor import CLIP_COLOURS, read_preprocessor
from petiole.backbones.registry import LoadRequest, folder_loader
from petiole.backbones.vision.attention import patch_attention
from petiole.backbones.vision.transformer import Branches, Parts, Transformer, first_cut
from petiole.backbones.weights import load_strictly
from petiole.data.preprocessing import Preprocessing

if TYPE_CHECKING:
    from transformers import CLIPModel


@folder_loader("clip")
def load(request: LoadRequest, config: dict[str, Any], folder: Path | None) -> Backbone:
    """A ``CLIPModel``.

    Raises:
        BackboneError: a file is missing or does not fit.
    """
    from transformers import CLIPConfig, CLIPModel

    with torch.device("meta" if request.meta else "cpu"):
        module = CLIPModel(CLIPConfig(**config))
    size = request.fixed_size(module.config.vision_config.image_size)
    if folder is None:
        stated = Preprocessing(size=(size, size), crop=1.0, interpolation="bicubic", **CLIP_COLOURS)
        return wrap(request.name, module, stated, None)
    fill(module, request, folder)
    return wrap(
        request.name,
        module,
        read_preprocessor(folder, size),
        FolderTokenizer(folder, "CLIPTokenizer"),
    )


def fill(module: nn.Module, request: LoadRequest, folder: Path) -> None:
    """Load the folder's weights, or those that were asked for, into a module that is no mere shape."""
    if request.meta:
        return
    tensors, origin = read_weights(folder, request.weights)
    # Counters that older versions of transformers stored.
    kept = {k: v for k, v in tensors.items() if not k.endswith("position_ids")}
    load_strictly(module, kept, origin)


class Projected(nn.Module):
    """Normalise every token, then project it into the joint space."""

    def __init__(self, norm: nn.Module, project: nn.Module) -> None:
        super().__init__()
        self.norm, self.project = norm, project

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.project(self.norm(tokens))
        return out


def wrap(
    name: str, module: CLIPModel, preprocessing: Preprocessing, tokenizer: Tokenizer | None
) -> TwoTowers:
    """Turn a ``CLIPModel`` into a backbone."""
    vision, text = module.vision_model, module.text_model
    width = module.config.vision_config.hidden_size

    def tokenise(images: Tensor) -> Tensor:
        tokens: Tensor = vision.pre_layrnorm(vision.embeddings(images))
        return tokens

    parts = Parts(
        tokenise=tokenise,
        embed=vision.embeddings,
        embeds_all=True,
        blocks=[branches(layer, width) for layer in vision.encoder.layers],
        norm=Projected(vision.post_layernorm, module.visual_projection),
        patch=module.config.vision_config.patch_size,
        prefix=1,
        pool=None,
        block_prefix="vision_model.encoder.layers.",
        top_prefixes=("vision_model.post_layernorm.", "visual_projection."),
        first_cut=first_cut(len(vision.encoder.layers)),
        heads=module.config.vision_config.num_attention_heads,
        step=lambda layer, tokens: tensor(layer(tokens, attention_mask=None)),
    )
    image = Transformer(
        name, module, preprocessing, module.config.projection_dim, parts, stream=width
    )
    tower = text_tower(text, module.text_projection, tokenizer)
    return TwoTowers(
        name,
        module,
        module.config.projection_dim,
        ImageTower(image, nn.Identity(), patch_attention(image)),
        tower,
        scale=module.logit_scale,
        text_prefixes=("text_model.", "text_projection.", "logit_scale"),
    )


def text_tower(text: Any, project: nn.Module, tokenizer: Tokenizer | None) -> CausalTower:
    """Name the parts of a ``CLIPTextTransformer``."""
    t = text.embeddings
    return CausalTower(
        embed=t.token_embedding,
        place=lambda words: words + t.position_embedding.weight[: words.shape[1]],
        blocks=[branches(layer, t.token_embedding.embedding_dim) for layer in text.encoder.layers],
        step=lambda layer, tokens, mask: tensor(layer(tokens, attention_mask=mask)),
        norm=text.final_layer_norm,
        project=project,
        width=t.token_embedding.embedding_dim,
        longest=t.position_embedding.num_embeddings,
        tokenizer=tokenizer,
    )


def branches(layer: Any, width: int) -> Branches:
    """Name the modules of one CLIP layer."""
    a = layer.self_attn
    q, k, v = (Site(linear, "out", width) for linear in (a.q_proj, a.k_proj, a.v_proj))
    return Branches(
        block=layer,
        attn_in=Site(layer.layer_norm1, "out", width),
        q=q,
        k=k,
        v=v,
        attn_out=a.out_proj,
        norm2=layer.layer_norm2,
        mlp=layer.mlp,
        hidden=layer.mlp.fc1,
        mlp_out=layer.mlp.fc2,
        proj=a.out_proj,
        narrow=layer.mlp.fc2,
    )


def tensor(out: Any) -> Tensor:
    """Layers gave tuples before transformers 5."""
    first: Tensor = out[0] if isinstance(out, tuple) else out
    return first
