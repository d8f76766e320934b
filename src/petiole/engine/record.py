"""The record: one immutable folder a run, from which every table, plot and page is computed.

request.json              everything that decides the result, and its digest
metrics.jsonl             step, loss, learning rate
test_evaluations.jsonl    every time that a test set was scored
adapter/                  the adapter file
record.json               scores, costs, environment, checksums: written last

A task adds its own: classification split.csv, drift.jsonl, predictions.csv and predictions.safetensors; texts
predictions/<task>.jsonl; a codebook predictions/<language model>.jsonl and diagnostics.jsonl.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, Field

from petiole.device import cuda_arithmetic
from petiole.engine.model_card import FrozenModel, ModelCard, read_kept
from petiole.engine.task import Scores
from petiole.errors import RunError
from petiole.files import append_line, read_lines, sealed, sha256, write_sealed, write_text
from petiole.ledger import Ledger
from petiole.version import __version__

RECORD, REQUEST = "record.json", "request.json"
LOG, TEST_EVALUATIONS = "metrics.jsonl", "test_evaluations.jsonl"

R = TypeVar("R", bound=BaseModel)


class DataCard(FrozenModel):
    """What a run saw, by digest.

    Attributes:
        digests: by part, or by task.
        samples: counts by part; ``task/part`` where there are several tasks.
        classes: names, where there are any.
        tasks: names, where there are several.
        shots: drawn from each class of the target; ``None`` for all.
        split_seed: of that draw.
        fraction: share of the training samples.
        validation: share of them that was held back and stands for the test set; 0 for none.
        scored: part that is scored.
        notes: what was left out of the data, and what the leak check found.
    """

    digests: dict[str, str]
    samples: dict[str, int]
    classes: list[str] = Field(default_factory=list)
    tasks: list[str] = Field(default_factory=list)
    shots: int | None = None
    split_seed: int = 0
    fraction: float = 1.0
    validation: float = 0.0
    scored: str = "test"
    notes: list[str] = Field(default_factory=list)


class RunRequest(FrozenModel):
    """Everything that decides a result on one machine.

    Attributes:
        kind: of the task.
        options: of the task: what else decides the result.
    """

    kind: str
    method: str
    settings: dict[str, Any]
    backbone: ModelCard
    data: DataCard
    options: dict[str, Any] = Field(default_factory=dict)
    seed: int

    @property
    def digest(self) -> str:
        """SHA-256 of what decides the result: names, places and notes do not, contents do."""
        value = self.model_dump(mode="json")
        value["backbone"] = self.backbone.content()
        value["data"].pop("notes")
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class Costs(FrozenModel):
    """What a run took.

    Attributes:
        feature_seconds: reading images and running the frozen half (near 0 when cached).
        train_seconds: optimizer steps or solving.
        test_seconds: scoring the test set.
        peak_memory_mb: largest memory while training: allocated on a GPU, else resident.
        adapter_bytes: size of the adapter file's tensors.
        flops_per_second: of a process in its optimizer steps: forward and backward as the ledger counts them, or over a
            codebook a few samples themselves, over ``train_seconds``; ``None`` of a short training, of one that is solved,
            and where it is not known what a step computes.
        utilisation: their share of what a product of large matrices reaches on that device at that precision (MFU).
    """

    feature_seconds: float
    train_seconds: float
    test_seconds: float
    peak_memory_mb: float
    adapter_bytes: int
    flops_per_second: float | None = None
    utilisation: float | None = None


class Record(FrozenModel):
    """What a run was and gave.

    Attributes:
        selection: which of the models that training passes through is kept.
        test_evaluations: how often the test set has been scored in this folder.
        scores: table -> metric -> value, the headline metric first. Photos have one table, ``test``; texts one for
            each task; a codebook one for each language model, the surrogate first.
        ledger: what the method adds.
        diagnosis: of the task: what it measured of the model beside its scores.
        files: checksums of the run's other files.
    """

    format: int = 2
    id: str
    created: str
    request: RunRequest
    selection: str
    test_evaluations: int
    scores: Scores
    ledger: Ledger
    costs: Costs
    diagnosis: dict[str, Any] = Field(default_factory=dict)
    environment: dict[str, str]
    files: dict[str, str]

    @property
    def main(self) -> dict[str, float]:
        """The first table of scores."""
        return next(iter(self.scores.values()))


def count_test_evaluation(
    folder: Path, digest: str, samples: int, why: str, *, once: bool = False
) -> int:
    """Note that a test set is scored now; returns how often this one has been in this folder.

    Args:
        folder: of the run or adapter.
        digest: of the test set.
        samples: of it.
        why: for people.
        once: an equal note that is there already is the same evaluation, of a run that was killed in it and goes on.

    Raises:
        RunError: the folder cannot be written, so the count would be wrong, or its notes are damaged.
    """
    line = {"when": now(), "test": digest, "samples": samples, "why": why}
    noted = lines(folder / TEST_EVALUATIONS)
    if once and any((row["test"], row["why"]) == (digest, why) for row in noted):
        return evaluations_of(folder, digest)
    try:
        append_line(folder / TEST_EVALUATIONS, sealed(line))
    except OSError as error:
        raise RunError(
            f"The evaluation of the test set cannot be noted in {folder / TEST_EVALUATIONS}: {error.strerror}. "
            "Copy the folder to a place that you can write."
        ) from error
    return evaluations_of(folder, digest)


def evaluations_of(folder: Path, digest: str = "") -> int:
    """How often a test set has been scored in a folder; without a digest, the one scored most often.

    Raises:
        RunError: fewer evaluations are noted than the run's record knows of, or the notes are damaged.
    """
    counts = Counter(row["test"] for row in lines(folder / TEST_EVALUATIONS))
    known = read_record(folder).test_evaluations if (folder / RECORD).is_file() else 0
    if (noted := max(counts.values(), default=0)) < known:
        raise RunError(
            f"{folder / TEST_EVALUATIONS} notes {noted} evaluation(s) of the test set, but {RECORD} knows of {known}: lines "
            "are missing. Restore it from a copy."
        )
    return counts[digest] if digest else max(counts.values(), default=0)


def write_record(folder: Path, patterns: Sequence[str], **fields: Any) -> Record:
    """Write record.json, with the checksums of the run's other files; it marks the run as complete.

    Args:
        folder: of the run.
        patterns: of the files that the task leaves.
        fields: of ``Record``.
    """
    request: RunRequest = fields["request"]
    files = [p for name in (REQUEST, LOG, *patterns) for p in sorted(folder.glob(name))]
    for log in (file for file in files if file.suffix == ".jsonl" and file.parent == folder):
        _settle(log)
    record = Record(
        id=request.digest[:16],
        created=now(),
        environment=environment(),
        files={str(path.relative_to(folder)): sha256(path) for path in files},
        **fields,
    )
    write_sealed(folder / RECORD, record.model_dump(mode="json"))
    return record


def read_record(folder: Path) -> Record:
    """Read a run's record.

    Raises:
        RunError: there is none, or it is damaged.
    """
    return read_complete(folder, Record)


def read_complete(folder: Path, kind: type[R]) -> R:
    """Read the record of a run of this kind.

    Raises:
        RunError: there is none, or it is damaged.
    """
    try:
        return read_kept(folder / RECORD, kind, "Run it again.")
    except FileNotFoundError as error:
        raise RunError(
            f"{folder} holds no complete run ({RECORD} is missing). Finish it with --resume."
        ) from error


def recorded(folder: Path, record: Record, name: str) -> Path:
    """A file of a finished run.

    Raises:
        RunError: it is missing or not the one that was recorded.
    """
    if changed_files(folder, record, [name]):
        raise RunError(
            f"{folder / name} is missing or not the one that {RECORD} describes (checksum differs). "
            "Restore the run folder, or delete it and run it again."
        )
    return folder / name


def changed_files(folder: Path, record: Record, names: Iterable[str] = ()) -> list[str]:
    """Which files of a finished run are missing or not those that were recorded; of all, unless some are named."""
    return [
        name
        for name in names or record.files
        if not (folder / name).is_file() or sha256(folder / name) != record.files.get(name)
    ]


def read_log(folder: Path, name: str = LOG) -> list[dict[str, float]]:
    """Rows of a log by step; of a step that was repeated after a resume, the last."""
    return list({row["step"]: row for row in lines(folder / name)}.values())


def _settle(file: Path) -> None:
    """Leave one row of each step: a run that was killed wrote those after its last checkpoint twice."""
    rows = read_log(file.parent, file.name)
    write_text(file, "".join(f"{json.dumps(sealed(row))}\n" for row in rows))


def appender(file: Path, *, fresh: bool) -> Callable[[int, Mapping[str, float]], None]:
    """Appends one line of JSON a call."""
    if fresh:
        file.unlink(missing_ok=True)

    def append(step: int, values: Mapping[str, float]) -> None:
        append_line(file, sealed({"step": step, **values}))

    return append


def lines(file: Path) -> list[dict[str, Any]]:
    """Rows of a file of sealed lines; one that a dying process left torn is named and passed over.

    Raises:
        RunError: a line was changed since it was written.
    """
    try:
        rows, torn = read_lines(file)
    except Exception as error:
        raise RunError(
            f"{file} is damaged: {error}. Restore it from a copy, or delete the line if you can do without it."
        ) from error
    for number in torn:
        warnings.warn(
            f"{file}, line {number}: left unfinished by a process that died; it does not count.",
            stacklevel=3,
        )
    return rows


def now() -> str:
    """UTC time, ISO 8601, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def environment() -> dict[str, str]:
    """Versions, machine and arithmetic, for the record."""
    packages = ("torch", "timm", "transformers", "scikit-learn", "accelerate", "numpy")
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "threads": str(torch.get_num_threads()),
        "petiole": __version__,
        "code": _code(),
        **{name: version(name) for name in packages},
        **cuda_arithmetic(),
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
