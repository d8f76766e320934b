"""Tasks one after the other, each with classes of its own: what is left of the earlier ones.

    continual.json                              what was asked
    runs/adapters/<task>/seed-<i>/              one adapter for each task, never touched again
    runs/replay/<task>/seed-<i>/                one adapter for all classes so far
    matrix.json                                 R of each way and seed

R[i][j] is the accuracy on the test images of task j after the tasks up to i. Average forgetting is the mean over all but the last
task of  max_{i < T} R[i][j] - R[T][j]  (Chaudhry et al., ECCV 2018).

    routed   an image goes to the task of the nearest mean of a class's unit vectors, as the frozen backbone gives them, and is
             labelled by that task's adapter
    told     the same adapters, each image's task told: nothing can be forgotten, and fewer classes compete
    replay   trained anew at each task on its images and ``memory`` images of every earlier class, whose features the cache has
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from petiole.data.dataset import Dataset, Sample
from petiole.data.splits import draw_shots
from petiole.engine.record import Record, read_record
from petiole.engine.run import RunSpec
from petiole.engine.task import open_workspace
from petiole.errors import ConfigError, RunError
from petiole.files import read_sealed, write_sealed
from petiole.methods.registry import create_stated
from petiole.protocols.jobs import Running, run_jobs
from petiole.protocols.protocol import ComparisonRow, RowsProtocol
from petiole.tasks.classification.novelty import class_means, nearest
from petiole.tasks.classification.predictions import read_predictions
from petiole.tasks.classification.workspace import Classification, ClassificationWorkspace, Subset

STATE, MATRIX = "continual.json", "matrix.json"
WAYS = {
    "routed": "an adapter a task, routed by class means",
    "told": "an adapter a task, task told",
    "replay": "one adapter, replay",
}
Matrix = list[list[float]]


class Continual(RowsProtocol):
    """What is learned in which order.

    Attributes:
        method: registered name.
        tasks: names, in their order.
        shots: images drawn from each class; ``None`` for all.
        memory: images kept of each class of an earlier task, for replay.
    """

    STATE: ClassVar[str] = STATE

    method: str
    tasks: list[str] = Field(min_length=2)
    shots: int | None = Field(ge=1)
    memory: int = Field(ge=1)

    def home(self, root: Path, kind: str, task: int, seed: int) -> Path:
        """Where a run lies; the first task has nothing to replay."""
        return root / "runs" / (kind if task else "adapters") / self.tasks[task] / f"seed-{seed}"

    def runs(self, root: Path, row: ComparisonRow | str) -> list[Path]:
        """The run folders of a way's last task, by seed."""
        name = row if isinstance(row, str) else row.name
        kind, last = "replay" if name == "replay" else "adapters", len(self.tasks) - 1
        return [self.home(root, kind, last, seed) for seed in range(self.seeds)]

    def drawn(self, task: ClassificationWorkspace, seed: int) -> Dataset:
        """Training images of a task."""
        return task.parts(Subset(self.shots, split_seed=seed))[0]

    def adapters(self, root: Path, seed: int) -> list[Record]:
        """Records of the adapters of all tasks."""
        numbers = range(len(self.tasks))
        return [read_record(self.home(root, "adapters", task, seed)) for task in numbers]


def plan(tasks: Sequence[str], method: str, settings: Mapping[str, Any], **terms: Any) -> Continual:
    """Check and state what is to be done.

    Raises:
        ConfigError: fewer than two tasks, two of one name, an unknown method or setting, or a value out of range.
    """
    if len(set(tasks)) < len(tasks):
        raise ConfigError(f"Two tasks bear one name: {', '.join(tasks)}. Rename a folder.")
    create_stated(method, settings)
    rows = [
        ComparisonRow(name=name, label=label, method=method, settings=dict(settings))
        for name, label in WAYS.items()
    ]
    return Continual.checked(method=method, tasks=list(tasks), rows=rows, **terms)


def jobs_of(
    protocol: Continual,
    tasks: Sequence[Classification],
    root: Path,
    *,
    resume: bool = False,
) -> list[RunSpec]:
    """All runs: an adapter for each task, and from the second on one for all classes so far; seed by seed.

    Raises:
        ConfigError: a class belongs to two tasks.
    """
    opened = [_opened(task) for task in tasks]
    _check_classes(protocol, opened)
    jobs = []
    for seed in range(protocol.seeds):
        drawn = [protocol.drawn(one, seed) for one in opened]
        for number, task in enumerate(tasks):
            shots = Subset(protocol.shots, split_seed=seed)
            places = [("adapters", replace(task, quiet=True), shots)]
            if number:
                kept = [draw_shots(images, protocol.memory, seed) for images in drawn[:number]]
                tests = [one.shift.test for one in opened[: number + 1]]
                learned = joined([*kept, drawn[number]])
                whole = replace(task, images=learned, test=joined(tests), quiet=True)
                places.append(("replay", whole, Subset(None, split_seed=seed)))
            jobs += [
                RunSpec(
                    task=one,
                    method=protocol.method,
                    settings=protocol.rows[0].settings,
                    folder=protocol.home(root, kind, number, seed),
                    options=subset,
                    seed=seed,
                    resume=resume,
                )
                for kind, one, subset in places
            ]
    return jobs


def learn(
    protocol: Continual,
    jobs: Sequence[RunSpec],
    tasks: Sequence[Classification],
    root: Path,
    **running: Unpack[Running],
) -> None:
    """Do all runs, then write the matrices of all ways.

    Raises:
        RunError: the folder holds another measurement, or this one without ``resume``.
    """
    protocol.claim(root, resume=running.get("resume", False))
    run_jobs(jobs, **running)
    opened, seeds = [_opened(task) for task in tasks], range(protocol.seeds)
    by_seed = [_matrices(protocol, opened, root, seed) for seed in seeds]
    write_sealed(root / MATRIX, {way: [found[way] for found in by_seed] for way in WAYS})


def matrices(root: Path) -> dict[str, list[Matrix]]:
    """R of each way, by seed.

    Raises:
        RunError: they are missing or damaged.
    """
    try:
        found: dict[str, list[Matrix]] = read_sealed(root / MATRIX)
    except Exception as error:
        raise RunError(
            f"{root / MATRIX} is missing or damaged: {error}. Repeat the command with --resume."
        ) from error
    return found


def forgetting(matrix: Matrix) -> float:
    """What the earlier tasks have lost, on average, from their best to the end."""
    lost = [
        max(row[task] for row in matrix[task:-1]) - last
        for task, last in enumerate(matrix[-1][:-1])
    ]
    return sum(lost) / len(lost)


def joined(parts: Sequence[Dataset]) -> Dataset:
    """Data sets with classes of their own as one, their classes one after the other."""
    samples, classes = list[Sample](), list[str]()
    for part in parts:
        samples += [replace(s, label=s.label + len(classes)) for s in part.samples]
        classes += part.classes
    return Dataset("+".join(part.name for part in parts), tuple(classes), tuple(samples))


def _opened(task: Classification) -> ClassificationWorkspace:
    return open_workspace(replace(task, quiet=True))


def _check_classes(protocol: Continual, opened: Sequence[ClassificationWorkspace]) -> None:
    owner: dict[str, str] = {}
    for task, one in zip(protocol.tasks, opened, strict=True):
        for name in one.shift.classes:
            if owner.setdefault(name, task) != task:
                raise ConfigError(
                    f"{owner[name]} and {task} both have the class {name!r}. In a sequence each task brings classes of its "
                    "own: rename the folder in one of them, or leave it out."
                )


def _matrices(
    protocol: Continual, opened: Sequence[ClassificationWorkspace], root: Path, seed: int
) -> dict[str, Matrix]:
    """R of each way in one seed, from what the runs predicted of their test images."""
    count, means = len(opened), list[Tensor]()
    right, nearest_task = list[NDArray[np.bool_]](), list[NDArray[np.float32]]()
    for number, one in enumerate(opened):
        drawn = protocol.drawn(one, seed)
        vectors = torch.from_numpy(one.vectors(drawn))
        means.append(class_means(vectors, torch.tensor(drawn.labels.copy())))
        right.append(_right(protocol.home(root, "adapters", number, seed)))
    for one in opened:
        vectors = torch.from_numpy(one.vectors(one.shift.test))
        nearest_task.append(torch.stack([nearest(vectors, m) for m in means], 1).numpy())
    told = [[float(right[j].mean()) for j in range(i + 1)] for i in range(count)]
    routed = [
        [
            float((right[j] & (nearest_task[j][:, : i + 1].argmax(1) == j)).mean())
            for j in range(i + 1)
        ]
        for i in range(count)
    ]
    replay = [told[0]]
    ends = np.cumsum([len(part) for part in right])
    for i in range(1, count):
        parts = np.split(_right(protocol.home(root, "replay", i, seed)), ends[:i])
        replay.append([float(part.mean()) for part in parts])
    return {"routed": routed, "told": told, "replay": replay}


def _right(folder: Path) -> NDArray[np.bool_]:
    """Whether a run was right about each of its test images, in their order: task by task."""
    found = read_predictions(folder)
    right: NDArray[np.bool_] = (found.probabilities.argmax(1) == found.labels).numpy()
    return right
