"""What a practitioner should take away from a table, in a few plain sentences."""

from __future__ import annotations

from collections.abc import Sequence

from petiole.metrics.statistics import Verdict
from petiole.report.formatting import bounds, join, p_value, points, seconds, signed
from petiole.report.summary import ComparisonSummary, SummaryRow

_MOST_NAMES = 5


def sentence(summary: ComparisonSummary) -> str:
    """Return what the headline reaches and gains, and how the reference stands to all others."""
    return " ".join(part for part in (_reaches(summary), *_ranks(summary)) if part)


def _reaches(summary: ComparisonSummary) -> str:
    row = summary.row(summary.headline)
    mean = f"{100 * row.accuracy.mean:.1f} %"
    if summary.split_seeds > 1:
        spread = f"± {100 * row.over_splits.sd:.1f} (mean ± sd of {summary.split_seeds} splits)"
    else:
        spread = (
            f"on {summary.images:,} test images (95 % interval over images "
            f"{bounds(row.accuracy.low, row.accuracy.high, 1)}; one split, so no interval between "
            "splits can be given)"
        )
    return f"{row.label} reaches {mean} {spread}{_gained(row, summary)}."


def _gained(row: SummaryRow, summary: ComparisonSummary) -> str:
    if row.gain is None:
        return ""
    baseline, both = summary.row(summary.baseline).label, row.gain.both
    verdict, change = (
        row.gain.verdict,
        f"{signed(100 * both.mean, 1)} {bounds(both.low, both.high, 1)}",
    )
    if verdict == "tie":
        return f", which ties with {baseline} ({change} points, within ±{points(summary.margin)})"
    if both.low <= 0 <= both.high:
        return f", which is not told apart from {baseline} ({change} points)"
    side = "over" if both.mean > 0 else "below"
    low, high = sorted(abs(100 * bound) for bound in (both.low, both.high))
    doubt = f"; p = {p_value(row.gain.p)}" if verdict == "undecided" else ""
    size = f"{abs(100 * both.mean):.1f} points {side} {baseline}"
    return f", {size} (95 % interval {low:.1f} to {high:.1f}{doubt})"


def _ranks(summary: ComparisonSummary) -> list[str]:
    """What the reference is beaten by, ties with and beats, and what is left open."""
    reference = summary.row(summary.reference)
    tied = [row for row in summary.rows if row.versus and row.versus.verdict == "tie"]
    subject = "It" if summary.reference == summary.headline else reference.label
    verdicts = [(row.label, row.versus.verdict) for row in summary.rows if row.versus]
    return [
        standing(subject, verdicts, summary.margin),
        _cheapest([reference, *tied]) if tied else "",
        left_open(verdicts, f"{n} splits" if (n := summary.split_seeds) > 1 else "one split"),
    ]


def standing(subject: str, verdicts: Sequence[tuple[str, Verdict]], margin: float) -> str:
    """What a reference is beaten by, ties with and beats.

    Args:
        subject: what the sentence calls it.
        verdicts: label of every other row, and how it stands to the reference.
        margin: of the ties, a fraction.
    """
    worse, tied, better = (
        [label for label, verdict in verdicts if verdict == outcome]
        for outcome in ("worse", "tie", "better")
    )
    parts = []
    if better:
        parts.append(f"is worse than {_names(better)}")
    if tied:
        parts.append(f"ties with {_names(tied)} (differences within ±{points(margin)})")
    if worse:
        every = len(worse) == len(verdicts)
        parts.append(f"is better than {'every other row' if every else _names(worse)}")
    return f"{subject} {join(parts)}." if parts else ""


def _cheapest(rows: list[SummaryRow]) -> str:
    row = min(rows, key=lambda r: (r.trainable, r.seconds))
    return (
        f"The cheapest of the tied is {row.label}: {row.trainable:,} trained parameters, "
        f"{seconds(row.seconds)} s of training."
    )


def left_open(verdicts: Sequence[tuple[str, Verdict]], runs: str) -> str:
    """Against whom nothing is decided; ``runs`` says over how many, in words."""
    undecided, unknown = (
        _names([label for label, verdict in verdicts if verdict == open_])
        for open_ in ("undecided", "unknown")
    )
    return " ".join(
        filter(
            None,
            (
                undecided and f"Against {undecided}, {runs} cannot decide.",
                unknown
                and f"Against {unknown}, nothing can be said: over {runs} there is no interval.",
            ),
        )
    )


def _names(labels: list[str]) -> str:
    if len(labels) > _MOST_NAMES:
        rest = len(labels) - _MOST_NAMES + 1
        labels = [*labels[: _MOST_NAMES - 1], f"{rest} others"]
    return join(labels) if labels else ""
