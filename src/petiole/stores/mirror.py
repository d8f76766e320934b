"""A feature cache in a store: its shards are fetched when they are asked for, and put there when they are written.

Shards are named after their content, so that two writers of one name write the same, and a put needs no lock.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from petiole.errors import DataError
from petiole.files import TEMPORARY
from petiole.stores.address import Address
from petiole.stores.base import Entry, Missing, Store, open_store
from petiole.stores.local_cache import fetch, root


def mirror_place(address: Address) -> Path:
    """The local folder of a feature cache in a store; ``Mirror.of`` knows it again, in any process."""
    return root() / "features" / address.local


class Mirror:
    """The store behind a local folder.

    Args:
        place: the folder.
        address: of the feature cache.
    """

    def __init__(self, place: Path, address: Address) -> None:
        self.place, self.address = place, address

    @classmethod
    def of(cls, place: Path) -> Mirror | None:
        """The mirror that a folder of ``mirror_place`` is; ``None`` for any other folder."""
        base = root() / "features"
        if not place.is_absolute() or not place.is_relative_to(base):
            return None
        return cls(place, Address.of_local(place.relative_to(base).parts))

    @property
    def _store(self) -> Store:
        return open_store(self.address.store)

    def pull(self, folder: str = "") -> None:
        """Make a folder equal on both sides: what only one has is copied, what is there is left.

        Raises:
            StoreError: the store cannot be reached or refuses.
        """
        store, there = self._store, self.address / folder
        listed: dict[str, Entry] = {}
        with suppress(Missing):
            listed = {entry.name: entry for entry in store.list(there.key) if _ours(entry.name)}
        local = {
            path.relative_to(self.place / folder).as_posix()
            for path in _shards(self.place / folder)
        }
        with ThreadPoolExecutor(16) as pool:
            jobs = [
                pool.submit(self._fetch, store, entry, self.place / folder / name)
                for name, entry in listed.items()
                if name not in local
            ]
            jobs += [
                pool.submit(self.push, self.place / folder / name) for name in local - listed.keys()
            ]
            for job in jobs:
                job.result()

    def push(self, path: Path) -> None:
        """Put a shard into the store.

        Raises:
            StoreError: the store cannot be reached or refuses.
        """
        with suppress(FileNotFoundError, Missing):  # room was made here meanwhile
            self._store.put(self._key(path), path)

    def drop(self, path: Path) -> None:
        """Delete a damaged shard there, so that a sound one takes its place."""
        self._store.delete(self._key(path))

    def _key(self, path: Path) -> str:
        return (self.address / path.relative_to(self.place).as_posix()).key

    def _fetch(self, store: Store, entry: Entry, path: Path) -> None:
        try:
            fetch(store, entry, path)
        except (DataError, Missing):  # truncated, or cleaned away: its images are computed again
            store.delete(entry.key)


def _ours(name: str) -> bool:
    return not any(part.startswith(".") for part in name.split("/"))


def _shards(folder: Path) -> list[Path]:
    return [
        Path(directory, name)
        for directory, _, names in os.walk(folder)
        for name in names
        if not name.startswith(TEMPORARY) and not name.endswith(".corrupt")
    ]
