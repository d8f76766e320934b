"""Test predictions of a run, for machines and for people.

predictions.csv           path, label, prediction and confidence of every test image
predictions.safetensors   probabilities (n, K), labels (n,), and the images' hashes and paths
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import torch
from pydantic import ConfigDict
from torch import Tensor

from petiole.data.dataset import Dataset
from petiole.engine.model_card import FrozenModel
from petiole.errors import RunError, boundary
from petiole.files import packed, read_tensors, unpacked, write_tensors, write_text
from petiole.printable import cell

TABLE, TENSORS = "predictions.csv", "predictions.safetensors"


class StoredPredictions(FrozenModel):
    """Test predictions of a run, read back."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    probabilities: Tensor
    labels: Tensor
    ids: list[str]
    paths: list[str]


def write_predictions(folder: Path, test: Dataset, probabilities: Tensor) -> None:
    """Write the probabilities of every test image."""
    paths = [str(s.path) for s in test.samples]
    write_tensors(
        folder / TENSORS,
        {
            "probabilities": probabilities,
            "labels": torch.tensor(test.labels.copy()),
            "ids": packed(test.ids),
            "paths": packed(paths),
        },
    )
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["path", "sha256", "label", "prediction", "confidence"])
    best = probabilities.max(dim=1)
    for sample, guess, sure in zip(
        test.samples, best.indices.tolist(), best.values.tolist(), strict=True
    ):
        names = test.classes[sample.label], test.classes[guess]
        table.writerow([cell(sample.path), sample.id, *map(cell, names), f"{sure:.6f}"])
    write_text(folder / TABLE, text.getvalue())


def read_predictions(folder: Path) -> StoredPredictions:
    """Read predictions back.

    Raises:
        RunError: they are missing, damaged or of another version.
    """
    remedy = "Restore the run folder, or delete it and run it again."
    with boundary(folder / TENSORS, remedy, RunError, what="is damaged or of another version"):
        tensors, _ = read_tensors(folder / TENSORS)
        return StoredPredictions(
            probabilities=tensors["probabilities"],
            labels=tensors["labels"],
            ids=unpacked(tensors["ids"]),
            paths=unpacked(tensors["paths"]),
        )
