"""Who gets which image: k-shot draws, hold-outs, and the file that records them.

Every choice ranks images by SHA-256 of ``"{seed}:{image id}"``, a pure function of content and
seed. Renaming, moving or reordering files changes nothing; adding an image moves at most its own
class by one; and the first k of a ranking are among its first k + 1, so the 10-shot draw contains
the 5-shot draw of the same seed.
"""

import csv
import hashlib
import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from petiole.data.dataset import MEMORY, Dataset, Domain, Sample, bullets, listed
from petiole.errors import DataError, boundary
from petiole.files import SEAL, check_seal, sha256, text_digest, write_text

SPLIT = "split.csv"
"""What the file of a run is called."""

_FORMAT = "petiole split 2"
_REMEDY, _WRONG = "Draw the split again.", "not a readable split file"
_COLUMNS = ["part", "class", "domain", "id", "path"]


def draw_shots(dataset: Dataset, shots: int, seed: int) -> Dataset:
    """Return up to ``shots`` images of each class, the first in the ranking of ``seed``; a note counts smaller classes.

    Raises:
        DataError: ``shots`` below 1.
    """
    if shots < 1:
        raise DataError(f"Cannot draw {shots} shots; ask for at least 1 a class.")
    chosen = np.concatenate([rows[:shots] for rows in _ranked(dataset, seed)])
    drawn, notes = dataset.select(np.sort(chosen)), []
    if short := [f"{c} {n}" for c, n in dataset.counts().items() if n < shots]:
        notes.append(
            f"{len(short)} of {len(dataset.classes)} classes have fewer than {shots} images to train on, and all of "
            f"them are taken: {listed(short)}."
        )
    return replace(drawn, notes=(*dataset.notes, *notes))


def draw_fraction(dataset: Dataset, fraction: float, seed: int) -> Dataset:
    """Return that share of each class, rounded up, the first in the ranking of ``seed``.

    Raises:
        DataError: ``fraction`` outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise DataError(
            f"The fraction of the training images is {fraction}; it must lie in (0, 1]."
        )
    chosen = [rows[: math.ceil(len(rows) * fraction)] for rows in _ranked(dataset, seed)]
    return dataset.select(np.sort(np.concatenate(chosen)))


def holdout(dataset: Dataset, fraction: float, seed: int, fold: int = 0) -> tuple[Dataset, Dataset]:
    """Split each class into (kept, held back); ``fraction`` of it, rounded half up, at least one image, is held back.

    Another ``fold`` holds back the images that come next in the ranking; after the last they begin anew.

    Raises:
        DataError: ``fraction`` outside (0, 1), or a class of fewer than two images.
    """
    if not 0 < fraction < 1:
        raise DataError(f"The held-back fraction {fraction} must lie strictly between 0 and 1.")
    if short := [c for c, n in dataset.counts().items() if n < 2]:
        raise DataError(
            f"{dataset.name}: class {listed(short)} has fewer than 2 images: no split. "
            "Add images, or give the test images separately with --test."
        )
    held = np.zeros(len(dataset), dtype=bool)
    for rows in _ranked(dataset, seed):
        size = min(max(int(len(rows) * fraction + 0.5), 1), len(rows) - 1)
        held[rows[(fold * size + np.arange(size)) % len(rows)]] = True
    return dataset.select(~held), dataset.select(held)


def class_folds(labels: np.ndarray, folds: int) -> np.ndarray:
    """Return the part (n,) that each image belongs to: a class's first image to part 0, its second to 1, and so on.

    There are as many parts as the largest class has images, at most ``folds``, so that with k images of every
    class each part holds equally many of each, and with ``folds`` >= k one.

    Raises:
        DataError: fewer than two folds.
    """
    if folds < 2:
        raise DataError(f"Nothing can be left out of {folds} fold(s). Ask for 2 or more.")
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels) if len(labels) else np.zeros(1, dtype=np.int64)
    rank = np.empty(len(labels), dtype=np.int64)
    rank[order] = np.concatenate([np.arange(count) for count in counts])
    return rank % max(1, min(folds, int(counts.max())))


def _ranked(dataset: Dataset, seed: int) -> list[np.ndarray]:
    """Row numbers of each class in the order of the seed's ranking."""
    keys = np.array([hashlib.sha256(f"{seed}:{i}".encode()).hexdigest() for i in dataset.ids])
    rows = (np.flatnonzero(dataset.labels == c) for c in range(len(dataset.classes)))
    return [r[np.argsort(keys[r], kind="stable")] for r in rows]


@dataclass(frozen=True)
class Split:
    """What a split file holds: datasets by part name, and what was said about them."""

    parts: dict[str, Dataset]
    meta: dict[str, Any]


def write_split(
    path: Path | str, parts: Mapping[str, Dataset], *, meta: Mapping[str, Any] | None = None
) -> Path:
    """Write datasets of equal classes to one CSV file that a person can read and diff, atomically.

    Lines that start with ``#`` hold JSON: the classes in order, the folder that paths are relative
    to, and ``meta``; a last one seals all other lines. One row an image follows, in canonical order.

    Raises:
        DataError: no parts, differing classes, or ``meta`` that is not JSON.
    """
    path = Path(path)
    classes = {d.classes for d in parts.values()}
    if len(classes) != 1:
        raise DataError(
            f"{path}: all parts of a split must have the same classes; "
            f"got {len(classes)} different lists of them."
        )
    files = [s.path.absolute() for d in parts.values() for s in d.samples if s.image is None]
    root = Path(os.path.commonpath([f.parent for f in files])) if files else Path.cwd()
    text, rows = io.StringIO(), io.StringIO()
    try:
        header = {"classes": classes.pop(), "root": root.as_posix(), "meta": dict(meta or {})}
        text.write(f"# {_FORMAT}\n")
        text.writelines(
            f"# {key}: {json.dumps(value, sort_keys=True)}\n" for key, value in header.items()
        )
    except TypeError as error:
        raise DataError(f"{path}: the meta data of a split must be JSON ({error}).") from error
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for part, dataset in parts.items():
        for s in dataset.samples:
            place = s.path if s.image else s.path.absolute().relative_to(root)
            row = [part, dataset.classes[s.label], s.domain, s.id, place.as_posix()]
            writer.writerow(row)
    try:
        head, body = text.getvalue(), rows.getvalue()
        seal = hashlib.sha256((head + body).encode()).hexdigest()
        write_text(path, f"{head}# {SEAL}: {seal}\n{body}")
    except UnicodeEncodeError as error:
        raise DataError(f"{path}: a file name is not valid UTF-8 ({error}). Rename it.") from error
    return path


def read_split(path: Path | str, *, root: Path | str | None = None, verify: bool = True) -> Split:
    """Read a split file and check that every image is still the one that was recorded.

    Args:
        path: file of `write_split`.
        root: where the images lie now, if they were moved.
        verify: hash every file; without it only their presence is checked.

    Raises:
        DataError: no split file, or images that are missing or changed, listed by path.
    """
    path = Path(path)
    with boundary(path, _REMEDY, what=_WRONG):
        header, rows = _parsed(path)
        classes: tuple[str, ...] = tuple(header["classes"])
        folder = Path(header["root"] if root is None else root)
        label = {name: i for i, name in enumerate(classes)}
        parts: dict[str, list[Sample]] = {}
        for r in rows:
            domain: Domain = "source" if r["domain"] == "source" else "target"
            parts.setdefault(r["part"], []).append(
                Sample(folder / r["path"], label[r["class"]], r["id"], domain)
            )
    _check_unchanged(path, [s for samples in parts.values() for s in samples], verify)
    return Split(
        {p: Dataset(p, classes, tuple(samples)) for p, samples in parts.items()}, header["meta"]
    )


def image_ids(path: Path | str, part: str) -> frozenset[str]:
    """SHA-256 (hex) of the images of a part, which need not be there any more.

    Raises:
        DataError: no split file.
    """
    return frozenset(row["id"] for row in _parsed(Path(path))[1] if row["part"] == part)


def _parsed(path: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Header and rows of a sealed file."""
    with boundary(path, _REMEDY, what=_WRONG):
        with path.open(encoding="utf-8", newline="") as file:
            lines = file.readlines()
        if lines[0].strip() != f"# {_FORMAT}":
            raise ValueError(f"its first line is not '# {_FORMAT}'")
        seal = lines.pop(4).removeprefix(f"# {SEAL}: ").strip()
        check_seal(seal, text_digest("".join(lines)))
        header = {k: json.loads(v) for k, v in (line[2:].split(": ", 1) for line in lines[1:4])}
        rows = csv.DictReader(lines[4:])
        if rows.fieldnames != _COLUMNS:
            raise ValueError(f"its columns are not {', '.join(_COLUMNS)}")
        return header, list(rows)


def _check_unchanged(path: Path, samples: list[Sample], verify: bool) -> None:
    wrong = []
    for s in samples:
        if not s.path.is_file():
            in_memory = (
                " (it was in memory when the split was drawn)" if MEMORY in s.path.parts else ""
            )
            wrong.append(f"{s.path}: missing{in_memory}")
        elif verify and sha256(s.path) != s.id:
            wrong.append(f"{s.path}: changed since the split was drawn")
    if wrong:
        raise DataError(
            f"{path}: {len(wrong)} of {len(samples)} images are not those of the split:\n"
            f"{bullets(wrong)}\n"
            "Restore them, name the folder they moved to, or draw the split again."
        )
