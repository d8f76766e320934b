"""What a store can do, whoever keeps it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from threading import Lock

from petiole.errors import StoreError
from petiole.stores.address import Address

_HOMES = {"hf": "hub"}
"""Scheme -> the module with its ``open``; all others are obstore's."""


class Missing(StoreError):
    """There is no such object, or it has another version by now."""


@dataclass(frozen=True)
class Entry:
    """One object.

    Attributes:
        key: its own.
        name: where it belongs below the folder that is looked at.
        size: in bytes.
        version: the store's mark of this content (ETag); empty for any.
        sha256: (hex) of its content, where that is known.
    """

    key: str
    name: str
    size: int
    version: str = ""
    sha256: str = ""


class Store(ABC):
    """The objects of one bucket.

    All but ``list`` are one request each, and every method raises StoreError where the store cannot be reached or refuses; the
    message says what to do.

    Attributes:
        address: of the bucket.
        requests: how many of each kind this process has made.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.requests: Counter[str] = Counter()
        self._counting = Lock()

    @abstractmethod
    def read(self, key: str, version: str = "") -> Iterator[bytes]:
        """The content of an object, piece by piece.

        Raises:
            Missing: there is none, or it has not this version.
        """

    @abstractmethod
    def list(self, folder: str) -> Iterator[Entry]:
        """The objects below a folder, at any depth; a thousand a request."""

    @abstractmethod
    def head(self, key: str) -> Entry | None:
        """An object without its content."""

    @abstractmethod
    def put(self, key: str, content: Path | bytes) -> None:
        """Store an object, whole or not at all, in the place of whatever was there."""

    @abstractmethod
    def create(self, key: str, content: bytes) -> bool:
        """Store an object where there is none; whether there was none."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete an object, if there is one."""

    def check_writable(self) -> None:
        """Raise StoreError where nothing can be written, whoever asks."""
        return

    def get(self, key: str) -> bytes | None:
        """The content of a small object; ``None`` where there is none."""
        try:
            return b"".join(self.read(key))
        except Missing:
            return None

    def count(self, kind: str, n: int = 1) -> None:
        """Count requests; from any thread."""
        with self._counting:
            self.requests[kind] += n


@cache
def open_store(bucket: Address) -> Store:
    """The store of a bucket, the same one each time.

    Raises:
        StoreError: its library is not installed, or it cannot be opened.
    """
    home = import_module(f"petiole.stores.{_HOMES.get(bucket.scheme, 'objects')}")
    store: Store = home.open_bucket(bucket)
    _OPENED.append(store)
    return store


def requests() -> dict[str, Counter[str]]:
    """Bucket -> requests by kind that this process has made so far."""
    return {str(store.address): Counter(store.requests) for store in _OPENED}


_OPENED: list[Store] = []
