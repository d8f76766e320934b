"""What the page says in tables and lists of runs of any kind, from their records; no HTML here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from petiole.engine.record import Costs, Record, RunRequest
from petiole.ledger import Ledger
from petiole.protocols.jobs import average
from petiole.report.formatting import amount, flops, number, percent, seconds
from petiole.report.runs import Run
from petiole.report.table import Column, Table, measure, plain, words

Labelled = Sequence[tuple[str, Sequence[Run]]]
"""Label of a row, and its runs."""
RowOfRuns = tuple[str, Sequence[Run]]


@dataclass(frozen=True)
class Fact:
    """One line of a list: a name and what it is."""

    name: str
    text: str


_COUNTS = {
    "Backbone, frozen": "backbone",
    "Adapters": "adapters",
    "Head": "head",
    "Only for training": "training_only",
    "Trained": "trainable",
    "Kept for prediction": "inference",
    "Backbone and trained": "total",
}
_PERCENTAGES = {
    "Trained, % of the backbone": "trainable_percent_of_backbone",
    "Trained, % of backbone + trained": "trainable_percent_of_backbone_and_trainable",
    "Trained, % of full fine-tuning (backbone + head)": "trainable_percent_of_full_fine_tuning",
    "Trained, % of the language model": "trainable_percent_of_language_model",
    "Trained, % of the encoder": "trainable_percent_of_encoder",
    "Kept for prediction, % of the backbone": "inference_percent_of_backbone",
    "Kept for prediction, % of backbone + kept": "inference_percent_of_backbone_and_inference",
    "Adapters, % of the backbone": "adapters_percent_of_backbone",
}


def parameter_counts(rows: Labelled) -> Table[RowOfRuns]:
    """Parameters by role."""
    return _of_ledgers(rows, _COUNTS, lambda value: f"{value:,.0f}")


def percentages(rows: Labelled) -> Table[RowOfRuns]:
    """Every percentage, its title saying of what."""
    return _of_ledgers(rows, _PERCENTAGES, percent)


def _of_ledgers(
    rows: Labelled, fields: Mapping[str, str], show: Callable[[float], str]
) -> Table[RowOfRuns]:
    def column(title: str, name: str) -> Column[RowOfRuns]:
        return measure(title, lambda row: getattr(row[1][-1].record.ledger, name), show)

    ledgers = [runs[-1].record.ledger for _, runs in rows]
    counted = [
        field
        for field in fields.items()
        if any(getattr(one, field[1]) is not None for one in ledgers)
    ]
    return Table([_method(), *(column(*field) for field in counted)], rows)


_UNITS = {"classification": "image", "text": "sample", "codebook": "question"}
"""What FLOPs are of, by kind of task."""


def _method() -> Column[RowOfRuns]:
    return words("Method", lambda row: row[0])


def costs(rows: Labelled) -> Table[RowOfRuns]:
    """What the runs took: medians over the runs of a row; FLOPs where they were counted."""

    def cost(title: str, of: Callable[[Costs], float], show: Callable[[float], str]) -> Any:
        return measure(title, lambda row: _median(row, lambda r: of(r.costs)), show)

    def count(title: str, of: Callable[[Ledger], float]) -> Any:
        return measure(title, lambda row: _median(row, lambda r: of(r.ledger)), flops)

    def size(value: float) -> str:
        return amount(value, "B")

    unit = _UNITS.get(rows[0][1][0].record.request.kind, "sample")
    columns = [
        _method(),
        cost("Features, s", lambda c: c.feature_seconds, seconds),
        cost("Training, s", lambda c: c.train_seconds, seconds),
        cost("Scoring the test set, s", lambda c: c.test_seconds, seconds),
        cost("Peak memory", lambda c: 1e6 * c.peak_memory_mb, size),
        cost("Adapter file", lambda c: c.adapter_bytes, size),
    ]
    if any(run.record.ledger.flops_forward for _, runs in rows for run in runs):
        columns += [
            count(f"Forward, one {unit}", lambda ledger: ledger.flops_forward),
            count("of which repeated in training", lambda ledger: ledger.flops_above_cut),
            count(f"Training step, one {unit}", lambda ledger: ledger.flops_training),
        ]
    return Table(columns, rows)


def _median(row: RowOfRuns, of: Callable[[Record], float]) -> float:
    return float(np.median([of(run.record) for run in row[1]]))


def in_per_cent(record: Record) -> bool:
    """Whether the headline is a share; scores of other kinds are shown as the numbers that they are."""
    return record.request.kind in ("classification", "text", "codebook")


def all_scores(record: Record) -> Table[Any]:
    """Every score of a run: a row a table and a column a metric, or a line each where the metrics differ."""
    tables, digits = record.scores, 1 if in_per_cent(record) else 3
    scale = 100 if record.request.kind == "classification" else 1
    names = [tuple(metrics) for metrics in tables.values()]
    if len(set(names)) > 1:
        lines = [
            (table, name, value)
            for table, scores in tables.items()
            for name, value in scores.items()
        ]
        return Table(
            [
                words("Task", lambda line: line[0]),
                words("Metric", lambda line: line[1]),
                measure("Score", lambda line: scale * line[2], lambda v: number(v, digits)),
            ],
            lines,
        )

    def metric(name: str) -> Column[Any]:
        return measure(name, lambda line: scale * line[1][name], lambda v: number(v, digits))

    title = "Language model" if record.request.kind == "codebook" else "Task"
    return Table([words(title, lambda line: line[0]), *map(metric, names[0])], list(tables.items()))


def measured(record: Record) -> Table[Any] | None:
    """What the task measured of the model beside its scores, by moment; ``None`` for nothing."""
    moments = {k: v for k, v in record.diagnosis.items() if isinstance(v, dict)}
    names = dict.fromkeys(name for values in moments.values() for name in values)
    if not names:
        return None
    rows = [
        [
            name.replace("_", " "),
            *(f"{values.get(name, float('nan')):.4g}" for values in moments.values()),
        ]
        for name in names
    ]
    titles = ["Measure", *(moment[:1].upper() + moment[1:] for moment in moments)]
    return plain(titles, rows, sortable=False)


def facts(runs: Sequence[Run]) -> list[Fact]:
    """What decides the result: backbone, data, selection, and how often the test set was scored."""
    request, most = runs[0].record.request, max(run.record.test_evaluations for run in runs)
    photos = request.kind == "classification"
    often = "once, by each run, at its end" if most == 1 else f"up to {most} times by one run"
    seeds = {run.record.request.seed for run in runs}
    splits = {run.record.request.data.split_seed for run in runs}
    repeats = ([_count(splits, "split seed")] if photos else []) + [_count(seeds, "seed")]
    return [
        Fact("Backbone", request.backbone.name),
        *(_photos(request) if photos else _samples(request)),
        Fact("Runs", f"{len(runs)}: {', '.join(repeats)}"),
        Fact("Model selection", ", ".join(sorted({run.record.selection for run in runs}))),
        Fact("Test set scored", often if most else "never"),
        *([_arithmetic(request)] if photos else _options(request)),
    ]


_PARTS = {"source": "source", "train": "to train on (source and shots)", "test": "target test"}


def _photos(request: RunRequest) -> list[Fact]:
    data, p = request.data, request.backbone.preprocessing
    shown = (f"{data.samples[k]:,} {name}" for k, name in _PARTS.items() if k in data.samples)
    shots = "all target images" if data.shots is None else f"{data.shots} target images a class"
    return [
        *([Fact("Input", str(p))] if p else []),
        Fact("Images", ", ".join(shown)),
        Fact("Classes", f"{len(data.classes)}"),
        Fact("Shots", shots),
    ]


def _samples(request: RunRequest) -> list[Fact]:
    data, vision = request.data, request.backbone.vision_backbone
    found = [Fact("Images are seen by", vision.name)] if vision else []
    found.append(Fact("Tasks", ", ".join(data.tasks)))
    found.append(Fact("Samples", ", ".join(f"{n:,} {part}" for part, n in data.samples.items())))
    if data.fraction < 1:
        found.append(Fact("Share of the training samples", f"{100 * data.fraction:g} %"))
    return [*found, Fact("Scored", data.scored)]


def _options(request: RunRequest) -> list[Fact]:
    return [
        Fact(name.replace("_", " ").capitalize(), _said(value))
        for name, value in request.options.items()
        if value not in (None, [], {})
    ]


def _said(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(str, value))
        case dict():
            return ", ".join(f"{name}={one}" for name, one in value.items())
    return str(value)


def _arithmetic(request: RunRequest) -> Fact:
    precision, dtype = (request.options.get(name, "unknown") for name in ("precision", "dtype"))
    return Fact("Arithmetic", f"{precision}, features kept as {dtype}")


def _count(values: set[int], noun: str) -> str:
    return f"{len(values)} {noun}{'' if len(values) == 1 else 's'}"


def environment(runs: Sequence[Run]) -> list[Fact]:
    """Versions and machine; where runs differ, all values."""
    names = dict.fromkeys(name for run in runs for name in run.record.environment)
    return [
        Fact(name, ", ".join(dict.fromkeys(run.record.environment.get(name, "–") for run in runs)))
        for name in names
    ]


_DIGESTS = {"source": "source images", "train": "training images", "test": "test images"}


def hashes(runs: Sequence[Run]) -> list[Fact]:
    """Digests of weights and data; those that differ between runs by split seed."""
    requests = [run.record.request for run in runs]
    found = [Fact("backbone", requests[0].backbone.fingerprint)]
    for name in dict.fromkeys(name for request in requests for name in request.data.digests):
        splits: dict[str, set[int]] = {}
        for request in requests:
            if digest := request.data.digests.get(name):
                splits.setdefault(digest, set()).add(request.data.split_seed)
        title = _DIGESTS.get(name, name)
        for digest, seeds in splits.items():
            own = f", split seed {', '.join(map(str, sorted(seeds)))}" if len(splits) > 1 else ""
            found.append(Fact(title + own, digest))
    return found


def settings(rows: Labelled) -> list[Fact]:
    """Every setting of every row, as ``petiole fit --set`` takes them."""
    found = []
    for label, runs in rows:
        request = runs[0].record.request
        pairs = " ".join(f"{k}={json.dumps(v)}" for k, v in sorted(request.settings.items()))
        found.append(Fact(label, f"{request.method} {pairs}".strip()))
    return found


def run_list(rows: Labelled) -> Table[Any]:
    """Every run with the digest of its request."""
    lines = [(label, run.record) for label, runs in rows for run in runs]
    photos = lines[0][1].request.kind == "classification"
    share = in_per_cent(lines[0][1])
    score = "Accuracy, %" if photos else "Score, %" if share else "Score"
    scale, digits = (100, 2) if share else (1, 4)
    split: Column[Any] = measure("Split seed", lambda line: line[1].request.data.split_seed, str)
    columns: list[Column[Any]] = [
        words("Method", lambda line: line[0]),
        *([split] if photos else []),
        measure("Seed", lambda line: line[1].request.seed, str),
        measure(score, lambda line: scale * average(line[1]), lambda v: number(v, digits)),
        words("Request", lambda line: line[1].id, style="code"),
        words("Finished", lambda line: line[1].created, style="code"),
    ]
    return Table(columns, lines)


def notes(runs: Sequence[Run], more: Sequence[str] = ()) -> list[str]:
    """What was left out of the data, and whatever else the protocol noted; each once."""
    return list(dict.fromkeys([*more, *(n for run in runs for n in run.record.request.data.notes)]))
