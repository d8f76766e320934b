"""Tip-Adapter (Zhang et al., 2022) without training: zero-shot logits and the votes of the shots.

    z_c = s cos(v, E_c) + a sum_i exp(-b (1 - cos(v, f_i))) [y_i = c]

f_i are the vectors of the shots. Classes without shots, such as novel ones, keep their zero-shot logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, normalize

from petiole.backbones.base import Backbone
from petiole.layers.solved import MemoryHead
from petiole.methods.base import SOLVED, Method, Plan
from petiole.methods.prompt_learning.class_names import SentenceTemplate, TextHead, towers_of
from petiole.methods.registry import register
from petiole.ranges import NonNegativeFloat, PositiveFloat


class TipHead(MemoryHead):
    """The equation above.

    Args:
        text: gives s cos(v, E).
        alpha, beta: a, b.
    """

    def __init__(self, text: TextHead, classes: int, alpha: float, beta: float) -> None:
        super().__init__(text.width, classes)
        self.text, self.alpha, self.beta = text, alpha, beta
        self._taught: tuple[str, ...] = ()

    def rename(self, names: Sequence[str]) -> None:
        """Set the classes by name; the first ones are those of the shots."""
        self._taught = self._taught or tuple(names)
        self.text.rename(names)

    def forget(self) -> None:
        """Encode the texts anew when they are wanted next."""
        self.text.forget()

    def forward(self, x: Tensor) -> Tensor:
        near = linear(normalize(x, dim=-1), self.support.to(x.dtype))
        votes = torch.exp(-self.beta * (1 - near)) @ self._ownership().to(x.dtype)
        logits: Tensor = self.text(x)
        return logits + self.alpha * votes

    def _ownership(self) -> Tensor:
        """Which shot votes for which of today's classes, (n, C)."""
        today = {name: i for i, name in enumerate(self.text.names)}
        table = torch.zeros(len(self._taught or today), len(today), device=self.labels.device)
        for label, name in enumerate(self._taught or today):
            if name in today:
                table[label, today[name]] = 1.0
        return table[self.labels]


@register(
    "tip-adapter",
    "zero-shot logits and votes of the shots, no training",
    train_on="target",
    views=0,
)
@dataclass(frozen=True)
class TipAdapter(Method):
    """Tip-Adapter; the defaults are the paper's as remembered, not checked.

    Attributes:
        alpha, beta: a, b.
        template: of the sentences.
    """

    recipe_fields = SOLVED

    alpha: NonNegativeFloat = 1.0
    beta: PositiveFloat = 5.5
    template: str = "a photo of a {}."

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        text = TextHead(towers_of(backbone), classes, SentenceTemplate(templates=(self.template,)))
        return Plan(head=TipHead(text, classes, self.alpha, self.beta), reads=(backbone.vector,))
