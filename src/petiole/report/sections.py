"""What the page says in tables and lists, from records; no HTML here."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from petiole.engine.record import Record
from petiole.metrics.classification import confusion
from petiole.report.diagnosis import DomainDiagnosis
from petiole.report.formatting import amount, flops, number, percent, seconds
from petiole.report.runs import Run
from petiole.report.summary import ComparisonSummary, SummaryRow
from petiole.report.tables import VERDICT, SummaryColumn, columns

Value = float | int | str | None
Labelled = Sequence[tuple[str, Sequence[Run]]]
"""Label of a row, and its runs."""


@dataclass(frozen=True)
class TableCell:
    """What is read, what is sorted by, a class for the style sheet, and a second line."""

    text: str
    value: Value = None
    style: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table.

    Attributes:
        titles: of the columns, with whether they are numeric.
        rows: of cells.
        stressed: index of the row to stress.
        sortable: whether the rows may be read in any order.
    """

    titles: list[tuple[str, bool]]
    rows: list[list[TableCell]]
    stressed: int | None = None
    sortable: bool = True


@dataclass(frozen=True)
class Fact:
    """One line of a list: a name and what it is."""

    name: str
    text: str


def results(summary: ComparisonSummary) -> Sheet:
    """The main table."""
    table = columns(summary)
    rows = [
        [TableCell(c.text(row), c.value(row), _style(c, row), c.detail(row)) for c in table]
        for row in summary.rows
    ]
    names = [row.name for row in summary.rows]
    titles = [(c.title, c.numeric) for c in table]
    return Sheet(titles, rows, names.index(summary.reference))


def _style(column: SummaryColumn, row: SummaryRow) -> str:
    return column.text(row) if column.title == VERDICT else ""


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
    "Kept for prediction, % of the backbone": "inference_percent_of_backbone",
    "Kept for prediction, % of backbone + kept": "inference_percent_of_backbone_and_inference",
    "Adapters, % of the backbone": "adapters_percent_of_backbone",
}


def parameter_counts(rows: Labelled) -> Sheet:
    """Parameters by role."""
    return _ledger(rows, _COUNTS, lambda value: f"{value:,.0f}")


def percentages(rows: Labelled) -> Sheet:
    """Every percentage, its title saying of what."""
    return _ledger(rows, _PERCENTAGES, percent)


def _ledger(rows: Labelled, fields: dict[str, str], show: Callable[[float], str]) -> Sheet:
    lines = []
    for label, runs in rows:
        ledger = runs[0].record.ledger
        values = [getattr(ledger, field) for field in fields.values()]
        lines.append([TableCell(label, label), *(TableCell(show(v), v) for v in values)])
    return Sheet([("Method", False), *((title, True) for title in fields)], lines)


_COSTS: dict[str, tuple[Callable[[Record], float], Callable[[float], str]]] = {
    "Features, s": (lambda r: r.costs.feature_seconds, seconds),
    "Training, s": (lambda r: r.costs.train_seconds, seconds),
    "Scoring the test set, s": (lambda r: r.costs.test_seconds, seconds),
    "Peak memory": (lambda r: 1e6 * r.costs.peak_memory_mb, lambda v: amount(v, "B")),
    "Adapter file": (lambda r: r.costs.adapter_bytes, lambda v: amount(v, "B")),
    "Forward, one image": (lambda r: r.ledger.flops_forward, flops),
    "of which repeated in training": (lambda r: r.ledger.flops_above_cut, flops),
    "Training step, one image": (lambda r: r.ledger.flops_training, flops),
}


def costs(rows: Labelled) -> Sheet:
    """What the runs took: medians over the runs of a row."""
    lines = []
    for label, runs in rows:
        values = [
            (float(np.median([of(run.record) for run in runs])), show)
            for of, show in _COSTS.values()
        ]
        lines.append([TableCell(label, label), *(TableCell(show(v), v) for v, show in values)])
    return Sheet([("Method", False), *((title, True) for title in _COSTS)], lines)


def confusion_counts(runs: Sequence[Run]) -> NDArray[np.int64]:
    """Counts (K, K) over all runs: rows are true classes, columns predicted ones."""
    classes = len(runs[0].record.request.data.classes)
    tables = [confusion(run.guesses, run.labels, classes) for run in runs]
    return np.asarray(np.sum(tables, axis=0), dtype=np.int64)


def by_class(counts: NDArray[np.int64], classes: Sequence[str], runs: int) -> Sheet:
    """Images, recall, precision and the commonest wrong answer of each class."""
    lines = []
    for k, name in enumerate(classes):
        true, predicted = int(counts[k].sum()), int(counts[:, k].sum())
        wrong = np.where(np.arange(len(classes)) == k, 0, counts[k])
        worst = int(wrong.argmax())
        share = 100 * wrong[worst] / true if true else 0.0
        lines.append(
            [
                TableCell(name, name),
                TableCell(f"{true // runs:,}", true),
                _share(counts[k, k], true),
                _share(counts[k, k], predicted),
                TableCell(
                    f"{classes[worst]} ({number(share, 1)} %)" if wrong[worst] else "–", share
                ),
            ]
        )
    titles = [("Class", False), ("Test images", True), ("Recall, %", True), ("Precision, %", True)]
    return Sheet([*titles, ("Most often taken for", False)], lines)


def _share(part: int, whole: int) -> TableCell:
    if not whole:
        return TableCell("–")
    return TableCell(number(100 * part / whole, 1), float(part / whole))


_MEASURES = (
    ("domain_accuracy", "Domain classifier, accuracy", "0.5: domains alike; 1: told apart"),
    ("mmd2", "Maximum mean discrepancy, squared", "0: domains alike"),
    ("centroid_cosine", "Source to target mean of a class, cosine distance", "smaller: aligned"),
    (
        "centroid_cosine_other",
        "… to the nearest other class",
        "larger than the row above: classes kept apart",
    ),
    (
        "centroid_euclidean",
        "Source to target mean of a class, Euclidean",
        "compare with the next row",
    ),
    (
        "centroid_euclidean_other",
        "… to the nearest other class",
        "larger than the row above: classes kept apart",
    ),
)


def domain_distances(diagnosis: DomainDiagnosis) -> Sheet:
    """Measures of the domain shift before and after."""
    lines = [
        [
            TableCell(title, title),
            TableCell(_three(diagnosis.before.get(name)), diagnosis.before.get(name)),
            TableCell(_three(diagnosis.after.get(name)), diagnosis.after.get(name)),
            TableCell(meaning, meaning),
        ]
        for name, title, meaning in _MEASURES
        if name in diagnosis.before or name in diagnosis.after
    ]
    titles = [("Measure", False), ("Before", True), ("After", True), ("How to read it", False)]
    return Sheet(titles, lines, sortable=False)


def _three(value: float | None) -> str:
    return "–" if value is None else number(value, 3)


def facts(runs: Sequence[Run]) -> list[Fact]:
    """What decides the result: backbone, data, shots, selection, and openings of the test set."""
    request = runs[0].record.request
    card, data, p = request.backbone, request.data, request.backbone.preprocessing
    assert p is not None
    draws, inits = (
        {f(r.record) for r in runs} for f in (lambda r: r.request.data.split_seed, _seed)
    )
    images = ", ".join(
        f"{data.samples[k]:,} {name}" for k, name in _PARTS.items() if k in data.samples
    )
    shots = "all target images" if data.shots is None else f"{data.shots} target images a class"
    opened = max(run.record.test_evaluations for run in runs)
    test_evaluations = (
        "once, by each run, at its end" if opened == 1 else f"up to {opened} times by one run"
    )
    return [
        Fact("Backbone", card.name),
        Fact("Input", f"{p.size[1]} × {p.size[0]} pixels, {p.interpolation}, crop {p.crop:g}"),
        Fact("Images", images),
        Fact("Classes", f"{len(data.classes)}"),
        Fact("Shots", shots),
        Fact("Runs", f"{len(runs)}: {_count(draws, 'draw')}, {_count(inits, 'initialisation')}"),
        Fact("Model selection", ", ".join(sorted({run.record.selection for run in runs}))),
        Fact("Test set scored", test_evaluations),
        Fact(
            "Arithmetic",
            f"{request.options['precision']}, features kept as {request.options['dtype']}",
        ),
    ]


_PARTS = {"source": "source", "train": "to train on (source and shots)", "test": "target test"}


def _seed(record: Record) -> int:
    return record.request.seed


def _count(values: set[int], noun: str) -> str:
    return f"{len(values)} {noun}{'' if len(values) == 1 else 's'}"


def environment(runs: Sequence[Run]) -> list[Fact]:
    """Versions and machine; where runs differ, all values."""
    names = dict.fromkeys(name for run in runs for name in run.record.environment)
    return [
        Fact(name, ", ".join(dict.fromkeys(run.record.environment.get(name, "–") for run in runs)))
        for name in names
    ]


def hashes(runs: Sequence[Run]) -> list[Fact]:
    """Digests of weights and data."""
    request = runs[0].record.request
    found = [
        Fact("backbone", request.backbone.fingerprint),
        Fact("source images", request.data.digests.get("source", "none")),
        Fact("test images", request.data.digests.get("test", "none")),
    ]
    for digest in dict.fromkeys(run.record.request.data.digests["train"] for run in runs):
        draws = sorted(
            {
                r.record.request.data.split_seed
                for r in runs
                if r.record.request.data.digests["train"] == digest
            }
        )
        found.append(Fact(f"training images, draw {', '.join(map(str, draws))}", digest))
    return found


def settings(rows: Labelled) -> list[Fact]:
    """Every setting of every row, as ``petiole fit --set`` takes them."""
    found = []
    for label, runs in rows:
        request = runs[0].record.request
        pairs = " ".join(f"{k}={json.dumps(v)}" for k, v in sorted(request.settings.items()))
        found.append(Fact(label, f"{request.method} {pairs}".strip()))
    return found


def run_list(rows: Labelled) -> Sheet:
    """Every run with the digest of its request."""
    lines = [
        [
            TableCell(label, label),
            TableCell(str(run.record.request.data.split_seed), run.record.request.data.split_seed),
            TableCell(str(run.record.request.seed), run.record.request.seed),
            TableCell(number(100 * run.record.main["accuracy"], 2), run.record.main["accuracy"]),
            TableCell(run.record.id, run.record.id, "code"),
            TableCell(run.record.created, run.record.created, "code"),
        ]
        for label, runs in rows
        for run in runs
    ]
    titles = [("Method", False), ("Draw", True), ("Seed", True), ("Accuracy, %", True)]
    return Sheet([*titles, ("Request", False), ("Finished", False)], lines)


def notes(runs: Sequence[Run], more: Sequence[str] = ()) -> list[str]:
    """What was left out of the data, and whatever else the protocol noted; each once."""
    return list(dict.fromkeys([*more, *(n for run in runs for n in run.record.request.data.notes)]))
