"""The table of a multi-task comparison: every task's headline, their average, and what may be said of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from petiole.engine.record import Record
from petiole.files import write_json, write_text
from petiole.metrics.statistics import (
    Interval,
    Outcome,
    Paired,
    judged,
    t_interval,
)
from petiole.protocols.multitask import MAJORITY, Multitask, average, headlines, records
from petiole.report.formatting import bounds, in_cell, mean_sd, percent, seconds, signed


@dataclass(frozen=True)
class MultitaskLine:
    """One row.

    Attributes:
        name, label: of the row.
        trainable, total: parameters.
        tasks: headline by task with sd and t interval over seeds, fractions.
        average: of the tasks, by seed.
        seconds, megabytes: of training, and peak memory; means over seeds.
        difference: of the average from the reference's, paired by seed; ``None`` for the reference.
        verdict: after Holm's correction over the rows.
    """

    name: str
    label: str
    trainable: int
    total: int
    tasks: dict[str, Interval]
    average: Interval
    seconds: float
    megabytes: float
    difference: Paired | None
    verdict: Outcome | None


@dataclass(frozen=True)
class MultitaskSummary:
    """All rows, and what was asked.

    Attributes:
        metrics: headline by task.
        majority: what the commonest training answer scores, by task, fractions.
    """

    protocol: Multitask
    lines: tuple[MultitaskLine, ...]
    metrics: dict[str, str]
    majority: dict[str, float]


def summarise(root: Path) -> MultitaskSummary:
    """Compute the table from the records below ``root``."""
    protocol = Multitask.read(root)
    found = {row.name: records(protocol, root, row) for row in protocol.rows}
    heads = {name: [average(r) / 100 for r in runs] for name, runs in found.items()}
    against = judged(heads, protocol.reference)
    lines = tuple(
        _line(
            row.name,
            row.label,
            found[row.name],
            heads[row.name],
            *against.get(row.name, (None, None)),
        )
        for row in protocol.rows
    )
    first = next(iter(found.values()))[0]
    metrics = {task: next(iter(scores)) for task, scores in first.scores.items()}
    stated = json.loads((root / MAJORITY).read_text(encoding="utf-8"))
    return MultitaskSummary(
        protocol, lines, metrics, {task: stated[task][name] / 100 for task, name in metrics.items()}
    )


def _line(
    name: str,
    label: str,
    runs: Sequence[Record],
    head: Sequence[float],
    difference: Paired | None,
    said: Outcome | None,
) -> MultitaskLine:
    by_task = [headlines(run) for run in runs]
    return MultitaskLine(
        name=name,
        label=label,
        trainable=runs[0].ledger.trainable,
        total=runs[0].ledger.total,
        tasks={task: t_interval([h[task] / 100 for h in by_task]) for task in by_task[0]},
        average=t_interval(head),
        seconds=sum(run.costs.train_seconds for run in runs) / len(runs),
        megabytes=sum(run.costs.peak_memory_mb for run in runs) / len(runs),
        difference=difference,
        verdict=said,
    )


def header(summary: MultitaskSummary) -> list[str]:
    """Names of the columns."""
    tasks = [f"{task} {summary.metrics[task]}" for task in summary.metrics]
    return ["Method", "Trained", "% of total", *tasks, "Avg", "difference of Avg", "Verdict", "s"]


def cells(line: MultitaskLine) -> list[str]:
    """One row as text; scores in per cent, CIDEr x 100."""
    against = "–"
    if line.difference is not None:
        interval = bounds(line.difference.low, line.difference.high, 1)
        against = f"{signed(100 * line.difference.difference, 1)} {interval}"
    return [
        line.label,
        f"{line.trainable:,}",
        percent(100 * line.trainable / line.total),
        *(mean_sd(interval, 1) for interval in line.tasks.values()),
        mean_sd(line.average, 1),
        against,
        line.verdict or "reference",
        seconds(line.seconds),
    ]


def baseline(summary: MultitaskSummary) -> list[str]:
    """The row of the commonest answer."""
    scores = [f"{100 * value:.1f}" for value in summary.majority.values()]
    mean = 100 * sum(summary.majority.values()) / len(summary.majority)
    return ["the commonest answer", "0", "0", *scores, f"{mean:.1f}", "–", "–", "–"]


def notes(summary: MultitaskSummary) -> list[str]:
    """What a reader must know."""
    protocol = summary.protocol
    seeds = "1 seed" if protocol.seeds == 1 else f"{protocol.seeds} seeds"
    share = (
        "" if protocol.fraction >= 1 else f" {100 * protocol.fraction:g} % of the training samples;"
    )
    prompts = "with the same" if protocol.prefixes else "without"
    reference = next(row.label for row in protocol.rows if row.name == protocol.reference)
    return [
        f"{protocol.model}, {seeds} (a start and an order of batches each), mean ± sd;{share} the last step's "
        f"weights, scored once on {protocol.scored}; all methods {prompts} hard prompts.",
        f"Avg is the mean of the tasks' headlines, CIDEr x 100 among accuracies as in the paper. Differences "
        f"are from {reference}, paired by seed, with 95 % t intervals: a tie where the interval holds zero, "
        "undecided where it does not but p after Holm's correction over the rows is 0.05 or more.",
        "Trained is counted without what is only stored; per cent of the model with everything added.",
    ]


def to_rich(summary: MultitaskSummary) -> Table:
    """For the terminal: what fits into 80 columns; table.md has all of it."""
    names = ["Method", "%", *summary.metrics, "Avg", "Verdict"]
    table = Table(*names, box=SIMPLE_HEAD, pad_edge=False)
    table.columns[0].overflow = "fold"
    for row in (*map(cells, summary.lines), baseline(summary)):
        method, _, share, *scores, mean, _, verdict, _ = row
        table.add_row(method, share, *scores, mean, verdict)
    return table


def to_markdown(summary: MultitaskSummary) -> str:
    """With its notes."""
    rows = [header(summary), *map(cells, summary.lines), baseline(summary)]
    head, *body = ("| " + " | ".join(in_cell(c) for c in row) + " |" for row in rows)
    rule = "|---|" + "---:|" * (len(rows[0]) - 3) + "---|---:|"
    return "\n".join([head, rule, *body, "", *notes(summary), ""])


def to_dict(summary: MultitaskSummary) -> dict[str, Any]:
    """Every number."""
    return {
        "model": summary.protocol.model,
        "metrics": summary.metrics,
        "majority": summary.majority,
        "lines": [_finite(asdict(line)) for line in summary.lines],
        "notes": notes(summary),
    }


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: the spread of one value is null."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return None if isinstance(value, float) and not isfinite(value) else value


def write(summary: MultitaskSummary, root: Path) -> Sequence[Path]:
    """Write table.md and table.json; returns their paths."""
    files = [root / "table.md", root / "table.json"]
    write_text(files[0], to_markdown(summary))
    write_json(files[1], to_dict(summary))
    return files
