"""Rows and records with numbers that are stated here, for tables and sentences."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from petiole.metrics.intervals import Interval
from petiole.metrics.paired import Paired
from petiole.report.summary import ComparisonSummary, PairedContrast, SummaryRow


def interval(mean: float, half: float = 0.02, sd: float = 0.01) -> Interval:
    return Interval(mean, sd, mean - half, mean + half, 5, 0.95, "t")


def paired(difference: float, p: float = 0.02) -> Paired:
    return Paired(difference, difference - 0.01, difference + 0.01, p, 5, "paired t over runs")


def against(mean: float, half: float, verdict: Any, p: float = 0.03, by_split: bool = True) -> PairedContrast:  # fmt: skip
    return PairedContrast(
        paired(mean) if by_split else None, paired(mean, 0.5), interval(mean, half), p, verdict
    )


def row(name: str, **more: Any) -> SummaryRow:
    terms: dict[str, Any] = {
        "name": name, "label": name.title(), "method": f"m-{name}", "accuracy": interval(0.8),
        "over_splits": interval(0.8, 0.05, 0.012), "by_split": [0.79, 0.81], "macro": interval(0.7, 0.05, 0.03),
        "ece": 0.0456, "trainable": 12_345, "inference": 9_876, "percent_of_backbone_and_trainable": 0.4567,
        "stored_bytes": 45_678, "flops_forward": 12_250_000_000, "flops_training": 0, "peak_memory_mb": 812.6,
        "seconds": 3.456, "gain": None, "versus": None, "published": None, "published_costs": {},
    }  # fmt: skip
    return SummaryRow(**{**terms, **more})


def summary(*rows: SummaryRow, **more: Any) -> ComparisonSummary:
    terms: dict[str, Any] = {
        "title": "Sketch to photo", "rows": list(rows), "split_seeds": 5, "seeds": 1, "shots": 10,
        "images": 999, "reference": rows[-1].name, "baseline": rows[0].name, "headline": rows[-1].name, "margin": 0.01,
    }  # fmt: skip
    return ComparisonSummary(**{**terms, **more})


BASE = row("base", versus=against(-0.123, 0.02, "worse"), accuracy=interval(0.677), trainable=0)


OURS = row("ours", gain=against(0.123, 0.02, "better"))


def run(seed: int, trainable: int = 7, kind: str = "text", **tables_: dict[str, float]) -> Any:
    return SimpleNamespace(
        ledger=SimpleNamespace(trainable=trainable, total=100),
        costs=SimpleNamespace(train_seconds=10.0 + 2 * seed, peak_memory_mb=100.0 + 4 * seed),
        scores=tables_ or {"test": {"r2": 0.5, "mae": 1.0 + seed, "n": 3.0}},
        request=SimpleNamespace(kind=kind),
    )
