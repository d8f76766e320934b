"""BERT and RoBERTa encoders as text towers: any sentence-transformers model of these families.

    tokens = blocks(LayerNorm(words + positions + type 0)),   sentence = mean of its tokens

Post-norm blocks: y = LN(x + attn(x)), then LN(y + mlp(y)). Roles mean what they do elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from petiole.backbones.dual_encoder.text_tower import MeanTower
from petiole.backbones.dual_encoder.tokenizers import FolderTokenizer
from petiole.backbones.frozen_network import Site
from petiole.backbones.vision.transformer import Branches
from petiole.backbones.weights import read_json
from petiole.errors import BackboneError, unknown

FAMILIES = ("bert", "roberta", "xlm-roberta")
UNUSED = ("pooler.", "embeddings.position_ids", "embeddings.token_type_ids")


def build(folder: Path, *, meta: bool) -> nn.Module:
    """The encoder that a folder's config.json states, without weights and without pooler.

    Raises:
        BackboneError: no such file, or another family.
    """
    from transformers import AutoConfig, AutoModel

    stated = read_json(folder / "config.json")
    kind = str(stated.pop("model_type", ""))
    if kind not in FAMILIES:
        raise unknown(f"text encoder in {folder}", kind, FAMILIES, BackboneError)
    with torch.device("meta" if meta else "cpu"):
        module: nn.Module = AutoModel.from_config(
            AutoConfig.for_model(kind, **stated), add_pooling_layer=False
        )
    return module


def own_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors under the encoder's names, without what no sentence vector needs."""
    named = {key.removeprefix("bert.").removeprefix("roberta."): t for key, t in tensors.items()}
    return {key: tensor for key, tensor in named.items() if not key.startswith(UNUSED)}


def tower(module: Any, project: nn.Module, tokenizer: FolderTokenizer | None) -> MeanTower:
    """Name the parts of an encoder."""
    e, config = module.embeddings, module.config
    offset = 0 if config.model_type == "bert" else config.pad_token_id + 1
    width = config.hidden_size

    def place(words: Tensor) -> Tensor:
        positions = e.position_embeddings.weight[offset : offset + words.shape[1]]
        placed: Tensor = e.LayerNorm(words + positions + e.token_type_embeddings.weight[0])
        return placed

    def step(layer: nn.Module, tokens: Tensor, mask: Tensor | None) -> Tensor:
        out = layer(tokens, attention_mask=mask)
        first: Tensor = out[0] if isinstance(out, tuple) else out
        return first

    return MeanTower(
        embed=e.word_embeddings,
        place=place,
        blocks=[_branches(layer, width) for layer in module.encoder.layer],
        step=step,
        norm=nn.Identity(),
        project=project,
        width=width,
        longest=config.max_position_embeddings - offset,
        tokenizer=tokenizer,
    )


def _branches(layer: Any, width: int) -> Branches:
    a = layer.attention.self
    q, k, v = (Site(linear, "out", width) for linear in (a.query, a.key, a.value))
    return Branches(
        block=layer,
        attn_in=Site(layer.attention.self, "in", width),
        q=q,
        k=k,
        v=v,
        attn_out=layer.attention.output.dense,
        norm2=layer.intermediate,
        mlp=layer.intermediate,
        hidden=layer.intermediate.dense,
        mlp_out=layer.output.dense,
        proj=layer.attention.output.dense,
        narrow=layer.output.dense,
    )
