"""Transfer: data sets x backbones x methods x seeds, on all training images of each set.

    transfer.json               which cells there are, and on which terms
    <data set>/<backbone>/      one comparison folder each (see ``petiole.protocols.comparison``)

A cell has one split for all seeds and methods; with a grid, settings are chosen on a part of its
training images (see ``tuning``). It holds no result: every number is computed from the runs' records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, Unpack

from pydantic import Field, model_validator

from petiole.engine.model_card import FrozenModel
from petiole.engine.run import RunSpec
from petiole.engine.task import open_workspace
from petiole.errors import DataError, RunError
from petiole.protocols import domain_shift
from petiole.protocols.comparison import Comparison
from petiole.protocols.jobs import Running
from petiole.protocols.protocol import RowsProtocol, rows_of
from petiole.protocols.settled import Tuning
from petiole.tasks.classification.workspace import Classification

TRANSFER = "transfer.json"
PAPER = "adaptertune/transfer"
"""The published table whose rows are the default ones."""

_DECIDING = (
    *("images", "test_fraction", "skip_bad"),
    *("backbone", "weights", "image_size", "quantize", "precision", "compiled", "dtype"),
)


class TransferCell(FrozenModel):
    """One data set on one backbone.

    Attributes:
        data, backbone: names, of the folders too.
        terms: what the task is made of, as far as it decides the result.
    """

    data: str
    backbone: str
    terms: dict[str, Any]

    @classmethod
    def of(cls, data: str, backbone: str, task: Classification, folder: Path) -> Self:
        """The cell of a task, in the transfer's folder, which may move with what is in it."""

        def portable(value: Any) -> Any:
            if not isinstance(value, Path):
                return value
            inside = value.is_relative_to(folder)
            return str(value.relative_to(folder) if inside else value.resolve())

        terms = {name: portable(getattr(task, name)) for name in _DECIDING}
        return cls(data=data, backbone=backbone, terms=terms)

    @property
    def name(self) -> str:
        """Its folder below the transfer's."""
        return f"{self.data}/{self.backbone}"


class Transfer(RowsProtocol):
    """Cells, and the terms that are the same in all of them.

    Attributes:
        cells: in the order of the table.
        rows, reference, seeds: of every cell.
        validation: share of the training images on which grids and searches are decided.
        trials: of each search.
        baseline: name of the row that gains are counted from.
        settings: given to every row that has such a field.
    """

    STATE: ClassVar[str] = TRANSFER
    NOUN: ClassVar[str] = "transfer"

    cells: list[TransferCell] = Field(min_length=1)
    validation: float = Field(default=0.0, ge=0, lt=1)
    trials: int = Field(default=0, ge=0)
    baseline: str
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _cells_differ(self) -> Self:
        names = [cell.name for cell in self.cells]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} is named twice")
        return self

    def comparison(self, cell: TransferCell, notes: Sequence[str] = ()) -> Comparison:
        """The comparison that a cell is."""
        return Comparison(
            title=f"{cell.data} on {cell.backbone}",
            rows=self.rows,
            seeds=self.seeds,
            margin=self.margin,
            validation=self.validation,
            trials=self.trials,
            reference=self.reference,
            baseline=self.baseline,
            headline=self.reference,
            notes=list(notes),
        )

    def done(self, root: Path, cell: TransferCell) -> bool:
        """Whether all runs of a cell have their records."""
        return self.comparison(cell).finished(root / cell.name)


def plan(
    cells: Sequence[TransferCell],
    methods: Sequence[str],
    *,
    tuning: Tuning | None = None,
    settings: Mapping[str, Any] | None = None,
    **terms: Any,
) -> Transfer:
    """Check and state a transfer.

    Args:
        cells: which.
        methods: registered names, the paper's three for none. All are tested against adaptertune, or
            else the first.
        tuning: how settings are chosen; by default they are not.
        settings: given to every row that has such a field.
        terms: further fields of ``Transfer``.

    Raises:
        ConfigError: an unknown name, one that occurs twice, or a value out of range.
    """
    paper = domain_shift.from_table(PAPER)
    labelled = {row.name: row for row in paper["rows"]}
    rows = [labelled.get(r.name, r) for r in rows_of(methods or list(labelled))]
    if tuning:
        rows = tuning.rows(rows, dict(settings or {}))
    present = [row.name for row in rows]
    return Transfer.checked(
        cells=list(cells),
        rows=rows,
        reference=paper["reference"] if paper["reference"] in present else present[0],
        baseline=paper["baseline"] if paper["baseline"] in present else present[0],
        settings=dict(settings or {}),
        **(tuning or Tuning()).terms(rows),
        **terms,
    )


def joined(transfer: Transfer, folder: Path, *, resume: bool = False) -> Transfer:
    """The transfer together with the cells that the folder already has.

    Raises:
        RunError: the folder holds another transfer, or one without ``resume``.
    """
    if not (folder / TRANSFER).exists():
        return transfer
    if not resume:
        raise RunError(
            f"{folder} already holds a transfer. Add --resume to finish it or to add data sets and "
            "backbones, or choose another --out."
        )
    old = Transfer.read(folder)
    known = {cell.name: cell for cell in old.cells}
    changed = [
        f"{cell.name} differs" for cell in transfer.cells if known.get(cell.name, cell) != cell
    ]
    if terms := old.differences(transfer.model_copy(update={"cells": old.cells})):
        changed.append(terms)
    if changed:
        raise RunError(
            f"{folder} holds another transfer ({'; '.join(changed)}). Repeat the command as it was, or choose "
            "another --out."
        )
    added = [cell for cell in transfer.cells if cell.name not in known]
    return transfer.model_copy(update={"cells": [*old.cells, *added]})


def jobs_of(
    transfer: Transfer,
    cell: TransferCell,
    task: Classification,
    folder: Path,
    *,
    resume: bool = False,
) -> tuple[Comparison, list[RunSpec]]:
    """A cell's comparison and its runs; opens the data.

    Raises:
        ConfigError: a value out of range, or a setting that no row has.
        DataError: unusable images, or some of a source domain.
    """
    workspace = open_workspace(task)
    if workspace.shift.source is not None:
        raise DataError(
            f"{task.images}: has images of a source domain, and a transfer trains on one domain. Give "
            "the folder of the real images, or use petiole compare."
        )
    comparison = transfer.comparison(cell, workspace.notes)
    place = folder / cell.name
    return comparison, domain_shift.jobs_of(
        comparison, task, place, transfer.settings, resume=resume
    )


def run(
    transfer: Transfer,
    tasks: Mapping[str, Classification],
    folder: Path,
    storage: str | None = None,
    **running: Unpack[Running],
) -> None:
    """Do all unfinished cells that have a task, by the cell's name, and keep the others; ``storage`` is of searches."""
    for cell in transfer.cells:
        if cell.name in tasks and not transfer.done(folder, cell):
            resume = running.get("resume", False)
            comparison, jobs = jobs_of(transfer, cell, tasks[cell.name], folder, resume=resume)
            # Only now: a command that is refused leaves no trace.
            transfer.write(folder)
            domain_shift.compare(comparison, jobs, folder / cell.name, storage, **running)
