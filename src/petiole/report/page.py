"""One self-contained HTML page for a run or a comparison of any kind: no network, no script needed, light or dark."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from petiole.files import write_text
from petiole.printable import printable
from petiole.report import plots, sections
from petiole.report.flips import FlipExample
from petiole.report.formatting import amount, percent, seconds
from petiole.report.runs import Run
from petiole.report.sections import Fact, Labelled
from petiole.report.table import Table
from petiole.version import __version__

REPORT = "report.html"


@dataclass(frozen=True)
class PageFigure:
    """A figure as SVG, with what is written under it."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class Thumbnails:
    """Thumbnails under one heading; ``wide`` ones are three panels each."""

    title: str
    text: str
    examples: list[FlipExample]
    wide: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table with a heading and a text of its own."""

    title: str
    text: str
    table: Table[Any]


MISTAKES = Fact(
    "Mistakes", "Under each image: its true class, the prediction, and its probability."
)
CHANGED = Fact(
    "Predictions that changed",
    "Under each image: its true class, both predictions, and the probability of the second.",
)
"""Heading and note above galleries of flips."""


@dataclass(frozen=True)
class DomainMap:
    """The diagnosis: distances as a table, four panels, and what the colours mean."""

    images: str
    sheet: Table[Any] | None
    panels: list[PageFigure]
    colours: list[tuple[str, str]]
    note: str


@dataclass(frozen=True)
class PageContent:
    """Everything that ``page.html`` shows; what is ``None`` or empty is left out."""

    title: str
    kind: str
    lede: str
    tiles: list[Fact]
    done: str
    facts: list[Fact] = field(default_factory=list)
    subject: str = ""
    curves: list[PageFigure] = field(default_factory=list)
    counts: Table[Any] | None = None
    percentages: Table[Any] | None = None
    costs: Table[Any] | None = None
    runs: Table[Any] | None = None
    environment: list[Fact] = field(default_factory=list)
    hashes: list[Fact] = field(default_factory=list)
    settings: list[Fact] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sheets: list[Sheet] = field(default_factory=list)
    results: Table[Any] | None = None
    heading: str = "Results"
    legend: str = ""
    overview: list[PageFigure] = field(default_factory=list)
    measured: Table[Any] | None = None
    map: DomainMap | None = None
    galleries: list[Thumbnails] = field(default_factory=list)
    examples: Fact = MISTAKES
    confusion: PageFigure | None = None
    classes: Table[Any] | None = None


def write_page(folder: Path) -> Path:
    """Write ``report.html`` into the folder of a run, or of a comparison of runs, and return its path.

    Raises:
        RunError: neither lies there, or a run is missing, damaged or was tested on other samples.
    """
    from petiole.report.page_photos import page_of_photos
    from petiole.report.page_scores import page_of_scores

    path = folder / REPORT
    write_text(path, render(page_of_scores(folder) or page_of_photos(folder)))
    return path


def common(subject: str, rows: Labelled, more_notes: list[str]) -> dict[str, Any]:
    """The sections that every page has."""
    every = [run for _, of_row in rows for run in of_row]
    return {
        "subject": subject,
        "facts": sections.facts(every),
        "counts": sections.parameter_counts(rows),
        "percentages": sections.percentages(rows),
        "costs": sections.costs(rows),
        "runs": sections.run_list(rows),
        "environment": sections.environment(every),
        "hashes": sections.hashes(every),
        "settings": sections.settings(rows),
        "notes": sections.notes(every, more_notes),
    }


def loss_curves(runs: list[Run]) -> list[PageFigure]:
    """Training loss by step, where anything was trained by steps."""
    logs = [log for log in (run.log for run in runs) if log]
    if not logs:
        return []
    caption = "Training loss" + (f", {len(logs)} runs." if len(logs) > 1 else ".")
    return [picture(plots.loss(logs), "loss", "Training loss by step", caption)]


def overview(summary: Any, caption: str) -> list[PageFigure]:
    """Scores of all methods, and scores against trained parameters."""
    name = "Accuracy" if hasattr(summary, "images") else "Score"
    label = f"{name} of every method with its interval"
    found = [picture(plots.accuracy(summary), "accuracy", label, caption)]
    if len(summary.rows) > 1:
        label = f"{name} against trained parameters"
        caption = f"{label}, bars are 95 % intervals. Named are the rows that none with fewer parameters matches."
        found.append(picture(plots.against_parameters(summary), "parameters", label, caption))
    return found


def size_tiles(run: Run) -> list[Fact]:
    """Parameters and time of one run."""
    ledger = run.record.ledger
    share = percent(ledger.trainable_percent_of_backbone_and_trainable)
    return [
        Fact(f"{ledger.trainable:,}", f"trained parameters, {share} % of backbone + trained"),
        Fact(f"{seconds(run.record.costs.train_seconds)} s", f"of training{_rate(run)}"),
    ]


def _rate(run: Run) -> str:
    """What the optimizer steps computed a second, where it is known."""
    costs = run.record.costs
    if costs.flops_per_second is None:
        return ""
    said = f", {amount(costs.flops_per_second, 'FLOP/s')}"
    if costs.utilisation is not None:
        said += f", {100 * costs.utilisation:.0f} % of a matrix product (MFU)"
    return said


def picture(figure: Figure, name: str, label: str, caption: str) -> PageFigure:
    """A figure with its caption; ``name`` is unique on the page."""
    return PageFigure(Markup(printable(plots.svg(figure, name, label))), caption)


def render(page: PageContent) -> str:
    """Return the page as HTML, with its style and its script inside."""
    here = files("petiole.report")
    template, style, script = (
        (here / f"page.{kind}").read_text(encoding="utf-8").strip()
        for kind in ("html", "css", "js")
    )
    environment = Environment(
        autoescape=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["tight"] = lambda text: re.sub(r"(?<=[\d,]) (?=%|s\b)", "\u00a0", text)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = environment.from_string(template).render(
        page=page,
        style=Markup(style),
        script=Markup(script),
        script_digest=Markup(f"sha256-{digest}"),
        version=__version__,
    )
    return html + "\n"
