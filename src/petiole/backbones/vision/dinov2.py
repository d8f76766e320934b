"""A folder with a Hugging Face ``Dinov2Model``: config.json and model.safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from petiole.backbones.base import Backbone, Site
from petiole.backbones.preprocessor import read_preprocessor
from petiole.backbones.registry import LoadRequest, folder_loader
from petiole.backbones.vision.transformer import (
    Branches,
    Parts,
    Transformer,
    first_cut,
    whole_patches,
)
from petiole.backbones.weights import load_strictly, read_safetensors
from petiole.data.preprocessing import Preprocessing

if TYPE_CHECKING:
    from transformers import Dinov2Model


@folder_loader("dinov2")
def load(request: LoadRequest, config: dict[str, Any], folder: Path | None) -> Backbone:
    """Load a ``Dinov2Model`` folder; preprocessing comes from its preprocessor_config.json.

    Raises:
        BackboneError: a file is missing or does not fit.
    """
    from transformers import Dinov2Config, Dinov2Model

    assert folder is not None  # no shape of this family is built in
    stated = Dinov2Config(**config)
    with torch.device("meta" if request.meta else "cpu"):
        module = Dinov2Model(stated)
    if not request.meta:
        file = request.weights or folder / "model.safetensors"
        tensors = {k.removeprefix("dinov2."): v for k, v in read_safetensors(file).items()}
        load_strictly(module, {_current(k): v for k, v in tensors.items()}, str(file))
    preprocessing = read_preprocessor(folder, request.image_size)
    whole_patches(request.name, preprocessing.size[0], stated.patch_size)
    return wrap(request.name, module, preprocessing)


def wrap(name: str, module: Dinov2Model, preprocessing: Preprocessing) -> Transformer:
    """Turn a ``Dinov2Model`` into a backbone."""

    def tokenise(images: Tensor) -> Tensor:
        tokens: Tensor = module.embeddings(images)
        return tokens

    width = module.config.hidden_size
    blocks = []
    for layer in module.encoder.layer:
        a = layer.attention
        q, k, v = (Site(linear, "out", width) for linear in (a.q_proj, a.k_proj, a.v_proj))
        blocks.append(
            Branches(
                block=layer,
                attn_in=Site(a, "in", width),
                q=q,
                k=k,
                v=v,
                attn_out=layer.layer_scale1,
                norm2=layer.norm2,
                mlp=layer.mlp,
                hidden=getattr(layer.mlp, "fc1", None),
                mlp_out=layer.layer_scale2,
            )
        )
    parts = Parts(
        tokenise=tokenise,
        embed=module.embeddings.patch_embeddings,
        blocks=blocks,
        norm=module.layernorm,
        patch=module.config.patch_size,
        prefix=1,
        pool=None,
        block_prefix="encoder.layer.",
        top_prefixes=("layernorm.",),
        first_cut=first_cut(len(blocks)),
        heads=module.config.num_attention_heads,
    )
    return Transformer(name, module, preprocessing, width, parts)


def _current(key: str) -> str:
    """Checkpoints written before transformers 5 nest the projections one level deeper."""
    for old, new in (
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
    ):
        key = key.replace(old, new)
    return key
