"""LoRA-TTT (Kojima et al., ICML-W 2025, arXiv 2502.02069): LoRA in the last blocks of the image tower, fitted to each test image.

    L = H(mean prediction of confident views) + sum_j (v'_j - v_j)^2 / (d masked)

v is the vector of the evaluation view without gradient, v' that of the same view with a share ``masked`` of its patches left
out before the blocks (the loss of a masked autoencoder without a decoder). One step; then the evaluation view is predicted.

Published: 64 views, r 16, a 32, dropout 0.01, the last two blocks' q, k, v and output projections, AdamW 1e-3, decay 0.2. The output
projection is left out here: no role carries its input. All images see the same dropout and the same mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from petiole.backbones.frozen_network import IMAGES
from petiole.backbones.hooks import Attach
from petiole.errors import ConfigError
from petiole.methods.blocks import select
from petiole.methods.test_time.base import TEST_TIME, FrozenClassifier
from petiole.methods.test_time.descent import Descent, PerImage, Session
from petiole.ranges import DropRate, PositiveInt, ProperFraction

FIRST = "block.0.in"
"""Where tokens have their positions and no block has seen them."""


class LowRankPerImage(PerImage):
    """s B A x, with A and B of each image's own: the same Kaiming start for all, B = 0.

    Args:
        images: B.
        width, out: sizes of the last axis.
        rank: r.
        scale: s = a / r.
        dropout: on the input; every image sees the same mask.
    """

    def __init__(
        self, images: int, width: int, out: int, *, rank: int, scale: float, dropout: float
    ) -> None:
        super().__init__(images)
        start = torch.empty(rank, width)
        nn.init.kaiming_uniform_(start, a=math.sqrt(5))
        self.a = nn.Parameter(start.repeat(images, 1, 1))
        self.b = nn.Parameter(torch.zeros(images, out, rank))
        self.scale, self.dropout = scale, nn.Dropout(dropout)

    def change(self, rows: Tensor) -> Tensor:
        kept = rows * self.dropout(torch.ones_like(rows[:1]))
        changed: Tensor = kept @ self.a.mT.to(rows.dtype) @ self.b.mT.to(rows.dtype)
        return self.scale * changed


class Masked(nn.Module):
    """(n, P + N + M, d) -> (n, P + kept + M, d): leave patches out, the same ones of every image.

    Args:
        prefix: P, tokens before the patches; M may stand behind them (prompts).
        patches: N.
        kept: numbers of the patches that stay.
    """

    def __init__(self, prefix: int, patches: int, kept: Tensor) -> None:
        super().__init__()
        self.prefix, self.patches, self.kept = prefix, patches, kept

    def forward(self, x: Tensor) -> Tensor:
        chosen = self.kept.to(x.device) + self.prefix
        behind = x[:, self.prefix + self.patches :]
        return torch.cat([x[:, : self.prefix], x[:, chosen], behind], dim=1)


@TEST_TIME.register("lora-ttt", "LoRA in the last blocks, one step on entropy and a masked view")
@dataclass(frozen=True)
class LoRATTT(Descent):
    """LoRA for each test image.

    Attributes:
        rank: r.
        scale: a / r.
        dropout: on the input of A.
        blocks: all | every:k | first:k | last:k | 0,3,7.
        entropy_only: leave out the loss of the masked view.
        masked: share of the patches that are left out.
    """

    rank: PositiveInt = 16
    scale: float = 2.0
    dropout: DropRate = 0.01
    blocks: str = "last:2"
    entropy_only: bool = False
    masked: ProperFraction = 0.75

    def check(self, model: FrozenClassifier) -> None:
        backbone = model.backbone
        first = select(self.blocks, backbone)[0]
        if f"block.{first}.attn.q" not in backbone.roles or FIRST not in backbone.roles:
            raise ConfigError(
                f"lora-ttt adapts the attention of a plain ViT, and {backbone.name} has none. Use a ViT, or --adapt mta."
            )

    def session(self, model: FrozenClassifier, images: int) -> Session:
        backbone = model.backbone

        def layer(role: str, reads: str) -> LowRankPerImage:
            return LowRankPerImage(
                images,
                backbone.site(reads).width,
                backbone.site(role).width,
                rank=self.rank,
                scale=self.scale,
                dropout=self.dropout,
            )

        places = [
            (f"block.{i}.attn.{name}", f"block.{i}.attn.in")
            for i in select(self.blocks, backbone)
            for name in "qkv"
        ]
        return Session([Attach(role, layer(role, reads), reads) for role, reads in places])

    def more(
        self, model: FrozenClassifier, session: Session, images: Tensor
    ) -> Callable[[], Tensor] | None:
        if self.entropy_only:
            return None
        patches = model.backbone.local_tokens
        kept = torch.randperm(patches)[: max(1, round((1 - self.masked) * patches))]
        masked = Masked(model.backbone.prefix_tokens, patches, kept.sort().values)
        before = (Attach(FIRST, masked, how="replace"),)
        whole = model.lower(images, session.attach)

        def loss() -> Tensor:
            with torch.no_grad(), model.attached(session.attach):
                target = model.vectors(whole)
            with model.attached(session.attach, before=before):
                part = model.vectors({IMAGES: images})
            return (part - target).float().square().mean(-1) / self.masked

        return loss
