"""CoOp (Zhou et al., 2022): the words around a class name are learned.

    t_c = [start] [V]_1 .. [V]_M name_c . [end],   z_c = s cos(v, text(t_c))

Only the context V is trained. Neither tower changes, so training reads stored image vectors. Trained
values: M d_t, or C M d_t with a context for each class.

Published training: 200 epochs, from base to novel classes and with 8 or 16 shots; 50 on ImageNet and with one
shot, 100 with 2 or 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from petiole.backbones.base import Backbone
from petiole.backbones.hooks import Attach
from petiole.errors import ConfigError
from petiole.layers.rows import STD, Context
from petiole.methods.base import Method, Plan
from petiole.methods.prompt_learning.class_names import (
    PHRASE,
    Position,
    SentenceTemplate,
    TextHead,
    towers_of,
    words,
)
from petiole.methods.recipe import PROMPT_LEARNING
from petiole.methods.registry import register
from petiole.ranges import PositiveInt


@register("coop", "learned words before the class name", epochs=200, **PROMPT_LEARNING)
@dataclass(frozen=True)
class CoOp(Method):
    """Context optimisation.

    Attributes:
        context: M.
        phrase: words whose embeddings start the context; empty for N(0, 0.02^2).
        position: end | middle | front.
        class_specific: one context for each class.
    """

    context: PositiveInt = 4
    phrase: str = PHRASE
    position: Position = "end"
    class_specific: bool = False

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        towers = towers_of(backbone)
        sentence = SentenceTemplate(context=self.context, position=self.position)
        head = TextHead(towers, classes, sentence)
        if self.phrase:
            start = words(towers, self.phrase, self.context)
        else:
            start = torch.randn(self.context, towers.text.width) * STD
        if self.class_specific:
            start = start.expand(classes, -1, -1)
        context = Context(
            start,
            lambda: head.slots_at_hand,
            own=(lambda: _own(head, classes)) if self.class_specific else None,
        )
        return Plan(
            head=head,
            reads=(backbone.vector,),
            attach=(Attach("text.embed", context, how="replace"),),
        )


def _own(head: TextHead, classes: int) -> Tensor:
    """Which class's context each text takes that is read now."""
    if len(head.names) != classes:
        raise ConfigError(
            f"Each of the {classes} classes has learned its own context; the {len(head.names)} named now "
            "have none. Train with class_specific=false to name other classes."
        )
    return head.at_hand[0]
