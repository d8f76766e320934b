"""Answers of a viewer to samples, and what a record keeps of them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from petiole.data.vl.parts import VLData
from petiole.data.vl.sample import Sample
from petiole.engine.gallery import Looks
from petiole.engine.progress import progress
from petiole.engine.record import OPENINGS, now
from petiole.engine.viewer import Viewer
from petiole.layers.token_pruning import Pruning
from petiole.tasks.task import Task

ROWS = 100
"""Samples that are answered at a time."""


def answers(
    viewer: Viewer,
    looks: Looks,
    samples: Sequence[Sample],
    pruning: Pruning | None = None,
    frequencies: Tensor | None = None,
    *,
    longest: int = 40,
    quiet: bool = True,
) -> list[str]:
    """What a viewer says to each sample, in order.

    Args:
        viewer: with its language model.
        looks: at the samples' images.
        samples: with one image each.
        pruning, frequencies, longest: see ``Viewer.answer``.
    """
    said: list[str] = []
    with progress(f"answers {viewer.model.name}", len(samples), quiet=quiet) as advance:
        for start in range(0, len(samples), ROWS):
            rows = samples[start : start + ROWS]
            said += viewer.answer(
                looks([sample.images[0] for sample in rows]),
                [sample.text for sample in rows],
                pruning=pruning,
                frequencies=frequencies,
                longest=longest,
            )
            advance(len(rows))
    return said


def lines_of(task: Task, samples: Sequence[Sample], said: Sequence[str]) -> str:
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


def count_opening(folder: Path, data: VLData, samples: int) -> int:
    """Write down that a test set was opened with what lies in this folder; how often that has been, now included."""
    file, digest = folder / OPENINGS, data.digest()
    with open(file, "a", encoding="utf-8") as out:
        line = {"when": now(), "task": data.task, "samples": samples, "data": digest}
        out.write(json.dumps(line) + "\n")
    return sum(f'"{digest}"' in line for line in file.read_text(encoding="utf-8").splitlines())


def plain(name: str) -> str:
    """A model's name as a file's."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-")
