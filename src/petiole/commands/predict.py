"""``petiole predict``: labels with probabilities, or answers to a question."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field
from rich.console import Group, RenderableType
from rich.text import Text

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
        question: what was asked.
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
        lines = [
            Text(f"{row.path}  {row.label}  {row.probability or 0:.3f}", overflow="ignore")
            for row in self.predictions
        ]
        return Group(*lines)

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

    kind = read_manifest(find(adapter)).kind
    answer = {"classification": _labels, "text": _text, "codebook": _codebook}[kind]
    result = answer(Path(adapter), data, question, task, weights, device, inference)
    if csv:
        write_text(Path(csv), result.to_csv())
    return result


def _one(data: Any) -> Any:
    """A list of one path is that path: a file, a folder or a table."""
    alone = isinstance(data, list | tuple) and len(data) == 1 and isinstance(data[0], str | Path)
    return data[0] if alone else data


def _paths(data: Any) -> list[Path]:
    """Image files named."""
    named = [data] if isinstance(data, str | Path) else list(data)
    if not all(isinstance(one, str | Path) for one in named):
        raise ConfigError("Questions are about image files: give their paths.")
    return [Path(one) for one in named]


def _unused(kind: str, **given: Any) -> None:
    for name, value in given.items():
        if value:
            raise ConfigError(
                f"--{name} means nothing to an adapter of the kind {kind}. Leave it out."
            )


def _labels(
    adapter: Path,
    images: Any,
    question: str | None,
    task: str,
    weights: Path | None,
    where: str,
    inference: InferenceOptions | None,
) -> PredictResult:
    from petiole.tasks.classification.adapter import ClassificationAdapter

    _unused("classification", question=question is not None, task=task, keep=_says(inference))
    opened = ClassificationAdapter.load(adapter, weights=weights, device=device_of(where))
    rows = opened.predict(_one(images))
    return PredictResult(
        adapter=adapter,
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


def _says(inference: InferenceOptions | None) -> bool:
    return inference is not None and inference != InferenceOptions()


def _asked(adapter: Path, question: str | None) -> str:
    if question is None:
        raise ConfigError(
            f'{adapter} is an adapter of a language model, which needs a question: --question "...".'
        )
    return question


def _answered(adapter: Path, model: str, images: Any, *said: str) -> PredictResult:
    path, (question, answer) = " ".join(map(str, images)), said
    row = Prediction(path=path, label=answer, question=question)
    return PredictResult(adapter=adapter, model=model, predictions=[row])


def _text(
    adapter: Path,
    images: Any,
    question: str | None,
    task: str,
    weights: Path | None,
    where: str,
    inference: InferenceOptions | None,
) -> PredictResult:
    from petiole.tasks.text.adapter import TextAdapter
    from petiole.tasks.text.training import ask

    _unused("text", weights=weights, keep=_says(inference))
    asked, images = _asked(adapter, question), _paths(images)
    opened = TextAdapter.load(adapter, device=device_of(where))
    answer = ask(opened, asked, images, task)
    return _answered(adapter, opened.adapted.model.name, images, asked, answer)


def _codebook(
    adapter: Path,
    images: Any,
    question: str | None,
    task: str,
    weights: Path | None,
    where: str,
    inference: InferenceOptions | None,
) -> PredictResult:
    from petiole.tasks.codebook.adapter import CodebookAdapter
    from petiole.tasks.codebook.training import ask

    _unused("codebook", weights=weights, task=task)
    options = inference or InferenceOptions()
    asked, images = _asked(adapter, question), _paths(images)
    if len(images) != 1:
        raise ConfigError(f"A question to a tuned encoder is about one image, not {len(images)}.")
    if len(options.language_models) > 1:
        raise ConfigError("One language model answers at a time. Leave the others out.")
    name = next(iter(options.language_models), "")
    opened = CodebookAdapter.load(adapter, backbone=name, device=device_of(where))
    answer = ask(opened, images[0], asked, options.pruning(), route=options.route)
    return _answered(adapter, opened.adapted.model.name, images, asked, answer)
