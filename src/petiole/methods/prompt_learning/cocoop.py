"""CoCoOp (Zhou et al., 2022b): CoOp whose words are shifted by the image.

    V_m(x) = V_m + pi(v),   pi = Linear(d, d / 16), ReLU, Linear(d / 16, d_t),   v the unit image vector

The same shift goes to all M words. Every image needs the text of every class, so a step costs B C texts and
an evaluation is slow by nature: nothing about the classes can be computed once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from petiole.backbones.base import Backbone
from petiole.backbones.dual_encoder.towers import TwoTowers
from petiole.backbones.hooks import Attach
from petiole.layers.rows import Context
from petiole.methods.base import Method, Plan
from petiole.methods.prompt_learning.class_names import (
    PHRASE,
    NamedTexts,
    SentenceTemplate,
    towers_of,
    words,
)
from petiole.methods.prompt_learning.class_vectors import cosines
from petiole.methods.recipe import PROMPT_LEARNING
from petiole.methods.registry import register
from petiole.ranges import PositiveInt


class ConditionalHead(NamedTexts):
    """z_ic = s cos(v_i, E_c(v_i)): a text of every class for every image.

    Args:
        squeeze: d over the width of pi's hidden layer.
    """

    def __init__(
        self, towers: TwoTowers, classes: int, sentence: SentenceTemplate, squeeze: int
    ) -> None:
        super().__init__(towers, classes, sentence)
        hidden = max(4, towers.width // squeeze)  # a narrower one may be dead from the start
        self.meta = nn.Sequential(
            nn.Linear(towers.width, hidden), nn.ReLU(), nn.Linear(hidden, towers.text.width)
        )

    @property
    def shift_at_hand(self) -> Tensor:
        """pi(v) of the image of each text that the tower reads now."""
        return self.at_hand[1]

    @property
    def images_at_once(self) -> int:
        """Images whose texts are encoded together."""
        return max(1, self.at_once // len(self.names))

    def embeddings_of(self, vector: Tensor) -> Tensor:
        """Unit class vectors (b, C, d) of each of a few images."""
        unit, count = normalize(vector, dim=-1), len(self.names)
        rows = torch.arange(count, device=self.device).repeat(len(unit))
        encoded = self.encode(rows, self.meta(unit).repeat_interleave(count, 0))
        return normalize(encoded, dim=-1).reshape(len(unit), count, -1).to(unit.dtype)

    def forward(self, vector: Tensor) -> Tensor:
        return self.scale * cosines(vector, self.embeddings_of, self.images_at_once)


@register(
    "cocoop",
    "learned words, shifted by the image",
    **PROMPT_LEARNING | {"batch_size": 1, "epochs": 10},
)
@dataclass(frozen=True)
class CoCoOp(Method):
    """Conditional context optimisation.

    Attributes:
        context: M.
        phrase: words whose embeddings start the context.
        squeeze: d over the hidden width of pi.
    """

    context: PositiveInt = 4
    phrase: str = PHRASE
    squeeze: PositiveInt = 16

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        towers = towers_of(backbone)
        head = ConditionalHead(
            towers, classes, SentenceTemplate(context=self.context), self.squeeze
        )
        context = Context(
            words(towers, self.phrase, self.context),
            lambda: head.slots_at_hand,
            shift=lambda: head.shift_at_hand,
        )
        return Plan(
            head=head,
            reads=(backbone.vector,),
            attach=(Attach("text.embed", context, how="replace"),),
        )
