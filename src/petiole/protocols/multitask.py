"""Many tasks in one model: methods x seeds on the same tasks, the same features and the same prompts.

    multitask.json                 what was asked
    majority.json                  what the commonest training answer would score, by task
    runs/<row>/seed-<i>/           one run folder each (see ``petiole.tasks.text.training``)

This is Table 1 of VL-Adapter for any model and any tasks. A seed is a start and an order of batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from pydantic import Field

from petiole.data.task_batches import Mode
from petiole.engine.executor import Executor, Local
from petiole.engine.progress import progress
from petiole.engine.record import Record, read_record
from petiole.engine.run import RunSpec, run
from petiole.engine.task import open_workspace
from petiole.files import write_json
from petiole.methods.registry import settings_of
from petiole.protocols.comparison import ComparisonRow
from petiole.protocols.stated import Protocol
from petiole.tasks.text.adapter import method_of
from petiole.tasks.text.collator import TaskData
from petiole.tasks.text.targets import majority
from petiole.tasks.text.training import TextOptions
from petiole.tasks.text.workspace import TextGeneration

STATE, MAJORITY = "multitask.json", "majority.json"


class Multitask(Protocol):
    """What is trained on what.

    Attributes:
        model: name.
        tasks: names, in the order of the columns.
        mode, fraction, prefixes, scored: see ``Course``.
    """

    STATE: ClassVar[str] = STATE

    model: str
    tasks: list[str]
    mode: Mode = "proportional"
    fraction: float = Field(default=1.0, gt=0, le=1)
    prefixes: bool = True
    scored: str = "test"

    def folder(self, root: Path, row: ComparisonRow, seed: int) -> Path:
        """Where a run lies."""
        return root / "runs" / row.name / f"seed-{seed}"


def plan(rows: Sequence[ComparisonRow], *, reference: str = "", **terms: Any) -> Multitask:
    """Check and state what is to be done.

    Raises:
        ConfigError: a row named twice, an unknown reference, or a value out of range.
    """
    return Multitask.checked(rows=list(rows), reference=reference or rows[0].name, **terms)


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
        ConfigError: an unknown method or setting, one for images, or a value out of range.
    """
    jobs = []
    options = TextOptions(protocol.mode, protocol.prefixes, protocol.fraction, protocol.scored)
    for row in protocol.rows:
        known = settings_of(method_of(row.method, {}))
        own = {k: v for k, v in settings.items() if k in known} | row.settings
        method_of(row.method, own)
        jobs += [
            RunSpec(
                task=task,
                method=row.method,
                settings=own,
                folder=protocol.folder(root, row, seed),
                options=options,
                seed=seed,
                resume=resume,
            )
            for seed in range(protocol.seeds)
        ]
    for key in settings:
        if not any(key in job.settings for job in jobs):
            method_of(protocol.rows[0].method, {key: settings[key]})  # names the nearest setting
    return jobs


def run_all(
    protocol: Multitask,
    jobs: Sequence[RunSpec],
    root: Path,
    *,
    executor: Executor | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> None:
    """Do all runs and leave their records below ``root``.

    Raises:
        RunError: the folder holds another measurement, or this one without ``resume``.
    """
    protocol.claim(root, resume=resume)
    opened = open_workspace(jobs[0].task)  # features once, before processes share them
    commonest(opened.tasks, protocol.scored, root)
    where = executor or Local()
    with progress("runs", len(jobs), quiet=quiet) as advance:
        for job, record in zip(jobs, where.map(run, jobs), strict=True):
            advance(1, f"{job.method} {average(record):.1f}")


def commonest(tasks: Sequence[TaskData], scored: str, root: Path) -> None:
    """Write what it would score to give every sample the commonest target of its task."""
    scores = {}
    for data in tasks:
        samples = data.part(scored)
        said = [majority(data.part("train"))] * len(samples)
        scores[data.name] = data.task.score(samples, said)
    write_json(root / MAJORITY, scores)


def headlines(record: Record) -> dict[str, float]:
    """Task -> its headline metric, per cent."""
    return {task: next(iter(metrics.values())) for task, metrics in record.scores.items()}


def average(record: Record) -> float:
    """The mean of the headlines, per cent. It mixes accuracies with CIDEr, as the paper's column does."""
    return fmean(headlines(record).values())


def records(protocol: Multitask, root: Path, row: ComparisonRow) -> list[Record]:
    """Of all seeds of a row."""
    return [read_record(protocol.folder(root, row, seed)) for seed in range(protocol.seeds)]
