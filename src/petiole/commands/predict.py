"""``petiole predict``: labels with probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from petiole.commands.codebook import EncoderAnswer, InferenceOptions, ask_encoder
from petiole.commands.options import CommandResult
from petiole.errors import ConfigError


class LabelledImage(CommandResult):
    """One image's label."""

    path: Path
    label: str
    probability: float
    probabilities: dict[str, float]


class PredictResult(CommandResult):
    """Labels in the order of the images."""

    adapter: Path
    predictions: list[LabelledImage]

    def text(self) -> RenderableType:
        table = Table(box=None, pad_edge=False)
        for name, side in (("image", "left"), ("label", "left"), ("p", "right"), ("next", "left")):
            table.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type]
        for p in self.predictions:
            rest = [f"{k} {v:.3f}" for k, v in list(p.probabilities.items())[1:4]]
            cells = (str(p.path), p.label, f"{p.probability:.3f}", ", ".join(rest))
            table.add_row(*map(Text, cells))
        return table


def predict(
    adapter: Path,
    images: Annotated[Sequence[Path], Parameter(consume_multiple=True)],
    *,
    weights: Path | None = None,
    device: str = "cpu",
    lm: str = "",
    inference: InferenceOptions | None = None,
) -> PredictResult | EncoderAnswer:
    """Label image files with an adapter.

    With a tuned encoder (craft): petiole predict ENCODER --lm NAME IMAGE "QUESTION" answers a question about an image.

    Args:
        adapter: adapter folder, or the run folder around it.
        images: image files; for a tuned encoder an image file and a question.
        weights: where the backbone's weights lie now, if they were moved.
        device: cpu, cuda, ...
        lm: language model to put a tuned encoder before; by default that of its training.
        inference: how the question is put.

    Raises:
        AdapterError: the adapter is damaged or does not fit the backbone.
        ConfigError: an image without a question, for a tuned encoder.
        DataError: an image cannot be read.
    """
    from petiole.engine.adapter import kind_of

    if kind_of(Path(adapter)) == "codebook":
        if len(images) != 2:
            raise ConfigError(
                f"{adapter} is a tuned encoder, which needs one image and one question: petiole predict ENCODER "
                '--lm NAME IMAGE "QUESTION".'
            )
        image, question = images
        return ask_encoder(
            adapter,
            Path(image),
            str(question),
            language=lm,
            inference=inference or InferenceOptions(),
            device=device,
        )
    from petiole.tasks.classification.adapter import ClassificationAdapter

    opened = ClassificationAdapter.load(Path(adapter), weights=weights, device=device)
    rows = opened.predict([Path(image) for image in images])
    return PredictResult(
        adapter=Path(adapter),
        predictions=[
            LabelledImage(
                path=row.path,
                label=row.label,
                probability=row.probability,
                probabilities=row.probabilities,
            )
            for row in rows
        ],
    )
