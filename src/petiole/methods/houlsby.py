"""Houlsby adapters in a ViT (Houlsby et al., 2019): a bottleneck on each branch's output.

u = attn(norm1(x));  y = x + u + A1(u);   v = mlp(norm2(y));  out = y + v + A2(v)
A(u) = W_up GELU(W_down u + b_d) + b_u,   W_up = b_u = 0 at the start
"""

from __future__ import annotations

from dataclasses import dataclass

from petiole.backbones.base import Backbone
from petiole.backbones.hooks import Attach
from petiole.layers.bottleneck import Bottleneck
from petiole.layers.heads import LinearHead
from petiole.methods.base import Method, Plan
from petiole.methods.blocks import depth, select
from petiole.methods.registry import register


@register("houlsby", "bottleneck adapters after attention and after MLP, linear head")
@dataclass(frozen=True)
class Houlsby(Method):
    """Two bottlenecks a block (spec B5, row "Adapter (Houlsby)").

    Attributes:
        bottleneck: m. 37 meets the letter's budget of 3.2 %.
        blocks: all | every:k | first:k | last:k | 0,3,7.
    """

    bottleneck: int = 37
    blocks: str = "all"

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        attach = tuple(
            Attach(role, Bottleneck(backbone.site(role).width, self.bottleneck))
            for i in select(self.blocks, depth(backbone, "Houlsby adapters"))
            for role in (f"block.{i}.attn.out", f"block.{i}.mlp.out")
        )
        head = LinearHead(backbone.width, classes)
        return Plan(head=head, reads=(backbone.vector,), attach=attach)
