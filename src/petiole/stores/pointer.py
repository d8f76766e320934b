"""Images that are fetched when they are read: a small file in their place says which object it is.

So folders of millions of images are listed without their content, and whoever reads an image need not know of stores. A pointer
is obeyed only below the folder that this library lays them in: one that comes with somebody's data is an unreadable image.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from petiole.errors import DataError
from petiole.files import TEMPORARY, Damaged, sealed, unsealed
from petiole.stores.address import Address
from petiole.stores.base import Entry, Missing, open_store
from petiole.stores.local_cache import content_of, root

_BEGIN = b'{"petiole_object": '


class Pointer(NamedTuple):
    """A bucket and an object in it."""

    bucket: Address
    entry: Entry

    def write(self, path: Path) -> None:
        """Lay it in the place of an image.

        It is not synchronised with the disk, as there are so many: a torn one fails its seal and is laid again.
        """
        temporary = path.with_name(f"{TEMPORARY}-{uuid4().hex}")
        value = {"petiole_object": asdict(self.entry), "store": asdict(self.bucket)}
        temporary.write_text(json.dumps(sealed(value)), encoding="utf-8")
        temporary.replace(path)


def pointer_at(path: Path, content: bytes | None = None) -> Pointer | None:
    """The pointer that lies at a path; ``None`` for any other file, and for a damaged one.

    Args:
        path: of a file.
        content: its bytes, if they were read.
    """
    if (content is not None and not content.startswith(_BEGIN)) or not _laid_here(path):
        return None
    with suppress(OSError, Damaged, TypeError, KeyError):
        content = path.read_bytes() if content is None else content
        if not content.startswith(_BEGIN):
            return None
        value = unsealed(content)
        return Pointer(Address(**value["store"]), Entry(**value["petiole_object"]))
    return None


def image_bytes(path: Path, content: bytes, most: int) -> bytes:
    """What an image file holds: ``content``, or the content of the object that it points to.

    Args:
        path: of the file.
        content: its bytes.
        most: bytes of an object that is fetched.

    Raises:
        DataError: the object is gone, was replaced, is truncated or damaged, or larger than ``most``.
        StoreError: it is not to be had.
    """
    pointer = pointer_at(path, content)
    if pointer is None:
        return content
    bucket, entry = pointer
    if entry.size > most:
        raise DataError(
            f"{bucket.at(entry.key)}: has {entry.size / 1e9:.1f} GB; more than {most / 1e9:.1f} are refused."
        )
    store = open_store(bucket)
    for _ in range(
        3
    ):  # once more if it was damaged on this machine, or another process made room at this moment
        try:
            found = content_of(store, entry)
            fetched = found.read_bytes()
        except Missing as error:
            raise DataError(str(error)) from error
        except FileNotFoundError:
            continue
        if not entry.sha256 or hashlib.sha256(fetched).hexdigest() == entry.sha256:
            return fetched
        found.unlink(missing_ok=True)
    raise DataError(
        f"{bucket.at(entry.key)}: is taken away while it is read. Raise PETIOLE_STORES_SIZE."
    )


def checked_before(path: Path) -> str:
    """SHA-256 (hex) of an object whose image was decoded before; empty for any other file."""
    pointer = pointer_at(path)
    return pointer.entry.sha256 if pointer else ""


def remember_checked(path: Path, digest: str) -> None:
    """Note at a pointer that the image was decoded, and the digest of its content; nothing at any other file."""
    if pointer := pointer_at(path):
        with suppress(OSError):  # it is asked for again next time
            pointer._replace(entry=replace(pointer.entry, sha256=digest)).write(path)


def named(path: Path) -> str:
    """What people call a file: the address of an object in a store, else its path."""
    pointer = pointer_at(path)
    return str(pointer.bucket.at(pointer.entry.key)) if pointer else str(path)


def _laid_here(path: Path) -> bool:
    return path.is_absolute() and path.is_relative_to(root() / "tree")
