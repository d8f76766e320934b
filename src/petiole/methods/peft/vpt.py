"""Visual prompt tuning (Jia et al., 2022): p learned tokens beside the image's.

    shallow   x_1 = [x_0 ; P],  carried through all blocks
    deep      [x_i ; _] = Block_i([x_{i-1} ; P_i]),  fresh tokens for every block

The tokens are taken off again behind the last prompted block. Parameters: p d, or p d for each block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from petiole.backbones.base import Backbone
from petiole.backbones.hooks import Attach
from petiole.layers.checks import positive
from petiole.layers.heads import LinearHead
from petiole.layers.prompt import DropLast, PromptTokens
from petiole.methods.base import Method, Plan
from petiole.methods.blocks import select
from petiole.methods.registry import register


@register("vpt-shallow", "visual prompts before the first block")
@register("vpt-deep", "visual prompts before every block", deep=True)
@dataclass(frozen=True)
class VPT(Method):
    """Visual prompts.

    Attributes:
        prompts: p.
        deep: fresh prompts for each block, instead of one set from the first block to the last.
        dropout: on the prompts, in training.
        blocks: all | every:k | first:k | last:k | 0,3,7; shallow prompts go from the first of them
            to the last.
    """

    lr_grid: ClassVar[tuple[float, ...]] = (1e-3, 3e-3, 1e-2)

    prompts: int = 10
    deep: bool = False
    dropout: float = 0.0
    blocks: str = "all"

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        positive(prompts=self.prompts)
        chosen = select(self.blocks, backbone)
        spans = [(i, i) for i in chosen] if self.deep else [(chosen[0], chosen[-1])]
        attach = []
        for first, last in spans:
            role = f"block.{first}.in"
            fresh = PromptTokens(self.prompts, backbone.site(role).width, self.dropout)
            attach.append(Attach(role, fresh, how="replace"))
            attach.append(Attach(f"block.{last}.out", DropLast(self.prompts), how="replace"))
        return Plan(
            head=LinearHead(backbone.width, classes),
            reads=(backbone.vector,),
            attach=tuple(attach),
            identity=False,
        )
