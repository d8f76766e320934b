"""After the title of LCMHA, a lightweight cross-modal hybrid attention adapter (IEEE 11192338): an image that attends twice.

    v' = unit(v) + F_i(unit(sum_j a_j H_j))              a: how much the image's vector v attends to its patches H_j
    v'' = unit(v') + F_x(sum_c b_c E_c)                  b = softmax_c(unit(v') . E_c / T), E the texts of the classes
    z_c = s cos(v'', E_c)

F are low-rank maps, 0 at the start, where the method is zero-shot. Nothing but the title could be read: attention within the image, then
across to the texts, is our reading of *hybrid*. Both towers stay frozen, so training reads stored vectors, and texts are
encoded once. Other class names are attended to as the first ones were.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from petiole.backbones.base import Backbone
from petiole.backbones.dual_encoder.towers import TwoTowers
from petiole.layers.lowrank import LowRank
from petiole.methods.base import Method, Plan
from petiole.methods.prompt_learning.class_names import towers_of
from petiole.methods.prompt_learning.frozen_texts import FrozenTextHead
from petiole.methods.registry import register
from petiole.ranges import PositiveFloat, PositiveInt


class PatchAttention(nn.Module):
    """v': (B, d), (B, P, e), (B, P) -> (B, d).

    Args:
        width: d.
        local: e, of the patches.
        rank: of F_i; r (d + e) parameters.
    """

    def __init__(self, width: int, local: int, rank: int) -> None:
        super().__init__()
        self.inner = LowRank(local, rank, out=width)

    def forward(self, vector: Tensor, patches: Tensor, attention: Tensor) -> Tensor:
        seen = normalize(torch.einsum("bp,bpe->be", attention, patches), dim=-1)
        moved: Tensor = normalize(vector, dim=-1) + self.inner(seen)
        return moved


class TextAttentionHead(FrozenTextHead):
    """From v' to z: (B, d) -> (B, C).

    Args:
        towers: with the text tower.
        classes: C.
        rank: of F_x; 2 d r parameters.
        temperature: T.
        template: of the classes' texts.
    """

    def __init__(
        self, towers: TwoTowers, classes: int, *, rank: int, temperature: float, template: str
    ) -> None:
        super().__init__(towers, classes, template)
        self.temperature, self.cross = temperature, LowRank(self.width, rank)

    def forward(self, vector: Tensor) -> Tensor:
        texts, unit = self.texts()[0].to(vector.dtype), normalize(vector, dim=-1)
        shares = (unit @ texts.T / self.temperature).softmax(-1)
        return self.scale * normalize(unit + self.cross(shares @ texts), dim=-1) @ texts.T


@register(
    "hybrid-attention",
    "image vectors that attend to their patches and to the texts of the classes",
    batch_size=32,
    epochs=20,
    train_on="target",
)
@dataclass(frozen=True)
class HybridAttention(Method):
    """Attention within the image and across to the texts.

    Attributes:
        rank: of both maps.
        temperature: T, of the shares of texts.
        template: of the classes.
    """

    rank: PositiveInt = 16
    temperature: PositiveFloat = 0.1
    template: str = "a photo of a {}."

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        towers = towers_of(backbone)
        reads = (backbone.vector, backbone.patches, "final.attention")
        head = TextAttentionHead(
            towers,
            classes,
            rank=self.rank,
            temperature=self.temperature,
            template=self.template,
        )
        pool = PatchAttention(towers.width, backbone.width_of(backbone.patches), self.rank)
        return Plan(head=head, reads=reads, pool=pool)
