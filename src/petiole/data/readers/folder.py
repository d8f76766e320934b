"""``root/<class>/**/*.jpg``: a folder a class."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from petiole.data.checks.images import ImageFile, build
from petiole.data.dataset import Dataset, Domain
from petiole.data.image import SUFFIXES
from petiole.errors import DataError


def open_folder(
    root: Path | str,
    *,
    domain: Domain = "target",
    classes: Sequence[str] | None = None,
    skip_bad: bool = False,
) -> Dataset:
    """Open a folder of class folders; images may lie at any depth below their class.

    Hidden files and folders are ignored; files that are no images by name are counted in the notes.

    Args:
        root: the folder; the names of its subfolders are the classes.
        domain: given to every sample.
        classes: the expected classes in the order of their labels; sorted by name when None.
        skip_bad: leave unreadable and contradicting images out instead of refusing.

    Raises:
        DataError: no such folder, no class folders, an empty class, classes other than expected, or
            bad images.
    """
    root = Path(root)
    folders = class_folders(root)
    if not folders:
        loose = sum(p.suffix.lower() in SUFFIXES for p in visible_files(root))
        found = f"{loose} images lie directly in it" if loose else "it holds no subfolders"
        raise DataError(
            f"{root}: {found}. "
            f"Put the images into one subfolder a class: {root.name}/<class>/image.jpg."
        )
    entries: list[ImageFile] = []
    other: Counter[str] = Counter()
    for folder in folders:
        files = list(visible_files(folder))
        images = [f for f in files if f.suffix.lower() in SUFFIXES]
        if not images:
            present = _suffixes(Counter(f.suffix.lower() for f in files))
            raise DataError(
                f"{folder}: the class folder holds no images{present}. "
                f"Add some ({' '.join(sorted(SUFFIXES))}) or remove the folder."
            )
        entries += [ImageFile(image, folder.name, domain) for image in images]
        other.update(f.suffix.lower() for f in files if f.suffix.lower() not in SUFFIXES)
    notes = []
    if other:
        notes.append(f"{other.total()} files in {root} are no images by name{_suffixes(other)}.")
    return build(root.name or str(root), entries, classes, skip_bad=skip_bad, notes=notes)


def class_folders(root: Path) -> list[Path]:
    """Return the visible subfolders of ``root``, sorted by name.

    Raises:
        DataError: ``root`` does not exist, is no folder, or may not be read.
    """
    try:
        return sorted(
            (p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")),
            key=lambda p: p.name,
        )
    except FileNotFoundError:
        raise DataError(f"{root}: no such folder. Check the path.") from None
    except NotADirectoryError:
        raise DataError(f"{root}: is a file; a folder of class folders is needed.") from None
    except PermissionError:
        raise DataError(f"{root}: no permission to list it. Run `chmod u+rx` on it.") from None


def visible_files(root: Path) -> Iterator[Path]:
    """Yield every file below ``root`` that is not hidden, in the order of their names."""
    for directory, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        yield from (Path(directory, f) for f in sorted(files) if not f.startswith("."))


def _suffixes(counts: Counter[str]) -> str:
    listing = ", ".join(
        f"{n} x {suffix or 'without suffix'}" for suffix, n in sorted(counts.items())
    )
    return f" ({listing})" if listing else ""
