"""Images with several labels each, or with a number each: a vector of targets in the place of a class.

A table has the column ``labels`` (``cat|dog``, empty for none; a list in JSON Lines and Parquet) or ``value``; in Python
a list of (image, labels) or (image, number).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from petiole.data.checks.images import ImageFile, build
from petiole.data.dataset import Dataset, listed
from petiole.data.inputs import as_images
from petiole.data.readers.table import (
    LABELS,
    VALUE,
    cell_text,
    is_table,
    part_of,
    read_records,
    read_rows,
)
from petiole.errors import DataError
from petiole.files import text_digest
from petiole.printable import composed

IMAGE = "image"
"""The one class of images whose targets are no classes."""

Targets = Mapping[str, tuple[float, ...]]
Source = Path | Sequence[tuple[object, object]]
"""A table, or (image, labels or number) pairs."""


@dataclass(frozen=True)
class TargetImages:
    """Images of one part, and what is said of each.

    Attributes:
        images: in canonical order, all of the class ``IMAGE``.
        said: text of an image's targets, by its id: ``cat|dog`` or ``3.5``.
    """

    images: Dataset
    said: Mapping[str, str] = field(hash=False)

    def select(self, images: Dataset) -> TargetImages:
        """A part of them."""
        return TargetImages(images, {i: self.said[i] for i in images.ids})

    def digest(self) -> str:
        """SHA-256 (hex) over images and what is said of them."""
        return text_digest("\n".join(f"{i} {self.said[i]}" for i in self.images.ids))


def column_of(data: object) -> str:
    """The column of a table that says what an image is: ``label``, ``labels`` or ``value``; empty for no table."""
    if not isinstance(data, str | Path) or not is_table(Path(data)):
        return ""
    columns = read_records(Path(data))[0]
    return next((name for name in ("label", LABELS, VALUE) if name in columns), "")


def open_targets(
    data: Source, column: str, text: Callable[[str, str], str], *, skip_bad: bool = False
) -> dict[str, TargetImages]:
    """Open the parts of a table or list: ``train``, and ``test`` where it has one.

    Args:
        data: where images and targets are.
        column: ``labels`` or ``value``; where a table lacks it, ``label`` is read.
        text: (cell, which image) -> the one form of what is said; raises DataError.
        skip_bad: leave unreadable and contradicting images out.

    Raises:
        DataError: no such table, a cell that says nothing usable, bad images, or one image with two targets.
    """
    parts: dict[str, list[ImageFile]] = {}
    if isinstance(data, Path):
        if not is_table(data):
            raise DataError(
                f"{data}: several labels or a number an image are read from a table. Write a CSV, Parquet or JSON Lines "
                f"file with the columns path and {column}."
            )
        found = column if column in read_records(data)[0] else "label"
        for number, row in enumerate(read_rows(data, label=found), start=1):
            if part := part_of(data, row):
                said = text(row.entry.label, f"{data}, row {number} ({row.entry.path.name})")
                parts.setdefault(part, []).append(replace(row.entry, label=said))
        name = data.stem
    else:
        refs = as_images([image for image, _ in data])
        parts["train"] = [
            ImageFile(ref.path, text(cell_text(said), f"item {i} of the list"), image=ref.image)
            for i, (ref, (_, said)) in enumerate(zip(refs, data, strict=True))
        ]
        name = "list"
    # What is said stands for a class while images are checked, so that one image with two targets is found.
    return {
        part: _without_classes(build(f"{name}/{part}", entries, None, skip_bad=skip_bad))
        for part, entries in parts.items()
    }


def _without_classes(data: Dataset) -> TargetImages:
    said = {s.id: data.classes[s.label] for s in data.samples}
    one = tuple(replace(s, label=0) for s in data.samples)
    return TargetImages(Dataset(data.name, (IMAGE,), one, data.notes), said)


def labels_text(cell: str, where: str) -> str:  # noqa: ARG001 - any text is a list of labels
    """``dog | cat`` -> ``cat|dog``."""
    return "|".join(sorted({composed(part.strip()) for part in cell.split("|") if part.strip()}))


def value_text(cell: str, where: str) -> str:
    """A finite number, in the form that gives it back exactly.

    Raises:
        DataError: it is none.
    """
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: {cell!r} is no finite number. Correct it, or leave the row out.")
    return repr(value)


def names_in(parts: Iterable[TargetImages]) -> tuple[str, ...]:
    """All labels that are said of some image, sorted."""
    said = {text for part in parts for text in part.said.values()}
    return tuple(sorted({name for text in said for name in text.split("|") if name}))


def label_matrix(part: TargetImages, names: Sequence[str]) -> NDArray[np.float64]:
    """1 where an image has a label, else 0: (n, K)."""
    rows = [set(part.said[i].split("|")) for i in part.images.ids]
    return np.array([[float(name in row) for name in names] for row in rows]).reshape(
        -1, len(names)
    )


def value_column(part: TargetImages, _: Sequence[str] = ()) -> NDArray[np.float64]:
    """The images' numbers (n, 1)."""
    return np.array([[float(part.said[i])] for i in part.images.ids])


def unknown_labels(part: TargetImages, names: Sequence[str]) -> tuple[str, ...]:
    """A note on labels of a part that are not trained on; empty where there are none."""
    others = [name for name in names_in([part]) if name not in names]
    if not others:
        return ()
    return (
        f"{len(others)} labels of {part.images.name} are not trained on and not scored: {listed(others)}.",
    )
