"""Transfer: data sets x backbones x methods x seeds, on all training images of each set.

    transfer.json               which cells there are, and on which terms
    <data set>/<backbone>/      one comparison folder each (see ``petiole.protocols.comparison``)

A cell has one split for all seeds and methods; with a grid, settings are chosen on a part of its
training images (see ``tuning``). It holds no result: every number is computed from the runs' records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from petiole.engine.executor import Executor
from petiole.engine.model_card import FrozenModel
from petiole.engine.record import RECORD
from petiole.engine.run import RunSpec
from petiole.engine.task import open_workspace
from petiole.errors import ConfigError, DataError, RunError
from petiole.files import write_json
from petiole.protocols import domain_shift, tuning
from petiole.protocols.comparison import Comparison, ComparisonRow
from petiole.tasks.classification.workspace import Classification

TRANSFER = "transfer.json"
PAPER = "adaptertune/transfer"
"""The published table whose rows are the default ones."""

_DECIDING = (
    *("images", "test_fraction", "skip_bad"),
    *("backbone", "weights", "image_size", "precision", "compiled", "dtype"),
)


class TransferCell(FrozenModel):
    """One data set on one backbone.

    Attributes:
        data, backbone: names, of the folders too.
        terms: what the bench is made of, as far as it decides the result.
    """

    data: str
    backbone: str
    terms: dict[str, Any]

    @classmethod
    def of(cls, data: str, backbone: str, bench: Classification, folder: Path) -> Self:
        """The cell of a bench, in the transfer's folder, which may move with what is in it."""

        def said(value: Any) -> Any:
            if not isinstance(value, Path):
                return value
            inside = value.is_relative_to(folder)
            return str(value.relative_to(folder) if inside else value.resolve())

        terms = {name: said(getattr(bench, name)) for name in _DECIDING}
        return cls(data=data, backbone=backbone, terms=terms)

    @property
    def name(self) -> str:
        """Its folder below the transfer's."""
        return f"{self.data}/{self.backbone}"


class Transfer(FrozenModel):
    """Cells, and the terms that are the same in all of them.

    Attributes:
        cells: in the order of the table.
        rows: one method each.
        seeds: runs of each row in each cell.
        validation: share of the training images on which grids are decided.
        reference: name of the row that all others are tested against.
        baseline: name of the row that gains are counted from.
        settings: given to every row that has such a field.
    """

    format: int = 1
    cells: list[TransferCell] = Field(min_length=1)
    rows: list[ComparisonRow] = Field(min_length=1)
    seeds: int = Field(ge=1)
    validation: float = Field(default=0.0, ge=0, lt=1)
    reference: str
    baseline: str
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for what in (self.cells, self.rows):
            names = Counter(one.name for one in what)
            if twice := [name for name, count in names.items() if count > 1]:
                raise ValueError(f"{', '.join(twice)} is named twice")
        return self

    def comparison(self, cell: TransferCell, notes: Sequence[str] = ()) -> Comparison:
        """The comparison that a cell is."""
        return Comparison(
            title=f"{cell.data} on {cell.backbone}",
            rows=self.rows,
            draws=1,
            inits=self.seeds,
            shots=None,
            validation=self.validation,
            reference=self.reference,
            baseline=self.baseline,
            headline=self.reference,
            notes=list(notes),
        )

    def finished(self, folder: Path, cell: TransferCell) -> bool:
        """Whether all runs of a cell have their records."""
        c, place = self.comparison(cell), folder / cell.name
        return all((run / RECORD).is_file() for row in c.rows for run in c.runs(place, row))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read ``transfer.json``.

        Raises:
            RunError: there is none, or it is damaged.
        """
        file = folder / TRANSFER
        try:
            return cls.model_validate_json(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunError(
                f"{folder} holds no transfer ({TRANSFER} is missing). Give the folder that petiole "
                "transfer wrote."
            ) from error
        except (ValidationError, UnicodeDecodeError) as error:
            raise RunError(
                f"{file} is damaged or of another version: {error}. Run petiole transfer again."
            ) from error


def plan(
    cells: Sequence[TransferCell],
    methods: Sequence[str],
    *,
    tune: bool,
    validation: float,
    **terms: Any,
) -> Transfer:
    """Check and state a transfer.

    Args:
        cells: which.
        methods: registered names, the paper's three for none. All are tested against adaptertune, or
            else the first.
        tune: choose each method's learning rate from its own grid.
        validation: share of the training images that this is decided on.
        terms: further fields of ``Transfer``.

    Raises:
        ConfigError: an unknown name, one that occurs twice, or a value out of range.
    """
    paper = domain_shift.from_table(PAPER, baselines=())
    labelled = {row.name: row for row in paper["rows"]}
    rows = [labelled.get(r.name, r) for r in domain_shift.rows_of(methods or list(labelled))]
    if tune:
        rows = tuning.with_rates(rows)
    present = [row.name for row in rows]
    try:
        return Transfer(
            cells=list(cells),
            rows=rows,
            reference=paper["reference"] if paper["reference"] in present else present[0],
            baseline=paper["baseline"] if paper["baseline"] in present else present[0],
            validation=validation if any(row.grid for row in rows) else 0.0,
            **terms,
        )
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, e['loc']))} {e['msg']}" for e in error.errors())
        raise ConfigError(f"This transfer cannot be: {said.strip()}.") from error


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
    changed = [c.name for c in transfer.cells if known.get(c.name, c) != c]
    shared = set(Transfer.model_fields) - {"cells"}
    changed += sorted(f for f in shared if getattr(old, f) != getattr(transfer, f))
    if changed:
        raise RunError(
            f"{folder} holds a transfer on other terms ({', '.join(changed)} differ). Repeat the "
            "command as it was, or choose another --out."
        )
    added = [cell for cell in transfer.cells if cell.name not in known]
    return transfer.model_copy(update={"cells": [*old.cells, *added]})


def jobs_of(
    transfer: Transfer,
    cell: TransferCell,
    bench: Classification,
    folder: Path,
    *,
    resume: bool = False,
) -> tuple[Comparison, list[RunSpec]]:
    """A cell's comparison and its runs; opens the data.

    Raises:
        ConfigError: a value out of range, or a setting that no row has.
        DataError: unusable images, or some of a source domain.
    """
    workspace = open_workspace(bench)
    if workspace.shift.source is not None:
        raise DataError(
            f"{bench.images}: has images of a source domain, and a transfer trains on one domain. Give "
            "the folder of the real images, or use petiole compare."
        )
    comparison = transfer.comparison(cell, workspace.notes)
    place = folder / cell.name
    return comparison, domain_shift.jobs_of(
        comparison, bench, place, transfer.settings, resume=resume
    )


def run(
    transfer: Transfer,
    benches: Mapping[str, Classification],
    folder: Path,
    *,
    executor: Executor | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> None:
    """Do all unfinished cells that have a bench, by the cell's name, and keep the others."""
    for cell in transfer.cells:
        if cell.name in benches and not transfer.finished(folder, cell):
            comparison, jobs = jobs_of(transfer, cell, benches[cell.name], folder, resume=resume)
            # Only now: a command that is refused leaves no trace.
            write_json(folder / TRANSFER, transfer.model_dump(mode="json"))
            domain_shift.compare(
                comparison,
                jobs,
                folder / cell.name,
                executor=executor,
                resume=resume,
                quiet=quiet,
            )
