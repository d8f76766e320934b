"""``petiole eval``: score an adapter on data that it has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field
from rich.console import Group, RenderableType
from rich.text import Text

from petiole.commands.kinds import SERVED, served_as
from petiole.commands.options import (
    CommandResult,
    Data,
    InferenceOptions,
    images_of,
    plural,
    unwrapped,
)
from petiole.commands.options import device as device_of
from petiole.commands.robustness import RobustnessOptions
from petiole.commands.test_time import TestTimeOptions
from petiole.commands.trained_on import training_notes
from petiole.commands.verb import verb
from petiole.errors import ConfigError, unknown

if TYPE_CHECKING:
    from petiole.methods.test_time.base import TestTimeMethod


class Evaluation(CommandResult):
    """Scores of an adapter on a set.

    Attributes:
        kind: of the adapter.
        scores: table -> metric -> value: ``test`` for labelled images, a table for each language model or task.
        samples: scored.
        test_evaluations: how often this set has been scored with this adapter, now included.
        classes, confusion: of labelled images; rows are true classes, columns predictions.
        notes: on the data.
    """

    adapter: Path
    data: str
    kind: str
    scores: dict[str, dict[str, float]]
    samples: int
    test_evaluations: int
    classes: list[str] = Field(default_factory=list)
    confusion: list[list[int]] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)

    def text(self) -> RenderableType:
        opened = Text(f"this set was opened {self.test_evaluations}x with this adapter")
        notes = (Text(note) for note in self.notes)
        from petiole.commands.fit import scores_line, scores_table

        if self.kind == SERVED:
            return Group(scores_line(self.scores["test"]), opened, *notes)
        if self.kind != "classification":
            return Group(
                scores_table(self.scores), Text(plural(self.samples, "sample")), opened, *notes
            )
        s = self.scores["test"]
        nll = f"NLL {s.get('calibrated_nll', s['nll']):.3f}"
        first = reached(s, self.classes, plural(int(s["n"]), "image"), nll)
        return Group(first, *self._robust(), opened, *map(Text, self._confused()), *notes)

    def _robust(self) -> list[Text]:
        """A line for each corruption and attack."""
        clean = self.scores["test"]["accuracy"]
        return [
            Text(f"{100 * s['accuracy']:.2f} % under {name} ({100 * (s['accuracy'] - clean):+.2f})")
            for name, s in self.scores.items()
            if name != "test"
        ]

    def _confused(self) -> list[str]:
        """The commonest mistakes."""
        wrong = sorted(
            (
                (n, i, j)
                for i, row in enumerate(self.confusion)
                for j, n in enumerate(row)
                if i != j
            ),
            reverse=True,
        )
        names = self.classes
        return [f"{n:5d} x {names[i]} taken for {names[j]}" for n, i, j in wrong[:5] if n]


def reached(scores: Mapping[str, float], classes: Sequence[str], images: str, more: str) -> Text:
    """Accuracy in a sentence, macro accuracy first where it is the headline; of one class a plain word."""
    if len(classes) == 1:
        return Text(
            f"There is one class only, {classes[0]}: nothing to tell apart, so being correct on {images} means nothing. "
            "Add images of what it is to be told from."
        )
    said = {"accuracy": "{} correct", "macro_accuracy": "{} macro accuracy over uneven classes"}
    first = next(iter(scores))
    other = "macro_accuracy" if first == "accuracy" else "accuracy"
    percent = {name: f"{100 * scores[name]:.2f} %" for name in said}
    what, _, word = said[first].partition(" ")
    beside = f"{other.removesuffix('_accuracy')} {percent[other]}"
    return Text(what.format(percent[first]), style="bold").append(
        f" {word} on {images} ({beside}, {ece_of(scores)}, {more})", style="not bold"
    )


def ece_of(scores: Mapping[str, float]) -> str:
    """The calibration error, and what is left of it where the adapter is calibrated."""
    if "calibrated_ece" in scores:
        return f"ECE {scores['calibrated_ece']:.3f} calibrated, {scores['ece']:.3f} before"
    return f"ECE {scores['ece']:.3f}"


@verb
def evaluate(
    adapter: Path,
    data: Data,
    *,
    weights: Path | None = None,
    device: str = "auto",
    skip_bad: bool = False,
    robustness: RobustnessOptions | None = None,
    test_time: TestTimeOptions | None = None,
    inference: InferenceOptions | None = None,
) -> Evaluation:
    """Score an adapter; the opening of the set is written beside the adapter.

    Args:
        adapter: adapter folder, or the run folder around it.
        data: labelled images (class folders, or a CSV or Parquet list); for adapters of language models questions
            about images, whose part ``test`` is scored. Labelled images of a part of the classes, or of others too, are
            scored on the classes that the adapter knows; the rest is counted and named.
        weights: where the weights of an image backbone lie now, if they were moved.
        device: auto, cpu, cuda, ...
        skip_bad: leave unreadable images out, and count them.

    Raises:
        AdapterError: the adapter is damaged or does not fit the backbone.
        ConfigError: an option that this kind of adapter has no use for.
        DataError: bad data, or none of the classes that the adapter knows.
    """
    from petiole.engine.adapter import find, read_manifest

    kinds = ("classification", "text", "codebook")
    kind = served_as(adapter, read_manifest(find(adapter)).kind, kinds)
    if weights and kind not in ("classification", SERVED):
        raise ConfigError(
            f"--weights is for image backbones, and {adapter} has none. Leave it out."
        )
    if kind != "codebook" and inference not in (None, InferenceOptions()):
        raise ConfigError(
            f"--keep, --route and --language-model are for models over a codebook, and {adapter} is of the kind {kind}."
        )
    where = device_of(device)
    robust = robustness or RobustnessOptions()
    if kind == "classification":
        further = (test_time or TestTimeOptions()).method()
        return _images(
            Path(adapter), unwrapped(data), weights, where, robust, further, skip_bad=skip_bad
        )
    if test_time not in (None, TestTimeOptions()):
        raise ConfigError(
            f"--adapt is for classifiers of images, and {adapter} is of the kind {kind}."
        )
    if robust != RobustnessOptions():
        raise ConfigError(
            f"--attack and --corrupt are for classifiers of images, and {adapter} is of the kind {kind}."
        )
    if kind == SERVED:
        return _served(Path(adapter), unwrapped(data), weights, where, skip_bad=skip_bad)
    path = images_of(data)
    if kind == "text":
        return _texts(Path(adapter), path, where, skip_bad=skip_bad)
    options = inference or InferenceOptions()
    return _codebook(Path(adapter), path, where, options, skip_bad=skip_bad)


def _images(
    adapter: Path,
    images: Any,
    weights: Path | None,
    where: str,
    robust: RobustnessOptions,
    further: TestTimeMethod | None,
    *,
    skip_bad: bool,
) -> Evaluation:
    from petiole.data.inputs import as_dataset
    from petiole.engine.adapter import find
    from petiole.engine.feature_extractor import Features
    from petiole.engine.record import count_test_evaluation
    from petiole.metrics.classification import confusion
    from petiole.tasks.classification.adapter import ClassificationAdapter
    from petiole.tasks.classification.calibration import scores_of
    from petiole.tasks.classification.model import predict
    from petiole.tasks.classification.robustness import under_attack, under_corruptions
    from petiole.tasks.classification.test_time import adapted_outputs

    adversary = robust.adversary()  # before anything is computed
    opened = ClassificationAdapter.load(adapter, weights=weights, device=where)
    data = as_dataset(images, classes=opened.classes, skip_bad=skip_bad, common=True)
    count = count_test_evaluation(find(adapter), data.digest(), len(data), "petiole eval")
    table = Features(opened.adapted.backbone).table(data, opened.adapted.cut)
    logits = predict(opened.adapted, table.batches(len(data))).logits
    guesses = logits.argmax(1).numpy()
    scores = {"test": scores_of(logits, data.labels, opened.calibration)}
    if further:
        logits = adapted_outputs(opened.adapted, data.samples, further).logits
        scores[further.name] = scores_of(logits, data.labels, None)
    scores |= under_corruptions(opened.adapted, data, robust.corruptions(), robust.severities())
    if adversary:
        scores[robust.title()] = under_attack(opened.adapted, data, adversary, robust.radius())
    return Evaluation(
        adapter=adapter,
        data=str(images) if isinstance(images, str | Path) else data.name,
        kind="classification",
        scores=scores,
        samples=len(data),
        test_evaluations=count,
        classes=opened.classes,
        confusion=confusion(guesses, data.labels, len(opened.classes)).tolist(),
        notes=[*data.notes, *training_notes(adapter, data.ids)],
    )


def _served(
    adapter: Path, data: Any, weights: Path | None, where: str, *, skip_bad: bool
) -> Evaluation:
    from petiole.engine.adapter import Adapter, find
    from petiole.engine.record import count_test_evaluation

    opened: Any = Adapter.load(adapter, weights=weights, device=where)
    found = opened.score_on(data, skip_bad=skip_bad)
    count = count_test_evaluation(find(adapter), found.digest, found.samples, "petiole eval")
    return Evaluation(
        adapter=adapter,
        data=found.name,
        kind=SERVED,
        scores={"test": found.scores},
        samples=found.samples,
        test_evaluations=count,
        classes=opened.classes,
        notes=[*found.notes, *training_notes(adapter, found.images)],
    )


def _texts(adapter: Path, folder: Path, where: str, *, skip_bad: bool) -> Evaluation:
    from petiole.data.readers.registry import open_questions
    from petiole.engine.adapter import find
    from petiole.engine.record import count_test_evaluation
    from petiole.tasks.text.adapter import TextAdapter
    from petiole.tasks.text.training import evaluate as score

    opened = TextAdapter.load(adapter, device=where)
    data = open_questions(folder, skip_bad=skip_bad)
    known = {task.kind: task.name for task in opened.manifest.tasks}
    if data.task not in known:
        raise unknown(f"task of {adapter}", data.task, known)
    samples = data["test"]
    count = count_test_evaluation(find(adapter), data.digest(), len(samples), "petiole eval")
    return Evaluation(
        adapter=adapter,
        data=str(folder),
        kind="text",
        scores={known[data.task]: score(opened, data, known[data.task])},
        samples=len(samples),
        test_evaluations=count,
        notes=list(data.notes),
    )


def _codebook(
    adapter: Path, folder: Path, where: str, options: InferenceOptions, *, skip_bad: bool
) -> Evaluation:
    from petiole.data.readers.registry import open_questions
    from petiole.engine.adapter import find
    from petiole.engine.record import count_test_evaluation
    from petiole.tasks.codebook.adapter import CodebookAdapter
    from petiole.tasks.codebook.training import evaluate as score

    data = open_questions(folder, skip_bad=skip_bad, task="question")
    names = options.language_models or ("",)
    files = [CodebookAdapter.load(adapter, backbone=name, device=where) for name in names]
    samples = data["test"]
    count = count_test_evaluation(find(adapter), data.digest(), len(samples), "petiole eval")
    scores, notes = {}, list(data.notes)
    for file in files:
        found, tuned = score(file, data, options.pruning(), route=options.route)
        scores[file.adapted.model.name] = found
    if options.route:
        notes.append(f"{100 * tuned:.0f} % of the images went through the tuned encoder")
    return Evaluation(
        adapter=adapter,
        data=str(folder),
        kind="codebook",
        scores=scores,
        samples=len(samples),
        test_evaluations=count,
        notes=notes,
    )
