"""Whatever comparison lies in a folder: its numbers, its table, and a sentence about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from petiole.protocols.comparison import Comparison
from petiole.protocols.continual import STATE as CONTINUAL
from petiole.protocols.generalisation import STATE as GENERALISATION
from petiole.protocols.multitask import STATE as MULTITASK
from petiole.report import continual, generalisation, multitask, scores, tables
from petiole.report.formatting import mean_sd
from petiole.report.scores import ScoreSummary, seeds_of
from petiole.report.sentence import left_open, standing
from petiole.report.summary import ComparisonSummary
from petiole.report.table import Table

Summary = ComparisonSummary | ScoreSummary
_OWN: dict[str, Callable[[Path], ScoreSummary]] = {
    MULTITASK: multitask.summarise,
    GENERALISATION: generalisation.summarise,
    CONTINUAL: continual.summarise,
}


def is_comparison(folder: Path) -> bool:
    """Whether a folder holds several runs on equal terms."""
    return any((folder / state).is_file() for state in (Comparison.STATE, *_OWN))


def summarise(folder: Path) -> Summary:
    """Compute the numbers of a folder from its runs' records.

    Raises:
        RunError: no comparison, or a run that is missing or damaged.
    """
    for state, own in _OWN.items():
        if (folder / state).is_file():
            return own(folder)
    comparison = Comparison.read(folder)
    if comparison.kind == "classification":
        return tables.summarise(folder)
    return scores.summarise_comparison(comparison, folder)


def table(summary: Summary) -> Table[Any]:
    """The table of either."""
    return (
        tables.table(summary) if isinstance(summary, ComparisonSummary) else scores.table(summary)
    )


def sentence(summary: Summary) -> str:
    """What the headline or the reference reaches, and how it stands to the others."""
    if isinstance(summary, ComparisonSummary):
        return tables.sentence(summary)
    reference, seeds = summary.reference, summary.protocol.seeds
    several = len(reference.scores) > 1
    what = f"{summary.headline} of {', '.join(reference.scores)}; " if several else ""
    unit = " %"
    if reference.in_units:
        what, unit = "R² times 100; ", ""
    spread = f"mean ± sd of {seeds} seeds" if seeds > 1 else "one seed"
    reached = f"{reference.label} reaches {mean_sd(reference.headline, 1)}{unit} ({what}{spread})."
    verdicts = [(row.label, row.verdict) for row in summary.rows if row.verdict]
    found = standing("It", verdicts, summary.protocol.margin)
    rest = left_open(verdicts, seeds_of(summary.protocol))
    return " ".join(filter(None, (reached, found, rest)))
