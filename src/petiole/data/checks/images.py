"""The check at the door: every image is decoded once before anything is computed."""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.progress import track

from petiole.data.dataset import Dataset, Domain, Sample, bullets, listed, resolve_duplicates
from petiole.data.image import ImageRef, Pixels, checked_id
from petiole.errors import DataError, unknown
from petiole.printable import SafeConsole, composed, storable

_WORTH_A_BAR = 500  # images; fewer are checked before one could read the bar


@dataclass(frozen=True)
class ImageFile:
    """An image with its class name, before it was opened; ``path`` and ``image`` as of `Sample`.

    The name is kept in Unicode's normal form C.
    """

    path: Path
    label: str = ""
    domain: Domain = "target"
    image: Pixels | None = field(default=None, compare=False, repr=False)
    id: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", composed(self.label))


def check_images(
    files: Sequence[Path | ImageRef], *, skip_bad: bool = False
) -> tuple[dict[Path, str], tuple[str, ...]]:
    """Decode every image; return the SHA-256 (hex) of each good one, and notes on those left out.

    Raises:
        DataError: unreadable images, unless ``skip_bad``; all are counted and the first ten listed.
    """
    ids: dict[Path, str] = {}
    bad: dict[Path, str] = {}
    refs = [ImageFile(file) if isinstance(file, Path) else file for file in files]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results: Iterable[str | DataError] = pool.map(_checked, refs)
        if len(refs) > _WORTH_A_BAR:
            results = track(
                results,
                "Checking images",
                len(refs),
                console=SafeConsole(stderr=True),
                transient=True,
            )
        for ref, result in zip(refs, results, strict=True):
            if isinstance(result, DataError):
                bad[ref.path] = str(result)
            else:
                ids[ref.path] = result
    return ids, left_out(bad, len(refs), skip_bad=skip_bad)


def left_out(bad: Mapping[Path, str], of: int, *, skip_bad: bool = False) -> tuple[str, ...]:
    """A note on unreadable images, or none.

    Args:
        bad: image -> what is wrong with it.
        of: images in all.
        skip_bad: leave them out.

    Raises:
        DataError: there are some, unless ``skip_bad``; all are counted and the first ten listed.
    """
    if not bad:
        return ()
    messages = list(bad.values())
    if len(bad) == 1 and not skip_bad:
        raise DataError(messages[0])
    if not skip_bad:
        raise DataError(
            f"{len(bad)} of {of} images cannot be used:\n{bullets(messages)}\n"
            "Re-export them, or leave them out with --skip-bad."
        )
    return (f"{len(bad)} unreadable images left out: {listed([str(p) for p in bad])}.",)


def check_name(path: Path) -> None:
    """Check that tables and records can hold a file's name.

    Raises:
        DataError: it is not valid UTF-8.
    """
    if not storable(str(path)):
        raise DataError(
            f"{str(path)!r}: the name is not valid UTF-8, so no table or record can hold it. Rename it."
        )


def _checked(ref: ImageRef) -> str | DataError:
    try:
        check_name(ref.path)
        return checked_id(ref)
    except DataError as error:
        return error


def build(
    name: str,
    entries: Sequence[ImageFile],
    classes: Sequence[str] | None,
    *,
    skip_bad: bool,
    notes: Sequence[str] = (),
) -> Dataset:
    """Check all files and make the dataset; classes are in the given order, else sorted by name.

    Raises:
        DataError: bad images or contradicting labels (unless ``skip_bad``); classes other than the
            given ones; a class with nothing left in it (unless ``skip_bad`` and none are given); no images at all.
    """
    found = sorted({e.label for e in entries})
    if not found:
        raise DataError(f"{name}: no images found.")
    names = tuple(map(composed, found if classes is None else classes))
    match_classes(name, found, names)
    ids, bad = check_images(entries, skip_bad=skip_bad)
    label = {c: i for i, c in enumerate(names)}
    samples = [
        Sample(e.path, label[e.label], ids[e.path], e.domain, e.image)
        for e in entries
        if e.path in ids
    ]
    kept, repeated = resolve_duplicates(samples, names, skip_bad=skip_bad)
    dataset = Dataset(name, names, kept, (*notes, *bad, *repeated))
    left = [c for c, n in dataset.counts().items() if n]
    if empty := [c for c in names if c not in left]:
        if skip_bad and classes is None and left:
            note = (
                f"{len(empty)} classes left out, of which no usable image is left: {listed(empty)}."
            )
            return replace(dataset.of_classes(left), notes=(*dataset.notes, note))
        raise DataError(
            f"{name}: no usable image is left in class {listed(empty)}. {' '.join(dataset.notes)}"
        )
    return dataset


def match_classes(name: str, found: Sequence[str], expected: Sequence[str]) -> None:
    """Check that the classes ``found`` are exactly those ``expected``, in any order.

    Raises:
        DataError: a surplus class, with its nearest expected names; or missing classes.
    """
    found, expected = (tuple(map(composed, names)) for names in (found, expected))
    if surplus := sorted(set(found) - set(expected)):
        raise unknown(f"class in {name}", surplus[0], expected, DataError)
    if missing := sorted(set(expected) - set(found)):
        raise DataError(
            f"{name}: no images of class {listed(missing)}; it has {listed(sorted(found))}. "
            "Add them, or take the class away everywhere."
        )
