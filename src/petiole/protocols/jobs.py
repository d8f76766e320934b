"""The runs of a protocol, done: the frozen half first, as a stage of its own, and then every run, wherever they are done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypedDict, Unpack

from petiole.engine.executor import Executor, Local
from petiole.engine.progress import progress
from petiole.engine.record import RECORD, Record
from petiole.engine.run import RunSpec, run
from petiole.engine.share import Share
from petiole.engine.task import Task, open_workspace


class Running(TypedDict, total=False):
    """How the runs of a protocol are done.

    Attributes:
        executor: where; by default one after another.
        resume: finish an interrupted protocol; finished runs are kept.
        quiet: no progress bars.
    """

    executor: Executor
    resume: bool
    quiet: bool


def run_jobs(
    jobs: Sequence[RunSpec], what: str = "runs", **running: Unpack[Running]
) -> list[Record]:
    """Do all jobs, of whatever kind, and show how far they are."""
    records = []
    executor, quiet = running.get("executor", Local()), running.get("quiet", False)
    _store(jobs, executor, quiet=quiet)
    with progress(what, len(jobs), quiet=quiet) as advance:
        done: Iterator[Record] = executor.map(run, jobs)
        for job, record in zip(jobs, done, strict=True):
            records.append(record)
            advance(1, f"{job.method} {100 * average(record):.1f} %")
    return records


def _store(jobs: Sequence[RunSpec], executor: Executor, *, quiet: bool) -> None:
    """Compute what the frozen half gives before any run asks for it, so that no two runs compute the same.

    Each place takes its share of the images.
    """
    todo = [job for job in jobs if not (job.resume and (job.folder / RECORD).exists())]
    by_task: dict[Task[Any], list[RunSpec]] = {}
    for job in todo:
        by_task.setdefault(job.task, []).append(job)
    for task in by_task:
        open_workspace(task)  # texts keep their features when they are opened
    of = executor.places
    stages = [
        Stage(tuple(specs), Share(index + 1, of))
        for specs in by_task.values()
        for index in range(of)
    ]
    with progress("features", len(stages), quiet=quiet) as advance:
        for _ in executor.map(store_share, stages):
            advance()


class Stage(NamedTuple):
    """Runs of one task, and the share of their images whose features are stored."""

    specs: tuple[RunSpec, ...]
    share: Share

    @property
    def task(self) -> Task[Any]:
        """Of all of them: by it an executor knows the device, and what else reads the same features."""
        return self.specs[0].task


def store_share(stage: Stage) -> None:
    """See ``Workspace.store``."""
    open_workspace(stage.task).store(stage.specs, stage.share)


def headlines(record: Record) -> dict[str, float]:
    """Table of scores -> its headline metric, as a fraction.

    Records of texts hold per cent (CIDEr x 100), all others fractions, or numbers that are none.
    """
    scale = 100 if record.request.kind in ("text", "codebook") else 1
    return {table: next(iter(metrics.values())) / scale for table, metrics in record.scores.items()}


def average(record: Record) -> float:
    """The mean of the headlines, a fraction. Of tasks it mixes accuracies with CIDEr, as VL-Adapter's Table 1 does."""
    found = headlines(record)
    return sum(found.values()) / len(found)
