"""Where an address becomes a local path that is read.

What lies below it is listed (one request a thousand objects) and laid out in a folder of this machine: pointers in the place
of images, which are fetched when they are read; all other files are fetched now. A folder that ``publish`` wrote is laid out
as its manifest says, and every file must have the digest that stands there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath

from filelock import FileLock

from petiole.errors import DataError, StoreError
from petiole.files import TEMPORARY, Damaged, unsealed
from petiole.stores.address import Address
from petiole.stores.base import Entry, Missing, Store, open_store
from petiole.stores.local_cache import content_of, root
from petiole.stores.pointer import Pointer, pointer_at

PUBLISHED, UNFINISHED = "petiole-published.json", "petiole-unfinished.json"
PARTS = ".parts"
"""Folder of a published folder's files, by their digests."""

_TABLES = frozenset({".csv", ".tsv", ".parquet", ".json", ".jsonl"})
_AT_ONCE = 16
_LEVELS = 4
"""Folders above an address in which its manifest is looked for."""


def materialise(address: Address, is_lazy: Callable[[str], bool] = lambda _: False) -> Path:
    """The local path of what lies at an address, as it is now.

    Args:
        address: of a folder or of one object; with a table, the images beside and below it are there, too.
        is_lazy: whether a file of this name is fetched only when it is read, by ``pointer.image_bytes``.

    Raises:
        DataError: nothing is there, or an object is truncated or damaged, or has a key that is no path.
        StoreError: the store cannot be reached, or refuses.
    """
    store, place = open_store(address.store), tree(address)
    lock = root() / "locks" / address.local.as_posix().replace("/", "%")[-200:]
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        if listed := _below(store, address.key):
            _lay(store, listed, place, is_lazy)
            _prune(place, {entry.name for entry in listed})
        elif one := _head(store, address.key):
            folder = address.key.rpartition("/")[0]
            beside = store.list(folder) if PurePosixPath(one.key).suffix.lower() in _TABLES else ()
            images = [entry for entry in beside if is_lazy(entry.name) and _visible(entry.name)]
            _lay(store, [one, *images], place.parent, is_lazy)
        elif inside := _inside_published(store, address.key):
            _lay(store, inside, place, is_lazy)
            _prune(place, {entry.name for entry in inside})
        else:
            raise DataError(
                f"{address}: nothing lies there. Check bucket and key; upper and lower case differ."
            )
    return place


def tree(address: Address) -> Path:
    """Where an address is laid out."""
    return root() / "tree" / address.local


def _head(store: Store, key: str) -> Entry | None:
    return store.head(key) if key else None


def _below(store: Store, folder: str) -> list[Entry]:
    """What a reader sees below a folder: no hidden files, and of published folders their files."""
    found: dict[str, Entry] = {}
    manifests: dict[str, Entry] = {}
    with suppress(Missing):
        for entry in store.list(folder):
            where, _, name = entry.name.rpartition("/")
            if name == PUBLISHED or (name == UNFINISHED and where not in manifests):
                manifests[where] = entry
            elif name != UNFINISHED and _visible(entry.name):
                found[entry.name] = entry
    for where, entry in manifests.items():
        base = entry.key.rpartition("/")[0]
        for part in parts_of(store, base, entry.key):
            name = f"{where}/{part.name}".lstrip("/")
            found[name] = Entry(part.key, name, part.size, part.version, part.sha256)
    return list(found.values())


def _visible(name: str) -> bool:
    return not any(part.startswith(".") for part in name.split("/"))


def _inside_published(store: Store, key: str) -> list[Entry]:
    """The part of a published folder that lies at a key below its own."""
    for above in list(PurePosixPath(key).parents)[:_LEVELS]:
        base = "" if str(above) == "." else str(above)
        for manifest in (PUBLISHED, UNFINISHED):
            if parts := parts_of(store, base, f"{base}/{manifest}".lstrip("/"), missing_ok=True):
                inner = key.removeprefix(base).strip("/") + "/"
                return [
                    Entry(part.key, part.name.removeprefix(inner), part.size, "", part.sha256)
                    for part in parts
                    if part.name.startswith(inner)
                ]
    return []


def parts_of(store: Store, base: str, key: str, *, missing_ok: bool = False) -> list[Entry]:
    """The files of a published folder, as its manifest says.

    Args:
        store: that has it.
        base: its key.
        key: of the manifest.
        missing_ok: no files where there is no manifest.

    Raises:
        DataError: the manifest is damaged.
        StoreError: there is none, or it is not to be had.
    """
    content = store.get(key)
    where = store.address.at(key)
    if content is None:
        if missing_ok:
            return []
        raise StoreError(f"{where}: was taken away since it was listed. Repeat the command.")
    try:
        files = unsealed(content)["files"]
        return [
            Entry(f"{base}/{PARTS}/{digest}".lstrip("/"), str(name), int(size), "", str(digest))
            for name, (digest, size) in files.items()
        ]
    except (Damaged, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{where}: is damaged ({error}). Publish the folder again.") from error


def _lay(
    store: Store, entries: Sequence[Entry], place: Path, is_lazy: Callable[[str], bool]
) -> None:
    """Lay entries out below a folder: pointers, and links to what is fetched."""
    if strange := [entry.key for entry in entries if not _is_path(entry.name)]:
        raise DataError(
            f"{store.address.at(strange[0])}: its key is no path of a file, as of {len(strange)} objects. Rename it."
        )
    place.mkdir(parents=True, exist_ok=True)
    lazy = [entry for entry in entries if is_lazy(entry.name) and not entry.sha256]
    rest = [entry for entry in entries if not is_lazy(entry.name) or entry.sha256]
    try:
        for folder in {(place / entry.name).parent for entry in entries}:
            folder.mkdir(parents=True, exist_ok=True)
        for entry in lazy:
            _point(store, entry, place / entry.name)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for done in [pool.submit(_link, store, entry, place / entry.name) for entry in rest]:
                done.result()
    except (
        OSError
    ) as error:  # a key that is also a folder of others, a name that is too long, a full disk
        raise DataError(f"{store.address}: cannot be laid out at {place} ({error}).") from error


def _is_path(name: str) -> bool:
    return bool(name) and "\0" not in name and not {"", ".", ".."} & set(name.split("/"))


def _point(store: Store, entry: Entry, path: Path) -> None:
    """A pointer, unless there is one to the same version, which may know its digest."""
    old = pointer_at(path)
    if old and (old.entry.version, old.entry.size) == (entry.version, entry.size):
        return
    Pointer(store.address, entry).write(path)


def _link(store: Store, entry: Entry, path: Path) -> None:
    content = content_of(store, entry, whole=True)
    if path.is_symlink() and os.readlink(path) == str(content):
        return
    temporary = path.with_name(f"{TEMPORARY}-{content.name}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(content)
    temporary.replace(path)


def _prune(place: Path, names: set[str]) -> None:
    """Delete what is no longer listed, and folders that are empty then."""
    for folder, _, files in os.walk(place, topdown=False):
        for name in files:
            path = Path(folder, name)
            if path.relative_to(place).as_posix() not in names:
                path.unlink(missing_ok=True)
        if Path(folder) != place:
            with suppress(OSError):  # it holds something
                Path(folder).rmdir()


def walk(folder: Path) -> Iterator[Path]:
    """Every file below a folder that is not hidden, by name."""
    for directory, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        yield from (Path(directory, name) for name in sorted(names) if not name.startswith("."))
