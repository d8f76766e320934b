"""Learned words for several data sets in one run: prompts in common, and a residual for each; a plug-in over CoOp or MaPLe.

    P_t = P + U_t s(D P),   D shared, U_t of data set t and 0 at the start, s the logistic function

P is CoOp's context, or MaPLe's rows of the text tower, each layer's with a D and U_t of its own. MaPLe's image prompts are made of P itself: whose
data set an image is of nobody knows in prediction.

After the abstract of "Multi-task prompt adapter with residual connection" (Applied Soft Computing, 2025), the only part that could be
read: a shared and a task part, with a residual around both so that a task can fall back on the shared prompt. The equation is our
reconstruction, and so is that a softmax runs over the classes of all data sets at once.

A class belongs to a data set by its name, so novel classes of a known data set can be named with it. A name of none reads P.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from petiole.backbones.base import Backbone
from petiole.errors import ConfigError
from petiole.layers.rows import Context, Overwrite, Residuals, Rows
from petiole.methods.base import Method, Plan
from petiole.methods.prompt_learning.class_names import TextHead
from petiole.methods.recipe import PROMPT_LEARNING
from petiole.methods.registry import create, register
from petiole.printable import composed
from petiole.ranges import PositiveInt


@register(
    "residual-prompts",
    "learned words for several data sets in one run",
    epochs=50,
    **PROMPT_LEARNING,
)
@dataclass(frozen=True)
class ResidualPrompts(Method):
    """Prompts in common and residuals of data sets.

    Attributes:
        sets: the class names of each data set, ``oak, elm; cat, dog``; empty takes all classes for one data set.
        rank: r of U_t (d, r) and D (r, d).
        host: registered name of a method that learns words for all classes at once (coop, maple, ivlp).
        host_settings: of the host.
    """

    sets: str = ""
    rank: PositiveInt = 8
    host: str = "coop"
    host_settings: dict[str, Any] = field(default_factory=dict, hash=False)

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        plan = create(self.host, self.host_settings).plan(backbone, classes)
        head, prompts, members = plan.head, list(_prompts(plan)), _members(self.sets)
        if not isinstance(head, TextHead) or not prompts:
            raise ConfigError(
                f"Residual prompts need a host that learns words for all classes at once; {self.host} does not. Use coop, maple or ivlp, "
                "without class_specific."
            )
        count = max(members.values(), default=0) + 1

        def own() -> Tensor:
            none = count if members else 0
            tasks = [members.get(name, none) for name in head.names]
            rows = head.at_hand[0]
            return torch.tensor(tasks, device=rows.device)[rows]

        for rows in prompts:
            width = rows.value.shape[-1]
            rows.residuals = Residuals(width, own, tasks=count, rank=self.rank)
        return plan


def _prompts(plan: Plan) -> Iterator[Context | Rows]:
    """The learned words of a plan: its context, and its rows in deeper layers of the text tower."""
    for attach in plan.attach:
        if not attach.role.startswith("text."):
            continue
        layer = attach.layer.rows if isinstance(attach.layer, Overwrite) else attach.layer
        if isinstance(layer, Rows) or (isinstance(layer, Context) and layer.own is None):
            yield layer


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
