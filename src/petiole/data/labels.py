"""Class names out of labels as people give them: names, or numbers."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from torch import Tensor

from petiole.data.dataset import listed
from petiole.errors import DataError, unknown
from petiole.printable import composed


def class_names(
    labels: Sequence[object],
    classes: Sequence[str] | None,
    stated: Sequence[str] | None,
    name: str,
) -> tuple[list[str], tuple[str, ...] | None, list[str]]:
    """Return the class name of every label, the classes in order (None: sorted), and notes.

    Args:
        labels: names, or numbers of classes.
        classes: names by number and the order of the result; all must occur.
        stated: names by number that the data says itself; those without an image are left out.
        name: of what holds them, for errors: "list".

    Raises:
        DataError: no label, names and numbers together, or one that is no class; the item is named.
    """

    def where(index: int) -> str:
        return f"item {index} of the {name}"

    values = [_label(value, where(i)) for i, value in enumerate(labels)]
    odd = next((i for i, v in enumerate(values) if type(v) is not type(values[0])), None)
    if odd is not None:
        raise DataError(
            f"{where(odd)}: label {values[odd]!r}, but item 0 has {values[0]!r}. Give all as names or "
            "all as numbers."
        )
    stated, classes = (names and tuple(map(composed, names)) for names in (stated, classes))
    known = stated or classes
    for given in (known, classes):
        unique(given or (), f"The {name}")
    if isinstance(values[0], int):
        if known:
            named = [_numbered(int(v), known, where(i)) for i, v in enumerate(values)]
        else:
            named = [str(v) for v in values]
            known = tuple(str(i) for i in sorted({int(v) for v in values}))
    else:
        named = [str(v) for v in values]
        for i, value in enumerate(named):
            if known and value not in known:
                raise DataError(f"{where(i)}: {unknown('class', value, known, DataError)}")
    if classes is not None:
        return named, tuple(classes), []
    if known is None:
        return named, None, []
    used = set(named)
    absent = [name for name in known if name not in used]
    notes = [f"{len(absent)} classes have no image and are left out: {listed(absent)}."]
    return named, tuple(name for name in known if name in used), notes if absent else []


def _numbered(number: int, names: Sequence[str], where: str) -> str:
    if not 0 <= number < len(names):
        raise DataError(
            f"{where}: label {number}, but there are {len(names)} classes, 0 to {len(names) - 1} "
            f"({listed(list(names), 5)}). Correct it, or give all names: classes=[...]."
        )
    return names[number]


def _label(value: object, where: str) -> str | int:
    """A name, or the number of a class."""
    if isinstance(value, np.ndarray | np.generic | Tensor) and value.ndim == 0:
        value = value.item()
    if isinstance(value, str) and value.strip():
        return composed(value)
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, Integral):
        return int(value)
    raise DataError(
        f"{where}: label {value!r} is neither a name nor a whole number. Give one class an image."
    )


def are_numbers(labels: Sequence[object]) -> bool:
    """Whether labels are numbers of classes, by the first."""
    return bool(len(labels)) and isinstance(_label(labels[0], "item 0"), int)


def is_label(value: object) -> bool:
    """Whether a value can be one label."""
    if isinstance(value, np.ndarray | np.generic | Tensor):
        return value.ndim == 0
    return isinstance(value, str | Integral | float) or value is None


def are_labels(value: object) -> bool:
    """Whether a value holds one label an image."""
    if isinstance(value, np.ndarray | Tensor):
        return value.ndim == 1
    return isinstance(value, list | tuple) and all(map(is_label, value))


def list_of(labels: Any) -> list[object]:
    """Labels in any container as a list."""
    return labels.tolist() if isinstance(labels, np.ndarray | Tensor) else list(labels)


def unique(names: Sequence[str], where: str) -> None:
    """Raise DataError for a class name that stands twice."""
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise DataError(f"{where}: the class name {twice[0]!r} occurs twice. Rename one of them.")
