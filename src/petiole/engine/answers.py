"""Learning a closed list of answers: binary cross-entropy of every answer against its soft score.

    L = 1/B sum_i sum_a BCE(z_ia, s_ia)

s_ia is the soft score of answer a to sample i, 0 where it was not given; answers outside the list are dropped
(LXMERT, CLIP-ViL; spec vladapter.md, 1.4). VL-T5's own variant averages over the answers, which only scales
the learning rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from petiole.backbones.seq2seq import Inputs
from petiole.data.vl.sample import Sample
from petiole.engine.lessons import Lessons
from petiole.engine.speaker import Speaker


@dataclass(frozen=True)
class Judged:
    """What a step learns from.

    Attributes:
        inputs: of the encoder.
        scores: (B, A) soft score of each answer, in 0..1.
        tasks: number of each row's task.
    """

    inputs: Inputs
    scores: Tensor
    tasks: tuple[int, ...]


def judged(lessons: Lessons, rows: Sequence[tuple[int, Sample]], answers: Sequence[str]) -> Judged:
    """A training batch of (number of the task, sample) each."""
    owners = [lessons.tasks[number] for number, _ in rows]
    samples = [sample for _, sample in rows]
    scores = torch.tensor([[s.targets.get(answer, 0.0) for answer in answers] for s in samples])
    return Judged(
        inputs=lessons.inputs(owners, samples),
        scores=scores.to(lessons.model.device),
        tasks=tuple(number for number, _ in rows),
    )


class AnswerTrainee(nn.Module):
    """Batch -> loss, as the equation says.

    Args:
        speaker: with a head; trained in place.
    """

    def __init__(self, speaker: Speaker) -> None:
        super().__init__()
        self.speaker = speaker

    def forward(self, batch: Judged) -> Tensor:
        z = self.speaker.judge(batch.inputs, batch.tasks).float()
        total = binary_cross_entropy_with_logits(z, batch.scores, reduction="sum")
        return total / len(z)
