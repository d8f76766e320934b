"""CoOp's words for several data sets learned in one run: a context in common, and a residual for each.

    P_t = P + U_t s(D P),   D shared, U_t of data set t and 0 at the start, s the logistic function

After the abstract of "Multi-task prompt adapter with residual connection" (Applied Soft Computing, 2025), the only part that could be
read: a shared and a task part, with a residual around both so that a task can fall back on the shared prompt. The equation is our
reconstruction, and so is that a softmax runs over the classes of all data sets at once.

A class belongs to a data set by its name, so novel classes of a known data set can be named with it. A name of none reads P.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from petiole.backbones.base import Backbone
from petiole.backbones.hooks import Attach
from petiole.errors import ConfigError
from petiole.layers.checks import positive
from petiole.layers.rows import ResidualContext
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
from petiole.printable import composed


@register(
    "residual-prompts",
    "CoOp's words for several data sets in one run",
    epochs=50,
    **PROMPT_LEARNING,
)
@dataclass(frozen=True)
class ResidualPrompts(Method):
    """A shared context and residuals of data sets.

    Attributes:
        sets: the class names of each data set, ``oak, elm; cat, dog``; empty takes all classes for one data set.
        rank: r of U_t (d, r) and D (r, d).
        context: M.
        phrase: words whose embeddings start the context.
        position: end | middle | front.
    """

    sets: str = ""
    rank: int = 8
    context: int = 4
    phrase: str = PHRASE
    position: Position = "end"

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        positive(rank=self.rank, context=self.context)
        towers = towers_of(backbone)
        sentence = SentenceTemplate(context=self.context, position=self.position)
        head, members = TextHead(towers, classes, sentence), _members(self.sets)
        count = max(members.values(), default=0) + 1

        def own() -> Tensor:
            none = count if members else 0
            tasks = [members.get(name, none) for name in head.names]
            rows = head.at_hand[0]
            return torch.tensor(tasks, device=rows.device)[rows]

        context = ResidualContext(
            words(towers, self.phrase, self.context),
            lambda: head.slots_at_hand,
            own,
            tasks=count,
            rank=self.rank,
        )
        return Plan(
            head=head,
            reads=(backbone.vector,),
            attach=(Attach("text.embed", context, how="replace"),),
        )


def _members(sets: str) -> Mapping[str, int]:
    """Class name -> number of its data set."""
    found: dict[str, int] = {}
    for number, names in enumerate(filter(str.strip, sets.split(";"))):
        for name in (composed(part.strip()) for part in names.split(",") if part.strip()):
            if found.setdefault(name, number) != number:
                raise ConfigError(
                    f"The class {name!r} stands in two of the sets. A class belongs to one: rename it, or leave it out of one."
                )
    return found
