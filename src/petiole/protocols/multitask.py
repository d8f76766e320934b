"""Many tasks in one model: methods x seeds on the same tasks, the same features and the same prompts.

    multitask.json                 what was asked
    majority.json                  what the commonest training answer would score, by task
    tuning/                        trials of rows with a grid (see ``petiole.protocols.multitask_tuning``)
    runs/<row>/seed-<i>/           one run folder each (see ``petiole.tasks.text.training``)

This is Table 1 of VL-Adapter (Sung et al., CVPR 2022) for any model and any tasks. A seed is a start and an order of batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Unpack

from pydantic import Field

from petiole.data.task_batches import Mode
from petiole.engine.run import RunSpec
from petiole.engine.task import open_workspace
from petiole.errors import RunError
from petiole.files import read_sealed, write_sealed
from petiole.protocols.jobs import Running, run_jobs
from petiole.protocols.multitask_tuning import grid_of, tuned, tuned_rows
from petiole.protocols.protocol import RowsProtocol
from petiole.tasks.text.collator import TaskData
from petiole.tasks.text.targets import majority
from petiole.tasks.text.training import TextOptions
from petiole.tasks.text.workspace import TextGeneration

STATE, MAJORITY = "multitask.json", "majority.json"


class Multitask(RowsProtocol):
    """What is trained on what.

    Attributes:
        model: name.
        tasks: names, in the order of the columns.
        mode, fraction, prefixes, scored: see ``petiole.tasks.text.training.TextOptions``.
    """

    STATE: ClassVar[str] = STATE

    model: str
    tasks: list[str]
    mode: Mode = "proportional"
    fraction: float = Field(default=1.0, gt=0, le=1)
    prefixes: bool = True
    scored: str = "test"


def jobs_of(
    protocol: Multitask,
    task: TextGeneration,
    root: Path,
    settings: Mapping[str, Any],
    *,
    resume: bool = False,
) -> list[RunSpec]:
    """All runs, row by row; ``settings`` go to every method that has such a field.

    Raises:
        ConfigError: an unknown method or setting, one for images, a value out of range, or a grid that cannot be tried.
    """
    for row in tuned_rows(protocol):
        grid_of(row)
    options = TextOptions(protocol.mode, protocol.prefixes, protocol.fraction, protocol.scored)
    return protocol.jobs_of(task, root, settings, lambda *_: options, resume=resume)


def run_all(
    protocol: Multitask,
    jobs: Sequence[RunSpec],
    root: Path,
    **running: Unpack[Running],
) -> None:
    """Do all runs, seed by seed, and leave their records below ``root``; rows with a grid are tuned first.

    Raises:
        RunError: the folder holds another measurement, or this one without ``resume``.
    """
    protocol.claim(root, resume=running.get("resume", False))
    opened = open_workspace(jobs[0].task)
    commonest(opened.tasks, protocol.scored, root)
    settled = tuned(protocol, jobs, root, **running)
    run_jobs(sorted(settled, key=lambda job: job.seed), **running)


def commonest(tasks: Sequence[TaskData], scored: str, root: Path) -> None:
    """Write what it would score to give every sample the commonest target of its task."""
    scores = {}
    for data in tasks:
        samples = data.part(scored)
        answers = [majority(data.part("train"))] * len(samples)
        scores[data.name] = data.task.score(samples, answers)
    write_sealed(root / MAJORITY, scores)


def majorities(root: Path) -> dict[str, dict[str, float]]:
    """What ``commonest`` wrote.

    Raises:
        RunError: it is missing or damaged.
    """
    try:
        return read_sealed(root / MAJORITY)
    except Exception as error:
        raise RunError(
            f"{root / MAJORITY} is missing or damaged: {error}. Repeat the command with --resume."
        ) from error
