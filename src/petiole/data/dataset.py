"""A labelled set of images whose identity is its content: file names and order do not matter."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from petiole.data.image import Pixels
from petiole.errors import DataError
from petiole.printable import composed, storable

Domain = Literal["source", "target"]
MOST_NAME = 1000
"""Characters of a class name; a longer one is a text that was taken for a label."""
MEMORY = "memory"
"""First part of the paths of images in memory."""


@dataclass(frozen=True)
class Sample:
    """One labelled image.

    Attributes:
        path: where the file lies; of an image in memory, what it is called in errors and records.
        label: index into the dataset's classes.
        id: SHA-256 (hex) of the file's bytes, or of the pixels (`petiole.data.image.pixel_id`).
        image: of an image in memory; `petiole.data.image.load` reads either.
        domain: "source" (synthetic, sketches, ...) or "target" (the real images that count).
    """

    path: Path
    label: int
    id: str
    domain: Domain = "target"
    image: Pixels | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Dataset:
    """Samples in canonical order: by label, then id, then domain.

    Attributes:
        name: for people; not part of the digest.
        classes: names in the order of the labels, in Unicode's normal form C.
        samples: sorted at construction, so that the order of files never reaches a result.
        notes: what was left out and why, one sentence each; printed by the record.

    Raises:
        DataError: a class name twice, too long or that no file could hold, or a label without a class.
    """

    name: str
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(map(composed, self.classes)))
        if len(set(self.classes)) != len(self.classes):
            raise DataError(f"{self.name}: a class name occurs twice in {list(self.classes)}.")
        if lone := [name for name in self.classes if not storable(name)]:
            raise DataError(
                f"{self.name}: the class name {lone[0]!r} holds half a surrogate pair, so no file could hold it. Rename it."
            )
        if long := [name for name in self.classes if len(name) > MOST_NAME]:
            raise DataError(
                f"{self.name}: a class name has {len(long[0]):,} characters and begins with {long[0][:40]!r}; {MOST_NAME:,} are the most. "
                "Is another column the label?"
            )
        bad = sorted({s.label for s in self.samples if not 0 <= s.label < len(self.classes)})
        if bad:
            raise DataError(
                f"{self.name}: labels {bad} have no class; there are {len(self.classes)} classes."
            )
        object.__setattr__(self, "samples", tuple(sorted(self.samples, key=_canonical)))

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """int64 of shape (n,), read-only."""
        labels = np.array([s.label for s in self.samples], dtype=np.int64)
        labels.flags.writeable = False
        return labels

    @property
    def ids(self) -> tuple[str, ...]:
        """SHA-256 of every image, in order."""
        return tuple(s.id for s in self.samples)

    @property
    def domains(self) -> tuple[Domain, ...]:
        """Domain of every image, in order."""
        return tuple(s.domain for s in self.samples)

    @property
    def paths(self) -> tuple[Path, ...]:
        """File of every image, in order."""
        return tuple(s.path for s in self.samples)

    def counts(self) -> dict[str, int]:
        """Images per class, in the order of the classes."""
        n = np.bincount(self.labels, minlength=len(self.classes))
        return {name: int(count) for name, count in zip(self.classes, n, strict=True)}

    def select(self, indices: Iterable[int] | NDArray[np.integer] | NDArray[np.bool_]) -> "Dataset":
        """Return the samples at strictly increasing ``indices`` (or under a boolean mask of length n).

        Increasing, because the result is in canonical order: then ``features[indices]`` stays
            aligned with it.

        Raises:
            DataError: indices that are out of range, repeated or not in increasing order; a mask of
                another length.
        """
        chosen = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices))
        if chosen.dtype == bool:
            if chosen.shape != (len(self),):
                raise DataError(
                    f"{self.name}: a mask of shape {chosen.shape} does not fit {len(self)} samples."
                )
            chosen = np.flatnonzero(chosen)
        if chosen.size and (
            chosen[0] < 0 or chosen[-1] >= len(self) or (np.diff(chosen) <= 0).any()
        ):
            raise DataError(
                f"{self.name}: indices must increase strictly within 0..{len(self) - 1}; "
                "sort them first."
            )
        return replace(self, samples=tuple(self.samples[int(i)] for i in chosen))

    def of_classes(self, names: Sequence[str]) -> "Dataset":
        """Return the samples of some classes, relabelled from 0 in the order of ``names``.

        Raises:
            DataError: a name that is no class here.
        """
        names = tuple(map(composed, names))
        if missing := [name for name in names if name not in self.classes]:
            raise DataError(f"{self.name} has no class {missing[0]!r}.")
        new = {self.classes.index(name): label for label, name in enumerate(names)}
        kept = (replace(s, label=new[s.label]) for s in self.samples if s.label in new)
        return replace(self, classes=names, samples=tuple(kept))

    def aligned(self, classes: Sequence[str]) -> "Dataset":
        """Return the images of those of ``classes`` that it has, labelled in their order; the notes name all others.

        Raises:
            DataError: it has images of none of them.
        """
        classes = tuple(map(composed, classes))
        has = {name: n for name, n in self.counts().items() if n}
        common = [name for name in classes if name in has]
        if not common:
            raise DataError(
                f"{self.name}: has images of {listed(list(has))}, and none of the classes that are known: "
                f"{listed(list(classes))}. Rename its class folders, or give other images."
            )
        notes = list(self.notes)
        if others := {name: n for name, n in has.items() if name not in classes}:
            notes.append(
                f"{sum(others.values())} images of {self.name} are of {len(others)} other classes and not scored: "
                f"{listed([f'{name} {n}' for name, n in others.items()])}."
            )
        if absent := [name for name in classes if name not in has]:
            notes.append(
                f"{len(absent)} of {len(classes)} classes have no images in {self.name}, so scores are of the other "
                f"{len(common)}: {listed(absent)}."
            )
        label = {name: i for i, name in enumerate(classes)}
        kept = tuple(
            replace(s, label=label[self.classes[s.label]])
            for s in self.samples
            if self.classes[s.label] in label
        )
        return replace(self, classes=classes, samples=kept, notes=tuple(notes))

    def with_domain(self, domain: Domain) -> "Dataset":
        """Return the same samples, all in ``domain``."""
        return replace(self, samples=tuple(replace(s, domain=domain) for s in self.samples))

    def concat(self, *others: "Dataset") -> "Dataset":
        """Return the union with datasets of the same classes; an image twice in one domain is kept once.

        Raises:
            DataError: the classes differ, or the same image has two labels.
        """
        for other in others:
            same_classes(self, other)
        parts = (self, *others)
        samples, notes = resolve_duplicates(
            [s for part in parts for s in part.samples], self.classes
        )
        kept_notes = dict.fromkeys(note for part in parts for note in part.notes)
        return Dataset(
            "+".join(dict.fromkeys(p.name for p in parts)),
            self.classes,
            samples,
            (*kept_notes, *notes),
        )

    def digest(self) -> str:
        """SHA-256 (hex) over classes and sorted (id, label, domain): equal wherever files lie."""
        rows = sorted((s.id, s.label, s.domain) for s in self.samples)
        return hashlib.sha256(
            json.dumps([self.classes, rows], separators=(",", ":")).encode()
        ).hexdigest()


def _canonical(sample: Sample) -> tuple[int, str, str, str]:
    return sample.label, sample.id, sample.domain, str(sample.path)


def same_classes(a: Dataset, b: Dataset) -> None:
    """Check that two datasets mean the same by every label.

    Raises:
        DataError: they do not; the differing names are listed.
    """
    if a.classes == b.classes:
        return
    only_a, only_b = (
        sorted(set(a.classes) - set(b.classes)),
        sorted(set(b.classes) - set(a.classes)),
    )
    if not only_a and not only_b:
        raise DataError(
            f"{a.name} and {b.name} have the same classes in another order; pass classes= to both."
        )
    raise DataError(
        f"{a.name} and {b.name} must have the same classes. "
        f"Only in {a.name}: {listed(only_a)}. Only in {b.name}: {listed(only_b)}. "
        "Rename, add or remove class folders until they agree."
    )


def resolve_duplicates(
    samples: Sequence[Sample], classes: Sequence[str], *, skip_bad: bool = False
) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """Keep each image once per domain; return the kept samples and notes on the rest.

    Byte-equal files of one class carry no information and would be drawn as two "shots": the first
    path is kept. Byte-equal files of two classes contradict each other: an error, or with
    ``skip_bad`` all of them are left out.

    Raises:
        DataError: the same image in two classes, with both paths.
    """
    groups: dict[str, list[Sample]] = {}
    for sample in sorted(samples, key=lambda s: str(s.path)):
        groups.setdefault(sample.id, []).append(sample)
    torn = {i: group for i, group in groups.items() if len({s.label for s in group}) > 1}
    if torn and not skip_bad:
        lines = [
            " = ".join(f"{s.path} ({classes[s.label]})" for s in group) for group in torn.values()
        ]
        raise DataError(
            f"The same image has two labels, {len(torn)} time(s):\n{bullets(lines)}\n"
            "Delete the wrong copy, or leave out all of them with --skip-bad."
        )
    kept = {
        (s.id, s.domain): s for i, group in groups.items() if i not in torn for s in reversed(group)
    }
    notes = []
    contradicting = sum(len(group) for group in torn.values())
    if contradicting:
        notes.append(f"{contradicting} files left out: the same image under two labels.")
    if repeated := len(samples) - contradicting - len(kept):
        notes.append(f"{repeated} files left out: byte-equal to another of the same class.")
    return tuple(kept.values()), tuple(notes)


def listed(names: Sequence[str], limit: int = 10) -> str:
    """Return the first names joined by commas, and how many more there are."""
    more = f", and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more if names else "none"


def bullets(lines: Sequence[str], limit: int = 10) -> str:
    """Return the first lines as a list, and how many more there are."""
    more = [f"  ... and {len(lines) - limit} more"] if len(lines) > limit else []
    return "\n".join([*(f"  {line}" for line in lines[:limit]), *more])
