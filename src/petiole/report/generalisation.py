"""The table of a generalisation: accuracy where a method was trained, elsewhere, and the two as one number."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from petiole.engine.record import read_record
from petiole.files import write_json, write_text
from petiole.metrics.harmonic import harmonic_mean, hm_of_means, mean_of_hms
from petiole.metrics.statistics import (
    Interval,
    Outcome,
    Paired,
    judged,
    t_interval,
)
from petiole.protocols.generalisation import Generalisation, scores, transductive
from petiole.report.formatting import bounds, in_cell, mean_sd, signed

AVERAGE = "average"


@dataclass(frozen=True)
class GeneralisationLine:
    """One method.

    Attributes:
        name, label: of the row.
        transductive: trained on unlabelled images of the classes that it is tested on.
        trained: parameters.
        places: accuracy by place with sd and t interval over seeds, fractions.
        headline: HM of base and novel by seed, or the average over the other places by seed.
        hm_of_means, mean_of_hms: of base to novel; the papers' "average HM" is the former.
        difference: of the headline from the reference's, paired by seed; ``None`` for the reference.
        verdict: after Holm's correction over the rows.
    """

    name: str
    label: str
    transductive: bool
    trained: int
    places: dict[str, Interval]
    headline: Interval
    hm_of_means: float | None
    mean_of_hms: float | None
    difference: Paired | None
    verdict: Outcome | None


@dataclass(frozen=True)
class GeneralisationSummary:
    """All methods, and the words that go with them."""

    protocol: Generalisation
    lines: tuple[GeneralisationLine, ...]

    @property
    def headline(self) -> str:
        """What the last accuracy column is called."""
        return "HM" if self.protocol.kind == "base-to-novel" else AVERAGE


def summarise(root: Path) -> GeneralisationSummary:
    """Compute the table from the records below ``root``."""
    protocol = Generalisation.read(root)
    found = {row.name: scores(protocol, root, row) for row in protocol.rows}
    heads = {name: _headline(protocol, places) for name, places in found.items()}
    against = judged(heads, protocol.reference)
    lines = []
    for row in protocol.rows:
        places = found[row.name]
        pair = protocol.kind == "base-to-novel"
        difference, said = against.get(row.name, (None, None))
        lines.append(
            GeneralisationLine(
                name=row.name,
                label=row.label,
                transductive=transductive(row.method),
                trained=_trained(protocol, root, row.name),
                places={name: t_interval(values) for name, values in places.items()},
                headline=t_interval(heads[row.name]),
                hm_of_means=hm_of_means(places["base"], places["novel"]) if pair else None,
                mean_of_hms=mean_of_hms(places["base"], places["novel"]) if pair else None,
                difference=difference,
                verdict=said,
            )
        )
    return GeneralisationSummary(protocol, tuple(lines))


def _headline(protocol: Generalisation, places: dict[str, list[float]]) -> list[float]:
    """One number a seed."""
    if protocol.kind == "base-to-novel":
        return [harmonic_mean(b, n) for b, n in zip(places["base"], places["novel"], strict=True)]
    return [fmean(values) for values in zip(*(places[p] for p in protocol.places), strict=True)]


def _trained(protocol: Generalisation, root: Path, name: str) -> int:
    row = next(row for row in protocol.rows if row.name == name)
    return read_record(protocol.folder(root, row, 0, protocol.levels[-1])).ledger.trainable


def header(summary: GeneralisationSummary) -> list[str]:
    """Names of the columns."""
    places = list(summary.lines[0].places)
    against = f"difference of {summary.headline}"
    return ["Method", "Trained", *places, summary.headline, against, "Verdict"]


def cells(line: GeneralisationLine) -> list[str]:
    """One row as text, in per cent."""
    difference = line.difference
    against = "–"
    if difference is not None:
        interval = bounds(difference.low, difference.high, 1)
        against = f"{signed(100 * difference.difference, 1)} {interval}"
    if line.hm_of_means is None:
        head = mean_sd(line.headline, 1)
    else:
        head = f"{100 * line.hm_of_means:.1f}"
    return [
        line.label + (" (transductive)" if line.transductive else ""),
        f"{line.trained:,}",
        *(mean_sd(interval, 1) for interval in line.places.values()),
        head,
        against,
        line.verdict or "reference",
    ]


def notes(summary: GeneralisationSummary) -> list[str]:
    """What a reader must know."""
    protocol = summary.protocol
    plural = "1 seed" if protocol.seeds == 1 else f"{protocol.seeds} seeds"
    shots = "all images" if protocol.shots is None else f"{protocol.shots} shots a class"
    if protocol.kind == "few-shot":
        shots = "columns by the shots of each class"
    said = [
        f"Accuracy in per cent, mean ± sd over {plural} (a draw of the shots and a start "
        f"each), {shots}, the last step's weights. Differences are from {_label(protocol)}, paired by "
        "seed, with 95 % t intervals: a tie where the interval holds zero, undecided where it does not "
        f"but p after Holm's correction over the rows is 0.05 or more."
    ]
    if protocol.kind == "base-to-novel":
        said.append(
            "Base classes are the first half by label order, novel the rest; each half is tested "
            "with its own names only. HM is that of the mean accuracies, as the papers print it; "
            "differences are means of the seeds' HMs."
        )
    if protocol.known and protocol.kind != "elsewhere":
        said.append(
            f"Zero-shot rows read the template published for {protocol.known}, unless told otherwise."
        )
    if protocol.published:
        said.append(
            "CoOp, PromptSRC and CLIP-LoRA trained as published for each number of shots, unless told "
            "otherwise."
        )
    if any(line.transductive for line in summary.lines):
        said.append(
            "Transductive rows trained on unlabelled images of the novel classes too: do not compare "
            "them with the others."
        )
    return said


def _label(protocol: Generalisation) -> str:
    return next(row.label for row in protocol.rows if row.name == protocol.reference)


def to_rich(summary: GeneralisationSummary) -> Table:
    """For the terminal."""
    table = Table(*header(summary), box=SIMPLE_HEAD)
    for line in summary.lines:
        table.add_row(*cells(line))
    return table


def to_markdown(summary: GeneralisationSummary) -> str:
    """With its notes."""
    rows = [header(summary), *(cells(line) for line in summary.lines)]
    head, *body = ("| " + " | ".join(in_cell(c) for c in row) + " |" for row in rows)
    rule = "|---|" + "---:|" * (len(rows[0]) - 2) + "---|"
    return "\n".join([head, rule, *body, "", *notes(summary), ""])


def to_csv(summary: GeneralisationSummary) -> str:
    """One row a method and place, fractions."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", "place", "mean", "sd", "low", "high", "seeds", "transductive"])
    for line in summary.lines:
        for place, i in {**line.places, summary.headline: line.headline}.items():
            writer.writerow([line.name, place, i.mean, i.sd, i.low, i.high, i.n, line.transductive])
    return out.getvalue()


def to_dict(summary: GeneralisationSummary) -> dict[str, Any]:
    """Every number."""
    return {
        "kind": summary.protocol.kind,
        "data": summary.protocol.data,
        "lines": [asdict(line) for line in summary.lines],
        "notes": notes(summary),
    }


def write(summary: GeneralisationSummary, root: Path) -> Sequence[Path]:
    """Write table.md, table.csv and table.json; returns their paths."""
    files = [root / f"table.{suffix}" for suffix in ("md", "csv", "json")]
    write_text(files[0], to_markdown(summary))
    write_text(files[1], to_csv(summary))
    write_json(files[2], to_dict(summary))
    return files
