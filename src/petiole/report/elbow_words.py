"""The elbow of a sweep for people: two tables, and sentences that a practitioner can act on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table as RichTable

from petiole.files import write_json, write_text
from petiole.report import table
from petiole.report.elbow import ElbowSummary, FractionElbow, to_dict
from petiole.report.elbow_plot import plot
from petiole.report.formatting import join, mean_sd, number
from petiole.report.table import Table, plain
from petiole.report.tables import digits_of

PLOT = "elbow.png"


def accuracies(summary: ElbowSummary) -> Table[Any]:
    """Rank, trained parameters, and mean ± sd in per cent; the headline rank is marked."""
    d = digits_of(summary.images)
    rows = [
        [
            str(rank),
            f"{trained:,}",
            *(
                mean_sd(f.accuracies[i], d) + (" *" if f.one_se == rank else "")
                for f in summary.fractions
            ),
        ]
        for i, (rank, trained) in enumerate(zip(summary.ranks, summary.trainable, strict=True))
    ]
    title = f"{summary.method}: accuracy by rank"
    stressed = summary.ranks.index(summary.whole.one_se)
    return plain(["Rank", "Trained", *_shares(summary)], rows, title=title, stressed=stressed)


def _shares(summary: ElbowSummary) -> list[str]:
    """A column for each share of the images."""
    return [f"{100 * f.fraction:g} %, n = {f.images:,}" for f in summary.fractions]


def rank_rules(summary: ElbowSummary) -> Table[Any]:
    """Every rule, and the rank that it gives for each share of the images."""

    def row(name: str, of: Callable[[FractionElbow], str]) -> list[str]:
        return [name, *(of(f) for f in summary.fractions)]

    rows = [
        row("one-SE * (95 % of resamples)", lambda f: f"{f.one_se} ({_span(*f.likely)})"),
        row("marginal gain", lambda f: _found(f.marginal, "every step pays")),
        row("Kneedle", lambda f: _found(f.kneedle, "no knee")),
        row("highest mean", lambda f: str(f.best)),
        row("accuracy with rank", _trend),
    ]
    if shift := summary.shift:
        energy, gradient = str(shift.energy), str(shift.gradient)
        rows += [
            row("predicted: threshold, n images to tokens", _threshold),
            row("predicted: 90 % energy of the shift", lambda _: energy),
            row("predicted: 90 % of the first gradient", lambda _: gradient),
        ]
    return plain(["Rule", *_shares(summary)], rows, title="Which rank is enough")


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def _found(rank: int | None, otherwise: str) -> str:
    return otherwise if rank is None else str(rank)


def _threshold(f: FractionElbow) -> str:
    return _span(f.predicted.threshold, f.predicted.threshold_tokens) if f.predicted else "–"


def _trend(f: FractionElbow) -> str:
    return f"falls after {f.trend.after}" if f.trend.verdict == "falls" else f.trend.verdict


def legend(summary: ElbowSummary) -> str:
    """What the numbers mean."""
    text = (
        f"Accuracy in per cent on {summary.images:,} validation images, mean ± sd over "
        f"{summary.seeds} seeds; the test set stayed closed. * is the one-SE rank: the least whose mean "
        "is within one standard error of the best. In brackets, where it lies in 95 % of data sets with "
        "seeds and images drawn anew."
    )
    if shift := summary.shift:
        few = (
            "" if shift.enough else ", fewer than the 20 for each dimension that a sound fit takes"
        )
        text += (
            f" Predictions are from the shift of {shift.teacher} on {shift.tokens:,} tokens of "
            f"{shift.images:,} training images{few}."
        )
    return text


def sentences(summary: ElbowSummary) -> list[str]:
    """What to set, what the other rules say, whether more rank can hurt, and whether n moves the elbow."""
    lines = [_action(summary), _others(summary)]
    lines += [
        f"At {100 * f.fraction:g} % of the images {_falls(f, summary)}" for f in summary.fractions
    ]
    if summary.growth:
        lines.append(_growth(summary))
    return lines


def _action(summary: ElbowSummary) -> str:
    f = summary.whole
    rank, best = f.one_se, f.best
    if summary.silent:
        return f"No rank can be advised: {summary.silent}."
    reached = f"{mean_sd(f.accuracies[summary.ranks.index(rank)], 1)} %"
    head = (
        f"Set rank={rank}: with n = {f.images:,} training images it reaches {reached} (mean ± sd of "
        f"{summary.seeds} seeds)"
    )
    if rank == summary.ranks[-1]:
        return f"{head}, and it is the largest that was tried: sweep larger ones too."
    trained = f"{summary.trained(rank):,} trained parameters"
    if rank == best:
        return f"{head} with {trained}; no other rank has a higher mean."
    top = number(100 * f.accuracies[summary.ranks.index(best)].mean, 1)
    doubt = ""
    if f.likely[0] != f.likely[1]:
        doubt = f" Other seeds and images might have said {_span(*f.likely)}."
    return (
        f"{head}, within one standard error of the best, rank {best} ({top} %), with {trained} instead "
        f"of {summary.trained(best):,}.{doubt}"
    )


def _others(summary: ElbowSummary) -> str:
    f = summary.whole
    rules = [
        f"marginal gain {_found(f.marginal, 'none (every step pays)')}",
        f"Kneedle {_found(f.kneedle, 'none (no knee)')}",
    ]
    if summary.shift and f.predicted:
        rules += [
            f"the threshold {_threshold(f)}",
            f"90 % of the shift's energy {summary.shift.energy}",
            f"90 % of the first gradient's {summary.shift.gradient}",
        ]
    return f"The other rules on the same images: {join(rules)}."


def _falls(f: FractionElbow, summary: ElbowSummary) -> str:
    t = f.trend
    if f.untrained:
        return f"nothing can be said: {f.untrained}."
    width = number(100 * t.width, 1)
    if t.verdict == "falls":
        return (
            f"accuracy falls after rank {t.after}: by {number(100 * t.fall, 1)} points to rank {t.at}, "
            f"more than the {width} that seeds and images explain."
        )
    if t.verdict == "monotone":
        return "accuracy does not fall with rank: falls of more than 0.2 points are ruled out."
    seen = (
        f"the largest fall seen is {number(100 * t.fall, 1)} points"
        if t.fall
        else "no fall is seen"
    )
    return (
        f"it cannot be told whether accuracy falls with rank: {seen}, and {summary.seeds} seeds on "
        f"{summary.images:,} images leave one of up to {number(100 * t.open, 1)} points open."
    )


def _growth(summary: ElbowSummary) -> str:
    assert summary.growth is not None
    verdict, share = summary.growth
    ranks = join([f"{f.one_se} (n = {f.images:,})" for f in summary.fractions])
    finding = {
        "grows": "it does",
        "does not grow": "it does not",
        "cannot tell": "this sweep cannot tell",
    }[verdict]
    if summary.fractions[0].one_se == summary.ranks[-1]:
        finding = (
            "this sweep cannot tell, because the largest rank is the elbow already at the least n"
        )
    return (
        f"The elbow should grow with n: {finding}. One-SE ranks are {ranks}; from the smallest to the "
        f"largest n it grows in {100 * share:.0f} % of the resamples."
    )


def blocks(summary: ElbowSummary) -> list[Table[Any]]:
    """What the shift predicts of each block, if it was measured."""
    if summary.shift is None:
        return []
    rows = [[role, str(e), str(g), f"{noise:.2g}"] for role, e, g, noise in summary.shift.blocks]
    return [plain(["Block", "90 % energy", "90 % gradient", "tau^2"], rows)]


def to_markdown(summary: ElbowSummary) -> str:
    """Return the picture, the tables, and the sentences."""
    shown = "Accuracy and predicted excess risk by rank" if summary.shift else "Accuracy by rank"
    shown_tables = [accuracies(summary), rank_rules(summary), *blocks(summary)]
    return "\n".join(
        [
            f"# {summary.method}: accuracy by rank",
            "",
            *(f"{line}\n" for line in sentences(summary)),
            f"![{shown}]({PLOT})",
            "",
            *(table.to_markdown(replace(one, stressed=None)) for one in shown_tables),
            legend(summary),
            "",
        ]
    )


def to_rich(summary: ElbowSummary) -> list[RichTable]:
    """Return accuracies and rules for a terminal."""
    return [
        table.to_rich(accuracies(summary)),
        table.to_rich(rank_rules(summary), caption=legend(summary)),
    ]


def write(summary: ElbowSummary, folder: Path) -> None:
    """Write ``elbow.md``, ``elbow.json`` and ``elbow.png``."""
    plot(summary, folder / PLOT)
    write_json(folder / "elbow.json", to_dict(summary))
    write_text(folder / "elbow.md", to_markdown(summary))
