"""What a known data set is, how it registers, and how it is found.

A name stands for the whole published set: with fewer images than published it is refused, since a
result on a part of it must not bear its name. A part can be used as a plain folder.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from petiole.data.checks.images import ImageFile
from petiole.data.dataset import bullets
from petiole.errors import DataError, boundary, unknown
from petiole.files import write_text

Parts = dict[str, list[ImageFile]]
"""The files of ``train`` and ``test``, unopened."""


@dataclass(frozen=True)
class Known:
    """A data set with a name.

    Attributes:
        name: as in commands.
        aliases: further names.
        classes, images: of the whole published set, training and test images together.
        url: where it comes from.
        needs: what must lie below the root, relative to it.
        read: finds the images of the parts.
        fetch: downloads it below a root, through torchvision; ``None`` where that cannot.
    """

    name: str
    aliases: tuple[str, ...]
    classes: int
    images: int
    url: str
    needs: Sequence[str]
    read: Callable[[Place], Parts]
    fetch: Callable[[Path], object] | None = None

    @property
    def remedy(self) -> str:
        """What to do where it is absent."""
        put = f"Put it there (from {self.url})"
        return f"{put}, or add --download." if self.fetch else f"{put}; it has no downloader."


@dataclass(frozen=True)
class Place:
    """Where one data set is looked for.

    Attributes:
        known: the data set.
        root: folder in which the known data sets lie.
        unpacked: folder for images that are not files yet.
        download: fetch what is missing, where torchvision can.
    """

    known: Known
    root: Path
    unpacked: Path
    download: bool = False

    def need(self) -> None:
        """Check that all that the data set needs lies below the root.

        Raises:
            DataError: some of it does not; what is missing and the remedies are named.
        """
        if self._missing() and self.download and self.known.fetch:
            self._fetch(self.known.fetch)
        if missing := self._missing():
            state = "not there" if len(missing) == len(self.known.needs) else "not complete"
            raise DataError(
                f"{self.root.absolute()}: the data set {self.known.name} is {state}. Missing:\n"
                f"{bullets(missing)}\n{self.known.remedy}"
            )

    def _missing(self) -> list[str]:
        return [name for name in self.known.needs if not (self.root / name).exists()]

    def _fetch(self, fetch: Callable[[Path], object]) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            fetch(self.root)
        except (OSError, RuntimeError) as error:  # no network, no room, or another checksum
            raise DataError(
                f"{self.known.name} could not be fetched into {self.root.absolute()} ({error}). "
                f"Fetch it by hand from {self.known.url}."
            ) from error


_KNOWN: dict[str, Known] = {}


def known(
    name: str,
    *aliases: str,
    classes: int,
    images: int,
    url: str,
    needs: Sequence[str],
    fetch: Callable[[Path], object] | None = None,
) -> Callable[[Callable[[Place], Parts]], Callable[[Place], Parts]]:
    """Register a function that finds the images of a data set; see ``Known``."""

    def add(read: Callable[[Place], Parts]) -> Callable[[Place], Parts]:
        _KNOWN[name] = Known(name, aliases, classes, images, url, needs, read, fetch)
        return read

    return add


def names() -> dict[str, Known]:
    """All known data sets by name."""
    package = import_module("petiole.data.readers.public")
    for module in iter_modules(package.__path__):
        import_module(f"petiole.data.readers.public.{module.name}")
    return dict(sorted(_KNOWN.items()))


def find(name: str) -> Known:
    """Return a data set by its name or alias.

    Raises:
        DataError: there is none; the nearest names are listed.
    """
    every = {called: one for one in names().values() for called in (one.name, *one.aliases)}
    if name not in every:
        raise unknown("data set", name, every, DataError)
    return every[name]


def files_of(name: str, root: Path, *, cache: Path, download: bool = False) -> Parts:
    """Find the images of a known data set below ``root``.

    Args:
        name: of the data set.
        root: folder in which the known data sets lie.
        cache: images that lie in one big file are unpacked below it, once.
        download: fetch it where something is missing and torchvision can.

    Raises:
        DataError: it is absent, incomplete, or not the published one; or it cannot be fetched.
    """
    one = find(name)
    place = Place(one, root, cache / "suite" / one.name, download)
    parts = one.read(place)
    labels = {entry.label for part in parts.values() for entry in part}
    count = sum(map(len, parts.values()))
    if (len(labels), count) != (one.classes, one.images):
        where = place.unpacked if place.unpacked.is_dir() else root.absolute()
        raise DataError(
            f"{where}: this is not the published {one.name}: {count:,} images in {len(labels)} classes "
            f"instead of {one.images:,} in {one.classes}. Delete it and get it again from {one.url}. To "
            "use a part of it, give its folder under another name."
        )
    return parts


def write_table(name: str, root: Path, table: Path, *, cache: Path, download: bool = False) -> Path:
    """Write a known data set as a table that ``open_shift`` and every command understands.

    Raises:
        DataError: as ``files_of``.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "split"])
    for part, entries in files_of(name, root, cache=cache, download=download).items():
        writer.writerows([entry.path.absolute(), entry.label, part] for entry in entries)
    write_text(table, text.getvalue())
    return table


def verified(file: Path, md5: str) -> Path:
    """The file, if its checksum is the one that torchvision states.

    Raises:
        DataError: it is another one.
    """
    with file.open("rb") as content:
        found = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        raise DataError(
            f"{file}: not the published file (MD5 {found}, not {md5}): damaged, incomplete or changed. "
            "Delete it and get it again."
        )
    return file


def lines_of(file: Path) -> list[str]:
    """The lines of a published list, without empty ones.

    Raises:
        DataError: it is missing or no text.
    """
    with readable(file):
        return [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()]


def readable(file: Path) -> AbstractContextManager[None]:
    """Within it, whatever a published file makes its parser raise is an error of ours."""
    return boundary(file, "Unpack the archive again.", what="not readable")


def present(listed: Iterable[tuple[Path, str]]) -> list[ImageFile]:
    """Entries of listed files and their labels.

    Raises:
        DataError: some of the files are missing.
    """
    entries = [ImageFile(path, label) for path, label in listed]
    if missing := [str(entry.path) for entry in entries if not entry.path.is_file()]:
        raise DataError(
            f"{len(missing)} of {len(entries)} listed images are missing:\n{bullets(missing)}\n"
            "Unpack the archive of the images again."
        )
    return entries
