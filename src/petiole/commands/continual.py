"""``petiole continual``: tasks one after the other, and what is left of the earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from petiole.commands.options import ModelOptions, Settings, default_folder, pairs
from petiole.commands.placement import ExecutorOptions
from petiole.commands.results import TableResult
from petiole.commands.verb import verb
from petiole.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt, ProperFraction


class Continued(TableResult):
    """A finished sequence of tasks; the summary's facts hold the accuracy matrices."""


@verb
def continual(
    data: Annotated[Sequence[Path], Parameter(consume_multiple=True)],
    /,
    *,
    method: str = "cls-residual-lora",
    settings: Settings = None,
    test_fraction: ProperFraction = 0.5,
    shots: int = 10,
    all_images: bool = False,
    memory: NonNegativeInt = 2,
    seeds: PositiveInt = 3,
    margin: NonNegativeFloat = 1.0,
    out: Path | None = None,
    resume: bool = False,
    model: ModelOptions | None = None,
    placement: ExecutorOptions | None = None,
) -> Continued:
    """Learn data sets with classes of their own one after the other; accuracy matrix and forgetting.

    Three ways stand in one table: an adapter for each task, frozen, to which an image is routed by the nearest class mean;
    the same with each image's task told; and one adapter, trained anew at each task with a few kept images of every earlier class.

    Args:
        data: two or more folders or tables of labelled images, in the order in which they are learned.
        method: registered name.
        settings: of the method.
        test_fraction: held back of each, where its layout has no test part.
        shots: images drawn from each class for training.
        all_images: train on all of them instead.
        memory: images kept of each class of an earlier task, for replay.
        seeds: draws and starts.
        margin: in points; two ways tie where the interval of their difference lies within it.
        out: folder; by default runs/DATA-continual-HASH, where HASH is of the first data set.
        resume: finish an interrupted measurement; finished runs are kept.

    Raises:
        PetioleError: bad images, a class of two tasks, unknown names, or a folder that holds another measurement.
    """
    from petiole.commands.announce import announce
    from petiole.engine.task import open_workspace
    from petiole.protocols import continual as protocol
    from petiole.report.continual import summarise
    from petiole.report.scores import table
    from petiole.report.table import write

    executor = (placement or ExecutorOptions()).make()
    model = model or ModelOptions()
    tasks = [
        model.classification(path, None, None, test_fraction, methods=[method]) for path in data
    ]
    study = protocol.plan(
        [Path(path).stem for path in data],
        method,
        pairs(settings),
        shots=None if all_images else shots,
        memory=memory,
        seeds=seeds,
        margin=margin / 100,
    )
    root = Path(out) if out else default_folder(list(data), "continual", tasks[0])
    study.check_free(root, resume=resume)
    jobs = protocol.jobs_of(study, tasks, root, resume=resume)
    first = study.home(root, "adapters", 0, 0)
    announce(
        open_workspace(tasks[0]),
        [job for job in jobs if job.folder == first],
        [f"the first of {len(jobs)} runs: {len(tasks)} tasks, {seeds} seeds"],
    )
    protocol.learn(study, jobs, tasks, root, executor=executor, resume=resume, quiet=model.quiet)
    summary = summarise(root)
    write(table(summary), root)
    return Continued(folder=root, summary=summary)
