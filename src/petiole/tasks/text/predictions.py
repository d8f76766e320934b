"""Texts that a model gave, as a run keeps them: predictions/<name>.jsonl."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from petiole.data.text_sample import TextSample
from petiole.files import write_text
from petiole.tasks.text.text_task import TextTask

FOLDER = "predictions"


def write_predictions(
    folder: Path, name: str, task: TextTask, samples: Sequence[TextSample], texts: Sequence[str]
) -> dict[str, float]:
    """Keep key, text, prediction, references and score of every sample; returns the metrics in per cent.

    Args:
        folder: of the run.
        name: of the task or language model.
        task: says how they are scored.
        samples, texts: one each.
    """
    each = task.by_sample(samples, texts)
    rows = [
        {
            "key": sample.key,
            "text": sample.text,
            "prediction": text,
            "references": list(sample.references),
            "score": score,
        }
        for sample, text, score in zip(samples, texts, each, strict=True)
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(folder / FOLDER / f"{file_name(name)}.jsonl", lines)
    return task.score(samples, texts)


def file_name(name: str) -> str:
    """A model's name as a file's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-")
