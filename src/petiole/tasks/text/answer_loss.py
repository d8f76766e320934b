"""Learning a closed list of answers: binary cross-entropy of every answer against its soft score.

    L = sum_i w_i sum_a BCE(z_ia, s_ia),   w_i = 1/B

s_ia is the soft score of answer a to sample i, 0 where it was not given; answers outside the list are dropped
(LXMERT, CLIP-ViL). VL-T5's own variant averages over the answers, which only scales
the learning rate. Several tasks have one list and one head in common.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from petiole.backbones.encoder_decoder import Inputs, Seq2Seq
from petiole.data.text_sample import TextSample
from petiole.errors import ConfigError
from petiole.layers.answer_head import AnswerHead
from petiole.methods.text import TextMethod
from petiole.tasks.text.collator import Collator, TaskData, part_of
from petiole.tasks.text.model import AdaptedTextModel


@dataclass(frozen=True)
class AnswerBatch:
    """What a step learns from.

    Attributes:
        inputs: of the encoder.
        scores: (B, A) soft score of each answer, in 0..1.
        weights: (B,) w; where several processes share a batch, times their number.
        tasks: number of each row's task.
    """

    inputs: Inputs
    scores: Tensor
    weights: Tensor
    tasks: tuple[int, ...]


def answer_batch(
    collator: Collator,
    rows: Sequence[tuple[int, TextSample]],
    answers: Sequence[str],
    process: int = 0,
    processes: int = 1,
) -> AnswerBatch:
    """A training batch of (number of the task, sample) each, or one process's part of it."""
    mine = [rows[i] for i in part_of(len(rows), process, processes)]
    owners, samples = [collator.tasks[number] for number, _ in mine], [one for _, one in mine]
    place = {answer: a for a, answer in enumerate(answers)}
    scores = torch.zeros(len(mine), len(answers))
    for row, sample in zip(scores, samples, strict=True):
        for answer in sample.targets.keys() & place.keys():
            row[place[answer]] = sample.targets[answer]
    device = collator.model.device
    return AnswerBatch(
        inputs=collator.inputs(owners, samples),
        scores=scores.to(device),
        weights=torch.full((len(mine),), processes / len(rows), device=device),
        tasks=tuple(number for number, _ in mine),
    )


def answer_head(
    method: TextMethod, model: Seq2Seq, tasks: Sequence[TaskData], fraction: float = 1.0
) -> AnswerHead | None:
    """A fresh head over the answers of the tasks, if the method has one.

    Raises:
        ConfigError: a task that is not answered from a list, or a recipe that smooths labels.
    """
    if not method.classifier:
        return None
    if method.recipe.label_smoothing:
        raise ConfigError(
            "A classifier learns soft scores as they are. Leave label_smoothing at 0."
        )
    return AnswerHead(model.width, listed(tasks, method.classifier, fraction))


def listed(tasks: Sequence[TaskData], count: int, fraction: float = 1.0) -> list[str]:
    """The tasks' fixed choices, then the answers of most training samples, ``count`` in all.

    Of answers as frequent as each other, the first in the alphabet.

    Raises:
        ConfigError: a task is not answered from a list, or nothing has an answer.
    """
    frequency: Counter[str] = Counter()
    for data in tasks:
        if data.task.loss == "token" or data.task.beams > 1:
            raise ConfigError(
                f"The answers of {data.task.name} are sentences, and a classifier chooses from a list. Train "
                "this task without one (classifier=0)."
            )
        for sample in data.training(fraction):
            frequency.update(answer for answer, score in sample.targets.items() if score > 0)
    choices = dict.fromkeys(choice for data in tasks for choice in data.task.choices)
    others = sorted(frequency.keys() - choices, key=lambda answer: (-frequency[answer], answer))
    return [*choices, *others[: max(0, count - len(choices))]]


class AnswerLoss(nn.Module):
    """Batch -> loss, as the equation says.

    Args:
        adapted: with a head; trained in place.
    """

    def __init__(self, adapted: AdaptedTextModel) -> None:
        super().__init__()
        self.adapted = adapted

    def forward(self, batch: AnswerBatch) -> Tensor:
        z = self.adapted.judge(batch.inputs, batch.tasks).float()
        each = binary_cross_entropy_with_logits(z, batch.scores, reduction="none")
        return (each.sum(dim=1) * batch.weights).sum()
