"""``petiole sweep rank``: how much rank is enough, on how many images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Group, RenderableType
from rich.text import Text

from petiole.commands.options import (
    CommandResult,
    ModelOptions,
    Settings,
    default_folder,
    fact,
    pairs,
)
from petiole.commands.placement import ExecutorOptions
from petiole.commands.verb import verb
from petiole.ranges import PositiveInt, ProperFraction

RANKS = (1, 2, 4, 8, 16, 32, 64, 128)
FRACTIONS = (0.1, 0.3, 1.0)


class Swept(CommandResult):
    """A finished sweep.

    Attributes:
        folder: with sweep.json, the tables, the picture and one comparison folder a share of the images.
        summary: every curve and rule.
    """

    folder: Path
    summary: Any

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """The folder and every number."""
        from petiole.report.elbow import to_dict

        return {**super().model_dump(include={"folder"}, **options), **to_dict(self.summary)}

    def text(self) -> RenderableType:
        from petiole.report.elbow_words import PLOT, sentences, to_rich

        return Group(
            *to_rich(self.summary),
            *(Text(line) for line in sentences(self.summary)),
            fact("plot", self.folder / PLOT),
            fact("table", self.folder / "elbow.md"),
            fact("runs", self.folder),
        )


@verb
def sweep(
    what: Literal["rank"],
    images: Path,
    /,
    *,
    method: str = "adaptertune",
    values: Annotated[Sequence[int], Parameter(consume_multiple=True)] = RANKS,
    fractions: Annotated[Sequence[float], Parameter(consume_multiple=True)] = FRACTIONS,
    seeds: PositiveInt = 3,
    settings: Settings = None,
    validation: ProperFraction = 0.25,
    test: Path | None = None,
    test_fraction: ProperFraction = 0.5,
    out: Path | None = None,
    resume: bool = False,
    model: ModelOptions | None = None,
    placement: ExecutorOptions | None = None,
) -> Swept:
    """Train one method at several ranks, on several shares of the training images.

    Every rank is scored on the same validation images, a part of the training images; the test set
    stays closed, so that the chosen rank can still be tested on it.

    Args:
        what: rank.
        images: the labelled images.
        method: a registered name whose method has a rank.
        values: ranks.
        fractions: shares of each class of the training images.
        seeds: runs of each rank on each share, at least 2: another draw and another start each.
        settings: of the method or its recipe, for every rank.
        validation: share of the training images that is scored.
        test: held-back images, which are not opened; otherwise a part of IMAGES is held back.
        test_fraction: share of each class that is held back then.
        out: folder; by default runs/IMAGES-rank-HASH, where HASH is of the data.
        resume: finish an interrupted sweep; finished runs are kept.

    Raises:
        PetioleError: bad images, a method without a rank, or a folder that holds another sweep.
    """
    from petiole.commands.announce import announce
    from petiole.engine.task import reopened
    from petiole.protocols import rank_sweep
    from petiole.report.elbow import summarise
    from petiole.report.elbow_words import write

    executor = (placement or ExecutorOptions()).make()
    model = model or ModelOptions()
    wanted = rank_sweep.plan(
        method,
        pairs(settings),
        ranks=list(values),
        fractions=list(fractions),
        seeds=seeds,
        validation=validation,
    )
    task = model.classification(images, None, test, test_fraction, methods=[method])
    workspace = reopened(task)
    folder = Path(out) if out else default_folder(images, what, task)
    wanted.check_free(folder, resume=resume)
    jobs = [
        job
        for fraction in wanted.fractions
        for job in rank_sweep.jobs_of(wanted, fraction, task, folder)
    ]
    announce(workspace, jobs)
    rank_sweep.run(wanted, task, folder, executor=executor, resume=resume, quiet=model.quiet)
    summary = summarise(folder)
    write(summary, folder)
    return Swept(folder=folder, summary=summary)
