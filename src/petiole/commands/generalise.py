"""``petiole generalise``: from base to novel classes, or from one data set to others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from petiole.commands.options import ModelOptions, Settings, default_folder, pairs
from petiole.commands.placement import ExecutorOptions
from petiole.commands.results import TableResult
from petiole.commands.verb import verb
from petiole.errors import ConfigError
from petiole.ranges import NonNegativeFloat, PositiveInt, ProperFraction

if TYPE_CHECKING:
    from petiole.engine.executor import Executor
    from petiole.protocols.generalisation import Generalisation
    from petiole.tasks.classification.workspace import Classification

METHODS = ("zero-shot", "coop", "coop+textrefiner")


class Generalised(TableResult):
    """A finished measurement of accuracy on classes or data that were not trained on."""


@verb
def generalise(
    images: Path,
    *,
    to: Annotated[Sequence[Path], Parameter(consume_multiple=True)] = (),
    test: Path | None = None,
    test_fraction: ProperFraction = 0.5,
    methods: Annotated[Sequence[str], Parameter(consume_multiple=True)] = METHODS,
    table: str | None = None,
    reference: str = "",
    settings: Settings = None,
    shots: int = 16,
    all_images: bool = False,
    seeds: PositiveInt = 3,
    margin: NonNegativeFloat = 1.0,
    out: Path | None = None,
    resume: bool = False,
    model: ModelOptions | None = None,
    placement: ExecutorOptions | None = None,
) -> Generalised:
    """Train on half of the classes, test on the other half by their names; or on other data sets.

    Without --to: base to novel. With it: all classes are trained on, and the adapter is tested unchanged
    on other data sets with their own class names (other classes, or the same in another domain).

    Args:
        images: the training data.
        to: folders or tables of other data sets.
        test: held-back images of the training data; otherwise a part of IMAGES is held back.
        test_fraction: share of each class that is held back then.
        methods: registered names; the first is what the others are compared with.
        table: instead of methods, a table of rows, e.g. textrefiner/ablation, or a TOML file of one's
            own.
        reference: name of another row to compare with.
        settings: applied to every method that has such a field.
        shots: images drawn from each class for training.
        all_images: train on all of them instead.
        seeds: runs of each method.
        margin: in points; two rows tie where the interval of their difference lies within it.
        out: folder; by default runs/IMAGES-generalise-HASH, where HASH is of the data.
        resume: finish an interrupted measurement; finished runs are kept.

    Raises:
        PetioleError: bad images, unknown names, or a folder that holds another measurement.
    """
    from petiole.data.readers import coop
    from petiole.protocols import domain_shift
    from petiole.protocols import generalisation as protocol

    executor = (placement or ExecutorOptions()).make()
    model = model or ModelOptions()
    stated = domain_shift.from_table(table) if table else {}
    rows = stated.get("rows") or domain_shift.rows_of(methods)
    task = model.classification(
        images, None, test, test_fraction, methods=[row.method for row in rows]
    )
    study = protocol.plan(
        Path(images).name,
        rows,
        reference=reference or stated.get("reference", ""),
        places=[_name(path, to) for path in to],
        shots=None if all_images else shots,
        seeds=seeds,
        margin=margin / 100,
        known=coop.name_of(Path(images)),
    )
    root = Path(out) if out else default_folder(images, "generalise", task)
    elsewhere = {_name(path, to): Path(path) for path in to}
    return measured(study, task, elsewhere, root, settings, resume=resume, executor=executor)


def measured(
    study: Generalisation,
    task: Classification,
    elsewhere: Mapping[str, Path],
    root: Path,
    settings: Settings,
    *,
    resume: bool,
    executor: Executor,
) -> Generalised:
    """Say what it will cost, do it, and write the table."""
    from petiole.commands.announce import announce
    from petiole.engine.task import reopened
    from petiole.protocols import generalisation as protocol
    from petiole.report.generalisation import summarise
    from petiole.report.scores import table
    from petiole.report.table import write

    given = pairs(settings)
    study.check_free(root, resume=resume)
    jobs = protocol.jobs_of(study, task, root, given, resume=resume)
    others = protocol.beside(study, task, root, resume=resume)
    first = replace(jobs[0].task, quiet=task.quiet)  # of the classes that are trained on
    announce(reopened(first), [*jobs, *others], study.notes(given))
    protocol.generalise(
        study,
        jobs,
        protocol.places_of(study, task, elsewhere),
        root,
        others=others,
        executor=executor,
        resume=resume,
        quiet=task.quiet,
    )
    summary = summarise(root)
    write(table(summary), root)
    return Generalised(folder=root, summary=summary)


def _name(path: Path, among: Sequence[Path]) -> str:
    """The folder's own name, which must be its alone."""
    name = Path(path).stem
    if sum(Path(other).stem == name for other in among) > 1:
        raise ConfigError(f"Two data sets are called {name}; rename one of the folders.")
    return name
