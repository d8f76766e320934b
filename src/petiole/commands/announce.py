"""Says what a command will do and cost, before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from petiole.commands.options import plural

if TYPE_CHECKING:
    from petiole.engine.run import RunSpec
    from petiole.tasks.classification.workspace import ClassificationWorkspace


def announce(
    workspace: ClassificationWorkspace, jobs: Sequence[RunSpec], notes: Sequence[str] = ()
) -> None:
    """Print data, frozen work still to do, storage and training steps, on standard error.

    Args:
        workspace: an opened bench.
        jobs: what will be done on it.
        notes: what else a reader must know.

    Raises:
        ConfigError: an unknown method or setting, before any work was done.
    """
    from petiole.engine.progress import console
    from petiole.tasks.classification.cost_estimate import estimate_cost

    if workspace.task.quiet:
        return
    shift, seen = workspace.shift, estimate_cost(workspace, jobs)
    source = f"{plural(len(shift.source), 'source image')}, " if shift.source else ""
    shots = jobs[0].options.shots
    drawn = f"{shots} a class" if shots else "all"
    lines = [
        f"data     {source}{len(shift.classes)} classes, {len(shift.train):,} target images to draw "
        f"from ({drawn}), {len(shift.test):,} held back",
        *(f"note     {note}" for note in (*workspace.notes, *notes)),
        f"frozen   {workspace.backbone.name}, {seen.images:,} images through the frozen half "
        f"({seen.flops / 1e12:.2f} TFLOPs), {seen.megabytes:,.0f} MB to store in "
        f"{workspace.task.cache or 'no cache: repeated in every epoch'}",
        f"training {plural(len(jobs), 'run')}, {seen.steps:,} steps, "
        f"{seen.train_flops / 1e12:.2f} TFLOPs above the cut, {workspace.task.precision} on "
        f"{workspace.task.device}",
    ]
    for line in lines:
        style = "yellow" if line.startswith("note") else None
        console.print(line, style=style, highlight=False, markup=False)
