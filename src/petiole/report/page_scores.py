"""The page of a run or a comparison that is scored by task, by language model, or by place."""

from __future__ import annotations

from pathlib import Path

from petiole.data.image import read_bytes
from petiole.protocols.jobs import headlines
from petiole.report import sections
from petiole.report.flips import FlipExample, data_uri
from petiole.report.folder import is_comparison, sentence, summarise
from petiole.report.formatting import join, mean_sd, number, seconds
from petiole.report.page import (
    PageContent,
    Thumbnails,
    common,
    loss_curves,
    overview,
    size_tiles,
)
from petiole.report.runs import Run, read_run, read_runs
from petiole.report.scores import ScoreSummary, seeds_of, table
from petiole.report.sections import Fact
from petiole.tasks.segmentation.overlays import OVERLAYS

_MOST_NAMED = 4
MASKS = Fact(
    "Masks",
    "The first test images in the order of their content: the image, and under the colours of its true and of its predicted classes.",
)


def _overlays(run: Run) -> list[Thumbnails]:
    """What a run on masks shows; nothing of others."""
    names = sorted(name for name in run.record.files if name.startswith(f"{OVERLAYS}/"))
    shown = [
        FlipExample(name, data_uri(read_bytes(run.folder / name), "webp"), False, "", "", "", 0.0)
        for name in names
    ]
    return [Thumbnails("Test images", "", shown, wide=True)] if shown else []


def page_of_scores(folder: Path) -> PageContent | None:
    """The page of whichever lies in the folder; ``None`` for photos, which have a page with more to show.

    Raises:
        RunError: a run is missing or damaged.
    """
    if is_comparison(folder):
        summary = summarise(folder)
        return _comparison(folder, summary) if isinstance(summary, ScoreSummary) else None
    run = read_run(folder)
    return None if run.record.request.kind == "classification" else _run(run)


def _comparison(folder: Path, summary: ScoreSummary) -> PageContent:
    protocol, reference = summary.protocol, summary.reference
    runs = read_runs(protocol, folder)
    rows = [(row.label, of_row) for row, of_row in zip(protocol.rows, runs, strict=True)]
    shown = dict(rows)[reference.label]
    reached = f"{mean_sd(reference.headline, 1)} %"
    several = len(reference.scores) > 1
    request = shown[0].record.request
    methods = f"{len(rows)} methods were" if len(rows) > 1 else "One method was"
    return PageContent(
        title=summary.title,
        kind="Comparison",
        lede=sentence(summary),
        tiles=[
            Fact(reached, f"{summary.headline if several else 'score'} of {reference.label}"),
            Fact(f"{reference.trainable:,}", "trained parameters"),
            Fact(f"{seconds(reference.seconds or 0.0)} s", "of training, mean"),
        ],
        done=f"{methods} trained on the frozen {request.backbone.name}, with {seeds_of(protocol)} each, and scored on the same "
        f"{request.data.scored} samples.",
        results=table(summary),
        legend=" ".join(summary.notes),
        overview=overview(summary, _caption(protocol.seeds)),
        curves=loss_curves(list(shown)),
        **common(reference.label, rows, []),
    )


def _caption(seeds: int) -> str:
    return "Mean and 95 % interval" + (", small dots are single seeds." if seeds > 1 else ".")


def _run(run: Run) -> PageContent:
    request = run.record.request
    found, samples = headlines(run.record), request.data.samples
    metrics = {name: next(iter(scores)) for name, scores in run.record.scores.items()}
    share = sections.in_per_cent(run.record)
    shown = {n: f"{number(100 * v, 1)} %" if share else number(v, 3) for n, v in found.items()}
    named = [f"{value} on {name} ({metrics[name]})" for name, value in shown.items()]
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
                Fact(value, f"{metrics[name]}, {name}")
                for name, value in list(shown.items())[:_MOST_NAMED]
            ),
            *size_tiles(run),
        ],
        done=f"{request.method} was trained on the frozen {request.backbone.name} with {trained:,} samples (seed "
        f"{request.seed}), and scored on {scored:,} {request.data.scored} samples.",
        results=sections.all_scores(run.record),
        heading="Scores",
        measured=sections.measured(run.record),
        curves=loss_curves([run]),
        galleries=_overlays(run),
        examples=MASKS,
        **common(request.method, [(request.method, [run])], []),
    )
