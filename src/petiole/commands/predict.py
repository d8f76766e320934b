"""``petiole predict``: labels with probabilities, or answers to a question."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from petiole.commands.kinds import served_as
from petiole.commands.options import CommandResult, Data, InferenceOptions
from petiole.commands.options import device as device_of
from petiole.commands.verb import verb
from petiole.errors import ConfigError


class Prediction(BaseModel):
    """What an adapter says about one image, or to one question.

    Attributes:
        path: of the image, or several of them joined by spaces; empty without one.
        label: most probable class, or the answer.
        probability: of that class; ``None`` for an answer.
        probabilities: of all classes, most probable first.
        question: what was request.
    """

    path: str
    label: str
    probability: float | None = None
    probabilities: dict[str, float] = Field(default_factory=dict)
    question: str = ""


class PredictResult(CommandResult):
    """Predictions in the order of the images.

    Attributes:
        adapter: folder.
        model: name of the backbone, or of the language model that answered.
        predictions: one an image, or one for the question.
    """

    adapter: Path
    model: str
    predictions: list[Prediction]

    def text(self) -> RenderableType:
        if any(row.question or row.probability is None for row in self.predictions):
            return Group(*(Text(row.label) for row in self.predictions))
        table = Table(box=None, pad_edge=False)
        for name, side in (("image", "left"), ("label", "left"), ("p", "right"), ("next", "left")):
            table.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type]
        for row in self.predictions:
            rest = [f"{name} {p:.3f}" for name, p in list(row.probabilities.items())[1:4]]
            cells = (str(row.path), row.label, f"{row.probability:.3f}", ", ".join(rest))
            table.add_row(*map(Text, cells))
        return table

    def to_csv(self) -> str:
        """Path, label, probability and question, a row each."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["path", "label", "probability", "question"])
        for row in self.predictions:
            sure = "" if row.probability is None else f"{row.probability:.6f}"
            table.writerow([row.path, row.label, sure, row.question])
        return text.getvalue()


@verb
def predict(
    adapter: Path,
    data: Data = (),
    *,
    question: str | None = None,
    task: str = "",
    csv: Path | None = None,
    weights: Path | None = None,
    device: str = "auto",
    inference: InferenceOptions | None = None,
) -> PredictResult:
    """Label images with an adapter, or put a question about an image to a language model.

    Args:
        adapter: adapter folder, or the run folder around it.
        data: image files, or a folder; in Python whatever ``petiole.data.inputs.as_images`` takes.
        question: a question, a sentence to judge, or "" for a caption; for adapters of language models.
        task: one of such an adapter's tasks; by default its first.
        csv: write path, label and probability there too.
        weights: where the weights of an image backbone lie now, if they were moved.
        device: auto, cpu, cuda, ...

    Raises:
        AdapterError: the adapter is damaged or does not fit the backbone.
        ConfigError: a question where there is none to ask, or none where there is; an option of another kind.
        DataError: an image cannot be read.
    """
    from petiole.engine.adapter import find, read_manifest
    from petiole.files import write_text

    kinds = {"classification": _labels, "text": _text, "codebook": _codebook}
    answer = kinds[served_as(adapter, read_manifest(find(adapter)).kind, [*kinds])]
    request = _Request(Path(adapter), data, question, task, weights, device_of(device), inference)
    result = answer(request)
    if csv:
        write_text(Path(csv), result.to_csv())
    return result


@dataclass(frozen=True)
class _Request:
    """What was given to ``predict``."""

    adapter: Path
    data: Any
    question: str | None
    task: str
    weights: Path | None
    device: str
    inference: InferenceOptions | None

    def refuse(self, kind: str, **given: object) -> None:
        """Raise ConfigError for what this kind of adapter has no use for."""
        for name, value in given.items():
            if value:
                raise ConfigError(
                    f"--{name} means nothing to an adapter of the kind {kind}. Leave it out."
                )

    @property
    def prunes(self) -> bool:
        """Whether anything was said about a model over a codebook."""
        return self.inference not in (None, InferenceOptions())

    @property
    def text(self) -> str:
        """The question.

        Raises:
            ConfigError: there is none.
        """
        if self.question is None:
            raise ConfigError(
                f'{self.adapter} is an adapter of a language model, which needs a question: --question "...".'
            )
        return self.question

    @property
    def paths(self) -> list[Path]:
        """Image files named."""
        named = [self.data] if isinstance(self.data, str | Path) else list(self.data)
        if not all(isinstance(one, str | Path) for one in named):
            raise ConfigError("Questions are about image files: give their paths.")
        return [Path(one) for one in named]

    def answered(self, model: str, answer: str) -> PredictResult:
        """The result of one question."""
        path = " ".join(map(str, self.paths))
        row = Prediction(path=path, label=answer, question=self.text)
        return PredictResult(adapter=self.adapter, model=model, predictions=[row])


def _labels(request: _Request) -> PredictResult:
    from petiole.tasks.classification.adapter import ClassificationAdapter

    request.refuse(
        "classification",
        question=request.question is not None,
        task=request.task,
        keep=request.prunes,
    )
    opened = ClassificationAdapter.load(
        request.adapter, weights=request.weights, device=request.device
    )
    data = request.data
    if isinstance(data, list | tuple) and len(data) == 1 and isinstance(data[0], str | Path):
        data = data[0]  # a list of one path is that path: a file, a folder or a table
    rows = opened.predict(data)
    return PredictResult(
        adapter=request.adapter,
        model=opened.manifest.backbone.name,
        predictions=[
            Prediction(
                path=str(row.path),
                label=row.label,
                probability=row.probability,
                probabilities=row.probabilities,
            )
            for row in rows
        ],
    )


def _text(request: _Request) -> PredictResult:
    from petiole.tasks.text.adapter import TextAdapter
    from petiole.tasks.text.training import ask

    request.refuse("text", weights=request.weights, keep=request.prunes)
    question = request.text
    opened = TextAdapter.load(request.adapter, device=request.device)
    answer = ask(opened, question, request.paths, request.task)
    return request.answered(opened.adapted.model.name, answer)


def _codebook(request: _Request) -> PredictResult:
    from petiole.tasks.codebook.adapter import CodebookAdapter
    from petiole.tasks.codebook.training import ask

    request.refuse("codebook", weights=request.weights, task=request.task)
    question, images = request.text, request.paths
    options = request.inference or InferenceOptions()
    if len(images) != 1:
        raise ConfigError(f"A question to a tuned encoder is about one image, not {len(images)}.")
    if len(options.language_models) > 1:
        raise ConfigError("One language model answers at a time. Leave the others out.")
    name = next(iter(options.language_models), "")
    opened = CodebookAdapter.load(request.adapter, backbone=name, device=request.device)
    answer = ask(opened, images[0], question, options.pruning(), route=options.route)
    return request.answered(opened.adapted.model.name, answer)
