"""The tower of petiole/tiny-lvlm: a ViT of 4 blocks whose tokens are projected to the codebook's width.

    48 px -> 6 x 6 tokens of width 128 -> 4 blocks -> linear to 32 -> residual quantiser, 2 x 512 entries

The image head of the contrastive loss is what would have been block 5, over the quantised tokens; the text tower a small
transformer. `benchmarks/tiny_lvlm` trained it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from petiole.backbones.bundled.word_list import WordList
from petiole.backbones.codebook_lvlm.tower import ContrastHeads
from petiole.backbones.vision import vit
from petiole.backbones.vision.transformer import Transformer
from petiole.data.preprocessing import Preprocessing

HEADS = 4


def preprocessing(size: int) -> Preprocessing:
    """Of the tower's images."""
    return Preprocessing.symmetric(size)


def encoder(name: str, config: Mapping[str, Any]) -> Transformer:
    """E, with fresh weights.

    Args:
        name: of the backbone.
        config: size, patch, width, blocks, and d of the codebook.
    """
    module = VisionTransformer(
        img_size=config["size"],
        patch_size=config["patch"],
        embed_dim=config["width"],
        depth=config["blocks"],
        num_heads=HEADS,
        class_token=False,
        global_pool="avg",
        fc_norm=False,
        num_classes=0,
    )
    module.norm = nn.Linear(config["width"], config["d"])
    return Transformer(
        name,
        module,
        preprocessing(config["size"]),
        config["d"],
        vit.parts_of(module),
        stream=config["width"],
    )


class TinyImageHead(nn.Module):
    """Quantised tokens (B, N, d) -> block, norm, mean, projection -> (B, e)."""

    def __init__(self, d: int, width: int, space: int) -> None:
        super().__init__()
        self.up = nn.Linear(d, width)
        self.block = Block(width, HEADS)
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, space)

    def forward(self, tokens: Tensor) -> Tensor:
        vector: Tensor = self.project(self.norm(self.block(self.up(tokens))).mean(dim=1))
        return vector


class TinyTextTower(nn.Module):
    """Ids (B, L) and mask -> two blocks, norm, masked mean, projection -> (B, e)."""

    def __init__(self, vocabulary: int, longest: int, width: int, space: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(0.02 * torch.randn(longest, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, HEADS, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, space)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        tokens = self.words(ids) + self.places[: ids.shape[1]]
        for block in self.blocks:
            tokens = block(tokens, src_key_padding_mask=~mask)
        kept = mask[..., None].to(tokens.dtype)
        mean = (self.norm(tokens) * kept).sum(1) / kept.sum(1).clamp_min(1)
        vector: Tensor = self.project(mean)
        return vector


def contrast(config: Mapping[str, Any], words: WordList, pad: int) -> ContrastHeads:
    """The heads of the contrastive loss, with fresh weights.

    Args:
        config: as for ``encoder``, and space e, text width, longest text.
        words: of the text tower.
        pad: id that fills up.
    """
    return ContrastHeads(
        TinyImageHead(config["d"], config["width"], config["space"]),
        TinyTextTower(len(words), config["longest"], config["text_width"], config["space"]),
        pad,
        config["longest"],
        words.split,
    )
