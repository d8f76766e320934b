"""SigLIP (Zhai et al., 2023) as transformers builds it, behind the face of CLIP.

What differs and is hidden here: texts see both ways, fill all slots and are pooled at the last one; images have no
class token but a probe that attends to all patches (``final.attention`` is its attention); the local tokens lie in
no joint space, since nothing projects them. The logits' bias changes no softmax and is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.dual_encoder.clip import branches, fill, tensor
from petiole.backbones.dual_encoder.text_tower import PaddedTower
from petiole.backbones.dual_encoder.tokenizers import FolderTokenizer
from petiole.backbones.dual_encoder.towers import ImageTower, TwoTowers
from petiole.backbones.preprocessor import read_preprocessor
from petiole.backbones.registry import LoadRequest, folder_loader
from petiole.backbones.vision.attention import ProbeAttention
from petiole.backbones.vision.transformer import Parts, Transformer, first_cut
from petiole.data.preprocessing import Preprocessing
from petiole.errors import BackboneError

if TYPE_CHECKING:
    from transformers import Siglip2Model, SiglipModel


@folder_loader("siglip")
def load(request: LoadRequest, config: dict[str, Any], folder: Path | None) -> Backbone:
    """A ``SiglipModel``.

    Raises:
        BackboneError: a file is missing or does not fit.
    """
    from transformers import SiglipConfig, SiglipModel

    with torch.device("meta" if request.meta else "cpu"):
        module = SiglipModel(SiglipConfig(**config))
    size = request.fixed_size(module.config.vision_config.image_size)
    if folder is None:
        return wrap(request.name, module, Preprocessing.symmetric(size), None)
    fill(module, request, folder)
    return wrap(request.name, module, read_preprocessor(folder, size), tokenizer_of(folder))


TEXT_PREFIXES = ("text_model.", "logit_scale", "logit_bias")
"""Of parameters that only texts meet."""


def tokenizer_of(folder: Path) -> FolderTokenizer:
    """That of a folder.

    Raises:
        BackboneError: there is none, or it puts texts where these towers do not read them.
    """
    tokenizer = FolderTokenizer(folder)
    if tokenizer.pads_left:
        raise BackboneError(
            f"{folder}/tokenizer_config.json states padding_side left, where a SigLIP's texts stand first and are read at the "
            "last slot. Set it to right, as the models were trained."
        )
    return tokenizer


def wrap(
    name: str,
    module: SiglipModel,
    preprocessing: Preprocessing,
    tokenizer: FolderTokenizer | None,
) -> TwoTowers:
    """Turn a ``SiglipModel`` into a backbone."""
    vision = module.vision_model
    width = module.config.vision_config.hidden_size

    def pool(tokens: Tensor) -> Tensor:
        vector: Tensor = vision.head(tokens)
        return vector

    parts = Parts(
        tokenise=lambda images: tensor(vision.embeddings(images)),
        embed=vision.embeddings,
        embeds_all=True,
        blocks=[branches(layer, width) for layer in vision.encoder.layers],
        norm=vision.post_layernorm,
        patch=module.config.vision_config.patch_size,
        prefix=0,
        pool=pool,
        block_prefix="vision_model.encoder.layers.",
        top_prefixes=("vision_model.post_layernorm.", "vision_model.head."),
        heads=module.config.vision_config.num_attention_heads,
        first_cut=first_cut(len(vision.encoder.layers)),
        step=lambda layer, tokens: tensor(layer(tokens, attention_mask=None)),
    )
    image = Transformer(name, module, preprocessing, width, parts)
    looking = ProbeAttention(vision.head.probe, vision.head.attention)
    return TwoTowers(
        name,
        module,
        width,
        ImageTower(image, nn.Identity(), looking),
        text_tower(module, tokenizer),
        scale=module.logit_scale,
        text_prefixes=TEXT_PREFIXES,
    )


def text_tower(
    module: SiglipModel | Siglip2Model, tokenizer: FolderTokenizer | None
) -> PaddedTower:
    """The half that reads."""
    text = module.text_model
    t = text.embeddings
    d = t.token_embedding.embedding_dim
    return PaddedTower(
        embed=t.token_embedding,
        place=lambda words: words + t.position_embedding.weight[: words.shape[1]],
        blocks=[branches(layer, d) for layer in text.encoder.layers],
        step=lambda layer, tokens, mask: tensor(layer(tokens, attention_mask=mask)),
        norm=text.final_layer_norm,
        project=text.head,
        width=d,
        longest=t.position_embedding.num_embeddings,
        tokenizer=tokenizer,
        padding=tokenizer.padding if tokenizer else 1,
    )
