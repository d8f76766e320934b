"""Answers of a viewer to samples, and what a record keeps of them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from petiole.data.text_dataset import TextDataset
from petiole.data.text_sample import TextSample
from petiole.engine.progress import progress
from petiole.engine.record import TEST_EVALUATIONS, now
from petiole.layers.token_pruning import Pruning
from petiole.tasks.codebook.images import VisionOutputs
from petiole.tasks.codebook.model import AdaptedCodebookModel
from petiole.tasks.text.text_task import TextTask

ROWS = 100
"""Samples that are answered at a time."""


def answers(
    adapted: AdaptedCodebookModel,
    vision_outputs: VisionOutputs,
    samples: Sequence[TextSample],
    pruning: Pruning | None = None,
    frequencies: Tensor | None = None,
    *,
    longest: int = 40,
    quiet: bool = True,
) -> list[str]:
    """What a viewer says to each sample, in order.

    Args:
        adapted: with its language model.
        vision_outputs: at the samples' images.
        samples: with one image each.
        pruning, frequencies, longest: see ``AdaptedCodebookModel.answer``.
    """
    said: list[str] = []
    with progress(f"answers {adapted.model.name}", len(samples), quiet=quiet) as advance:
        for start in range(0, len(samples), ROWS):
            rows = samples[start : start + ROWS]
            said += adapted.answer(
                vision_outputs([sample.images[0] for sample in rows]),
                [sample.text for sample in rows],
                pruning=pruning,
                frequencies=frequencies,
                longest=longest,
            )
            advance(len(rows))
    return said


def prediction_lines(task: TextTask, samples: Sequence[TextSample], said: Sequence[str]) -> str:
    """Predictions with their scores, a line of JSON each."""
    each = task.by_sample(samples, said)
    rows = [
        {
            "key": sample.key,
            "text": sample.text,
            "prediction": text,
            "references": list(sample.references),
            "score": score,
        }
        for sample, text, score in zip(samples, said, each, strict=True)
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def count_test_evaluation(folder: Path, data: TextDataset, samples: int) -> int:
    """Write down that a test set was opened with what lies in this folder; how often that has been, now included."""
    file, digest = folder / TEST_EVALUATIONS, data.digest()
    with open(file, "a", encoding="utf-8") as out:
        line = {"when": now(), "task": data.task, "samples": samples, "data": digest}
        out.write(json.dumps(line) + "\n")
    return sum(f'"{digest}"' in line for line in file.read_text(encoding="utf-8").splitlines())


def plain(name: str) -> str:
    """A model's name as a file's."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-")
