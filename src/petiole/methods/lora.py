"""LoRA in the attention of a ViT (Hu et al., 2022): q, k, v <- W x + (a / r) B A x, B = 0.

A fused qkv is three roles, so q, k and v each have their own A and B: 2 d r parameters a projection,
6 d r a block.
"""

from __future__ import annotations

from dataclasses import dataclass

from petiole.backbones.base import Backbone
from petiole.backbones.hooks import Attach
from petiole.errors import unknown
from petiole.layers.heads import LinearHead
from petiole.layers.lowrank import LowRank
from petiole.methods.base import Method, Plan
from petiole.methods.blocks import depth, select
from petiole.methods.registry import register


@register("lora-qkv", "LoRA on q, k and v of every block, linear head")
@dataclass(frozen=True)
class LoRA(Method):
    """LoRA on attention projections (spec B5, row "Standard LoRA QKV").

    Attributes:
        rank: r. 14 meets the letter's budget of 1.8 %.
        scale: a / r.
        targets: which of q, k, v, comma separated.
        blocks: all | every:k | first:k | last:k | 0,3,7.
        dropout: on the input of A.
    """

    rank: int = 16
    scale: float = 1.0
    targets: str = "q,k,v"
    blocks: str = "all"
    dropout: float = 0.0

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        names = [name.strip() for name in self.targets.split(",")]
        for name in names:
            if name not in ("q", "k", "v"):
                raise unknown("LoRA target", name, ("q", "k", "v"))
        attach = []
        for i in select(self.blocks, depth(backbone, "LoRA")):
            for name in names:
                role, reads = f"block.{i}.attn.{name}", f"block.{i}.attn.in"
                width, out = backbone.site(reads).width, backbone.site(role).width
                layer = LowRank(width, self.rank, scale=self.scale, out=out, dropout=self.dropout)
                attach.append(Attach(role, layer, reads))
        head = LinearHead(backbone.width, classes)
        return Plan(head=head, reads=(backbone.vector,), attach=tuple(attach))
