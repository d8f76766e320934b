"""``torch-export``: a program of ``torch.export``, which torch alone opens, runs and compiles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from petiole.files import replacing
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.export.format import FORMATS, Format, Run
from petiole.tasks.classification.export.network import quiet, traced
from petiole.tasks.classification.model import Predictions

FILE = "model.pt2"


@FORMATS.register("torch-export", "a program of torch.export, for torch alone")
@dataclass(frozen=True)
class TorchExport(Format):
    """``model.pt2``: ``pixels`` -> logits and vector."""

    needs: ClassVar[tuple[str, ...]] = ("torch",)
    opening: ClassVar[str] = """\
import torch

MODEL = torch.export.load(HERE / "model.pt2").module()


def outputs(pixels):
    with torch.no_grad():
        return [part.numpy() for part in MODEL(torch.from_numpy(pixels))]
"""

    def write(self, adapter: ClassificationAdapter, folder: Path) -> None:
        program = traced(adapter.adapted)
        with quiet(), replacing(folder / FILE) as temporary, open(temporary, "wb") as file:
            torch.export.save(program, file)

    def open(self, folder: Path, adapter: ClassificationAdapter) -> Run:  # noqa: ARG002 - see Format.open
        with quiet():
            module = torch.export.load(folder / FILE).module()

        @torch.no_grad()
        def run(pixels: Tensor) -> Predictions:
            logits, vectors = module(pixels)
            return Predictions(vectors, logits)

        return run
