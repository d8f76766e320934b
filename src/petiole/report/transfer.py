"""The table of a transfer: accuracy and cost of every method in every cell, wins, ties and losses.

A cell is one data set on one backbone. Its verdicts are those of ``petiole.report.summary``: over the
test images, the seeds of a method averaged, Holm-adjusted within the cell. Over the cells the mean gain
has a t interval with the cell as its unit; cells that share a data set or a backbone are not quite
independent, so it is an optimistic one.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from petiole.claims import table as claimed_table
from petiole.files import write_json, write_text
from petiole.metrics.statistics import Interval, Outcome, t_interval
from petiole.protocols.transfer import PAPER, Transfer, TransferCell
from petiole.report import tables
from petiole.report.formatting import bounds, in_cell, mean_sd, signed
from petiole.report.runs import read_results
from petiole.report.summary import SummaryRow, summarise_results

_OPPOSITE: dict[Outcome, str] = {"worse": "wins", "better": "losses"}


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
        unfinished: names of cells that are left out.
        claims: what was published about the reference, with its doubt.
    """

    rows: list[TransferRow]
    versus: list[Versus]
    reference: str
    seeds: int
    unfinished: list[str]
    claims: list[dict[str, Any]]


def summarise(folder: Path) -> TransferSummary:
    """Compute the table of a transfer folder from its runs' records.

    Raises:
        RunError: no transfer, or a run that is damaged or was tested on other images.
    """
    transfer = Transfer.read(folder)
    done = [cell for cell in transfer.cells if transfer.finished(folder, cell)]
    rows = [row for cell in done for row in _cell(folder, cell)]
    labels = {row.name: row.label for row in transfer.rows}
    paper = claimed_table(PAPER)
    others = [name for name in labels if name != transfer.reference]
    return TransferSummary(
        rows=rows,
        versus=[_versus(name, labels[name], rows) for name in others] if done else [],
        reference=labels[transfer.reference],
        seeds=transfer.seeds,
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


@dataclass(frozen=True)
class TransferColumn:
    """One column: its title, what a person reads, and whether a terminal has room for it."""

    title: str
    text: Callable[[TransferRow], str]
    numeric: bool = True
    brief: bool = False


def _difference(one: TransferRow) -> str:
    if one.row.versus is None:
        return "–"
    both, d = one.row.versus.both, _digits(one)
    return f"{signed(100 * both.mean, d)} {bounds(both.low, both.high, d)}"


def _digits(one: TransferRow) -> int:
    return 2 if one.images >= 1000 else 1  # one image in a thousand is 0.1 %


def _cost(column: tables.SummaryColumn) -> TransferColumn:
    return TransferColumn(
        column.title, lambda one: column.text(one.row), brief=column is tables.COSTS[-1]
    )


COLUMNS = (
    TransferColumn("Data set", lambda one: one.data, numeric=False, brief=True),
    TransferColumn("Backbone", lambda one: one.backbone, numeric=False, brief=True),
    TransferColumn("Method", lambda one: one.row.label, numeric=False, brief=True),
    TransferColumn("Accuracy, %", lambda one: mean_sd(one.accuracy, _digits(one)), brief=True),
    TransferColumn("Difference, points", _difference),
    TransferColumn("Verdict", lambda one: tables.verdict_of(one.row), numeric=False, brief=True),
    TransferColumn("Trained", lambda one: f"{one.row.trainable:,}", brief=True),
    *(_cost(column) for column in tables.COSTS),
)


def legend(summary: TransferSummary) -> str:
    """Return what the numbers mean."""
    spread = f"Mean ± sd over {summary.seeds} seeds of one split"
    return (
        f"{spread if summary.seeds > 1 else 'One seed'}. Difference and verdict are against "
        f"{summary.reference}, over the test images with the seeds averaged, Holm-adjusted within a "
        "cell: they speak of these trained models. A row is a tie where the interval of the difference "
        "includes zero, and undecided where it does not but p is 0.05 or more."
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


def to_markdown(summary: TransferSummary) -> str:
    """Return a Markdown table with the sentences below it."""
    lines = [
        "| " + " | ".join(c.title for c in COLUMNS) + " |",
        "|" + "|".join("---:" if c.numeric else "---" for c in COLUMNS) + "|",
        *("| " + " | ".join(in_cell(c.text(one)) for c in COLUMNS) + " |" for one in summary.rows),
    ]
    below = [f"{legend(summary)} {tables.ABOUT_COSTS}", *sentences(summary)]
    return "\n".join([*lines, "", *(f"{text}\n" for text in below)])


def to_rich(summary: TransferSummary) -> Table:
    """Return the table for a terminal; differences and further costs are left to the files."""
    table = Table(
        title="Transfer",
        title_justify="left",
        caption=legend(summary),
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    shown = [c for c in COLUMNS if c.brief]
    for c in shown:
        title = c.title.partition(",")[0]
        table.add_column(title, justify="right" if c.numeric else "left", no_wrap=c.numeric)
    cell = None
    for one in summary.rows:
        if cell not in (None, (one.data, one.backbone)):
            table.add_section()
        cell = (one.data, one.backbone)
        style = "bold" if one.row.versus is None else ""
        table.add_row(*(Text(c.text(one)) for c in shown), style=style)
    return table


def to_dict(summary: TransferSummary) -> dict[str, Any]:
    """Return all numbers unrounded, fractions as fractions; unknown ones are ``None``."""
    versus = [{**asdict(v), "gain": _interval(v.gain)} for v in summary.versus]
    return {**asdict(summary), "rows": [_flat(one) for one in summary.rows], "versus": versus}


def to_csv(summary: TransferSummary) -> str:
    """Return the rows with all numbers unrounded; unknown ones are empty."""
    text = io.StringIO()
    flat = [_flat(one) for one in summary.rows]
    if flat:
        writer = csv.DictWriter(text, list(flat[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
    return text.getvalue()


def write(summary: TransferSummary, folder: Path) -> None:
    """Write ``table.md``, ``table.csv`` and ``table.json``."""
    write_text(folder / "table.md", to_markdown(summary))
    write_text(folder / "table.csv", to_csv(summary))
    write_json(folder / "table.json", to_dict(summary))


def _flat(one: TransferRow) -> dict[str, Any]:
    versus = one.row.versus
    return {
        "data": one.data,
        "backbone": one.backbone,
        "name": one.row.name,
        "label": one.row.label,
        "images": one.images,
        "accuracy": one.accuracy.mean,
        "accuracy_sd_over_seeds": _finite(one.accuracy.sd),
        "difference": versus.both.mean if versus else None,
        "difference_low": versus.both.low if versus else None,
        "difference_high": versus.both.high if versus else None,
        "p_holm": versus.p if versus else None,
        "verdict": versus.verdict if versus else None,
        **tables.flat_costs(one.row),
    }


def _interval(interval: Interval) -> dict[str, Any]:
    return {k: _finite(v) for k, v in interval.to_dict().items()}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
