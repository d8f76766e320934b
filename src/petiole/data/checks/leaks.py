"""Images on both sides of a split: equal bytes, equal thumbnails, or equal features.

SHA-256 finds copies; a perceptual hash finds re-encoded and resized ones; feature cosine finds
crops and near-twins, at the price of false alarms where the backbone sees no detail.
A pair is reported once, by the first that finds it. It is a report, not a filter: a person decides.
All pairs are counted, tile by tile; the first `MOST_KEPT` of each kind are kept, so that look-alikes by the hundred
million (an inspection line, frames of a video) cost time, not memory.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os.path import commonpath, relpath
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from petiole.data.checks.thumbnails import MIN_SIDE, Thumbnails
from petiole.data.dataset import MEMORY, Dataset, bullets
from petiole.errors import DataError
from petiole.printable import SafeConsole

How = Literal["sha256", "phash", "cosine"]
T = TypeVar("T")

_WORTH_A_BAR = 500, 20  # images, tiles; fewer are done before one could read the bar
_TILE = 1024  # rows and columns compared at a time; bounds the memory
MOST_KEPT = 1000
"""Pairs of each kind that a report holds; the others are only counted."""
_SAME_THUMBNAIL = 0.98
"""Correlation of the 32 x 32 thumbnails that a pair of near hashes must also have.

Hashes alone take line drawings for each other: among 3,929 sketches and a fifth of them, 247 wrong
pairs, of which this leaves none; every one of 250 copies at JPEG quality 30 or a third of the size
stays above it."""


@dataclass(frozen=True)
class LeakPair:
    """One suspicious pair; ``value`` is 0 (sha256), differing bits of 64 (phash) or the cosine."""

    train: Path
    test: Path
    how: How
    value: float


@dataclass(frozen=True)
class LeakReport:
    """Suspicious pairs, true when there are any.

    Attributes:
        pairs: the first `MOST_KEPT` of each kind.
        notes: what could not be compared, and whether there are more pairs.
        found: how many there are of each kind, kept or not.
    """

    pairs: tuple[LeakPair, ...]
    notes: tuple[str, ...] = ()
    found: Mapping[How, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.pairs)

    def counts(self) -> dict[How, int]:
        """Pairs by detector, those that were not kept included."""
        return dict(self.found)

    def summary(self) -> str:
        """Return a few lines for a person: how many, of which kind, the first ten, the notes.

        Paths are shown from the folder that all of them share.
        """
        if not self.pairs:
            return " ".join(
                ["No image of the training side was found on the test side.", *self.notes]
            )
        kinds = ", ".join(f"{n:,} by {how}" for how, n in self.counts().items() if n)
        shown = _from_common_folder([p for pair in self.pairs for p in (pair.train, pair.test)])
        lines = [f"{shown[p.train]} ~ {shown[p.test]} ({p.how} {p.value:g})" for p in self.pairs]
        head = f"{sum(self.found.values()):,} pair(s) of training and test images look the same: {kinds}."
        return "\n".join([head, bullets(lines), *self.notes])


def _from_common_folder(paths: Sequence[Path]) -> dict[Path, str]:
    """Paths from the folder that all share; as they are where there is none, or images in memory."""
    absolute = {path.is_absolute() for path in paths}
    if len(absolute) > 1 or any(path.parts[0] == MEMORY for path in paths):
        return {path: str(path) for path in paths}
    root = commonpath(paths) or "."
    return {path: relpath(path, root) for path in paths}


def find_leaks(
    train: Dataset,
    test: Dataset,
    *,
    features: tuple[NDArray[np.floating], NDArray[np.floating]] | None = None,
    thumbnails: tuple[Thumbnails, Thumbnails] | None = None,
    phash_distance: int = 4,
    cosine: float = 0.98,
    quiet: bool = False,
) -> LeakReport:
    """Compare every training image with every test image.

    Args:
        train: n images.
        test: m images.
        features: (n, d) and (m, d), row by row those of the datasets; without them only files are
            compared.
        thumbnails: of the datasets, where they are known; without them every image is read.
        phash_distance: report pairs whose 64-bit perceptual hashes differ in at most this many
            bits.
        cosine: report pairs whose features have at least this cosine.
        quiet: show no progress.

    Raises:
        DataError: features that do not fit the datasets, or an unreadable image.
    """
    a, b = thumbnails or (_read(dataset, quiet) for dataset in (train, test))
    detectors: dict[How, _Detector] = {
        "sha256": _equal_ids(train, test),
        "phash": _near_thumbnails(a, b, phash_distance),
    }
    notes = []
    if without := int((~a.valid).sum() + (~b.valid).sum()):
        notes.append(
            f"{without} of {len(train) + len(test)} images are too small (under {MIN_SIDE} px) or "
            "too flat for a perceptual hash and were compared by the other means only."
        )
    if features is None:
        notes.append("Features were not compared.")
    else:
        for dataset, rows in zip((train, test), features, strict=True):
            if rows.ndim != 2 or len(rows) != len(dataset):
                raise DataError(
                    f"{dataset.name}: features of shape {rows.shape} do not fit "
                    f"{len(dataset)} images; give one row an image."
                )
        detectors["cosine"] = _near_features(*features, cosine)
    kept, found = _search(len(train), len(test), detectors, quiet)
    if sum(found.values()) > len(kept):
        notes.append(f"The first {MOST_KEPT:,} pairs of each kind are listed; all are counted.")
    pairs = (
        LeakPair(train.samples[i].path, test.samples[j].path, how, value)
        for i, j, how, value in sorted(kept)
    )
    return LeakReport(tuple(pairs), tuple(notes), found)


_Detector = Callable[[slice, slice], tuple[NDArray[np.bool_], NDArray[np.generic]]]
"""Rows of n and of m -> which pairs look the same, and their values."""


def _search(
    n: int, m: int, detectors: Mapping[How, _Detector], quiet: bool
) -> tuple[list[tuple[int, int, How, float]], dict[How, int]]:
    """Pairs (i, j, how, value) that are kept, and how many there are by the first detector that finds them."""
    kept: list[tuple[int, int, How, float]] = []
    found: dict[How, int] = dict.fromkeys(("sha256", "phash", "cosine"), 0)
    tiles = [(top, left) for top in range(0, n, _TILE) for left in range(0, m, _TILE)]
    for top, left in _shown(tiles, len(tiles), quiet or len(tiles) < _WORTH_A_BAR[1]):
        rows, columns = slice(top, min(top + _TILE, n)), slice(left, min(left + _TILE, m))
        known = np.zeros((rows.stop - top, columns.stop - left), np.bool_)
        for how, detect in detectors.items():
            same, values = detect(rows, columns)
            same &= ~known
            known |= same
            room = max(0, MOST_KEPT - found[how])
            found[how] += int(same.sum())
            for i, j in np.argwhere(same)[:room] if room else ():
                kept.append((top + int(i), left + int(j), how, float(values[i, j])))
    return kept, found


def _shown(steps: Iterable[T], total: int, quiet: bool) -> Iterable[T]:
    """The steps, under a bar that vanishes when done."""
    console = SafeConsole(stderr=True)
    what = "Comparing training and test images"
    return track(steps, what, total, console=console, transient=True, disable=quiet)


def _read(dataset: Dataset, quiet: bool) -> Thumbnails:
    n = len(dataset)
    hidden = quiet or n < _WORTH_A_BAR[0]
    return Thumbnails.of(dataset.samples, lambda read: _shown(read, n, hidden))


def _equal_ids(train: Dataset, test: Dataset) -> _Detector:
    _, codes = np.unique([*train.ids, *test.ids], return_inverse=True)
    a, b = codes[: len(train)], codes[len(train) :]

    def detect(rows: slice, columns: slice) -> tuple[NDArray[np.bool_], NDArray[np.generic]]:
        same = a[rows, None] == b[None, columns]
        return same, np.broadcast_to(np.float32(0), same.shape)

    return detect


def _near_thumbnails(a: Thumbnails, b: Thumbnails, distance: int) -> _Detector:
    def detect(rows: slice, columns: slice) -> tuple[NDArray[np.bool_], NDArray[np.generic]]:
        bits = np.bitwise_count(a.hashes[rows, None] ^ b.hashes[None, columns])
        near = (bits <= distance) & a.valid[rows, None] & b.valid[None, columns]
        # Correlations of those rows and columns alone that have a near hash: few, or one product of matrices.
        i, j = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
        if len(i):
            x, y = (_centred(t) for t in (a.thumbnails[rows][i], b.thumbnails[columns][j]))
            near[np.ix_(i, j)] &= x @ y.T >= _SAME_THUMBNAIL
        return near, bits

    return detect


def _centred(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Rows whose dot products are correlations."""
    x = thumbnails.astype(np.float32)
    return _unit_rows(x - x.mean(axis=1, keepdims=True))


def _near_features(a: NDArray[np.floating], b: NDArray[np.floating], threshold: float) -> _Detector:
    a, b = _unit_rows(a), _unit_rows(b)

    def detect(rows: slice, columns: slice) -> tuple[NDArray[np.bool_], NDArray[np.generic]]:
        similarity = a[rows] @ b[columns].T
        return similarity >= threshold, similarity

    return detect


def _unit_rows(x: NDArray[np.floating]) -> NDArray[np.float32]:
    x = np.asarray(x, dtype=np.float32)
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    unit: NDArray[np.float32] = x / np.maximum(norms, np.finfo(np.float32).tiny)
    return unit
