"""Says what a command will do and cost, before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from petiole.verbs.common import plural

if TYPE_CHECKING:
    from petiole.engine.run import Job
    from petiole.engine.session import Session


def announce(work: Session, jobs: Sequence[Job], notes: Sequence[str] = ()) -> None:
    """Print data, frozen work still to do, storage and training steps, on standard error.

    Args:
        work: an opened bench.
        jobs: what will be done on it.
        notes: what else a reader must know.

    Raises:
        ConfigError: an unknown method or setting, before any work was done.
    """
    from petiole.engine.progress import console
    from petiole.engine.survey import survey

    if work.bench.quiet:
        return
    shift, seen = work.shift, survey(work, jobs)
    source = f"{plural(len(shift.source), 'source image')}, " if shift.source else ""
    shots = jobs[0].shots
    drawn = f"{shots} a class" if shots else "all"
    lines = [
        f"data     {source}{len(shift.classes)} classes, {len(shift.train):,} target images to draw "
        f"from ({drawn}), {len(shift.test):,} held back",
        *(f"note     {note}" for note in (*work.notes, *notes)),
        f"frozen   {work.backbone.name}, {seen.images:,} images through the frozen half "
        f"({seen.flops / 1e12:.2f} TFLOPs), {seen.megabytes:,.0f} MB to store in "
        f"{work.bench.cache or 'no cache: repeated in every epoch'}",
        f"training {plural(len(jobs), 'run')}, {seen.steps:,} steps, "
        f"{seen.train_flops / 1e12:.2f} TFLOPs above the cut, {work.bench.precision} on "
        f"{work.bench.device}",
    ]
    for line in lines:
        style = "yellow" if line.startswith("note") else None
        console.print(line, style=style, highlight=False, markup=False)
