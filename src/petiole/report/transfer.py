"""The table of a transfer: accuracy and cost of every method in every cell, wins, ties and losses.

A cell is one data set on one backbone. Its verdicts are those of ``petiole.report.summary``: over the
test images, the seeds of a method averaged, Holm-adjusted within the cell. Over the cells the mean gain
has a t interval with the cell as its unit; cells that share a data set or a backbone are not quite
independent, so it is an optimistic one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from petiole.claims import table as claimed_table
from petiole.metrics.statistics import Interval, Verdict, t_interval
from petiole.protocols.transfer import PAPER, Transfer, TransferCell
from petiole.report import tables
from petiole.report.formatting import bounds, mean_sd, signed
from petiole.report.runs import read_results
from petiole.report.summary import SummaryRow, summarise_results
from petiole.report.table import Brief, Column, Table, measure, words

_OPPOSITE: dict[Verdict, str] = {"worse": "wins", "better": "losses"}


@dataclass(frozen=True)
class TransferRow:
    """One method in one cell.

    Attributes:
        data, backbone: which cell.
        accuracy: micro accuracy with sd and t interval over seeds, a fraction.
        images: test images.
        row: the method's row in the cell's own table; it is tested against the reference row over
            the test images.
    """

    data: str
    backbone: str
    accuracy: Interval
    images: int
    row: SummaryRow


@dataclass(frozen=True)
class Versus:
    """The reference against another row, over the cells.

    Attributes:
        name, label: of the other row.
        wins, ties, undecided, losses: cells by the verdict on the reference.
        gain: reference minus other, mean over cells with its t interval, a fraction.
    """

    name: str
    label: str
    wins: int
    ties: int
    undecided: int
    losses: int
    gain: Interval


@dataclass(frozen=True)
class TransferSummary:
    """The table.

    Attributes:
        rows: cell by cell.
        versus: the reference against every other row.
        reference: label of the row that all others are tested against.
        seeds: runs of each row in each cell.
        margin: within which a difference does not matter, a fraction.
        unfinished: names of cells that are left out.
        claims: what was published about the reference, with its doubt.
    """

    rows: list[TransferRow]
    versus: list[Versus]
    reference: str
    seeds: int
    margin: float
    unfinished: list[str]
    claims: list[dict[str, Any]]


def summarise(folder: Path) -> TransferSummary:
    """Compute the table of a transfer folder from its runs' records.

    Raises:
        RunError: no transfer, or a run that is damaged or was tested on other images.
    """
    transfer = Transfer.read(folder)
    done = [cell for cell in transfer.cells if transfer.done(folder, cell)]
    rows = [row for cell in done for row in _cell(folder, cell)]
    labels = {row.name: row.label for row in transfer.rows}
    paper = claimed_table(PAPER)
    others = [name for name in labels if name != transfer.reference]
    return TransferSummary(
        rows=rows,
        versus=[_versus(name, labels[name], rows) for name in others] if done else [],
        reference=labels[transfer.reference],
        seeds=transfer.seeds,
        margin=transfer.margin,
        unfinished=[cell.name for cell in transfer.cells if cell not in done],
        claims=[
            claim
            for claim in paper["claims"]
            if transfer.reference == paper["reference"] and claim["against"] in others
        ],
    )


def _cell(folder: Path, cell: TransferCell) -> Iterator[TransferRow]:
    results = read_results(folder / cell.name)
    summary = summarise_results(results)
    for runs, row in zip(results.rows, summary.rows, strict=True):
        accuracy = t_interval(runs.correct.mean(axis=1))
        yield TransferRow(cell.data, cell.backbone, accuracy, summary.images, row)


def _versus(name: str, label: str, rows: list[TransferRow]) -> Versus:
    contrasts = [one.row.versus for one in rows if one.row.name == name and one.row.versus]
    counts = Counter(_OPPOSITE.get(c.verdict, c.verdict) for c in contrasts)
    return Versus(
        name=name,
        label=label,
        wins=counts["wins"],
        ties=counts["tie"],
        undecided=counts["undecided"],
        losses=counts["losses"],
        gain=t_interval([-c.both.mean for c in contrasts]),
    )


def _digits(one: TransferRow) -> int:
    return tables.digits_of(one.images)


def _cost(column: Column[SummaryRow]) -> Column[TransferRow]:
    brief: Brief = "text" if column is tables.COSTS[-1] else ""
    return Column(column.title, lambda one: column.text(one.row), brief=brief)


COLUMNS: tuple[Column[TransferRow], ...] = (
    words("Data set", lambda one: one.data),
    words("Backbone", lambda one: one.backbone),
    words("Method", lambda one: one.row.label),
    Column("Accuracy, %", lambda one: mean_sd(one.accuracy, _digits(one)), brief="text"),
    tables.difference("Difference, points", lambda one: tables.contrast(one.row.versus), _digits),
    tables.verdicts(lambda one: tables.verdict(one.row)),
    measure("Trained", lambda one: one.row.trainable, lambda v: f"{v:,}", "text"),
    *(_cost(column) for column in tables.COSTS),
)


def table(summary: TransferSummary) -> Table[TransferRow]:
    """All rows, with what they amount to below."""
    cells = [(one.data, one.backbone) for one in summary.rows]
    return Table(
        COLUMNS,
        summary.rows,
        title="Transfer",
        notes=[f"{legend(summary)} {tables.ABOUT_COSTS}", *sentences(summary)],
        parts=[i for i in range(1, len(cells)) if cells[i] != cells[i - 1]],
        records=[_flat(one) for one in summary.rows],
        facts={**asdict(summary), "rows": [_flat(one) for one in summary.rows]},
    )


def legend(summary: TransferSummary) -> str:
    """Return what the numbers mean."""
    spread = f"Mean ± sd over {summary.seeds} seeds of one split"
    return (
        f"{spread if summary.seeds > 1 else 'One seed'}. Difference and verdict are against "
        f"{summary.reference}, over the test images with the seeds averaged, Holm-adjusted within a "
        f"cell: they speak of these trained models. {tables.rule(summary.margin)}"
    )


def sentences(summary: TransferSummary) -> list[str]:
    """Return the reference's standing against every other row, what was published, what is missing."""
    lines = []
    for v in summary.versus:
        cells = v.wins + v.ties + v.undecided + v.losses
        open_ = f", {v.undecided} undecided" if v.undecided else ""
        several = f" {bounds(v.gain.low, v.gain.high, 1)}" if cells > 1 else ""
        lines.append(
            f"{summary.reference} against {v.label}: {v.wins} wins, {v.ties} ties{open_}, {v.losses} "
            f"losses over {cells} pairs of data set and backbone; mean gain "
            f"{signed(100 * v.gain.mean, 1)} points{several}."
        )
    for claim in summary.claims:
        lines.append(
            f"Published ({claim['source']}), against {claim['against']}: {claim['says']}. "
            f"{claim['doubt']}"
        )
    if summary.unfinished:
        lines.append(f"Not finished, so not in the table: {', '.join(summary.unfinished)}.")
    return lines


def _flat(one: TransferRow) -> dict[str, Any]:
    versus = one.row.versus
    return {
        "data": one.data,
        "backbone": one.backbone,
        "name": one.row.name,
        "label": one.row.label,
        "images": one.images,
        "accuracy": one.accuracy.mean,
        "accuracy_sd_over_seeds": one.accuracy.sd,
        "difference": versus.both.mean if versus else None,
        "difference_low": versus.both.low if versus else None,
        "difference_high": versus.both.high if versus else None,
        "p_holm": versus.p if versus else None,
        "verdict": versus.verdict if versus else None,
        **tables.flat_costs(one.row),
    }
