"""The summary for people: Markdown, CSV, a terminal, and a sentence to act on."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from petiole.report.formatting import (
    amount,
    bounds,
    flops,
    in_cell,
    mean_sd,
    number,
    p_value,
    percent,
    seconds,
    signed,
)
from petiole.report.sentence import sentence
from petiole.report.summary import ComparisonSummary, PairedContrast, SummaryRow, summarise

__all__ = [
    "COSTS",
    "ComparisonSummary",
    "PairedContrast",
    "SummaryColumn",
    "SummaryRow",
    "columns",
    "sentence",
    "summarise",
    "to_csv",
    "to_markdown",
    "to_rich",
]

Number = float | int | str | None


@dataclass(frozen=True)
class SummaryColumn:
    """One column of the table.

    Attributes:
        title: with the unit.
        text: what a person reads.
        value: what the column is sorted by; ``None`` where there is nothing.
        numeric: whether it is aligned to the right.
        detail: what is read second, e.g. the interval; empty where there is nothing.
        brief: what a terminal of 80 columns shows of it: nothing, its text, or text and detail.
    """

    title: str
    text: Callable[[SummaryRow], str]
    value: Callable[[SummaryRow], Number]
    numeric: bool = True
    detail: Callable[[SummaryRow], str] = lambda row: ""  # noqa: ARG005
    brief: Literal["", "text", "both"] = ""


COSTS = (
    SummaryColumn("Kept for prediction", lambda r: f"{r.inference:,}", lambda r: r.inference),
    SummaryColumn("Stored", lambda r: amount(r.stored_bytes, "B"), lambda r: r.stored_bytes),
    SummaryColumn(
        "Forward, one image", lambda r: flops(r.flops_forward), lambda r: r.flops_forward
    ),
    SummaryColumn(
        "Training, one image", lambda r: flops(r.flops_training), lambda r: r.flops_training
    ),
    SummaryColumn(
        "Peak memory, MB", lambda r: number(r.peak_memory_mb, 0), lambda r: r.peak_memory_mb
    ),
    SummaryColumn("Training, s", lambda r: seconds(r.seconds), lambda r: r.seconds),
)
"""What a row costs besides its trained parameters; the page has a table of its own for it."""

ABOUT_COSTS = (
    "Kept for prediction are parameters beside the backbone's, stored is their file. One image costs "
    "its forward pass from the pixels on, and in training a step above the frozen half, which is "
    "computed once; – where nothing is trained by gradient. Memory and seconds are medians over runs."
)


def columns(summary: ComparisonSummary) -> list[SummaryColumn]:
    """The columns that Markdown, terminal and page show, in order; Markdown shows ``COSTS`` too."""
    d = 2 if summary.images >= 1000 else 1  # one image in a thousand is 0.1 %
    table = [
        SummaryColumn("Method", lambda r: r.label, lambda r: r.label, numeric=False, brief="text"),
        SummaryColumn(
            "Accuracy, %",
            lambda r: mean_sd(r.over_draws, d),
            lambda r: r.accuracy.mean,
            detail=lambda r: bounds(r.accuracy.low, r.accuracy.high, d),
            brief="text",
        ),
        SummaryColumn("Macro, %", lambda r: mean_sd(r.macro, d), lambda r: r.macro.mean),
        SummaryColumn("ECE, %", lambda r: number(100 * r.ece, 1), lambda r: r.ece),
        _difference("Gain, points", lambda r: r.gain, d),
        _difference("Difference, points", lambda r: r.versus, d, brief="both"),
        SummaryColumn(
            "p (Holm)",
            lambda r: p_value(r.versus.p) if r.versus else "–",
            lambda r: r.versus.p if r.versus else None,
            brief="text",
        ),
        SummaryColumn(VERDICT, verdict_of, verdict_of, numeric=False, brief="text"),
        SummaryColumn(
            "Trained, and % of backbone + trained",
            lambda r: f"{r.trainable:,}",
            lambda r: r.trainable,
            detail=lambda r: f"{percent(r.percent_of_backbone_and_trainable)} %",
            brief="text",
        ),
    ]
    if any(r.published is not None for r in summary.rows):
        table.append(SummaryColumn("Published, %", _published, lambda r: r.published))
    return table


VERDICT = "Verdict"


def _difference(
    title: str,
    of: Callable[[SummaryRow], PairedContrast | None],
    digits: int,
    brief: Literal["", "both"] = "",
) -> SummaryColumn:
    def value(row: SummaryRow) -> float | None:
        contrast = of(row)
        return contrast.both.mean if contrast else None

    def text(row: SummaryRow) -> str:
        contrast = of(row)
        return signed(100 * contrast.both.mean, digits) if contrast else "–"

    def interval(row: SummaryRow) -> str:
        contrast = of(row)
        return bounds(contrast.both.low, contrast.both.high, digits) if contrast else ""

    return SummaryColumn(title, text, value, detail=interval, brief=brief)


def verdict_of(row: SummaryRow) -> str:
    """The verdict on a row, or that it is the one that all others are tested against."""
    return row.versus.verdict if row.versus else "reference"


def _published(row: SummaryRow) -> str:
    return "" if row.published is None else number(row.published, 2)


def to_markdown(summary: ComparisonSummary) -> str:
    """Return a Markdown table, the reference row in bold, with a line on how to read it."""
    table = [*columns(summary), *COSTS]
    lines = [
        "| " + " | ".join(c.title for c in table) + " |",
        "|" + "|".join("---:" if c.numeric else "---" for c in table) + "|",
    ]
    for row in summary.rows:
        cells = [in_cell(f"{c.text(row)} {c.detail(row)}") for c in table]
        if row.name == summary.reference:
            cells[0] = f"**{cells[0]}**"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"{legend(summary)} {ABOUT_COSTS}", ""])


def to_rich(summary: ComparisonSummary) -> Table:
    """Return the table for a terminal; what does not fit 80 columns is left to the page."""
    table = Table(
        title=summary.title,
        title_justify="left",
        caption=legend(summary),
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    shown = [c for c in columns(summary) if c.brief]
    for column in shown:
        title = column.title.partition(",")[0]
        table.add_column(
            title, justify="right" if column.numeric else "left", no_wrap=column.numeric
        )
    for row in summary.rows:
        style = "bold" if row.name == summary.reference else ""
        cells = [f"{c.text(row)} {c.detail(row) if c.brief == 'both' else ''}" for c in shown]
        table.add_row(*(Text(cell.strip()) for cell in cells), style=style)
    return table


def to_csv(summary: ComparisonSummary) -> str:
    """Return all numbers unrounded, fractions as fractions; unknown ones are empty."""
    rows = [_flat(row) for row in summary.rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def legend(summary: ComparisonSummary) -> str:
    """Return what the numbers mean: units, intervals, tests."""
    if summary.draws == 1:
        test = "McNemar's" if summary.inits == 1 else "sign-flip"
        return (
            "One support draw: no interval between draws can be given. Intervals are bootstraps and p "
            f"is of {test} test, both over the {summary.images:,} test images, so they speak of these "
            f"trained models only. {_adjusted(summary)}"
        )
    inits = f" ({summary.inits} inits each, averaged)" if summary.inits > 1 else ""
    return (
        f"Mean ± sd over {summary.draws} support draws{inits}, {summary.images:,} test images. "
        "Intervals are 95 % bootstraps over draws and images; p is of the paired t test over draws. "
        f"{_adjusted(summary)}"
    )


def _adjusted(summary: ComparisonSummary) -> str:
    baseline, reference = (summary.row(n).label for n in (summary.baseline, summary.reference))
    return (
        f"Gain is over {baseline}; difference, p and verdict are against {reference}, p Holm-adjusted "
        f"over {len(summary.rows) - 1} comparisons. A row is a tie where the interval of the "
        "difference includes zero, and undecided where it does not but p is 0.05 or more."
    )


def _flat(row: SummaryRow) -> dict[str, Number]:
    """All numbers of a row, by the name of the CSV column."""
    flat: dict[str, Number] = {
        "name": row.name,
        "label": row.label,
        "method": row.method,
        "accuracy": row.accuracy.mean,
        "accuracy_sd_over_draws": row.over_draws.sd,
        "accuracy_low": row.accuracy.low,
        "accuracy_high": row.accuracy.high,
        "accuracy_interval": row.accuracy.method,
        "accuracy_low_over_draws": row.over_draws.low,
        "accuracy_high_over_draws": row.over_draws.high,
        "macro_accuracy": row.macro.mean,
        "macro_accuracy_sd_over_draws": row.macro.sd,
        "ece": row.ece,
        **flat_costs(row),
        "published_percent": row.published,
        **_flat_contrast("gain_over_baseline", row.gain),
        **_flat_contrast("versus_reference", row.versus),
    }
    return {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in flat.items()}


def flat_costs(row: SummaryRow) -> dict[str, Number]:
    """What a row costs, by the name of the CSV column."""
    return {
        "trainable": row.trainable,
        "inference": row.inference,
        "trainable_percent_of_backbone_and_trainable": row.percent_of_backbone_and_trainable,
        "stored_bytes": row.stored_bytes,
        "flops_forward": row.flops_forward,
        "flops_training": row.flops_training,
        "peak_memory_mb": row.peak_memory_mb,
        "train_seconds": row.seconds,
    }


def _flat_contrast(prefix: str, contrast: PairedContrast | None) -> dict[str, Number]:
    """A contrast's columns, all present and empty where a row is compared with itself."""
    names = (
        *("difference", "low", "high", "test", "p", "p_by_image"),
        *("low_over_both", "high_over_both", "p_holm", "verdict"),
    )
    values: tuple[Number, ...] = (None,) * len(names)
    if contrast is not None:
        paired, both = contrast.headline, contrast.both
        values = (
            *(paired.difference, paired.low, paired.high, paired.test, paired.p),
            *(contrast.by_image.p, both.low, both.high, contrast.p, contrast.verdict),
        )
    return {f"{prefix}_{name}": value for name, value in zip(names, values, strict=True)}
