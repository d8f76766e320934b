"""Images with several labels each, or with a number each: a vector of targets in the place of a class.

A table has the column ``labels`` (``cat|dog``, empty for none; a list in JSON Lines and Parquet) or ``value`` (``3.5``, or
several numbers, ``3.5|0.1``), or in its place columns ``value.height``, ``value.width``, ...; in Python a list of (image, labels)
or (image, number or numbers).
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
from petiole.data.readers.masks import MASK, is_masked
from petiole.data.readers.table import (
    LABELS,
    VALUE,
    cell_text,
    is_table,
    numbered,
    part_of,
    read_records,
    read_rows,
)
from petiole.errors import DataError
from petiole.files import text_digest
from petiole.printable import composed

IMAGE = "image"
"""The one class of images whose targets are no classes."""

Source = Path | Sequence[tuple[object, object]]
"""A table, or (image, labels or number) pairs."""


@dataclass(frozen=True)
class TargetImages:
    """Images of one part, and what is said of each.

    Attributes:
        images: in canonical order, all of the class ``IMAGE``.
        said: text of an image's targets, by its id: ``cat|dog`` or ``3.5``.
        outputs: names of its numbers, where the table has a column for each.
    """

    images: Dataset
    said: Mapping[str, str] = field(hash=False)
    outputs: tuple[str, ...] = ()

    def select(self, images: Dataset) -> TargetImages:
        """A part of them."""
        return replace(self, images=images, said={i: self.said[i] for i in images.ids})

    def joined(self, other: TargetImages) -> TargetImages:
        """These images and others.

        Raises:
            DataError: something else is said of an image that both have.
        """
        if odd := [i for i, said in other.said.items() if self.said.get(i, said) != said]:
            path = next(s.path for s in other.images.samples if s.id == odd[0])
            raise DataError(
                f"{path}: {self.images.name} says {self.said[odd[0]]!r} of this image, and {other.images.name} "
                f"{other.said[odd[0]]!r}. Correct one."
            )
        return replace(
            self, images=self.images.concat(other.images), said={**other.said, **self.said}
        )

    def digest(self) -> str:
        """SHA-256 (hex) over images and what is said of them."""
        return text_digest("\n".join(f"{i} {self.said[i]}" for i in self.images.ids))


def column_of(data: object) -> str:
    """The column of a table that says what an image is: ``label``, ``labels``, ``value`` or ``mask``; empty for no table.

    A folder of images and masks is taken for a table with the last.
    """
    if not isinstance(data, str | Path):
        return ""
    if not is_table(Path(data)):
        return MASK if is_masked(Path(data)) else ""
    columns = read_records(Path(data))[0]
    known = ("label", LABELS, VALUE, MASK)
    return next((name for name in known if name in columns), VALUE if numbered(columns) else "")


def open_targets(
    data: Source, column: str, text: Callable[[str, str], str], *, skip_bad: bool = False
) -> dict[str, TargetImages]:
    """Open the parts of a table or list: ``train``, and where it has them ``test`` and ``source``.

    Args:
        data: where images and targets are.
        column: ``labels`` or ``value``; where a table lacks it, ``label`` is read.
        text: (cell, which image) -> the one form of what is said; raises DataError.
        skip_bad: leave unreadable and contradicting images out.

    Raises:
        DataError: no such table, a cell that says nothing usable, bad images, or one image with two targets.
    """
    parts: dict[str, list[ImageFile]] = {}
    outputs: tuple[str, ...] = ()
    if isinstance(data, Path):
        if not is_table(data):
            raise DataError(
                f"{data}: several labels or a number an image are read from a table. Write a CSV, Parquet or JSON Lines "
                f"file with the columns path and {column}."
            )
        columns = read_records(data)[0]
        outputs = numbered(columns) if column == VALUE else ()
        found = column if column in columns or outputs else "label"
        for number, row in enumerate(read_rows(data, label=found), start=1):
            part = part_of(data, row)
            if row.entry.domain == "source":
                part = "source" if part == "train" else None
            if part:
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
        part: without_classes(build(f"{name}/{part}", entries, None, skip_bad=skip_bad), outputs)
        for part, entries in parts.items()
    }


def without_classes(data: Dataset, outputs: tuple[str, ...]) -> TargetImages:
    """Images whose classes are what is said of them."""
    said = {s.id: data.classes[s.label] for s in data.samples}
    one = tuple(replace(s, label=0) for s in data.samples)
    return TargetImages(Dataset(data.name, (IMAGE,), one, data.notes), said, outputs)


def labels_text(cell: str, where: str) -> str:  # noqa: ARG001 - any text is a list of labels
    """``dog | cat`` -> ``cat|dog``."""
    return "|".join(sorted({composed(part.strip()) for part in cell.split("|") if part.strip()}))


def value_text(cell: str, where: str) -> str:
    """A finite number, or several between ``|``, in the form that gives them back exactly.

    Raises:
        DataError: one is none.
    """

    def number(text: str) -> str:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DataError(
                f"{where}: {text!r} is no finite number. Correct it, or leave the row out."
            )
        return repr(value)

    return "|".join(map(number, cell.split("|")))


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


def value_names(part: TargetImages) -> tuple[str, ...]:
    """Names of an image's numbers: ``value`` for one, those of the columns, or ``value 1``, ``value 2``, ...

    Raises:
        DataError: images of different counts.
    """
    counts = {text.count("|") + 1: i for i, text in part.said.items()}
    if len(counts) > 1:
        n, i = min(counts.items())
        path = next(s.path for s in part.images.samples if s.id == i)
        raise DataError(
            f"{path}: {n} number(s) are said of this image, and {max(counts)} of others. Give every image as many."
        )
    count = next(iter(counts))
    if count == 1:
        return part.outputs or (VALUE,)
    return part.outputs or tuple(f"{VALUE} {k}" for k in range(1, count + 1))


def value_matrix(part: TargetImages, names: Sequence[str]) -> NDArray[np.float64]:
    """The images' numbers (n, K).

    Raises:
        DataError: they are not those that ``names`` says.
    """
    if (own := value_names(part)) != tuple(names):
        raise DataError(
            f"{part.images.name} has the numbers {listed(list(own))}, and those of the training are {listed(list(names))}."
        )
    return np.array([[float(text) for text in part.said[i].split("|")] for i in part.images.ids])


def unknown_labels(part: TargetImages, names: Sequence[str]) -> tuple[str, ...]:
    """A note on labels of a part that are not trained on; empty where there are none."""
    others = [name for name in names_in([part]) if name not in names]
    if not others:
        return ()
    return (
        f"{len(others)} labels of {part.images.name} are not trained on and not scored: {listed(others)}.",
    )
