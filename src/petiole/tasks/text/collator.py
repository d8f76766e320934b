"""From samples to batches: texts become ids, images their features, targets their weights.

A row's weight w_i is such that the loss of a step is

    L = sum over tasks t of (B_t / B) L_t
    L_t = 1/B_t sum_i s_i / T_i sum_j CE_ij      loss=sample, s_i the drawn target's soft score
    L_t = 1/(sum_i T_i) sum_ij CE_ij             loss=token

with T_i tokens in target i (VL-T5, Cho et al., 2021; VL-Adapter, Sung et al., 2022). Of a batch that several processes share, each has a run of rows with the
whole batch's weights, times their number, because gradients are averaged over processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from petiole.backbones.encoder_decoder import Inputs, Seq2Seq
from petiole.backbones.encoder_decoder.tokens import IGNORED, LanguageTokenizer, padded
from petiole.data.text_sample import TextSample
from petiole.errors import DataError
from petiole.tasks.text.model import GenerationBatch
from petiole.tasks.text.targets import drawn_target
from petiole.tasks.text.text_task import TextTask
from petiole.tasks.text.visual import VisualSource

BATCH = 32
"""Samples a step, where the recipe states none."""


@dataclass(frozen=True)
class TaskData:
    """One task, its samples, and how its images are seen.

    Attributes:
        task: how samples are put, learned and scored.
        parts: samples by part: train, val, test.
        visuals: gives what the model sees of an image; ``None`` for text alone.
        digest: of everything that decides these samples.
        notes: what was decided while reading, one sentence each.
        called: its name in a run, where that is not the task's own.
    """

    task: TextTask
    parts: Mapping[str, tuple[TextSample, ...]]
    visuals: VisualSource | None = None
    digest: str = ""
    notes: tuple[str, ...] = field(default=())
    called: str = ""

    @property
    def name(self) -> str:
        """Unique among the tasks of a run."""
        return self.called or self.task.name

    def part(self, part: str) -> tuple[TextSample, ...]:
        """The samples of a part.

        Raises:
            DataError: there are none.
        """
        if not self.parts.get(part):
            has = ", ".join(p for p, samples in self.parts.items() if samples) or "nothing"
            raise DataError(
                f"Task {self.name!r} has no samples of the part {part!r}, only of {has}. Add its file, or score "
                "val (--validation) where test is what is missing."
            )
        return self.parts[part]

    def training(self, fraction: float = 1.0) -> tuple[TextSample, ...]:
        """The training samples, or a share of them: smaller ones are part of larger ones."""
        part = self.part("train")
        if fraction >= 1:
            return part
        order = np.random.default_rng(0).permutation(len(part))
        return tuple(part[i] for i in order[: max(1, round(fraction * len(part)))])


class Collator:
    """Batches of several tasks for one model.

    Args:
        model: whose tokenizer and device are used.
        tasks: in the order of their numbers.
        prefixes: put the task's hard prompt before (or behind) each text.
    """

    def __init__(self, model: Seq2Seq, tasks: Sequence[TaskData], *, prefixes: bool = True) -> None:
        assert model.tokenizer is not None
        self.tokenizer: LanguageTokenizer = model.tokenizer
        self.model, self.tasks, self.prefixes = model, tasks, prefixes

    def inputs(self, owners: Sequence[TaskData], samples: Sequence[TextSample]) -> Inputs:
        """What the encoder reads of samples, each of its own task, on the model's device."""
        pad = self.tokenizer.pad
        ids = padded(
            [
                self.tokenizer(data.task.text_of(sample, self.prefixes), data.task.max_text)
                for data, sample in zip(owners, samples, strict=True)
            ],
            pad,
        )
        # A text may hold the pad token nowhere but behind its end.
        lengths = (ids != pad).sum(dim=1, keepdim=True)
        mask = torch.arange(ids.shape[1]) < lengths
        seen = _seen(owners, samples) if self.model.vision_width else {}
        return Inputs(ids=ids, mask=mask, **seen).to(self.model.device)

    def batch(
        self,
        rows: Sequence[tuple[int, TextSample]],
        rng: np.random.Generator,
        process: int = 0,
        processes: int = 1,
    ) -> GenerationBatch:
        """A training batch.

        Args:
            rows: (number of the task, sample) each.
            rng: draws the target of each row; equal in all processes.
        """
        drawn = [drawn_target(sample, rng.random()) for _, sample in rows]
        targets = [
            self.tokenizer(text, self.tasks[number].task.max_target)
            for (number, _), (text, _) in zip(rows, drawn, strict=True)
        ]
        weights = self._weights([n for n, _ in rows], targets, [score for _, score in drawn])
        mine = part_of(len(rows), process, processes)
        owners = [self.tasks[rows[i][0]] for i in mine]
        device = self.model.device
        return GenerationBatch(
            inputs=self.inputs(owners, [rows[i][1] for i in mine]),
            labels=padded([targets[i] for i in mine], IGNORED).to(device),
            weights=(processes * weights[mine.start : mine.stop]).to(device),
            tasks=tuple(rows[i][0] for i in mine),
        )

    def _weights(
        self, numbers: Sequence[int], targets: Sequence[Sequence[int]], scores: Sequence[float]
    ) -> Tensor:
        tokens: dict[int, int] = {}
        for number, target in zip(numbers, targets, strict=True):
            tokens[number] = tokens.get(number, 0) + len(target)
        total = len(numbers)
        weights = []
        for number, target, score in zip(numbers, targets, scores, strict=True):
            if self.tasks[number].task.loss == "sample":
                weights.append(score / len(target) / total)
            else:
                weights.append(numbers.count(number) / total / tokens[number])
        return torch.tensor(weights)


def part_of(rows: int, process: int, processes: int) -> range:
    """The run of a batch's rows that one of several processes takes."""
    return range(rows * process // processes, rows * (process + 1) // processes)


def _seen(owners: Sequence[TaskData], samples: Sequence[TextSample]) -> dict[str, Any]:
    """Features of all images side by side; rows with fewer images than others say so."""
    rows = [
        [data.visuals(name) for name in sample.images] if data.visuals else []
        for data, sample in zip(owners, samples, strict=True)
    ]
    most = max(map(len, rows))
    if not most:
        return {}
    first = next(row[0] for row in rows if row)
    count = first.visual_tokens

    def side_by_side(values: Sequence[Sequence[Tensor]], blank: Tensor) -> Tensor:
        return torch.stack([torch.cat([*row, *[blank] * (most - len(row))]) for row in values])

    found: dict[str, Any] = {
        "visual": side_by_side(
            [[one.tokens for one in row] for row in rows], torch.zeros_like(first.tokens)
        ),
        "images": most,
    }
    for name in ("padding", "boxes"):
        blank = getattr(first, name)
        if blank is not None:
            values = [[getattr(one, name) for one in row] for row in rows]
            found[name] = side_by_side(values, torch.zeros_like(blank))
    present = torch.tensor([len(row) for row in rows])[:, None] * count
    if bool((present < most * count).any()):
        found["absent"] = torch.arange(most * count) >= present
    return found
