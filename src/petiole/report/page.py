"""One self-contained HTML page: no network, no script needed, light or dark as the reader likes."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from petiole.engine.record import read_log
from petiole.files import write_text
from petiole.metrics.statistics import bootstrap_interval
from petiole.report import plots, sections
from petiole.report.diagnosis import DomainDiagnosis, diagnose
from petiole.report.flips import FlipExample, flips, mistakes
from petiole.report.formatting import bounds, number, percent, seconds, signed
from petiole.report.runs import Results, Run, read_results, read_run
from petiole.report.sections import Fact, Labelled, Sheet
from petiole.report.summary import ComparisonSummary, summarise_results
from petiole.report.tables import legend, sentence
from petiole.version import __version__

REPORT = "report.html"
MOST_NAMED = 12  # classes in the legend of the map


@dataclass(frozen=True)
class PageFigure:
    """A figure as SVG, with what is written under it."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class Thumbnails:
    """Thumbnails under one heading."""

    title: str
    text: str
    examples: list[FlipExample]


@dataclass(frozen=True)
class DomainMap:
    """The diagnosis: distances as a table, four panels, and what the colours mean."""

    images: str
    sheet: Sheet | None
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
    facts: list[Fact]
    subject: str
    confusion: PageFigure
    classes: Sheet
    curves: list[PageFigure]
    counts: Sheet
    percentages: Sheet
    costs: Sheet
    runs: Sheet
    environment: list[Fact]
    hashes: list[Fact]
    settings: list[Fact]
    notes: list[str]
    results: Sheet | None = None
    legend: str = ""
    overview: list[PageFigure] = field(default_factory=list)
    map: DomainMap | None = None
    galleries: list[Thumbnails] = field(default_factory=list)


def write_comparison(folder: Path) -> Path:
    """Write ``report.html`` into a comparison folder and return its path.

    Raises:
        RunError: no comparison, or a run that is missing, damaged or tested on other images.
    """
    results = read_results(folder)
    return _write(folder, _comparison(results, summarise_results(results)))


def write_run(folder: Path) -> Path:
    """Write ``report.html`` into a run folder and return its path.

    Raises:
        RunError: the run is incomplete or damaged.
    """
    return _write(folder, _run(read_run(folder)))


def _comparison(results: Results, summary: ComparisonSummary) -> PageContent:
    c, runs, row = results.comparison, results.headline.runs, summary.row(summary.headline)
    labelled = [(r.row.label, r.runs) for r in results.rows]
    overview = [
        _picture(
            plots.accuracy(summary),
            "accuracy",
            "Accuracy of every method with its interval",
            _accuracy_caption(summary),
        )
    ]
    if len(summary.rows) > 1:
        caption = (
            "Accuracy against trained parameters, bars are 95 % intervals. Named are the rows that none "
            "with fewer parameters matches."
        )
        figure = plots.against_parameters(summary)
        overview.append(
            _picture(figure, "parameters", "Accuracy against trained parameters", caption)
        )
    return PageContent(
        title=c.title,
        kind="Comparison",
        lede=sentence(summary),
        tiles=_comparison_tiles(summary),
        done=_comparison_done(results),
        facts=sections.facts(results.runs),
        results=sections.results(summary),
        legend=legend(summary),
        overview=overview,
        map=_map(diagnose(runs[0].folder), runs[0]),
        galleries=_flip_galleries(results),
        **_common(row.label, runs, labelled, c.notes),
    )


def _run(run: Run) -> PageContent:
    request, scores = run.record.request, run.record.main
    interval = bootstrap_interval(run.correct, seed=0)
    between = bounds(interval.low, interval.high, 1)
    surest = Thumbnails(
        "The surest",
        f"{(~run.correct).sum():,} of {len(run.labels):,} test images were labelled wrongly; these "
        "with the greatest confidence.",
        mistakes(run),
    )
    return PageContent(
        title=request.method,
        kind="Run",
        lede=f"{request.method} reaches {number(100 * interval.mean, 1)} % on {interval.n:,} test "
        f"images (95 % interval over images {between}; one run, so no interval between draws can "
        "be given). One number alone ranks nothing: compare it with the cheap baselines.",
        tiles=[
            Fact(f"{number(100 * interval.mean, 1)} %", f"accuracy, {between} over images"),
            Fact(f"{number(100 * scores['macro_accuracy'], 1)} %", "mean accuracy of the classes"),
            *_size_tiles(run, run.record.costs.train_seconds),
        ],
        done=_run_done(run),
        facts=sections.facts([run]),
        map=_map(diagnose(run.folder), run),
        galleries=[surest] if surest.examples else [],
        **_common(request.method, [run], [(request.method, [run])], []),
    )


def _common(
    subject: str, runs: Sequence[Run], rows: Labelled, more_notes: Sequence[str]
) -> dict[str, Any]:
    """The sections that both pages have; ``runs`` are those of the row that is shown."""
    every = [run for _, of_row in rows for run in of_row]
    classes = runs[0].record.request.data.classes
    counts = sections.confusion_counts(runs)
    return {
        "subject": subject,
        "confusion": _picture(
            plots.confusion_matrix(counts, classes),
            "confusion",
            "Confusion matrix",
            "Rows are true classes, columns predicted ones; per cent of the row"
            + (f", over {len(runs)} runs." if len(runs) > 1 else "."),
        ),
        "classes": sections.by_class(counts, classes, len(runs)),
        "curves": _curves(runs),
        "counts": sections.parameter_counts(rows),
        "percentages": sections.percentages(rows),
        "costs": sections.costs(rows),
        "runs": sections.run_list(rows),
        "environment": sections.environment(every),
        "hashes": sections.hashes(every),
        "settings": sections.settings(rows),
        "notes": sections.notes(every, more_notes),
    }


def _curves(runs: Sequence[Run]) -> list[PageFigure]:
    p = np.concatenate([run.probabilities for run in runs])
    labels = np.concatenate([run.labels for run in runs])
    ece = 100 * float(np.mean([run.record.main["ece"] for run in runs]))
    caption = f"Reliability: calibration error {number(ece, 1)} %; a dot grows with its images."
    curves = [_picture(plots.reliability(p, labels), "reliability", "Reliability diagram", caption)]
    logs = [log for log in (read_log(run.folder) for run in runs) if log]
    if logs:
        caption = "Training loss" + (f", {len(logs)} runs." if len(logs) > 1 else ".")
        curves.append(_picture(plots.loss(logs), "loss", "Training loss by step", caption))
    return curves


def _map(diagnosis: DomainDiagnosis | None, run: Run) -> DomainMap | None:
    if diagnosis is None:
        return None
    classes = run.record.request.data.classes
    panels = [
        _picture(
            plots.domain_map(diagnosis, after=after, by_class=by_class, classes=len(classes)),
            f"map-{when}-{what}",
            f"t-SNE map of image vectors {when} adaptation, coloured by {what}",
            f"{when.capitalize()}, by {what}",
        )
        for by_class, what in ((True, "class"), (False, "domain"))
        for after, when in ((False, "before"), (True, "after"))
        if diagnosis.map_after
    ]
    named = len(classes) <= MOST_NAMED and panels
    colours = zip(plots.class_colours(len(classes)), classes, strict=True)
    return DomainMap(
        images=" and ".join(f"{n:,} {domain}" for domain, n in diagnosis.images.items() if n),
        sheet=sections.domain_distances(diagnosis) if diagnosis.before else None,
        panels=panels,
        colours=list(colours) if named else [],
        note=diagnosis.note,
    )


def _flip_galleries(results: Results) -> list[Thumbnails]:
    c = results.comparison
    if c.baseline == c.headline:
        return []
    found = flips(results.row(c.baseline).runs[0], results.headline.runs[0])
    before, after = c.row(c.baseline).label, c.row(c.headline).label
    parts = (
        ("Fixed", "wrong", "right", found.fixed, found.fixed_count),
        ("Broken", "right", "wrong", found.broken, found.broken_count),
    )
    return [
        Thumbnails(
            name,
            f"{count:,} of {found.images:,} test images: {before} {was}, {after} {now}"
            + (f"; the {len(examples)} surest." if count > len(examples) else "."),
            examples,
        )
        for name, was, now, examples, count in parts
    ]


def _comparison_tiles(summary: ComparisonSummary) -> list[Fact]:
    row = summary.row(summary.headline)
    spread = (
        f"± {number(100 * row.over_draws.sd, 1)} over {summary.draws} draws"
        if summary.draws > 1
        else "one draw"
    )
    tiles = [Fact(f"{number(100 * row.accuracy.mean, 1)} %", f"accuracy, {spread}")]
    if row.gain is not None:
        gain = signed(100 * row.gain.both.mean, 1)
        tiles.append(Fact(gain, f"points against {summary.row(summary.baseline).label}"))
    share = percent(row.percent_of_backbone_and_trainable)
    tiles.append(Fact(f"{row.trainable:,}", f"trained parameters, {share} % of backbone + trained"))
    return [*tiles, Fact(f"{seconds(row.seconds)} s", "of training, median")]


def _size_tiles(run: Run, time: float) -> list[Fact]:
    ledger = run.record.ledger
    share = percent(ledger.trainable_percent_of_backbone_and_trainable)
    return [
        Fact(f"{ledger.trainable:,}", f"trained parameters, {share} % of backbone + trained"),
        Fact(f"{seconds(time)} s", "of training"),
    ]


def _comparison_done(results: Results) -> str:
    c, data = results.comparison, results.runs[0].record.request.data
    shots = "all target images" if c.shots is None else f"{c.shots} target images of each class"
    source = f" {data.samples['source']:,} source images and" if data.samples.get("source") else ""
    repeat = [f"{c.draws} draws of these shots"] if c.draws > 1 and c.shots is not None else []
    repeat += [f"{c.inits} initialisations of each"] if c.inits > 1 else []
    often = f", over {' and '.join(repeat)}" if repeat else ""
    what = f"{len(c.rows)} methods were" if len(c.rows) > 1 else "One method was"
    return (
        f"{what} trained on the frozen backbone {results.runs[0].record.request.backbone.name}, "
        f"with{source} {shots} ({len(data.classes)} classes) at hand{often}, and scored on the same "
        f"{data.samples['test']:,} held-back target images."
    )


def _run_done(run: Run) -> str:
    request = run.record.request
    data = request.data
    source = f" {data.samples['source']:,} source images and" if data.samples.get("source") else ""
    shots = "all" if data.shots is None else f"{data.shots}"
    return (
        f"{request.method} was trained on the frozen backbone {request.backbone.name}, with{source} "
        f"{shots} target images of each of {len(data.classes)} classes at hand (draw {data.split_seed}, "
        f"seed {request.seed}), and scored on {data.samples['test']:,} held-back target images."
    )


def _accuracy_caption(summary: ComparisonSummary) -> str:
    text = "Mean and 95 % interval"
    text += ", small dots are single draws" if summary.draws > 1 else ""
    if any(row.published is not None for row in summary.rows):
        text += ", diamonds the published values"
    return f"{text}; the line is {summary.row(summary.reference).label}."


def _picture(figure: Figure, name: str, label: str, caption: str) -> PageFigure:
    return PageFigure(Markup(plots.svg(figure, name, label)), caption)


def _write(folder: Path, page: PageContent) -> Path:
    path = folder / REPORT
    write_text(path, render(page))
    return path


def render(page: PageContent) -> str:
    """Return the page as HTML, with its style and its script inside."""
    here = files("petiole.report")
    template, style, script = (
        (here / f"page.{kind}").read_text(encoding="utf-8").strip()
        for kind in ("html", "css", "js")
    )
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
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
