"""The losses of CRAFT (arXiv 2602.19449) and of the rows beside it, and what they see of a step."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from petiole.backbones.codebook_lvlm import LVLM, VisionOutput
from petiole.backbones.codebook_lvlm.model import IGNORED
from petiole.collective import gathered, members, summed
from petiole.errors import DataError
from petiole.layers.residual_quantiser import commitment
from petiole.losses.sigmoid import sigmoid_contrastive
from petiole.methods.base import Loss


@dataclass(frozen=True, kw_only=True)
class TextBatch:
    """What is said about the images of a batch, row by row.

    Attributes:
        questions, answers: ids.
        captions: ids of what is known of each image; empty where nothing is.
        texts: ids for the text tower; empty where it has no heads.
        groups: rows with the same one mean the same.
    """

    questions: Sequence[Sequence[int]]
    answers: Sequence[Sequence[int]]
    captions: Sequence[Sequence[int]]
    texts: Sequence[Sequence[int]]
    groups: Sequence[str]

    def words(self) -> dict[str, Any]:
        """These fields by name."""
        return {f.name: getattr(self, f.name) for f in fields(TextBatch)}


@dataclass(frozen=True, kw_only=True)
class CodebookLossInputs(TextBatch):
    """What a loss sees of a step.

    Attributes:
        model: the surrogate.
        vision_output: what the encoder sees now.
        values: roles of the encoder that the losses study, as it is now.
        anchors: the same of the encoder as it was.
        general: what the encoder sees now in images of no domain, and what it saw in them at the start.
    """

    model: LVLM
    vision_output: VisionOutput
    values: Mapping[str, Tensor] = field(default_factory=dict)
    anchors: Mapping[str, Tensor] = field(default_factory=dict)
    general: tuple[VisionOutput, VisionOutput] | None = None


def answer_loss(
    model: LVLM,
    seen: Tensor,
    questions: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    learn_questions: bool = False,
    learn_end: bool = True,
) -> Tensor:
    """-1/|A| sum_{t in A} log p(w_t | P(seen), w_<t), A the answers' tokens (and the questions'), of all processes."""
    turns = model.turns(
        seen, questions, answers, learn_questions=learn_questions, learn_end=learn_end
    )
    logits = model.logits(turns).float()
    labels = turns.labels.flatten()
    total = cross_entropy(logits.flatten(0, 1), labels, ignore_index=IGNORED, reduction="sum")
    return members() * total / summed((labels != IGNORED).sum().to(total))


class SurrogateAlignment(Loss[CodebookLossInputs]):
    """L_SAL, surrogate alignment: the frozen language model's loss on the answers.

    Args:
        weight: 1 in the paper.
        questions: learn the questions' tokens too.
        end: learn where answers end.
    """

    def __init__(self, weight: float, *, questions: bool = False, end: bool = False) -> None:
        super().__init__(weight)
        self.questions, self.end = questions, end

    def forward(self, inputs: CodebookLossInputs) -> Tensor:
        return answer_loss(
            inputs.model,
            inputs.vision_output.seen,
            inputs.questions,
            inputs.answers,
            learn_questions=self.questions,
            learn_end=self.end,
        )


class Captioning(Loss[CodebookLossInputs]):
    """The same loss on captions, for rows whose trained part no contrastive loss reaches."""

    def __init__(self, weight: float, wish: Sequence[int]) -> None:
        super().__init__(weight)
        self.wish = list(wish)

    def forward(self, inputs: CodebookLossInputs) -> Tensor:
        rows = [i for i, caption in enumerate(inputs.captions) if caption]
        if not rows:
            raise DataError(
                "No sample of this batch has a caption. Add captions, or set describe=0."
            )
        captions = [inputs.captions[i] for i in rows]
        return answer_loss(
            inputs.model, inputs.vision_output.seen[rows], [self.wish] * len(rows), captions
        )


class Commitment(Loss[CodebookLossInputs]):
    """L_commit = 1/D sum_d mean( (z - sg[z^(<=d)])^2 )."""

    def forward(self, inputs: CodebookLossInputs) -> Tensor:
        return commitment(inputs.vision_output.z, inputs.vision_output.partials)


class SigmoidContrast(Loss[CodebookLossInputs]):
    """L_con between quantised tokens and texts, both through the tower's frozen heads."""

    def forward(self, inputs: CodebookLossInputs) -> Tensor:
        heads = inputs.model.tower.aligned
        rows = [i for i, text in enumerate(inputs.texts) if text]
        if not rows:
            raise DataError("No sample of this batch has a text. Add captions, or set contrast=0.")
        # Of processes that train together each compares the whole batch.
        images = gathered(heads.image(inputs.vision_output.seen[rows]))
        texts = gathered(heads.texts([inputs.texts[i] for i in rows]))
        groups = gathered(_numbers([inputs.groups[i] for i in rows]).to(images.device))
        same = groups[:, None] == groups
        return sigmoid_contrastive(images, texts, heads.scale, heads.bias, same)


def _numbers(names: Sequence[str]) -> Tensor:
    """One number for each name, the same in every process."""
    digests = (hashlib.sha256(name.encode()).digest() for name in names)
    return torch.tensor([int.from_bytes(digest[:8], "big", signed=True) for digest in digests])


class FeatureAnchor(Loss[CodebookLossInputs]):
    """LDIFS (Mukhoti et al., 2023): mean over layers l of || Phi_l - Phi_l at the start ||^2, as a mean over elements."""

    def __init__(self, weight: float, roles: tuple[str, ...]) -> None:
        super().__init__(weight)
        self.studies = roles

    def forward(self, inputs: CodebookLossInputs) -> Tensor:
        each = [mse_loss(inputs.values[role], inputs.anchors[role]) for role in self.studies]
        return torch.stack(each).mean()


class GeneralAnchor(Loss[CodebookLossInputs]):
    """Against forgetting: commit general images to the codes that the encoder gave them at the start."""

    def forward(self, inputs: CodebookLossInputs) -> Tensor:
        if inputs.general is None:
            raise DataError(
                "There are no general images. Name a folder of them, or set remember=0."
            )
        now, before = inputs.general
        return commitment(now.z, before.partials)


def with_weight(*losses: Loss[CodebookLossInputs]) -> tuple[Loss[CodebookLossInputs], ...]:
    """Those that weigh anything."""
    return tuple(loss for loss in losses if loss.weight)
