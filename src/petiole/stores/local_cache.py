"""What was fetched from stores, on this machine: of bounded size, the least recently used goes first.

    tree/<scheme>/<bucket>/<key>        folders as their readers see them: pointers to images, links to all other files
    objects/<xx>/<digest>               content of images, by address and version
    whole/<xx>/<digest>                 of other files, which a running command may have open
    features/<scheme>/<bucket>/<key>    what was fetched of feature caches
    outgoing/<scheme>/<bucket>/<key>    what is written, until it is published and as long as it is not deleted

Any number of processes may use it: files appear under their names when they are whole, and readers fetch again what another
process has taken away.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock
from time import time

from filelock import FileLock, Timeout

from petiole.cache_folder import default_cache
from petiole.errors import ConfigError, DataError
from petiole.files import replacing, sha256
from petiole.stores.base import Entry, Store

DAY = 24 * 3600
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def root() -> Path:
    """``$PETIOLE_STORES``, else ``stores`` below the usual folder of the feature cache."""
    if chosen := os.environ.get("PETIOLE_STORES"):
        return Path(chosen).absolute()
    return default_cache().absolute() / "stores"


def limit() -> int:
    """Bytes that are kept: ``$PETIOLE_STORES_SIZE``, such as 500M or 20G (the default).

    Raises:
        ConfigError: it is no size.
    """
    text = os.environ.get("PETIOLE_STORES_SIZE", "20G")
    short = text.upper().removesuffix("B")
    unit = short[-1:] if short[-1:] in _UNITS else ""
    try:
        size = int(float(short.removesuffix(unit)) * _UNITS[unit])
    except (ValueError, OverflowError):
        size = 0
    if size < 1:
        raise ConfigError(f"PETIOLE_STORES_SIZE={text} is no size. Write 500M or 20G.")
    return size


def content_of(store: Store, entry: Entry, *, whole: bool = False) -> Path:
    """The local file with an object's content, fetched if it is not here.

    Args:
        store: that has it.
        entry: which one; its digest is compared, where it is known, with what is here and what is fetched.
        whole: it is opened later, under its path: it is kept for a day.

    Raises:
        DataError: the object is truncated, or has another digest.
        StoreError: it is not to be had.
    """
    named = f"{store.address.at(entry.key)}\n{entry.version or entry.sha256}\n{entry.size}"
    name = hashlib.sha256(named.encode("utf-8", "surrogateescape")).hexdigest()
    path = root() / ("whole" if whole else "objects") / name[:2] / name
    with suppress(OSError):  # it is not here, or another process takes it away at this moment
        os.utime(path)
        if path.stat().st_size == entry.size and (not whole or _as_known(path, entry)):
            return path
    fetch(store, entry, path)
    return path


def _as_known(path: Path, entry: Entry) -> bool:
    return not entry.sha256 or sha256(path) == entry.sha256


def fetch(store: Store, entry: Entry, path: Path) -> None:
    """Fetch an object into a file, which appears when it is whole and right.

    Raises:
        DataError: the object is truncated, or has another digest than it should.
        StoreError: it is not to be had.
    """
    size, digest = 0, hashlib.sha256()
    with replacing(path) as temporary:
        with open(temporary, "wb") as file:
            for piece in store.read(entry.key, entry.version):
                size += file.write(piece)
                digest.update(piece)
        where = store.address.at(entry.key)
        if size != entry.size:
            raise DataError(
                f"{where}: is truncated: {size:,} bytes of {entry.size:,}. Upload it again."
            )
        if entry.sha256 and digest.hexdigest() != entry.sha256:
            raise DataError(
                f"{where}: is damaged: SHA-256 {digest.hexdigest()[:12]} instead of {entry.sha256[:12]}. Upload it again."
            )
    _BUDGET.spend(size)


class _Budget:
    """Bytes that this process has written since the folder was last measured."""

    def __init__(self) -> None:
        self._lock, self._left = Lock(), 0

    def spend(self, size: int) -> None:
        """Count bytes that were written; where they might be too many, make room."""
        with self._lock:
            self._left -= size
            if self._left < 0:
                self._left = make_room()


_BUDGET = _Budget()


def make_room() -> int:
    """Delete what was used least recently until nine tenths of the limit hold the rest; the bytes to write before the next time.

    Others write, too: each measures again after a tenth of the limit at most.
    """
    allowed, here = limit(), root()
    try:
        with FileLock(here / ".room", timeout=0):
            files = sorted(_files(here))
            total = sum(size for _, size, _ in files)
            if total > allowed:
                for used, size, path in files:
                    if total <= 0.9 * allowed:
                        break
                    if path.parent.parent.name == "whole" and time() - used < DAY:
                        continue
                    path.unlink(missing_ok=True)
                    total -= size
    except Timeout:  # another process makes room
        return allowed // 20
    return max(0, min(allowed - total, allowed // 10))


def _files(here: Path) -> Iterator[tuple[float, int, Path]]:
    """Last use, size and path of all that may go."""
    for kind in ("objects", "whole", "features"):
        for folder, _, names in os.walk(here / kind):
            for name in names:
                path = Path(folder, name)
                with suppress(FileNotFoundError):
                    found = path.stat()
                    yield found.st_mtime, found.st_size, path
