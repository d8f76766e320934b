"""The page of a run or a comparison that is scored by task, by language model, or by place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from petiole.engine.record import RECORD
from petiole.protocols.comparison import COMPARISON, Comparison
from petiole.protocols.generalisation import STATE as GENERALISATION
from petiole.protocols.multitask import STATE as MULTITASK
from petiole.protocols.protocol import headlines
from petiole.report import generalisation, multitask, sections
from petiole.report.formatting import join, mean_sd, number, seconds
from petiole.report.page import (
    PageContent,
    common,
    loss_curves,
    overview,
    size_tiles,
)
from petiole.report.runs import Run, read_run, read_runs
from petiole.report.scores import ScoreSummary, summarise_comparison, table
from petiole.report.sections import Fact
from petiole.report.sentence import standing

_MOST_NAMED = 4
_PROTOCOLS: dict[str, Callable[[Path], ScoreSummary]] = {
    MULTITASK: multitask.summarise,
    GENERALISATION: generalisation.summarise,
}


def page_of_scores(folder: Path) -> PageContent | None:
    """The page of whichever lies in the folder; ``None`` for photos, which have a page with more to show.

    Raises:
        RunError: a run is missing or damaged.
    """
    for state, summarise in _PROTOCOLS.items():
        if (folder / state).is_file():
            return _comparison(folder, summarise(folder))
    if (folder / COMPARISON).is_file():
        comparison = Comparison.read(folder)
        if comparison.kind == "classification":
            return None
        return _comparison(folder, summarise_comparison(comparison, folder))
    if (folder / RECORD).is_file():
        run = read_run(folder)
        return None if run.record.request.kind == "classification" else _run(run)
    return None


def _comparison(folder: Path, summary: ScoreSummary) -> PageContent:
    protocol, reference = summary.protocol, summary.reference
    runs = read_runs(protocol, folder)
    rows = [(row.label, of_row) for row, of_row in zip(protocol.rows, runs, strict=True)]
    shown = dict(rows)[reference.label]
    verdicts = [(row.label, row.verdict) for row in summary.rows if row.verdict]
    reached = f"{mean_sd(reference.headline, 1)} %"
    spread = f"mean ± sd of {protocol.seeds} seeds" if protocol.seeds > 1 else "one seed"
    several = len(reference.scores) > 1
    what = f"{summary.headline} of {', '.join(reference.scores)}" if several else "score"
    request = shown[0].record.request
    methods = f"{len(rows)} methods were" if len(rows) > 1 else "One method was"
    seeds = "one seed" if protocol.seeds == 1 else f"{protocol.seeds} seeds"
    page = table(summary)
    return PageContent(
        title=summary.title,
        kind="Comparison",
        lede=f"{reference.label} reaches {reached} ({what}; {spread}). {standing('It', verdicts)}".strip(),
        tiles=[
            Fact(reached, f"{summary.headline if several else 'score'} of {reference.label}"),
            Fact(f"{reference.trainable:,}", "trained parameters"),
            Fact(f"{seconds(reference.seconds or 0.0)} s", "of training, mean"),
        ],
        done=f"{methods} trained on the frozen {request.backbone.name}, with {seeds} each, and scored on the same "
        f"{request.data.scored} samples.",
        results=page,
        legend=" ".join(summary.notes),
        overview=overview(
            summary,
            "Mean and 95 % interval"
            + (", small dots are single seeds." if protocol.seeds > 1 else "."),
        ),
        curves=loss_curves(list(shown)),
        **common(reference.label, rows, []),
    )


def _run(run: Run) -> PageContent:
    request = run.record.request
    found, samples = headlines(run.record), request.data.samples
    metrics = {name: next(iter(scores)) for name, scores in run.record.scores.items()}
    named = [
        f"{number(100 * value, 1)} % on {name} ({metrics[name]})" for name, value in found.items()
    ]
    if len(named) > _MOST_NAMED:
        named = [*named[: _MOST_NAMED - 1], f"{len(named) - _MOST_NAMED + 1} more below"]
    trained = sum(n for part, n in samples.items() if part.rpartition("/")[2] == "train")
    scored = sum(n for part, n in samples.items() if part.rpartition("/")[2] == request.data.scored)
    return PageContent(
        title=request.method,
        kind="Run",
        lede=f"{request.method} reaches {join(named)}. One run has no interval, and one number alone ranks nothing: "
        "compare it with other methods and seeds.",
        tiles=[
            *(
                Fact(f"{number(100 * value, 1)} %", f"{metrics[name]}, {name}")
                for name, value in list(found.items())[:_MOST_NAMED]
            ),
            *size_tiles(run),
        ],
        done=f"{request.method} was trained on the frozen {request.backbone.name} with {trained:,} samples (seed "
        f"{request.seed}), and scored on {scored:,} {request.data.scored} samples.",
        results=sections.all_scores(run.record),
        heading="Scores",
        measured=sections.measured(run.record),
        curves=loss_curves([run]),
        **common(request.method, [(request.method, [run])], []),
    )
