"""Where a local path becomes an address that is written: a folder is published whole or not at all.

A store has no rename. So every file goes to a key of its own digest (``.parts/<sha256>``), where no two contents can meet; the
manifest comes last, where there is none yet: ``petiole-published.json`` says which digest each file has. Of two writers one wins and the
other is told. What a run has when it is interrupted is published likewise as ``petiole-unfinished.json``, and taken up by ``--resume``
on any machine.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from shutil import rmtree

from petiole.errors import RunError
from petiole.files import SEAL, sealed, sha256, write_text
from petiole.stores.address import Address
from petiole.stores.base import Store, open_store
from petiole.stores.local_cache import fetch, root
from petiole.stores.mount import PARTS, PUBLISHED, UNFINISHED, parts_of, walk

_SEEN = ".published"
"""In a folder that is written: the seal of the manifest that it was last equal to."""


def outgoing(address: Address) -> Path:
    """Where a folder is written before it is published."""
    return root() / "outgoing" / address.local


def begin(address: Address, *, resume: bool) -> Path:
    """The local folder or file in which a result grows.

    Args:
        address: where it is published when it is whole.
        resume: take up what lies there, whoever wrote it.

    Raises:
        RunError: something lies there, and ``resume`` is not set.
        DataError: it is damaged.
        StoreError: the store cannot be reached or refuses.
    """
    store, place = open_store(address.store), outgoing(address)
    store.check_writable()
    seen = place / _SEEN
    known = seen.read_text(encoding="utf-8", errors="replace") if seen.is_file() else ""
    for name in (PUBLISHED, UNFINISHED):
        key = (address / name).key
        content = store.get(key)
        if content is None:
            continue
        if not resume:
            raise RunError(
                f"{address} already holds what a command wrote. Add --resume to finish or reuse it, where the command has it, or "
                "choose another address."
            )
        if (
            _seal(content) != known
        ):  # another machine went on from here, or this one never was there
            parts = parts_of(store, address.key, key)
            rmtree(place, ignore_errors=True)
            for part in parts:
                fetch(store, part, place / part.name)
            write_text(seen, _seal(content))
        return place
    if known:  # published from here once, and deleted there
        rmtree(place, ignore_errors=True)
    elif place.is_file():
        place.unlink()
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def publish(address: Address, *, finished: bool) -> int:
    """Publish what was written at ``outgoing``; the number of files, 0 where it is published already.

    Args:
        address: where to.
        finished: nothing will be added; else it can be resumed.

    Raises:
        RunError: another process published something else there in the meantime.
        StoreError: the store cannot be reached or refuses.
    """
    store, place = open_store(address.store), outgoing(address)
    if place.is_file():
        store.put(address.key, place)
        return 1
    files = list(walk(place)) if place.is_dir() else []
    if not files or _is_finished(store, address):
        return 0
    rows: dict[str, tuple[str, int]] = {
        file.relative_to(place).as_posix(): (sha256(file), file.stat().st_size) for file in files
    }
    text = json.dumps(sealed({"format": 1, "files": rows}), indent=2) + "\n"
    with ThreadPoolExecutor(16) as pool:
        sent = [
            pool.submit(_send, store, (address / PARTS / digest).key, file, size)
            for file, (digest, size) in zip(files, rows.values(), strict=True)
        ]
        for one in sent:
            one.result()
    if finished:
        _finish(store, address, text.encode())
    else:
        store.put((address / UNFINISHED).key, text.encode())
    write_text(place / _SEEN, _seal(text.encode()))
    return len(files)


def _is_finished(store: Store, address: Address) -> bool:
    """Whether what lies here was published as finished, or came from there so."""
    seen = outgoing(address) / _SEEN
    there = store.get((address / PUBLISHED).key) if seen.is_file() else None
    return there is not None and _seal(there) == seen.read_text(encoding="utf-8", errors="replace")


def _send(store: Store, key: str, file: Path, size: int) -> None:
    found = store.head(key)
    if found is None or found.size != size:
        store.put(key, file)


def _finish(store: Store, address: Address, content: bytes) -> None:
    key = (address / PUBLISHED).key
    if not store.create(key, content):
        there = store.get(key)
        if there is None or _seal(there) != _seal(content):
            raise RunError(
                f"{address}: another process published there in the meantime. This result lies in {outgoing(address)}; publish it "
                "at another address, with --resume if the command has it."
            )
    keep = {
        f"{address.key}/{PARTS}/{digest}".lstrip("/")
        for digest, _ in json.loads(content)["files"].values()
    }
    store.delete((address / UNFINISHED).key)
    for entry in list(store.list((address / PARTS).key)):
        if entry.key not in keep:  # of an unfinished state
            store.delete(entry.key)


def _seal(content: bytes) -> str:
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(content)[SEAL])
    return ""
