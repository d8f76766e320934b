"""A finished run's adapter on other images, with their own class names: novel classes, other data sets.

    transfer/<name>.json       beside the run's record: scores, and what they were measured on

Nothing is trained and nothing chosen here; the run's record counts the opening.
"""

from __future__ import annotations

from pathlib import Path

from petiole.data.dataset import Dataset
from petiole.engine.model_card import FrozenModel, read_kept
from petiole.engine.record import count_test_evaluation, now
from petiole.errors import ConfigError, RunError
from petiole.files import write_sealed
from petiole.metrics.classification import score
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.model import ClassNameHead, predict
from petiole.tasks.classification.workspace import ClassificationWorkspace

TRANSFER = "transfer"


class TransferResult(FrozenModel):
    """What an adapter reached on other images.

    Attributes:
        name: of the place.
        data: digest of the images.
        classes: in the order of the logits.
        test_evaluations: how often these images have been scored in this run.
        scores: accuracy and the rest.
    """

    name: str
    created: str
    data: str
    classes: list[str]
    test_evaluations: int
    scores: dict[str, float]


def score_transfer(
    folder: Path, name: str, workspace: ClassificationWorkspace, data: Dataset
) -> TransferResult:
    """Score a run's adapter on ``data``, once; a result that is there already is read.

    Args:
        folder: of the run.
        name: of the place.
        workspace: with the backbone and its cache.
        data: images whose classes the adapter takes by name.

    Raises:
        ConfigError: the adapter's head is not made of names and has other classes.
        RunError: what is there was measured on other images.
    """
    file = folder / TRANSFER / f"{name}.json"
    if file.exists():
        return _read(file, data)
    adapter = ClassificationAdapter.load(folder, backbone=workspace.backbone)
    if isinstance(adapter.adapted.head, ClassNameHead):
        adapter.adapted.name(data.classes, data.name)
    elif list(data.classes) != adapter.classes:
        raise ConfigError(
            f"{adapter.manifest.method} has a fixed set of classes and cannot name those of {name}."
        )
    test_evaluations = count_test_evaluation(folder, data.digest(), len(data), f"transfer: {name}")
    table = workspace.table(data, adapter.adapted.cut)
    probabilities = predict(adapter.adapted, table.batches(len(data))).probabilities
    found = TransferResult(
        name=name,
        created=now(),
        data=data.digest(),
        classes=list(data.classes),
        test_evaluations=test_evaluations,
        scores=score(probabilities.double().numpy(), data.labels).to_dict(),
    )
    write_sealed(file, found.model_dump(mode="json"))
    return found


def read_transfer(file: Path) -> TransferResult:
    """Read one result.

    Raises:
        RunError: it is damaged.
    """
    return read_kept(file, TransferResult, "Delete it, and the images are scored again.")


def _read(file: Path, data: Dataset) -> TransferResult:
    found = read_transfer(file)
    if found.data != data.digest():
        raise RunError(
            f"{file} was measured on other images than those at hand. Choose another --out, or delete "
            "it."
        )
    return found
