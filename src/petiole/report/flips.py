"""Test images whose prediction changed from one run to another, and a run's surest mistakes."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from petiole.data.image import ImageRef, load, read_image
from petiole.errors import DataError, RunError
from petiole.report.runs import ScoredImages

SIDE = 96  # pixels of a thumbnail's longer side
SMALL = 48  # up to here PNG is smaller than JPEG, and every pixel counts
MOST = 24


@dataclass(frozen=True)
class FlipExample:
    """One test image.

    Attributes:
        name: of the file.
        thumbnail: data URI; empty if the file is not there any more.
        small: whether it is a few pixels large, to be enlarged without smoothing.
        label: its true class.
        before: class that the other run predicted; empty for a mistake of one run.
        after: class that the run predicted.
        confidence: probability of ``after``.
    """

    name: str
    thumbnail: str
    small: bool
    label: str
    before: str
    after: str
    confidence: float


@dataclass(frozen=True)
class Flips:
    """Images that one run gets right and the other does not, the surest predictions first.

    Attributes:
        fixed: wrong before, right after: at most ``most`` of ``fixed_count``.
        broken: right before, wrong after: at most ``most`` of ``broken_count``.
        images: test images in all.
    """

    fixed: list[FlipExample]
    broken: list[FlipExample]
    fixed_count: int
    broken_count: int
    images: int


def flips(before: ScoredImages, after: ScoredImages, most: int = MOST) -> Flips:
    """Compare two runs, or two adapters, on the same images.

    Raises:
        RunError: they were tested on different images.
    """
    if before.predictions.ids != after.predictions.ids:
        raise RunError(
            f"{before.name} and {after.name} were tested on different images. Run both on the same data."
        )
    fixed = _surest(after, ~before.correct & after.correct)
    broken = _surest(after, before.correct & ~after.correct)
    return Flips(
        fixed=[_example(after, i, before) for i in fixed[:most]],
        broken=[_example(after, i, before) for i in broken[:most]],
        fixed_count=len(fixed),
        broken_count=len(broken),
        images=len(after.labels),
    )


def mistakes(run: ScoredImages, most: int = MOST) -> list[FlipExample]:
    """Return the wrong predictions of a run, the surest first."""
    return [_example(run, i) for i in _surest(run, ~run.correct)[:most]]


def _surest(run: ScoredImages, chosen: NDArray[np.bool_]) -> list[int]:
    """Indices of the chosen images by falling confidence; equals by index."""
    confidence = run.probabilities.max(axis=1)
    rows = np.flatnonzero(chosen)
    return [int(i) for i in rows[np.argsort(-confidence[rows], kind="stable")]]


def _example(run: ScoredImages, index: int, before: ScoredImages | None = None) -> FlipExample:
    classes, path = run.classes, Path(run.predictions.paths[index])
    uri, small = thumbnail(path)
    return FlipExample(
        name=path.name,
        thumbnail=uri,
        small=small,
        label=classes[run.labels[index]],
        before=classes[before.guesses[index]] if before else "",
        after=classes[run.guesses[index]],
        confidence=float(run.probabilities[index].max()),
    )


def thumbnail(source: Path | ImageRef) -> tuple[str, bool]:
    """A data URI, and whether the image is small; an empty one where the file cannot be read."""
    try:
        image = read_image(source) if isinstance(source, Path) else load(source)
    except DataError:
        return "", False
    small = max(image.size) <= SMALL
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    kind, options = ("PNG", {"optimize": True}) if small else ("JPEG", {"quality": 82})
    content = io.BytesIO()
    image.save(content, kind, **options)
    return data_uri(content.getvalue(), kind.lower()), small


def data_uri(content: bytes, kind: str) -> str:
    """An image's bytes for a page: png, jpeg or webp."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
