"""TPT: a context of words is fitted to each test image (Shu et al., NeurIPS 2022).

    t_c = [start] [V]_1 .. [V]_M name_c . [end],   V learned from the entropy of the mean prediction of confident views

V starts from "a photo of a", or from the adapter's own context (CoOp). The image tower runs once; each step encodes every class
name once for every image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from petiole.backbones.hooks import Attach
from petiole.errors import ConfigError
from petiole.layers.rows import Context
from petiole.methods.prompt_learning.class_names import (
    PHRASE,
    NamedTexts,
    SentenceTemplate,
    TextHead,
    towers_of,
    words,
)
from petiole.methods.test_time.base import TEST_TIME, WORDS, FrozenClassifier
from petiole.methods.test_time.descent import Descent, Session
from petiole.ranges import NonNegativeFloat, PositiveInt


@TEST_TIME.register("tpt", "words before the class names, one step on entropy; for CLIP")
@dataclass(frozen=True)
class TPT(Descent):
    """A context for each test image.

    Attributes:
        lr: learning rate, published 5e-3.
        context: M, where the adapter has no context of its own.
    """

    lr: NonNegativeFloat = 5e-3
    context: PositiveInt = 4

    def check(self, model: FrozenClassifier) -> None:
        towers_of(model.backbone)
        head, contexts = model.plan.head, _contexts(model)
        odd = [c for c in contexts if not isinstance(c, Context) or c.value.ndim != 2]
        if not isinstance(head, TextHead) or odd:
            raise ConfigError(
                "tpt fits the words before class names, and this adapter's classes are not made of one context for all names. Use it on zero-shot, "
                "coop, maple, promptsrc or clip-lora; or --adapt lora-ttt."
            )

    def session(self, model: FrozenClassifier, images: int) -> Session:
        head, own = model.plan.head, _contexts(model)
        assert isinstance(head, TextHead)
        towers = head.towers
        if own:
            (context,) = own
            assert isinstance(context, Context)
            sentence = head.sentence
            start: Tensor = context.value
        else:
            start = words(towers, PHRASE, self.context)
            sentence = SentenceTemplate(context=len(start))
        texts = NamedTexts(towers, len(head.names), sentence)
        texts.rename(head.names)
        value = Context(
            start.repeat(images, 1, 1),
            lambda: texts.slots_at_hand,
            own=lambda: texts.at_hand[1],
        )

        def scores(vectors: Tensor) -> Tensor:
            classes, device = len(texts.names), vectors.device
            rows = torch.arange(classes, device=device).repeat(images)
            whose = torch.arange(images, device=device).repeat_interleave(classes)
            encoded = normalize(texts.encode(rows, whose), dim=-1).reshape(images, classes, -1)
            logits: Tensor = head.scale * normalize(vectors, dim=-1) @ encoded.mT.to(vectors.dtype)
            return logits

        return Session([Attach(WORDS, value, how="replace")], scores)


def _contexts(model: FrozenClassifier) -> list[object]:
    return [a.layer for a in model.plan.attach if a.role == WORDS]
