"""Many tasks in one model: methods x seeds on the same tasks, the same features and the same prompts.

    multitask.json                 what was asked
    majority.json                  what the commonest training answer would score, by task
    runs/<row>/seed-<i>/           one run folder each (see ``petiole.engine.course``)

This is Table 1 of VL-Adapter for any model and any tasks. A seed is a start and an order of batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from pydantic import Field

from petiole.data.vl.batches import Mode
from petiole.engine.course import CourseRecord, read_record
from petiole.engine.executor import Executor, Local
from petiole.engine.language_adapter import method_of
from petiole.engine.lessons import TaskData
from petiole.engine.progress import progress
from petiole.engine.school import Lesson, School, attend, run
from petiole.files import write_json
from petiole.methods.registry import settings_of
from petiole.protocols.comparison import Row
from petiole.protocols.stated import Stated
from petiole.tasks.training import majority

STATE, MAJORITY = "multitask.json", "majority.json"


class Multitask(Stated):
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

    def folder(self, root: Path, row: Row, seed: int) -> Path:
        """Where a run lies."""
        return root / "runs" / row.name / f"seed-{seed}"


def plan(rows: Sequence[Row], *, reference: str = "", **terms: Any) -> Multitask:
    """Check and state what is to be done.

    Raises:
        ConfigError: a row named twice, an unknown reference, or a value out of range.
    """
    return Multitask.checked(rows=list(rows), reference=reference or rows[0].name, **terms)


def lessons_of(
    asked: Multitask,
    school: School,
    root: Path,
    settings: Mapping[str, Any],
    *,
    resume: bool = False,
) -> list[Lesson]:
    """All runs, row by row; ``settings`` go to every method that has such a field.

    Raises:
        ConfigError: an unknown method or setting, one for images, or a value out of range.
    """
    lessons = []
    for row in asked.rows:
        known = settings_of(method_of(row.method, {}))
        own = {k: v for k, v in settings.items() if k in known} | row.settings
        method_of(row.method, own)
        lessons += [
            Lesson(
                school=school,
                method=row.method,
                settings=own,
                folder=asked.folder(root, row, seed),
                seed=seed,
                mode=asked.mode,
                prefixes=asked.prefixes,
                fraction=asked.fraction,
                scored=asked.scored,
                resume=resume,
            )
            for seed in range(asked.seeds)
        ]
    for key in settings:
        if not any(key in lesson.settings for lesson in lessons):
            method_of(asked.rows[0].method, {key: settings[key]})  # names the nearest setting
    return lessons


def work(
    asked: Multitask,
    lessons: Sequence[Lesson],
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
    asked.claim(root, resume=resume)
    opened = attend(lessons[0].school)  # features once, before processes share them
    commonest(opened.tasks, asked.scored, root)
    where = executor or Local()
    with progress("runs", len(lessons), quiet=quiet) as advance:
        for lesson, record in zip(lessons, where.map(run, lessons), strict=True):
            advance(1, f"{lesson.method} {average(record):.1f}")


def commonest(tasks: Sequence[TaskData], scored: str, root: Path) -> None:
    """Write what it would score to give every sample the commonest target of its task."""
    scores = {}
    for data in tasks:
        samples = data.part(scored)
        said = [majority(data.part("train"))] * len(samples)
        scores[data.name] = data.task.score(samples, said)
    write_json(root / MAJORITY, scores)


def headlines(record: CourseRecord) -> dict[str, float]:
    """Task -> its headline metric, per cent."""
    return {task: next(iter(metrics.values())) for task, metrics in record.scores.items()}


def average(record: CourseRecord) -> float:
    """The mean of the headlines, per cent. It mixes accuracies with CIDEr, as the paper's column does."""
    return fmean(headlines(record).values())


def records(asked: Multitask, root: Path, row: Row) -> list[CourseRecord]:
    """Of all seeds of a row."""
    return [read_record(asked.folder(root, row, seed)) for seed in range(asked.seeds)]
