"""The page of a run or a comparison of photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from petiole.engine.record import DataCard
from petiole.metrics.classification import confusion, uneven
from petiole.metrics.statistics import Interval, bootstrap_interval
from petiole.protocols.comparison import COMPARISON
from petiole.protocols.selection import selection_lines
from petiole.report import plots
from petiole.report.diagnosis import DomainDiagnosis, diagnose
from petiole.report.flips import flips, mistakes
from petiole.report.formatting import bounds, number, percent, seconds, signed
from petiole.report.page import (
    CHANGED,
    DomainMap,
    PageContent,
    PageFigure,
    Thumbnails,
    common,
    loss_curves,
    overview,
    picture,
    size_tiles,
)
from petiole.report.runs import Results, Run, read_results, read_run
from petiole.report.sections import Fact
from petiole.report.summary import ComparisonSummary, summarise_results
from petiole.report.table import Column, Table, measure, words
from petiole.report.tables import legend, sentence, table

MOST_NAMED = 12  # classes in the legend of the map


def page_of_photos(folder: Path) -> PageContent:
    """The page of whichever lies in the folder.

    Raises:
        RunError: neither, or a run that is missing, damaged or was tested on other images.
    """
    if (folder / COMPARISON).is_file():
        results = read_results(folder)
        return _comparison(results, summarise_results(results))
    return _run(read_run(folder))


def _comparison(results: Results, summary: ComparisonSummary) -> PageContent:
    c, runs, row = results.comparison, results.headline.runs, summary.row(summary.headline)
    return PageContent(
        title=c.title,
        kind="Comparison",
        lede=sentence(summary),
        tiles=_comparison_tiles(summary),
        done=_comparison_done(results),
        results=table(summary),
        legend=legend(summary),
        overview=overview(summary, _accuracy_caption(summary)),
        map=_map(diagnose(runs[0].folder), runs[0]),
        galleries=_flip_galleries(results),
        examples=CHANGED,
        **_by_class(runs),
        **common(row.label, [(r.row.label, r.runs) for r in results.rows], c.notes),
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
    accuracy = Fact(f"{number(100 * interval.mean, 1)} %", f"accuracy, {between} over images")
    macro = Fact(f"{number(100 * scores['macro_accuracy'], 1)} %", "mean accuracy of the classes")
    return PageContent(
        title=request.method,
        kind="Run",
        lede=_run_lede(run, interval, between),
        tiles=[*([macro, accuracy] if uneven(run.labels) else [accuracy, macro]), *size_tiles(run)],
        done=_run_done(run),
        map=_map(diagnose(run.folder), run),
        galleries=[surest] if surest.examples else [],
        **_by_class([run]),
        **common(request.method, [(request.method, [run])], selection_lines(run.folder)),
    )


def _run_lede(run: Run, interval: Interval, between: str) -> str:
    """What one run reaches, in a sentence: of one class nothing, of uneven ones their mean first."""
    request, images = run.record.request, f"{interval.n:,} test images"
    if len(request.data.classes) == 1:
        return (
            f"There is one class only, {request.data.classes[0]}: {request.method} had nothing to tell apart, and its "
            f"answers on {images} mean nothing. Add images of what the class is to be told from."
        )
    alone = "One number alone ranks nothing: compare it with the cheap baselines."
    said = (
        f"{number(100 * interval.mean, 1)} % on {images} (95 % interval over images {between}; one run, so no interval "
        "between splits can be given)"
    )
    if not uneven(run.labels):
        return f"{request.method} reaches {said}. {alone}"
    counts = np.bincount(run.labels)
    macro = number(100 * run.record.main["macro_accuracy"], 1)
    return (
        f"{request.method} reaches {macro} % in the mean of the classes, which are uneven ({counts[counts > 0].min():,} to "
        f"{counts.max():,} test images), and {said} of all images alike. {alone}"
    )


def _by_class(runs: Sequence[Run]) -> dict[str, Any]:
    """Confusion, scores by class, and curves; ``runs`` are those of the row that is shown."""
    classes = runs[0].record.request.data.classes
    tables = [confusion(run.guesses, run.labels, len(classes)) for run in runs]
    counts = np.asarray(np.sum(tables, axis=0), dtype=np.int64)
    often = f", over {len(runs)} runs." if len(runs) > 1 else "."
    return {
        "confusion": picture(
            plots.confusion_matrix(counts, classes),
            "confusion",
            "Confusion matrix",
            f"Rows are true classes, columns predicted ones; per cent of the row{often}",
        ),
        "classes": by_class(counts, classes, len(runs)),
        "curves": [_reliability(runs), *loss_curves(list(runs))],
    }


def _reliability(runs: Sequence[Run]) -> PageFigure:
    p = np.concatenate([run.probabilities for run in runs])
    labels = np.concatenate([run.labels for run in runs])
    ece = 100 * float(np.mean([run.record.main["ece"] for run in runs]))
    caption = f"Reliability: calibration error {number(ece, 1)} %; a dot grows with its images."
    return picture(plots.reliability(p, labels), "reliability", "Reliability diagram", caption)


def by_class(counts: NDArray[np.int64], classes: Sequence[str], runs: int) -> Table[int]:
    """Images, recall, precision and the commonest wrong answer of each class.

    Args:
        counts: (K, K) over all runs; rows are true classes, columns predicted ones.
        classes: names.
        runs: how many.
    """
    true, predicted, right = counts.sum(axis=1), counts.sum(axis=0), counts.diagonal()
    wrong = counts - np.diag(right)
    worst = wrong.argmax(axis=1)

    def share(part: int, whole: int) -> float | None:
        return float(part / whole) if whole else None

    def mistaken(k: int) -> float:
        return 100 * (share(wrong[k, worst[k]], true[k]) or 0.0)

    def confused(k: int) -> str:
        return f"{classes[worst[k]]} ({number(mistaken(k), 1)} %)" if wrong[k].any() else "–"

    def per_cent(value: float) -> str:
        return number(100 * value, 1)

    return Table(
        [
            words("Class", lambda k: classes[k]),
            Column("Test images", lambda k: f"{true[k] // runs:,}", lambda k: int(true[k])),
            measure("Recall, %", lambda k: share(right[k], true[k]), per_cent),
            measure("Precision, %", lambda k: share(right[k], predicted[k]), per_cent),
            Column("Most often taken for", confused, mistaken, numeric=False),
        ],
        range(len(classes)),
    )


_MEASURES = {
    "domain_accuracy": ("Domain classifier, accuracy", "0.5: domains alike; 1: told apart"),
    "mmd2": ("Maximum mean discrepancy, squared", "0: domains alike"),
    "centroid_cosine": ("Source to target mean of a class, cosine distance", "smaller: aligned"),
    "centroid_cosine_other": (
        "… to the nearest other class",
        "larger than the row above: classes kept apart",
    ),
    "centroid_euclidean": (
        "Source to target mean of a class, Euclidean",
        "compare with the next row",
    ),
    "centroid_euclidean_other": (
        "… to the nearest other class",
        "larger than the row above: classes kept apart",
    ),
}


def domain_distances(diagnosis: DomainDiagnosis) -> Table[str]:
    """Measures of the domain shift before and after."""
    before, after = diagnosis.before, diagnosis.after
    return Table(
        [
            words("Measure", lambda name: _MEASURES[name][0]),
            measure("Before", lambda name: before.get(name), lambda v: number(v, 3)),
            measure("After", lambda name: after.get(name), lambda v: number(v, 3)),
            words("How to read it", lambda name: _MEASURES[name][1]),
        ],
        [name for name in _MEASURES if name in before or name in after],
        sortable=False,
    )


def _map(diagnosis: DomainDiagnosis | None, run: Run) -> DomainMap | None:
    if diagnosis is None:
        return None
    classes = run.record.request.data.classes
    panels = [
        picture(
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
        sheet=domain_distances(diagnosis) if diagnosis.before else None,
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
        f"± {number(100 * row.over_splits.sd, 1)} over {summary.split_seeds} splits"
        if summary.split_seeds > 1
        else "one split"
    )
    tiles = [Fact(f"{number(100 * row.accuracy.mean, 1)} %", f"accuracy, {spread}")]
    if summary.uneven:
        macro = f"{number(100 * row.macro.mean, 1)} %"
        tiles.insert(0, Fact(macro, "mean accuracy of the classes, which are uneven"))
    if row.gain is not None:
        gain = signed(100 * row.gain.both.mean, 1)
        tiles.append(Fact(gain, f"points against {summary.row(summary.baseline).label}"))
    share = percent(row.percent_of_backbone_and_trainable)
    tiles.append(Fact(f"{row.trainable:,}", f"trained parameters, {share} % of backbone + trained"))
    return [*tiles, Fact(f"{seconds(row.seconds)} s", "of training, median")]


def _comparison_done(results: Results) -> str:
    c, data = results.comparison, results.runs[0].record.request.data
    shots = (
        "all target images" if c.shots is None else f"{_shots(data)} target images of each class"
    )
    source = f" {data.samples['source']:,} source images and" if data.samples.get("source") else ""
    drawn = c.split_seeds > 1 and c.shots is not None
    repeat = [f"{c.split_seeds} draws of these shots"] if drawn else []
    repeat += [f"{c.seeds} seeds of each"] if c.seeds > 1 else []
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
    shots = "all" if data.shots is None else _shots(data)
    return (
        f"{request.method} was trained on the frozen backbone {request.backbone.name}, with{source} "
        f"{shots} target images of each of {len(data.classes)} classes at hand (split seed {data.split_seed}, "
        f"seed {request.seed}), and scored on {data.samples['test']:,} held-back target images."
    )


def _shots(data: DataCard) -> str:
    """How many shots were drawn: up to so many, where some classes have fewer images."""
    drawn = data.samples["train"] - data.samples.get("source", 0)
    return (
        f"{data.shots}" if drawn == (data.shots or 0) * len(data.classes) else f"up to {data.shots}"
    )


def _accuracy_caption(summary: ComparisonSummary) -> str:
    text = "Mean and 95 % interval"
    text += ", small dots are single splits" if summary.split_seeds > 1 else ""
    if any(row.published is not None for row in summary.rows):
        text += ", diamonds the published values"
    return f"{text}; the line is {summary.row(summary.reference).label}."
