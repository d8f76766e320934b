"""Adapters of kinds that a command does not know: those that packages bring with a task of their own."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from petiole.errors import ConfigError


def known_kind(adapter: Path, kind: str, known: Collection[str]) -> str:
    """The kind of an adapter, if the command knows it.

    Raises:
        ConfigError: it belongs to a task of another package.
    """
    if kind not in known:
        raise ConfigError(
            f"{adapter} is of the kind {kind}, and this command knows {', '.join(sorted(known))}. Open it in Python with "
            f'petiole.Adapter.load("{adapter}").'
        )
    return kind
