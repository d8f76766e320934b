"""One forward for a batch whose rows belong to different adapters.

With rows sorted by adapter, every adapter owns one run of rows R_j, and two attachments of different
adapters at one role are one attachment

    value[R_j] <- value[R_j] + layer_j(reads[R_j])     for every adapter j that is there

so ranks, placements and kinds may differ from row to row; the frozen part sees one batch. The runs are
computed one after the other. On a processor that is as fast as stacking their weights for one batched
product (a ViT-S at 98 px, a batch of 32 with 32 adapters of rank 16: 1.03 of the time of one adapter,
either way), it fits every layer, and it is what the layer computes alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.frozen_network import IMAGES
from petiole.backbones.hooks import Attach, attached
from petiole.methods.base import Plan
from petiole.tasks.classification.model import AdaptedClassifier, ClassifierOutput, ClassNameHead

Owned = tuple[Plan, slice]
"""A plan and its run of rows."""


class ByRows(nn.Module):
    """Each run of rows through its own layer; 0 where no run lies."""

    def __init__(self, parts: Sequence[tuple[slice, nn.Module]], rows: int) -> None:
        super().__init__()
        self.runs: list[tuple[slice, nn.Module | None]] = []
        end = 0
        for run, layer in parts:
            self.runs += [(slice(end, run.start), None), (run, layer)]
            end = run.stop
        self.runs.append((slice(end, rows), None))

    def forward(self, x: Tensor) -> Tensor:
        done = [(run, layer(x[run]) if layer else None) for run, layer in self.runs]
        one = next(new for _, new in done if new is not None)
        return torch.cat(
            [
                one.new_zeros(run.stop - run.start, *one.shape[1:]) if new is None else new
                for run, new in done
                if run.stop > run.start
            ]
        )


def compatible(adapted: AdaptedClassifier) -> Hashable:
    """What adapters must have in common to share a forward; those that stay alone have only themselves.

    Layers that add to a value mix with all others. A layer that replaces one may change the number of
    tokens, which is one number for the whole batch, so it needs the same layers in the same places.
    A tuned copy, or a module of another library, stands in for what all rows use; a head of class names
    runs a text tower, whose rows are classes.
    """
    if adapted.plan.tune or adapted.plan.injected or isinstance(adapted.head, ClassNameHead):
        return id(adapted)
    return tuple(
        (a.role, type(a.layer), tuple(p.shape for p in a.layer.parameters()))
        for a in adapted.plan.attach
        if a.how == "replace"
    )


def forward(
    backbone: Backbone, images: Tensor, owners: Sequence[tuple[AdaptedClassifier, int]]
) -> list[ClassifierOutput]:
    """Run adapters that may share a forward, and give the output of each.

    Args:
        images: (B, 3, H, W), sorted by owner.
        owners: adapters in the order of their rows, with their number of rows.
    """
    if len(owners) == 1:
        return [owners[0][0]({IMAGES: images})]
    owned: list[Owned] = []
    start = 0
    for adapted, count in owners:
        owned.append((adapted.plan, slice(start, start + count)))
        start += count
    reads = tuple(dict.fromkeys(role for plan, _ in owned for role in plan.reads))
    with attached(backbone, joined(backbone, owned)):
        values = backbone.upper({IMAGES: images}, reads)
    return [_top(plan, [values[role][rows] for role in plan.reads]) for plan, rows in owned]


def joined(backbone: Backbone, owned: Sequence[Owned]) -> list[Attach]:
    """One attachment for all layers of different adapters that have the same place.

    Every plan's own order is kept wherever two of its layers meet on a module.
    """
    places: dict[tuple[int, Attach], list[tuple[slice, nn.Module]]] = {}
    anonymous = nn.Identity()
    for plan, rows in owned:
        turn: dict[nn.Module, int] = {}
        for a in plan.attach:
            site = backbone.site(a.role)
            touched = [site.module] if site.rejoin is None else [site.module, site.rejoin]
            level = max(turn.get(module, 0) for module in touched)
            turn |= dict.fromkeys(touched, level + 1)
            reads = None if a.reads == a.role else a.reads
            place = (level, Attach(a.role, anonymous, reads, a.how))
            places.setdefault(place, []).append((rows, a.layer))
    total = owned[-1][1].stop
    in_turn = sorted(places.items(), key=lambda item: item[0][0])
    return [
        Attach(place.role, ByRows(parts, total), place.reads, place.how)
        for (_, place), parts in in_turn
    ]


def _top(plan: Plan, values: Sequence[Tensor]) -> ClassifierOutput:
    vector: Tensor = plan.refine(plan.pool(*values))
    return ClassifierOutput(vector, plan.head(vector))
