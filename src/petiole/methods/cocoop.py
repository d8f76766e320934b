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
from petiole.backbones.hooks import Attach
from petiole.backbones.towers import TwoTowers
from petiole.errors import ConfigError
from petiole.layers.checks import positive
from petiole.layers.rows import Context
from petiole.methods.base import Method, Plan
from petiole.methods.class_names import PHRASE, Sentence, TextHead, towers_of, words
from petiole.methods.recipe import PROMPT_LEARNING
from petiole.methods.registry import register

TEXTS = 512
"""Most texts in one pass of the text tower."""


class ConditionalHead(TextHead):
    """z_ic = s cos(v_i, E_c(v_i)): a text of every class for every image.

    Args:
        squeeze: d over the width of pi's hidden layer.
    """

    def __init__(self, towers: TwoTowers, classes: int, sentence: Sentence, squeeze: int) -> None:
        super().__init__(towers, classes, sentence)
        hidden = max(4, towers.width // squeeze)  # a narrower one may be dead from the start
        self.meta = nn.Sequential(
            nn.Linear(towers.width, hidden), nn.ReLU(), nn.Linear(hidden, towers.text.width)
        )
        self._shift: Tensor | None = None

    @property
    def all_slots(self) -> Tensor:
        """Slots of the context in the texts at hand, for each image those of every class."""
        return self.slots.repeat(len(self.shift) // len(self.names), 1)

    @property
    def shift(self) -> Tensor:
        """pi(v) of the images at hand, once for each class."""
        assert self._shift is not None
        return self._shift

    def embeddings(self) -> Tensor:
        raise ConfigError(
            "The class vectors of CoCoOp depend on the image; there is no one matrix of them. Use "
            "coop, maple or promptsrc where one is wanted."
        )

    @property
    def images_at_once(self) -> int:
        """Images whose texts are encoded together."""
        return max(1, TEXTS // len(self.names))

    def forward(self, vector: Tensor) -> Tensor:
        parts = [
            torch.einsum("bd,bcd->bc", normalize(some, dim=-1), self.embeddings_of(some))
            for some in torch.split(vector, self.images_at_once)
        ]
        return self.scale * torch.cat(parts)

    def embeddings_of(self, vector: Tensor) -> Tensor:
        """Unit class vectors (b, C, d) of each of a few images."""
        unit = normalize(vector, dim=-1)
        self._shift = self.meta(unit).repeat_interleave(len(self.names), 0)
        encoded = normalize(self.towers.encode(self.ids.repeat(len(unit), 1)), dim=-1)
        return encoded.reshape(len(unit), -1, unit.shape[-1]).to(unit.dtype)


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

    context: int = 4
    phrase: str = PHRASE
    squeeze: int = 16

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        positive(context=self.context, squeeze=self.squeeze)
        towers = towers_of(backbone)
        head = ConditionalHead(towers, classes, Sentence(context=self.context), self.squeeze)
        context = Context(
            words(towers, self.phrase, self.context), lambda: head.all_slots, lambda: head.shift
        )
        return Plan(
            head=head,
            reads=(backbone.vector,),
            attach=(Attach("text.embed", context, how="replace"),),
        )
