"""A folder with a Hugging Face ``Dinov2Model``: config.json and model.safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from petiole.backbones.base import Backbone
from petiole.backbones.frozen_network import Site
from petiole.backbones.preprocessor import read_preprocessor
from petiole.backbones.registry import LoadRequest, folder_loader
from petiole.backbones.vision.transformer import (
    Branches,
    Parts,
    Transformer,
    first_cut,
    whole_patches,
)
from petiole.backbones.vision.transformers_models import model
from petiole.data.preprocessing import Preprocessing

if TYPE_CHECKING:
    from transformers import Dinov2Model


@folder_loader("dinov2")
def load(request: LoadRequest, config: dict[str, Any], folder: Path | None) -> Backbone:
    """Load a ``Dinov2Model`` folder; preprocessing comes from its preprocessor_config.json.

    Raises:
        BackboneError: a file is missing or does not fit.
    """
    assert folder is not None  # no shape of this family is built in
    module: Any = model(request, config, folder)
    preprocessing = read_preprocessor(folder, request.image_size)
    for side in preprocessing.size:
        whole_patches(request.name, side, module.config.patch_size)
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
                proj=a.o_proj,
                narrow=getattr(layer.mlp, "fc2", None) or getattr(layer.mlp, "down_proj", None),
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
