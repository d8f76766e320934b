"""Heads of class names inside losses know the names that the plan's head knows."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from petiole.methods.base import Loss, LossInputs
from petiole.methods.prompt_learning.class_names import SentenceTemplate, TextHead, towers_of
from petiole.methods.registry import create
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.testing import backbones as tiny

NAMES = ("ash", "birch", "cedar")


class NearHandWritten(Loss[LossInputs]):
    """1 - mean cosine of learned class vectors and those of a hand-written sentence."""

    def __init__(self, learned: TextHead, hand: TextHead) -> None:
        super().__init__()
        self._learned = (learned,)
        self.hand = hand

    def forward(self, inputs: LossInputs) -> Tensor:  # noqa: ARG002 - compares class vectors alone
        return 1 - (self._learned[0].embeddings() * self.hand.embeddings()).sum(dim=-1).mean()


def test_a_head_inside_a_loss_is_told_the_class_names() -> None:
    backbone = tiny.two_towers()
    plan = create("coop").plan(backbone, len(NAMES))
    hand = TextHead(towers_of(backbone), len(NAMES), SentenceTemplate())
    assert isinstance(plan.head, TextHead)
    built = AdaptedClassifier(backbone, replace(plan, losses=(NearHandWritten(plan.head, hand),)))
    built.name(NAMES)
    assert hand.names == plan.head.names == NAMES
