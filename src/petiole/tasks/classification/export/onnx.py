"""``onnx``: a graph for ONNX Runtime on servers, phones and in the browser, optionally in int8 and with its preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from petiole.errors import ConfigError
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.export.format import FORMATS, Format, Run
from petiole.tasks.classification.export.network import quiet, traced
from petiole.tasks.classification.export.session import OnnxSession
from petiole.tasks.classification.model import Predictions

if TYPE_CHECKING:
    from torch.export import ExportedProgram

FILE = "model.onnx"


@FORMATS.register("onnx", "a graph for ONNX Runtime, on servers and in the browser")
@dataclass(frozen=True)
class Onnx(Format):
    """``model.onnx``: ``pixels`` -> ``logits`` and ``vector``; weights beyond 2 GB lie in ``model.onnx.data`` beside it.

    Attributes:
        int8: ``weights`` stores the matrices of MatMul in 8 bits and computes in fp32; ``dynamic`` multiplies in int8 as
            well. Convolutions stay in fp32, since theirs lose accuracy and time.
        preprocess: the graph takes ``images``, uint8 (B, height, width, 3) of any size, and resizes, crops and normalises them.
    """

    needs: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    writes_with: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript")
    opening: ClassVar[str] = """\
import onnxruntime

SESSION = onnxruntime.InferenceSession(HERE / "model.onnx")
[INPUT] = SESSION.get_inputs()


def outputs(pixels):
    return SESSION.run(["logits", "vector"], {INPUT.name: pixels})
"""

    int8: Literal["dynamic", "weights"] | None = None
    preprocess: bool = False

    def __post_init__(self) -> None:
        if self.int8 not in (None, "dynamic", "weights"):
            raise ConfigError(f"int8 is dynamic or weights, not {self.int8!r}.")

    @property
    def raw(self) -> bool:
        return self.preprocess

    @property
    def approximate(self) -> str:
        parts = ["its weights are rounded to 8 bits"] * bool(self.int8)
        parts += ["its resize rounds otherwise than Pillow's"] * self.preprocess
        return ", and ".join(parts)

    def write(self, adapter: ClassificationAdapter, folder: Path) -> None:
        file = folder / FILE
        save(traced(adapter.adapted), file, outputs=("logits", "vector"))
        if self.int8:
            from petiole.tasks.classification.export.int8 import quantise

            quantise(file, self.int8)
        if self.preprocess:
            from petiole.tasks.classification.export.pixels import prepend

            prepend(file, adapter.adapted.backbone.preprocessing)

    def open(self, folder: Path, adapter: ClassificationAdapter) -> Run:  # noqa: ARG002 - see Format.open
        session = OnnxSession(folder / FILE)
        return lambda pixels: Predictions(*map(torch.from_numpy, session.outputs(pixels.numpy())))


def save(
    program: ExportedProgram,
    file: Path,
    *,
    inputs: tuple[str, ...] = ("pixels",),
    outputs: tuple[str, ...] = ("logits",),
) -> None:
    """Write a traced program as ONNX, its first dimension free."""
    with quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes={name: {0: torch.export.Dim("batch")} for name in inputs},
            verbose=False,
        )
        assert made is not None
        made.save(file)
