"""Folders of class folders, alone or in parts.

root/<class>/**/*.jpg
root/{synthetic,real_train,real_eval}/<class>/**/*.jpg    a pair of domains; synthetic/ may be absent
root/{train,test}/<class>/**/*.jpg                        a split; val/ and validation/ are not used
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from petiole.data.checks.images import ImageFile, build
from petiole.data.dataset import Dataset, Domain, listed
from petiole.data.image import SUFFIXES
from petiole.data.readers.base import LAST, ImageParts, image_reader
from petiole.errors import DataError
from petiole.printable import composed


@image_reader("folder", layout="<class>/", recognises=lambda _: True, rank=LAST)
def open_folder(
    root: Path | str,
    *,
    domain: Domain = "target",
    classes: Sequence[str] | None = None,
    skip_bad: bool = False,
) -> Dataset:
    """Open a folder of class folders; images may lie at any depth below their class.

    As a reader it takes what no other recognises, since its errors say what is wrong with that. Hidden
    files and folders are ignored; files that are no images by name are named in the notes.

    Args:
        root: the folder; the names of its subfolders are the classes.
        domain: given to every sample.
        classes: the expected classes in the order of their labels; sorted by name when None.
        skip_bad: leave unreadable and contradicting images, and classes without images, out instead of refusing.

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
    others: list[Path] = []
    empty: list[str] = []
    for folder in folders:
        files = list(visible_files(folder))
        images = [f for f in files if f.suffix.lower() in SUFFIXES]
        others += [f for f in files if f.suffix.lower() not in SUFFIXES]
        entries += [ImageFile(image, folder.name, domain) for image in images]
        if not images and not skip_bad:
            raise DataError(
                f"{folder}: the class folder holds no images{_suffixes(files)}. Add some "
                f"({' '.join(sorted(SUFFIXES))}), remove the folder, or leave the class out with --skip-bad."
            )
        empty += [folder.name] * (not images)
    notes = _notes(root, folders, others, empty)
    return build(root.name or str(root), entries, classes, skip_bad=skip_bad, notes=notes)


def _notes(
    root: Path, folders: Sequence[Path], others: Sequence[Path], empty: Sequence[str]
) -> list[str]:
    """What was passed over, and which folders are one class."""
    notes = []
    if others:
        names = listed([str(f.relative_to(root)) for f in others])
        notes.append(
            f"{len(others)} files in {root} are no images by name{_suffixes(others)}: {names}."
        )
    if empty:
        notes.append(f"{len(empty)} class folders of {root} hold no images: {listed(empty)}.")
    called = Counter(composed(folder.name) for folder in folders)
    if joined := [name for name, n in called.items() if n > 1]:
        notes.append(
            f"Folders of {root} whose names differ in how accents are stored (Unicode NFC, NFD) are one class: "
            f"{listed(joined)}."
        )
    return notes


def part_folders(root: Path, names: Container[str]) -> dict[str, Path]:
    """The subfolders of these names that hold folders themselves: a class may be called "train".

    Raises:
        DataError: as `class_folders`.
    """
    return {f.name: f for f in class_folders(root) if f.name in names and class_folders(f)}


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


def _suffixes(files: Sequence[Path]) -> str:
    counts = Counter(f.suffix.lower() for f in files)
    listing = ", ".join(
        f"{n} x {suffix or 'without suffix'}" for suffix, n in sorted(counts.items())
    )
    return f" ({listing})" if listing else ""


LAYOUTS = {
    "pair": {"synthetic": "source", "real_train": "train", "real_eval": "test"},
    "split": {"train": "train", "test": "test"},
}
"""What each folder of a layout is; the train and test folder make it."""


def _laid_out(root: Path, layout: str, *, need_test: bool = True) -> dict[str, Path]:
    """The folders of a layout that ``root`` has, by name.

    Raises:
        DataError: there is no test folder, where one is needed.
    """
    *_, train, test = LAYOUTS[layout]
    found = part_folders(root, LAYOUTS[layout])
    if test not in found and need_test:
        raise DataError(
            f"{root}: has {train}/ but no {test}/ with class folders. "
            "Add it, or name one with --test."
        )
    return {name: found[name] for name in LAYOUTS[layout] if name in found}


def _register(layout: str) -> None:
    roles = LAYOUTS[layout]

    def domain_of(name: str, domain: Domain) -> Domain:
        return "source" if roles[name] == "source" else domain

    def open_parts(root: Path, has_test: bool = False, skip_bad: bool = False) -> ImageParts:
        found = {
            roles[name]: open_folder(path, domain=domain_of(name, "target"), skip_bad=skip_bad)
            for name, path in _laid_out(root, layout, need_test=not has_test).items()
            if not (has_test and roles[name] == "test")
        }
        return ImageParts(found["train"], found.get("test"), found.get("source"))

    *_, train, _ = roles

    @image_reader(
        layout,
        layout=", ".join(f"{name}/<class>/" for name in roles),
        recognises=lambda root: root.is_dir() and train in part_folders(root, roles),
        parts=open_parts,
    )
    def open_all(
        root: Path,
        domain: Domain = "target",
        classes: Sequence[str] | None = None,
        skip_bad: bool = False,
    ) -> Dataset:
        first, *others = (
            open_folder(path, domain=domain_of(name, domain), classes=classes, skip_bad=skip_bad)
            for name, path in _laid_out(root, layout).items()
        )
        return first.concat(*others)


for _layout in LAYOUTS:
    _register(_layout)
