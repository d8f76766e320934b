"""``petiole predict``: labels with probabilities, or answers to a question."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from petiole.commands.kinds import served_as
from petiole.commands.options import CommandResult, Data, InferenceOptions, unwrapped
from petiole.commands.options import device as device_of
from petiole.commands.test_time import TestTimeOptions
from petiole.commands.verb import verb
from petiole.errors import ConfigError
from petiole.printable import cell
from petiole.stores.address import Address

if TYPE_CHECKING:
    from petiole.tasks.classification.adapter import Prediction as Labelled
    from petiole.tasks.classification.doubt import Doubt


class Prediction(BaseModel):
    """What an adapter says about one image, or to one question.

    Attributes:
        path: of the image, or several of them joined by spaces; empty without one.
        label: most probable class, or the answer.
        probability: of that class; ``None`` for an answer.
        probabilities: of all classes, most probable first; calibrated where the adapter is.
        label_set: labels among which the true one is with the coverage that was asked for, most probable first.
        outside: whether the image looks out of distribution; ``None`` where the adapter cannot say.
        abstain: whether it is better left to a person: less probable than was asked for, or out of distribution; ``None``
            where nothing was asked for.
        question: what was asked.
        labels: of a task with several labels an image, those that are given, most probable first; else ``None``.
        value: of a task with a number an image; else ``None``.
        values: of one with several, by name; else ``None``.
        shares: of a task with a class a pixel: share of the pixels of each class that occurs, largest first; else ``None``.
        mask: file of the predicted mask, where ``masks`` names a folder.
    """

    path: str
    label: str
    probability: float | None = None
    probabilities: dict[str, float] = Field(default_factory=dict)
    label_set: list[str] = Field(default_factory=list)
    outside: bool | None = None
    abstain: bool | None = None
    question: str = ""
    labels: list[str] | None = None
    value: float | None = None
    values: dict[str, float] | None = None
    shares: dict[str, float] | None = None
    mask: str | None = None

    @property
    def answers(self) -> bool:
        """Whether it answers a question."""
        return (
            bool(self.question)
            or (self.probability, self.labels, self.value, self.values, self.shares) == (None,) * 5
        )

    def marks(self) -> list[str]:
        """What a reader of a table must not miss."""
        return ["out of distribution"] * bool(self.outside) + ["abstain"] * bool(self.abstain)


class PredictResult(CommandResult):
    """Predictions in the order of the images.

    Attributes:
        adapter: folder.
        model: name of the backbone, or of the language model that answered.
        predictions: one an image, or one for the question.
        notes: what the probabilities mean.
    """

    adapter: Path
    model: str
    predictions: list[Prediction]
    notes: list[str] = Field(default_factory=list)

    def text(self) -> RenderableType:
        if any(row.answers for row in self.predictions):
            return Group(*(Text(row.label) for row in self.predictions))
        table = Table(box=None, pad_edge=False)
        for name, side in (("image", "left"), ("label", "left"), ("p", "right"), ("next", "left")):
            table.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type]
        sets = any(row.label_set for row in self.predictions)
        marked = any(row.outside or row.abstain for row in self.predictions)
        for name in ["set"] * sets + ["mark"] * marked:
            table.add_column(name, overflow="fold")
        for row in self.predictions:
            ranked = list(row.probabilities.items())
            rest = [f"{name} {p:.3f}" for name, p in ranked[:4] if name != row.label][:3]
            sure = "" if row.probability is None else f"{row.probability:.3f}"
            said = row.label or "none"
            cells = [str(row.path), said, sure, ", ".join(rest)]
            cells += [", ".join(row.label_set)] * sets + [", ".join(row.marks())] * marked
            table.add_row(*map(Text, cells))
        return Group(table, *(Text(f"note     {note}") for note in self.notes))

    def to_csv(self) -> str:
        """Path, label, probability and question, a row each; set and marks where they are known; yes, no or empty."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        names = ["path", "label", "probability", "question"]
        more = ["label_set", "outside", "abstain", "value"]
        told = [
            name
            for name in more
            if any(getattr(p, name) not in (None, []) for p in self.predictions)
        ]
        outputs = list(self.predictions[0].values or ()) if self.predictions else []
        table.writerow([*names, *told, *(f"value.{name}" for name in outputs)])
        for row in self.predictions:
            sure = "" if row.probability is None else f"{row.probability:.6f}"
            extra = {
                "label_set": "|".join(row.label_set),
                **{
                    name: {None: "", True: "yes", False: "no"}[getattr(row, name)]
                    for name in more[1:3]
                },
                "value": row.value,
            }
            table.writerow(
                [
                    _place(row.path),
                    *map(cell, (row.label, sure, row.question)),
                    *(cell(extra[name]) for name in told),
                    *(cell((row.values or {})[name]) for name in outputs),
                ]
            )
        return text.getvalue()


@verb
def predict(
    adapter: Path,
    data: Data = (),
    *,
    question: str | None = None,
    task: str = "",
    csv: Path | None = None,
    masks: Path | None = None,
    coverage: float | None = None,
    abstain_below: float | None = None,
    weights: Path | None = None,
    device: str = "auto",
    trusted: Path | None = None,
    test_time: TestTimeOptions | None = None,
    inference: InferenceOptions | None = None,
) -> PredictResult:
    """Label images with an adapter, or put a question about an image to a language model.

    Args:
        adapter: adapter folder, or the run folder around it.
        data: image files, or a folder; in Python whatever ``petiole.data.inputs.as_images`` takes.
        question: a question, a sentence to judge, or "" for a caption; for adapters of language models.
        task: one of such an adapter's tasks; by default its first.
        csv: write path, label, probability and what else was asked for there too.
        masks: folder for a PNG of each image, whose pixels are the numbers of the adapter's classes; for adapters of masks.
        coverage: give each image the set of labels among which the true one is so often, e.g. 0.9; for calibrated adapters.
        abstain_below: mark images whose most probable class is less probable, or that look out of distribution; for
            calibrated adapters.
        weights: where the weights of an image backbone lie now, if they were moved.
        device: auto, cpu, cuda, ...
        trusted: public key (PEM or OpenSSH, Ed25519) of who must have signed the adapter; see petiole sign.

    Raises:
        AdapterError: the adapter is damaged or does not fit the backbone.
        SignatureError: it is not signed by the owner of ``trusted``.
        ConfigError: a question where there is none to ask, or none where there is; an option of another kind; a coverage
            of an adapter that is not calibrated.
        DataError: an image cannot be read.
    """
    from petiole.engine.adapter import find, read_manifest
    from petiole.files import write_text

    kinds = {"classification": _labels, "text": _text, "codebook": _codebook}
    kind = served_as(adapter, read_manifest(find(adapter)).kind, [*kinds])
    answer = kinds.get(kind, _served)
    request = _Request(
        *(Path(adapter), data, question, task, weights, device_of(device), inference),
        trusted=Path(trusted) if trusted else None,
        coverage=coverage,
        abstain_below=abstain_below,
        test_time=test_time or TestTimeOptions(),
        masks=Path(masks) if masks else None,
    )
    if request.masks and kind in kinds:
        request.refuse(kind, masks=masks)
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
    trusted: Path | None = None
    coverage: float | None = None
    abstain_below: float | None = None
    test_time: TestTimeOptions = field(default_factory=TestTimeOptions)
    masks: Path | None = None

    def refuse(self, kind: str, **given: object) -> None:
        """Raise ConfigError for what this kind of adapter has no use for."""
        for name, value in given.items():
            if value:
                raise ConfigError(
                    f"--{name.replace('_', '-')} means nothing to an adapter of the kind {kind}. Leave it out."
                )

    def refuse_doubt(self, kind: str) -> None:
        """Raise ConfigError for what only labels have."""
        self.refuse(
            kind,
            coverage=self.coverage,
            abstain_below=self.abstain_below,
            adapt=self.test_time.adapt or self.test_time.adapt_set,
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
    from petiole.tasks.classification.doubt import Doubt

    request.refuse(
        "classification",
        question=request.question is not None,
        task=request.task,
        keep=request.prunes,
    )
    opened = ClassificationAdapter.load(
        request.adapter,
        trusted=request.trusted,
        weights=request.weights,
        device=request.device,
    )
    doubt = Doubt(
        opened.calibration, request.coverage, request.abstain_below, adapter=str(request.adapter)
    )
    rows, notes = opened.predict, list(doubt.notes)
    if further := request.test_time.method():
        rows = partial(opened.predict_adapted, method=further)
        notes.append(
            f"adapted to each image alone by {further.name}, from {further.views} views of it"
        )
    return PredictResult(
        adapter=request.adapter,
        model=opened.manifest.backbone.name,
        predictions=[_said(row, doubt) for row in rows(unwrapped(request.data))],
        notes=notes,
    )


def _served(request: _Request) -> PredictResult:
    from petiole.engine.adapter import Adapter

    opened: Any = Adapter.load(
        request.adapter,
        trusted=request.trusted,
        weights=request.weights,
        device=request.device,
    )
    asked = request.question is not None
    request.refuse(opened.kind, question=asked, task=request.task, keep=request.prunes)
    request.refuse_doubt(opened.kind)
    more: dict[str, Any] = {}
    if request.masks:
        if "masks" not in signature(opened.predict_rows).parameters:
            request.refuse(opened.kind, masks=request.masks)
        more = {"masks": request.masks}
    rows = opened.predict_rows(unwrapped(request.data), **more)
    return PredictResult(
        adapter=request.adapter,
        model=opened.manifest.backbone.name,
        predictions=[Prediction(**row) for row in rows],
    )


def _place(path: str) -> Any:
    """A cell with a path, or with an address as it is: a path has one slash where an address has two."""
    return cell(Path(path)) if path and Address.parse(path) is None else path


def _said(row: Labelled, doubt: Doubt) -> Prediction:
    from petiole.stores.pointer import named

    return Prediction(
        path=named(row.path),
        label=row.label,
        probability=row.probability,
        probabilities=row.probabilities,
        label_set=doubt.label_set(row.label, row.probabilities),
        outside=row.outside,
        abstain=doubt.abstain(row.probability, row.outside),
    )


def _text(request: _Request) -> PredictResult:
    from petiole.tasks.text.adapter import TextAdapter
    from petiole.tasks.text.training import ask

    request.refuse("text", weights=request.weights, keep=request.prunes)
    request.refuse_doubt("text")
    question = request.text
    opened = TextAdapter.load(request.adapter, trusted=request.trusted, device=request.device)
    answer = ask(opened, question, request.paths, request.task)
    return request.answered(opened.adapted.model.name, answer)


def _codebook(request: _Request) -> PredictResult:
    from petiole.tasks.codebook.adapter import CodebookAdapter
    from petiole.tasks.codebook.training import ask

    request.refuse("codebook", weights=request.weights, task=request.task)
    request.refuse_doubt("codebook")
    question, images = request.text, request.paths
    options = request.inference or InferenceOptions()
    if len(images) != 1:
        raise ConfigError(f"A question to a tuned encoder is about one image, not {len(images)}.")
    if len(options.language_models) > 1:
        raise ConfigError("One language model answers at a time. Leave the others out.")
    name = next(iter(options.language_models), "")
    opened = CodebookAdapter.load(
        request.adapter, trusted=request.trusted, backbone=name, device=request.device
    )
    answer = ask(opened, images[0], question, options.pruning(), route=options.route)
    return request.answered(opened.adapted.model.name, answer)
