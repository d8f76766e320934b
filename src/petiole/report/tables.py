"""The table of a comparison: accuracy, differences and verdicts, costs, and a sentence to act on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from petiole.report.formatting import (
    amount,
    bounds,
    flops,
    mean_sd,
    number,
    p_value,
    percent,
    points,
    seconds,
    signed,
)
from petiole.report.sentence import sentence
from petiole.report.summary import ComparisonSummary, PairedContrast, SummaryRow, summarise
from petiole.report.table import NOTHING, Brief, Column, Table, measure, words

__all__ = [
    "COSTS",
    "ComparisonSummary",
    "PairedContrast",
    "SummaryRow",
    "columns",
    "legend",
    "sentence",
    "summarise",
    "table",
]

COSTS: tuple[Column[SummaryRow], ...] = (
    measure("Kept for prediction", lambda r: r.inference, lambda v: f"{v:,}"),
    measure("Stored", lambda r: r.stored_bytes, lambda v: amount(v, "B")),
    measure("Forward, one image", lambda r: r.flops_forward, flops),
    measure("Training, one image", lambda r: r.flops_training, flops),
    measure("Peak memory, MB", lambda r: r.peak_memory_mb, lambda v: number(v, 0)),
    measure("Training, s", lambda r: r.seconds, seconds),
)
"""What a row costs besides its trained parameters; the page has a table of its own for it."""

ABOUT_COSTS = (
    "Kept for prediction are parameters beside the backbone's, stored is their file. One image costs "
    "its forward pass from the pixels on, and in training a step above the frozen half, which is "
    "computed once; – where nothing is trained by gradient. Memory and seconds are medians over runs."
)
PUBLISHED_COSTS = {"percent": "Published: trained, %", "gflops": "Published: GFLOPs"}
"""What a paper prints of a row's costs; of what, and how counted, it may not say."""
VERDICT = "Verdict"


def rule(margin: float) -> str:
    """How ``metrics.paired.verdict`` decides, in words."""
    return (
        "A row is better or worse where p is below 0.05 and the interval of the difference excludes zero, a tie where "
        f"that interval lies within ±{points(margin)}, unknown where there is none, and undecided otherwise."
    )


class _Against(Protocol):
    """Whatever has been compared with a reference."""

    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def difference(
    title: str,
    of: Callable[[Any], tuple[float, _Against] | None],
    digits: Callable[[Any], int],
    brief: Brief = "",
) -> Column[Any]:
    """A column of differences in points: ``of`` gives the difference and what has its bounds, as fractions."""

    def text(row: Any) -> str:
        found = of(row)
        return signed(100 * found[0], digits(row)) if found else NOTHING

    def detail(row: Any) -> str:
        found = of(row)
        return bounds(found[1].low, found[1].high, digits(row)) if found else ""

    def value(row: Any) -> float | None:
        found = of(row)
        return found[0] if found else None

    return Column(title, text, value, detail=detail, brief=brief)


def digits_of(images: int) -> int:
    """Decimals of a per cent: one image in a thousand is 0.1 %."""
    return 2 if images >= 1000 else 1


def contrast(of: PairedContrast | None) -> tuple[float, _Against] | None:
    """A contrast for ``difference``."""
    return (of.both.mean, of.both) if of else None


def verdict(row: SummaryRow) -> str:
    """The verdict on a row, or that it is the one that all others are tested against."""
    return row.versus.verdict if row.versus else "reference"


def verdicts(of: Callable[[Any], str]) -> Column[Any]:
    """The column of verdicts."""
    return Column(VERDICT, of, numeric=False, style=of, brief="text")


def columns(summary: ComparisonSummary) -> list[Column[SummaryRow]]:
    """The columns that Markdown, terminal and page show, in order; Markdown shows ``COSTS`` too."""
    d = digits_of(summary.images)
    accuracy: Column[SummaryRow] = Column(
        "Accuracy, %",
        lambda r: mean_sd(r.over_splits, d),
        lambda r: r.accuracy.mean,
        detail=lambda r: bounds(r.accuracy.low, r.accuracy.high, d),
        brief="text",
    )
    macro: Column[SummaryRow] = Column(
        "Macro, %",
        lambda r: mean_sd(r.macro, d),
        lambda r: r.macro.mean,
        brief="text" if summary.uneven else "",
    )
    shares = [macro, accuracy] if summary.uneven else [accuracy, macro]
    found: list[Column[SummaryRow]] = [
        words("Method", lambda r: r.label),
        *shares,
        measure("ECE, %", lambda r: r.ece, lambda v: number(100 * v, 1)),
        difference("Gain, points", lambda r: contrast(r.gain), lambda _: d),
        difference("Difference, points", lambda r: contrast(r.versus), lambda _: d, "both"),
        measure("p (Holm)", lambda r: r.versus.p if r.versus else None, p_value, "text"),
        verdicts(verdict),
        Column(
            "Trained, and % of backbone + trained",
            lambda r: f"{r.trainable:,}",
            lambda r: r.trainable,
            detail=lambda r: f"{percent(r.percent_of_backbone_and_trainable)} %",
            brief="text",
        ),
    ]
    if any(row.published is not None for row in summary.rows):
        found.append(
            Column(
                "Published, %",
                lambda r: "" if r.published is None else number(r.published, 2),
                lambda r: r.published,
            )
        )
    return found + [
        _published(cost, title)
        for cost, title in PUBLISHED_COSTS.items()
        if any(cost in row.published_costs for row in summary.rows)
    ]


def _published(cost: str, title: str) -> Column[SummaryRow]:
    return Column(title, lambda r: str(r.published_costs.get(cost, "")), numeric=False)


def table(summary: ComparisonSummary) -> Table[SummaryRow]:
    """All rows, the reference stressed, with a line on how to read them."""
    return Table(
        columns(summary),
        summary.rows,
        title=summary.title,
        notes=[f"{legend(summary)} {ABOUT_COSTS}"],
        stressed=[row.name for row in summary.rows].index(summary.reference),
        wide=COSTS,
        records=[_flat(row) for row in summary.rows],
        facts={"title": summary.title, "reference": summary.reference},
    )


def legend(summary: ComparisonSummary) -> str:
    """Return what the numbers mean: units, intervals, tests."""
    if summary.split_seeds == 1:
        test = "McNemar's" if summary.seeds == 1 else "sign-flip"
        return (
            "One split: no interval between splits can be given. Intervals are bootstraps and p "
            f"is of {test} test, both over the {summary.images:,} test images, so they speak of these "
            f"trained models only. {_adjusted(summary)}"
        )
    seeds = f" ({summary.seeds} seeds each, averaged)" if summary.seeds > 1 else ""
    return (
        f"Mean ± sd over {summary.split_seeds} splits{seeds}, {summary.images:,} test images. "
        "Intervals are 95 % bootstraps over splits and images; p is of the paired t test over splits. "
        f"{_adjusted(summary)}"
    )


def _adjusted(summary: ComparisonSummary) -> str:
    baseline, reference = (summary.row(n).label for n in (summary.baseline, summary.reference))
    return (
        f"Gain is over {baseline}; difference, p and verdict are against {reference}, p Holm-adjusted "
        f"over {len(summary.rows) - 1} comparisons. {rule(summary.margin)}"
    )


def _flat(row: SummaryRow) -> dict[str, Any]:
    """All numbers of a row, by the name of the CSV column."""
    return {
        "name": row.name,
        "label": row.label,
        "method": row.method,
        "accuracy": row.accuracy.mean,
        "accuracy_sd_over_splits": row.over_splits.sd,
        "accuracy_low": row.accuracy.low,
        "accuracy_high": row.accuracy.high,
        "accuracy_interval": row.accuracy.method,
        "accuracy_low_over_splits": row.over_splits.low,
        "accuracy_high_over_splits": row.over_splits.high,
        "macro_accuracy": row.macro.mean,
        "macro_accuracy_sd_over_splits": row.macro.sd,
        "ece": row.ece,
        **flat_costs(row),
        "published_percent": row.published,
        **{f"published_cost_{cost}": row.published_costs.get(cost) for cost in PUBLISHED_COSTS},
        **_flat_contrast("gain_over_baseline", row.gain),
        **_flat_contrast("versus_reference", row.versus),
    }


def flat_costs(row: SummaryRow) -> dict[str, Any]:
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


def _flat_contrast(prefix: str, of: PairedContrast | None) -> dict[str, Any]:
    """A contrast's columns, all present and empty where a row is compared with itself."""
    names = (
        *("difference", "low", "high", "test", "p", "p_by_image"),
        *("low_over_both", "high_over_both", "p_holm", "verdict"),
    )
    values: tuple[Any, ...] = (None,) * len(names)
    if of is not None:
        paired, both = of.headline, of.both
        values = (
            *(paired.difference, paired.low, paired.high, paired.test, paired.p),
            *(of.by_image.p, both.low, both.high, of.p, of.verdict),
        )
    return {f"{prefix}_{name}": value for name, value in zip(names, values, strict=True)}
