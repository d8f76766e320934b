"""Methods by several scores, seed by seed: tasks, language models, places, or numbers of shots.

The unit is the seed. Differences of the headline from the reference's are paired by seed, Holm-adjusted over the rows
(see ``petiole.metrics.paired.judged``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from petiole.engine.record import Record
from petiole.metrics.statistics import Interval, Paired, Verdict, judged, t_interval
from petiole.protocols.comparison import Comparison
from petiole.protocols.jobs import average, headlines
from petiole.protocols.protocol import RowsProtocol
from petiole.report.formatting import mean_sd, percent, seconds
from petiole.report.table import NOTHING, Column, Table, measure, words
from petiole.report.tables import difference, rule, verdicts

AVERAGE = "Avg"
IN_UNITS = {"mae": "MAE", "rmse": "RMSE"}
"""Scores that are no share but in the unit of what was predicted, and their titles."""
Found = Mapping[str, Sequence[float]]
"""Column -> score by seed, fractions."""


@dataclass(frozen=True)
class ScoreRow:
    """One row.

    Attributes:
        name, label: of the row.
        scores: by column with sd and t interval over seeds, fractions.
        headline: the one number that rows are compared by.
        by_seed: the headline by seed.
        trainable, total: parameters trained, and of the model with them.
        seconds, megabytes: of training, and peak memory; means over the runs.
        in_units: scores of ``IN_UNITS``, by name, where there is one test set.
        difference: of the headline from the reference's, paired by seed; ``None`` for the reference.
        verdict: after Holm's correction over the rows; ``None`` for the reference.
        more: whatever else its protocol says of it.
    """

    name: str
    label: str
    scores: dict[str, Interval]
    headline: Interval
    by_seed: list[float]
    trainable: int = 0
    total: int = 0
    seconds: float | None = None
    megabytes: float | None = None
    in_units: dict[str, Interval] = field(default_factory=dict)
    difference: Paired | None = None
    verdict: Verdict | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Trained parameters, in per cent of the total."""
        return 100 * self.trainable / self.total if self.total else 0.0


@dataclass(frozen=True)
class ScoreSummary:
    """The table.

    Attributes:
        protocol: what was measured.
        title: heading.
        rows: in the protocol's order.
        headline: name of the headline's column.
        metrics: by column, where they have names of their own.
        notes: what a reader must know.
        baseline: a row that nothing was trained for, e.g. of the commonest answer.
        facts: further entries of the JSON.
    """

    protocol: RowsProtocol
    title: str
    rows: tuple[ScoreRow, ...]
    headline: str = AVERAGE
    metrics: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    baseline: ScoreRow | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reference(self) -> ScoreRow:
        """The row that all others are compared with."""
        return next(row for row in self.rows if row.name == self.protocol.reference)


def score_rows(
    protocol: RowsProtocol,
    records: Mapping[str, Sequence[Record]],
    found: Mapping[str, Found],
    heads: Mapping[str, Sequence[float]],
    more: Callable[[str], dict[str, Any]] = lambda _: {},
) -> tuple[ScoreRow, ...]:
    """Intervals, paired differences and verdicts of all rows.

    Args:
        protocol: with the rows.
        records: of the runs of each row; the last states its parameters.
        found: scores of each row, by column and seed.
        heads: the headline of each row, by seed.
        more: of a row, by name.
    """
    against = judged(heads, protocol.reference, protocol.margin)
    rows = []
    for row in protocol.rows:
        runs, ledger = records[row.name], records[row.name][-1].ledger
        paired, verdict = against.get(row.name, (None, None))
        rows.append(
            ScoreRow(
                name=row.name,
                label=row.label,
                scores={name: t_interval(values) for name, values in found[row.name].items()},
                headline=t_interval(heads[row.name]),
                by_seed=list(heads[row.name]),
                trainable=ledger.trainable,
                total=ledger.total,
                seconds=sum(run.costs.train_seconds for run in runs) / len(runs),
                megabytes=sum(run.costs.peak_memory_mb for run in runs) / len(runs),
                in_units=_in_units(runs),
                difference=paired,
                verdict=verdict,
                more=more(row.name),
            )
        )
    return tuple(rows)


def _in_units(runs: Sequence[Record]) -> dict[str, Interval]:
    tables = [list(run.scores.values()) for run in runs]
    if any(len(each) != 1 for each in tables):
        return {}
    return {
        name: t_interval([one[name] for (one,) in tables])
        for name in IN_UNITS
        if all(name in one for (one,) in tables)
    }


def summarise_records(protocol: RowsProtocol, root: Path, title: str, **facts: Any) -> ScoreSummary:
    """The table of runs that were scored by task or language model, from their records.

    Raises:
        RunError: a run is missing or damaged.
    """
    records = {row.name: protocol.records(root, row) for row in protocol.rows}
    found, heads = {}, {}
    for name, runs in records.items():
        by_run = [headlines(run) for run in runs]
        found[name] = {table: [one[table] for one in by_run] for table in by_run[0]}
        heads[name] = [average(run) for run in runs]
    first = next(iter(records.values()))[0]
    metrics = {table: next(iter(scores)) for table, scores in first.scores.items()}
    rows = score_rows(protocol, records, found, heads)
    return ScoreSummary(protocol, title, rows, metrics=metrics, **facts)


def summarise_comparison(comparison: Comparison, root: Path) -> ScoreSummary:
    """The table of a comparison of whatever has no classes."""
    drawn = f", and a draw of {comparison.shots} training images" if comparison.shots else ""
    notes = [
        f"Scores in per cent, {seeds_of(comparison)} (a start and an order of batches each{drawn}), mean ± sd, the last "
        f"step's weights. {how_compared(comparison)}",
        *comparison.notes,
    ]
    return summarise_records(comparison, root, comparison.title, notes=notes)


def seeds_of(protocol: RowsProtocol) -> str:
    """How many seeds, in words."""
    return "1 seed" if protocol.seeds == 1 else f"{protocol.seeds} seeds"


def how_compared(protocol: RowsProtocol) -> str:
    """How differences and verdicts come about, in words."""
    reference = protocol.row(protocol.reference).label
    return (
        f"Differences are from {reference}, paired by seed, with 95 % t intervals and p after Holm's correction over "
        f"the rows. {rule(protocol.margin)}"
    )


def verdict_of(row: ScoreRow) -> str:
    """The verdict on a row, or that it is the reference; a dash for a baseline."""
    return row.verdict or ("reference" if row.total else NOTHING)


def table(summary: ScoreSummary) -> Table[ScoreRow]:
    """All rows, the baseline last; scores in per cent, CIDEr x 100."""
    names = list(summary.rows[0].scores)
    rows = [*summary.rows, *([summary.baseline] if summary.baseline else [])]
    columns: list[Column[ScoreRow]] = [
        words("Method", _label),
        Column("Trained", lambda row: f"{row.trainable:,}", lambda row: row.trainable),
        Column("%, of total", lambda row: percent(row.share), lambda row: row.share, brief="text"),
        *(_score(name, summary.metrics.get(name, "")) for name in names),
        *(_amount(name, title) for name, title in IN_UNITS.items() if name in rows[0].in_units),
    ]
    if len(names) > 1:
        columns.append(
            Column(summary.headline, _headline, lambda row: row.headline.mean, brief="text")
        )
    columns += [
        difference(
            f"Difference, of {summary.headline}" if len(names) > 1 else "Difference, points",
            lambda row: (row.difference.difference, row.difference) if row.difference else None,
            lambda _: 1,
        ),
        verdicts(verdict_of),
        measure("s", lambda row: row.seconds, seconds),
    ]
    return Table(
        columns,
        rows,
        title=summary.title,
        notes=summary.notes,
        stressed=[row.name for row in rows].index(summary.protocol.reference),
        records=[record for row in summary.rows for record in _flat(row, summary.headline)],
        facts={
            "metrics": summary.metrics,
            **summary.facts,
            "rows": [{**_numbers(row), **row.more} for row in summary.rows],
        },
    )


def _score(name: str, metric: str) -> Column[ScoreRow]:
    title = f"{name}, {metric}" if metric else name
    return Column(
        title,
        lambda row: mean_sd(row.scores[name], 1) if name in row.scores else NOTHING,
        lambda row: row.scores[name].mean if name in row.scores else None,
        brief="text",
    )


def _amount(name: str, title: str) -> Column[ScoreRow]:
    def text(row: ScoreRow) -> str:
        one = row.in_units.get(name)
        if one is None:
            return NOTHING
        return f"{one.mean:.3g}" + (f" ± {one.sd:.3g}" if one.n > 1 else "")

    def value(row: ScoreRow) -> float | None:
        return row.in_units[name].mean if name in row.in_units else None

    return Column(title, text, value, brief="text")


def _label(row: ScoreRow) -> str:
    return f"{row.label} (transductive)" if row.more.get("transductive") else row.label


def _headline(row: ScoreRow) -> str:
    """The HM of the means where there is one, as the papers print it."""
    shown = row.more.get("hm_of_means")
    return mean_sd(row.headline, 1) if shown is None else f"{100 * shown:.1f}"


def _numbers(row: ScoreRow) -> dict[str, Any]:
    value = asdict(row)
    value.pop("more")
    return value


def _flat(row: ScoreRow, headline: str) -> list[dict[str, Any]]:
    """One record for each score of a row, for CSV."""
    return [
        {
            "method": row.name,
            "score": name,
            "mean": one.mean,
            "sd": one.sd,
            "low": one.low,
            "high": one.high,
            "seeds": one.n,
        }
        for name, one in {**row.scores, headline: row.headline}.items()
    ]
