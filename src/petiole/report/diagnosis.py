"""How far the domains lie apart before and after adaptation, and a map of both.

Computed from a run's ``vectors.safetensors`` and kept beside it in ``diagnosis.json``, because a
t-SNE takes longer than everything else on the page.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from petiole.engine.model_card import FrozenModel
from petiole.errors import RunError, boundary
from petiole.files import read_sealed, read_tensors, sha256, write_sealed
from petiole.metrics.shift import project, shift_report

VECTORS, DIAGNOSIS = "vectors.safetensors", "diagnosis.json"
SEED = 0
MOST_MAPPED = 600  # images of each domain on the map: more only hide each other

Vectors = NDArray[np.float64]


class DomainDiagnosis(FrozenModel):
    """Domain distances and a t-SNE map of one run's image vectors.

    Attributes:
        vectors: SHA-256 of the vectors that it was computed from.
        images: how many of the source and of the target.
        before, after: measures of ``petiole.metrics.shift.shift_report`` on the backbone's own
            vectors and on the refined ones; empty without a source domain.
        map_before, map_after: t-SNE coordinates (m, 2).
        labels, is_target: of the mapped images, (m,).
        note: why something is missing, else empty.
    """

    format: int = 1
    vectors: str
    images: dict[str, int]
    before: dict[str, float]
    after: dict[str, float]
    map_before: list[tuple[float, float]]
    map_after: list[tuple[float, float]]
    labels: list[int]
    is_target: list[bool]
    note: str = ""


def diagnose(folder: Path) -> DomainDiagnosis | None:
    """Return the diagnosis of a run folder, from its own cache where that fits the vectors.

    Returns:
        ``None`` if the run kept no vectors.
    """
    file = folder / VECTORS
    if not file.is_file():
        return None
    digest = sha256(file)
    known = _read(folder / DIAGNOSIS)
    if known is not None and known.vectors == digest:
        return known
    diagnosis = _compute(file, digest)
    write_sealed(folder / DIAGNOSIS, diagnosis.model_dump(mode="json"))
    return diagnosis


def _read(file: Path) -> DomainDiagnosis | None:
    """The stored diagnosis; one that is missing, damaged or of another version is made again."""
    try:
        return DomainDiagnosis.model_validate(read_sealed(file))
    except Exception:
        return None


def _compute(file: Path, digest: str) -> DomainDiagnosis:
    with boundary(file, "Delete it, or run it again.", RunError, what="is damaged"):
        tensors, _ = read_tensors(file)
        views = {name: tensors[name].double().numpy() for name in ("before", "after")}
        labels, is_target = tensors["labels"].numpy(), tensors["is_target"].numpy().astype(bool)
    shown = np.sort(
        np.concatenate([_spread(np.flatnonzero(is_target == d)) for d in (False, True)])
    )
    measures: dict[str, dict[str, float]] = {name: {} for name in views}
    maps: dict[str, list[tuple[float, float]]] = {name: [] for name in views}
    note = "" if len(set(is_target.tolist())) == 2 else "There is no source domain to compare with."
    try:
        for name, x in views.items():
            maps[name] = [(round(a, 2), round(b, 2)) for a, b in project(x[shown], SEED).tolist()]
            if not note:
                measures[name] = _measures(x, labels, is_target)
    except ValueError as reason:  # too few images, or vectors that overflowed in half precision
        note = str(reason)
        measures, maps = {name: {} for name in views}, {name: [] for name in views}
    return DomainDiagnosis(
        vectors=digest,
        images={"source": int((~is_target).sum()), "target": int(is_target.sum())},
        before=measures["before"],
        after=measures["after"],
        map_before=maps["before"],
        map_after=maps["after"],
        labels=labels[shown].tolist() if maps["after"] else [],
        is_target=is_target[shown].tolist() if maps["after"] else [],
        note=note,
    )


def _measures(
    x: Vectors, labels: NDArray[np.int64], is_target: NDArray[np.bool_]
) -> dict[str, float]:
    source, target = ~is_target, is_target
    report = shift_report(x[source], x[target], labels[source], labels[target], seed=SEED)
    return {name: value for name, value in report.items() if math.isfinite(value)}


def _spread(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most ``MOST_MAPPED`` rows, evenly spaced: they lie in the order of the classes."""
    keep = np.linspace(0, len(rows) - 1, min(len(rows), MOST_MAPPED)).round().astype(np.int64)
    return np.asarray(rows[keep], dtype=np.int64)
