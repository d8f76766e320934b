"""LoRA in the attention of a ViT (Hu et al., 2022): q, k, v <- W x + (a / r) B A x, B = 0.

A fused qkv is three roles, so q, k and v each have their own A and B: 2 d r parameters a projection,
6 d r a block. Rank-stabilised LoRA (Kalajdzievski, 2023) scales by a / sqrt(r); DoRA (Liu et al., 2024)
trains the length of every weight row beside its direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

from torch import Tensor, nn

from petiole.backbones.base import Backbone, Site
from petiole.backbones.hooks import Attach
from petiole.errors import ConfigError, unknown
from petiole.layers.checks import positive
from petiole.layers.dora import DoRA
from petiole.layers.heads import LinearHead
from petiole.layers.lowrank import LowRank
from petiole.methods.base import Method, Plan
from petiole.methods.blocks import select
from petiole.methods.registry import register


@register("lora-qkv", "LoRA on q, k and v of every block")
@register("dora", "DoRA on q, k and v of every block", magnitude=True)
@dataclass(frozen=True)
class LoRA(Method):
    """LoRA on attention projections (spec B5, row "Standard LoRA QKV").

    Attributes:
        rank: r. 14 meets the letter's budget of 1.8 %.
        scale: a / r.
        rank_stabilised: multiply by sqrt(r), so that the factor is a / sqrt(r).
        magnitude: train the rows' lengths too (DoRA).
        targets: which of q, k, v, comma separated.
        blocks: all | every:k | first:k | last:k | 0,3,7.
        dropout: on the input of A.
    """

    lr_grid: ClassVar[tuple[float, ...]] = (3e-4, 1e-3, 3e-3)

    rank: int = 16
    scale: float = 1.0
    rank_stabilised: bool = False
    magnitude: bool = False
    targets: str = "q,k,v"
    blocks: str = "all"
    dropout: float = 0.0

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        names = [name.strip() for name in self.targets.split(",")]
        for name in names:
            if name not in ("q", "k", "v"):
                raise unknown("LoRA target", name, ("q", "k", "v"))
        attach = []
        for i in select(self.blocks, backbone):
            for name in names:
                role, reads = f"block.{i}.attn.{name}", f"block.{i}.attn.in"
                layer = self._layer(backbone.site(role), backbone.site(reads).width)
                attach.append(Attach(role, layer, reads))
        head = LinearHead(backbone.width, classes)
        return Plan(head=head, reads=(backbone.vector,), attach=tuple(attach))

    def _layer(self, site: Site, width: int) -> LowRank:
        positive(rank=self.rank)
        scale = self.scale * (sqrt(self.rank) if self.rank_stabilised else 1.0)
        if self.magnitude:
            return DoRA(weight_of(site), self.rank, scale=scale, dropout=self.dropout)
        return LowRank(width, self.rank, scale=scale, out=site.width, dropout=self.dropout)


def weight_of(site: Site) -> Tensor:
    """The rows (out, in) of the linear layer that produce a value."""
    if not isinstance(site.module, nn.Linear):
        raise ConfigError(f"DoRA needs a linear layer, not {type(site.module).__name__}.")
    weight = site.module.weight
    return weight if site.columns is None else weight[site.columns]
