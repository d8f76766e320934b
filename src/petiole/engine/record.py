"""The record: one immutable folder a run, from which every table, plot and page is computed.

request.json              everything that decides the result, and its digest
split.csv                 which image was in which part
metrics.jsonl             step, loss, learning rate
drift.jsonl               step and how far the tokens behind each block have moved, if they can
predictions.csv           path, label, prediction and confidence of every test image
predictions.safetensors   probabilities (n, K) and labels (n,)
test_evaluations.jsonl            every time that a test set was scored
adapter/                  the adapter file
record.json               scores, costs, environment, checksums: written last
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import safe_open
from torch import Tensor

from petiole.data.dataset import Dataset
from petiole.engine.adapter import BackboneCard
from petiole.errors import RunError
from petiole.files import sha256, write_json, write_tensors, write_text
from petiole.ledger import Ledger
from petiole.version import __version__

RECORD, REQUEST = "record.json", "request.json"
LOG, DRIFT = "metrics.jsonl", "drift.jsonl"
PREDICTIONS, TEST_EVALUATIONS = "predictions.safetensors", "test_evaluations.jsonl"


R = TypeVar("R", bound=BaseModel)


class FrozenModel(BaseModel):
    """Base of everything that is written once."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataCard(FrozenModel):
    """Which images a run saw, by digest.

    Attributes:
        source, train, test: digests; ``source`` is empty without a source domain.
        images: counts by part.
        shots: drawn from each class of the target; ``None`` for all.
        draw: seed of that draw.
        fraction: share of each class of the target's training images.
        validation: share of them that was held back and stands for the test set; 0 for none.
        classes: names.
        notes: what was left out of the data, and what the leak check found.
    """

    source: str
    train: str
    test: str
    images: dict[str, int]
    shots: int | None
    draw: int
    fraction: float = 1.0
    validation: float = 0.0
    classes: list[str]
    notes: list[str]


class RunRequest(FrozenModel):
    """Everything that decides a result on one machine."""

    method: str
    settings: dict[str, Any]
    backbone: BackboneCard
    data: DataCard
    seed: int
    precision: str
    compiled: bool = False
    dtype: str
    teacher: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 of what decides the result: places and notes do not, contents do."""
        value = self.model_dump(mode="json")
        for place in ("name", "weights"):  # the fingerprint stands for both
            value["backbone"].pop(place)
        value["data"].pop("notes")
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class Costs(FrozenModel):
    """What a run took.

    Attributes:
        feature_seconds: reading images and running the frozen half (near 0 when cached).
        train_seconds: optimiser steps or solving.
        test_seconds: scoring the test set.
        peak_memory_mb: largest memory while training: allocated on a GPU, else resident.
        adapter_bytes: size of the adapter file's tensors.
    """

    feature_seconds: float
    train_seconds: float
    test_seconds: float
    peak_memory_mb: float
    adapter_bytes: int


class Record(FrozenModel):
    """What a run was and gave."""

    format: int = 1
    id: str
    created: str
    request: RunRequest
    selection: str
    test_evaluations: int
    scores: dict[str, float]
    ledger: Ledger
    costs: Costs
    environment: dict[str, str]
    files: dict[str, str]


class StoredPredictions(FrozenModel):
    """Test predictions of a run, read back."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    probabilities: Tensor
    labels: Tensor
    ids: list[str]
    paths: list[str]


def write_predictions(folder: Path, test: Dataset, probabilities: Tensor) -> None:
    """Write the probabilities of every test image, for machines and for people."""
    paths = [str(s.path) for s in test.samples]
    write_tensors(
        folder / PREDICTIONS,
        {"probabilities": probabilities, "labels": torch.tensor(test.labels.copy())},
        {"ids": json.dumps(test.ids), "paths": json.dumps(paths)},
    )
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["path", "sha256", "label", "prediction", "confidence"])
    best = probabilities.max(dim=1)
    for sample, guess, sure in zip(
        test.samples, best.indices.tolist(), best.values.tolist(), strict=True
    ):
        names = test.classes[sample.label], test.classes[guess]
        table.writerow([sample.path, sample.id, *names, f"{sure:.6f}"])
    write_text(folder / "predictions.csv", text.getvalue())


def read_predictions(folder: Path) -> StoredPredictions:
    """Read predictions back."""
    with safe_open(folder / PREDICTIONS, framework="pt") as file:
        meta = file.metadata()
        return StoredPredictions(
            probabilities=file.get_tensor("probabilities"),
            labels=file.get_tensor("labels"),
            ids=json.loads(meta["ids"]),
            paths=json.loads(meta["paths"]),
        )


def count_test_evaluation(folder: Path, test: Dataset, why: str) -> int:
    """Note that a test set is scored now; returns how often this one has been in this folder.

    Raises:
        RunError: the folder cannot be written, so the count would be wrong.
    """
    line = {"when": now(), "test": test.digest(), "images": len(test), "why": why}
    try:
        with open(folder / TEST_EVALUATIONS, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise RunError(
            f"The opening of the test set cannot be noted in {folder / TEST_EVALUATIONS}: {error.strerror}. "
            "Copy the folder to a place that you can write."
        ) from error
    return sum(row["test"] == line["test"] for row in _lines(folder / TEST_EVALUATIONS))


def write_record(folder: Path, **fields: Any) -> Record:
    """Write record.json, with the checksums of the other files; it marks the run as complete."""
    names = [REQUEST, "split.csv", LOG, DRIFT, "predictions.csv", PREDICTIONS]
    names += [str(p.relative_to(folder)) for p in sorted((folder / "adapter").rglob("*"))]
    record = Record(
        id=fields["request"].digest[:16],
        created=now(),
        environment=environment(),
        files={name: sha256(folder / name) for name in names if (folder / name).is_file()},
        **fields,
    )
    write_json(folder / RECORD, record.model_dump(mode="json"))
    return record


def read_record(folder: Path) -> Record:
    """Read a run's record; see ``read_complete``."""
    return read_complete(folder, Record)


def read_complete(folder: Path, kind: type[R]) -> R:
    """Read the record of a run of this kind.

    Raises:
        RunError: there is none, or it is damaged.
    """
    try:
        return kind.model_validate_json((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(
            f"{folder} holds no complete run ({RECORD} is missing). Finish it with --resume."
        ) from error
    except (ValidationError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{folder / RECORD} is damaged: {reason}. Run it again.") from error


def read_log(folder: Path, name: str = LOG) -> list[dict[str, float]]:
    """Rows of ``LOG`` or ``DRIFT``; of a step that was repeated after a resume, the last."""
    return list({row["step"]: row for row in _lines(folder / name)}.values())


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSON-lines file; one that a dying process left unfinished is passed over."""
    if not file.is_file():
        return
    for line in file.read_text(encoding="utf-8").splitlines():
        with suppress(json.JSONDecodeError):
            yield json.loads(line)


def now() -> str:
    """UTC time, ISO 8601, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def environment() -> dict[str, str]:
    """Versions and machine, for the record."""
    packages = ("torch", "timm", "transformers", "scikit-learn", "accelerate", "numpy")
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "threads": str(torch.get_num_threads()),
        "petiole": __version__,
        "code": _code(),
        **{name: version(name) for name in packages},
    }


def _code() -> str:
    """Commit of the checkout that this file lies in, with + if it was changed; else empty."""
    here = Path(__file__).parent
    try:
        head, changes = (
            subprocess.run(
                ["git", *command], cwd=here, capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "."])
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return head + ("+" if changes else "")
