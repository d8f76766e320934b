"""SSF (Lian et al., 2022): scale and shift the output of every operation of a frozen ViT.

    y = gamma * x + beta,   gamma ~ N(1, 0.02^2), beta ~ N(0, 0.02^2) at the start

after the patch embedding, both normalisations, q, k and v, the attention's projection, both layers of
the MLP, and the final normalisation. Each is linear behind a linear operation, so all of it merges
into the backbone's weights. Where a block scales its branches (LayerScale), the pair sits behind it,
which is the same family of functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from petiole.backbones.base import Backbone
from petiole.backbones.hooks import Attach
from petiole.layers.affine import Affine
from petiole.layers.heads import LinearHead
from petiole.methods.base import Method, Plan
from petiole.methods.blocks import select
from petiole.methods.recipe import AS_MANY_STEPS, INSIDE_BLOCKS
from petiole.methods.registry import register
from petiole.ranges import NonNegativeFloat

PARTS = ("attn.in", "attn.q", "attn.k", "attn.v", "attn.out", "mlp.in", "mlp.hidden", "mlp.out")


@register("ssf", "scale and shift behind every operation", paper=AS_MANY_STEPS, **INSIDE_BLOCKS)
@dataclass(frozen=True)
class SSF(Method):
    """Scale and shift.

    Attributes:
        std: spread at the start; 0 starts at the backbone's own function.
        blocks: all | every:k | first:k | last:k | 0,3,7.
    """

    lr_grid: ClassVar[tuple[float, ...]] = (1e-3, 3e-3, 1e-2)

    std: NonNegativeFloat = 0.02
    blocks: str = "all"

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        chosen = [f"block.{i}.{part}" for i in select(self.blocks, backbone) for part in PARTS]
        below = ["embed"] if self.blocks == "all" else []
        roles = [r for r in (*below, *chosen, "final.tokens") if r in backbone.sites]
        return Plan(
            head=LinearHead(backbone.width, classes),
            reads=(backbone.vector,),
            attach=tuple(Attach(r, Affine(backbone.site(r).width, self.std)) for r in roles),
            identity=self.std == 0,
        )
