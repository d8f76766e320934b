"""Addresses of stores among a verb's keywords: the one place where they become local paths, and results are published.

out, csv        written on this machine, and published when the verb ends
cache_dir       a folder that mirrors a feature cache in a store
all others      read: laid out on this machine, images fetched when they are read
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from petiole.errors import ConfigError, PetioleError
from petiole.processes import is_main
from petiole.stores.address import Address

_WRITTEN = frozenset({"out", "csv"})
_KEPT = {
    "synthesize": ("folder",),
    "pair": ("folder",),
    "report": ("folder",),
    "serve": ("runs", "teach_out"),
}
"""Verb -> keywords of folders that it writes in as it goes, on this machine alone."""


class Places:
    """The addresses among the arguments of one call, and their local paths.

    Args:
        verb: its name.
        given: arguments by keyword, groups of options among them.
    """

    def __init__(self, verb: str, given: Mapping[str, Any]) -> None:
        self._verb, self._given = verb, given
        self._read: list[tuple[Address, Path]] = []
        self._written: list[Address] = []
        self._cache: Address | None = None

    def local(self) -> dict[str, Any]:
        """The arguments with local paths in the place of addresses.

        Raises:
            PetioleError: nothing lies there, or the store cannot be reached.
        """
        from petiole.stores.known import learn

        resume = bool(self._given.get("resume"))
        local = {name: self._localised(name, value, resume) for name, value in self._given.items()}
        if self._cache:
            for address, place in self._read:
                if place.is_dir():
                    learn(address, self._cache)
        return local

    def _localised(self, name: str, value: Any, resume: bool) -> Any:
        if (
            is_dataclass(value)
            and not isinstance(value, type)
            and type(value).__module__.startswith(__package__ or "")
        ):
            old = {f.name: getattr(value, f.name) for f in fields(value) if f.init}
            new = {key: self._localised(key, one, resume) for key, one in old.items()}
            return value if new == old else replace(value, **new)
        if isinstance(value, list | tuple) and any(
            isinstance(one, str | os.PathLike) for one in value
        ):
            return type(value)([self._localised(name, one, resume) for one in value])
        if not isinstance(value, str | os.PathLike):
            return value
        task, sign, rest = str(value).partition("=")
        if sign and name in ("data", "tasks") and (address := Address.parse(rest)):
            return f"{task}={self._path(name, address, resume)}"
        address = Address.parse(value)
        if address is None:
            return value
        path = self._path(name, address, resume)
        return str(path) if isinstance(value, str) else path

    def _path(self, name: str, address: Address, resume: bool) -> Path:
        from petiole.stores.base import open_store
        from petiole.stores.mirror import mirror_place
        from petiole.stores.mount import materialise, tree
        from petiole.stores.publish import begin, outgoing

        if name in _KEPT.get(self._verb, ()):
            raise ConfigError(
                f"petiole {self._verb} writes {name.replace('_', '-')} on this machine as it goes, and {address} is in a store. Give "
                "a local folder, and copy it."
            )
        if name == "cache_dir":
            open_store(address.store).check_writable()
            self._cache = address
            return mirror_place(address)
        if name in _WRITTEN:
            if not is_main():  # of several processes that train one model
                return outgoing(address)
            place = begin(address, resume=resume)
            self._written.append(address)
            return place
        self._read.append((address, tree(address)))
        return materialise(address, _is_image)

    def publish(self, *, finished: bool) -> None:
        """Publish what was written and learned; see ``petiole.stores``."""
        from petiole.stores.known import share
        from petiole.stores.publish import publish

        if self._cache:
            for address, place in self._read:
                if place.is_dir():
                    share(address, self._cache)
        for address in self._written:
            if n := publish(address, finished=finished):
                state = "published" if finished else "unfinished, for --resume"
                _say(f"{state}  {address} ({n:,} file{'s' * (n > 1)})")

    def named(self, text: str) -> str:
        """A text with addresses in the place of local paths."""
        for address, place in self._read:
            text = text.replace(str(place), str(address))
        return text

    def report(self, before: Mapping[str, Counter[str]]) -> None:
        """Say how many requests were made since, of which kind, and how many an image."""
        from petiole.stores.base import requests
        from petiole.stores.mount import walk

        images = sum(_is_image(file.name) for _, place in self._read for file in walk(place))
        for bucket, kinds in requests().items():
            made = kinds - before.get(bucket, Counter())
            if made:
                listed = ", ".join(f"{n:,} {kind}" for kind, n in sorted(made.items()))
                each = (
                    f"; {made.total() / images:.2f} for each of {images:,} images" if images else ""
                )
                _say(f"requests   {bucket}: {listed}{each}")


@contextmanager
def placed(verb: str, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Within it, a call's arguments have local paths; at its end, what was written at addresses is published.

    Args:
        verb: its name.
        given: arguments by keyword.
    """
    if not any(_addresses(value) for value in given.values()):
        yield dict(given)
        return
    from petiole.stores.base import requests

    places, before = Places(verb, given), requests()
    try:
        yield places.local()
    except BaseException as error:
        if isinstance(error, PetioleError):
            error.args = (places.named(str(error)),)
        try:
            places.publish(finished=False)
        except PetioleError as second:  # the first one is what happened
            _say(str(second))
        raise
    places.publish(finished=True)
    places.report(before)


def _addresses(value: Any) -> bool:
    """Whether there is an address in an argument."""
    if is_dataclass(value) and not isinstance(value, type):
        return any(_addresses(getattr(value, f.name)) for f in fields(value))
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return any(isinstance(one, str | os.PathLike) and _addresses(one) for one in value[:1000])
    if not isinstance(value, str | os.PathLike):
        return False
    return any(Address.parse(one) is not None for one in (value, str(value).partition("=")[2]))


def _is_image(name: str) -> bool:
    from petiole.data.image import SUFFIXES

    return os.path.splitext(name)[1].lower() in SUFFIXES


def _say(line: str) -> None:
    Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)
