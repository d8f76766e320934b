"""CLIP-LoRA (Zanella & Ben Ayed, 2024): LoRA on q, k and v of both towers, class names as the head.

    W x + (a / r) B A dropout(x),   r = 2, a = 1

Published training: AdamW 2e-4, decay 0.01, batches of 32, 500 steps for each shot.
"""

from __future__ import annotations

from dataclasses import dataclass

from petiole.backbones.base import Backbone
from petiole.backbones.hooks import Attach
from petiole.layers.checks import positive
from petiole.layers.lowrank import LowRank
from petiole.methods.base import Method, Plan
from petiole.methods.prompt_learning.class_names import SentenceTemplate, TextHead, towers_of
from petiole.methods.registry import register


@register(
    "clip-lora",
    "LoRA in both towers, class names as the head",
    lr=2e-4,
    weight_decay=1e-2,
    batch_size=32,
    train_on="target",
)
@dataclass(frozen=True)
class CLIPLoRA(Method):
    """LoRA in two towers.

    Attributes:
        rank: r.
        scale: a / r.
        dropout: on the input of A.
        template: of the sentences.
    """

    rank: int = 2
    scale: float = 0.5
    dropout: float = 0.25
    template: str = "a photo of a {}."

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        positive(rank=self.rank)
        towers = towers_of(backbone)
        blocks = [f"block.{i}" for i in range(towers.depth)]
        blocks += [f"text.block.{i}" for i in range(len(towers.text.blocks))]
        return Plan(
            head=TextHead(towers, classes, SentenceTemplate(templates=(self.template,))),
            reads=(backbone.vector,),
            attach=tuple(self._attach(towers, block, name) for block in blocks for name in "qkv"),
        )

    def _attach(self, towers: Backbone, block: str, name: str) -> Attach:
        role, reads = f"{block}.attn.{name}", f"{block}.attn.in"
        layer = LowRank(
            towers.site(reads).width,
            self.rank,
            scale=self.scale,
            out=towers.site(role).width,
            dropout=self.dropout,
        )
        return Attach(role, layer, reads)
