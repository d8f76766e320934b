"""Head only: a linear head on the frozen feature, with its learning rate tuned (DINOv2's probe).

The rival that a comparison owes its frozen backbone: AdapterTune's own tables train it for 100 to
200 steps at one rate (Khazem, 2026). With ``inputs=dinov2`` the input is chosen too: the last class token,
those of the last four blocks, each with or without the mean of the patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from petiole.backbones.base import Backbone
from petiole.layers.linear_grid import LinearGridHead
from petiole.layers.pool import Concat, First
from petiole.methods.base import SOLVED, Method, Plan
from petiole.methods.registry import register
from petiole.ranges import PositiveInt


@register("head-only", "linear head, learning rate tuned", train_on="target", views=0)
@register(
    "head-only-dinov2",
    "linear head, learning rate and input tuned, as in DINOv2",
    train_on="target",
    views=0,
    inputs="dinov2",
)
@dataclass(frozen=True)
class HeadOnly(Method):
    """A tuned linear head.

    Attributes:
        inputs: ``vector``, the backbone's own image vector, or ``dinov2``, as above.
        iterations: SGD steps for every candidate (DINOv2: 12,500).
    """

    recipe_fields = SOLVED

    inputs: Literal["vector", "dinov2"] = "vector"
    iterations: PositiveInt = 1250

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        d = backbone.width
        if self.inputs == "vector":
            head = LinearGridHead(d, classes, [slice(0, d)], iterations=self.iterations)
            return Plan(head=head, reads=(backbone.vector,), pool=First())
        wide = "final.cls4" if "final.cls4" in backbone.finals else backbone.vector
        end = backbone.width_of(wide)
        width = end + backbone.width_of(backbone.patches)
        starts = dict.fromkeys((end - d, 0))
        candidates = [slice(start, stop) for start in starts for stop in (end, width)]
        head = LinearGridHead(width, classes, candidates, iterations=self.iterations)
        return Plan(head=head, reads=(wide, backbone.patches), pool=Concat())
