"""What one machine learned of the images of a folder, for others: kept beside the features in a feature cache in a store.

An image's features are found by the digest of its content. A machine that never saw it would have to fetch it to know that; with
the digests beside the features it fetches what it has to look at.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from petiole.files import Damaged, sealed, text_digest, unsealed
from petiole.stores.address import Address
from petiole.stores.base import open_store
from petiole.stores.mount import tree, walk
from petiole.stores.pointer import Pointer, pointer_at

Known = dict[str, tuple[str, str]]
"""Path below the folder -> version of the object and SHA-256 (hex) of its content."""


def learn(folder: Address, cache: Address) -> None:
    """Note at the pointers of a folder what is known of their objects.

    Raises:
        StoreError: the store cannot be reached or refuses.
    """
    known, place = _read(folder, cache), tree(folder)
    for name, (version, digest) in known.items():
        pointer = pointer_at(place / name)
        if pointer and not pointer.entry.sha256 and pointer.entry.version == version:
            pointer._replace(entry=replace(pointer.entry, sha256=digest)).write(place / name)


def share(folder: Address, cache: Address) -> None:
    """Store what the pointers of a folder know, if it is more than is known there.

    Raises:
        StoreError: the store cannot be reached or refuses.
    """
    here = {name: _of(pointer) for name, pointer in _pointers(tree(folder)) if pointer.entry.sha256}
    if here and here != _read(folder, cache):
        text = json.dumps(sealed({"folder": str(folder), "images": here}))
        open_store(cache.store).put(_key(folder, cache), text.encode())


def _pointers(place: Path) -> list[tuple[str, Pointer]]:
    found = ((file, pointer_at(file)) for file in walk(place) if not file.is_symlink())
    return [(file.relative_to(place).as_posix(), pointer) for file, pointer in found if pointer]


def _of(pointer: Pointer) -> tuple[str, str]:
    return pointer.entry.version, pointer.entry.sha256


def _key(folder: Address, cache: Address) -> str:
    return (cache / f"images/{text_digest(str(folder))}.json").key


def _read(folder: Address, cache: Address) -> Known:
    content = open_store(cache.store).get(_key(folder, cache))
    if content is None:
        return {}
    try:
        return {str(n): (str(v), str(d)) for n, (v, d) in unsealed(content)["images"].items()}
    except (Damaged, KeyError, TypeError, ValueError, AttributeError):
        return {}  # it is learned again
