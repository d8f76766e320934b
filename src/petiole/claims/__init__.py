"""Published tables as data: rows, settings and claimed values, in TOML beside this file."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from petiole.errors import unknown

FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """All tables, as ``<paper>/<table>``."""
    return tuple(
        f"{file.stem}/{table}" for file in sorted(FOLDER.glob("*.toml")) for table in _read(file)
    )


def table(name: str) -> dict[str, Any]:
    """Return one table: title, baseline, reference, headline, source and rows.

    Raises:
        ConfigError: no such table; the nearest are listed.
    """
    paper, _, part = name.partition("/")
    if name not in names():
        raise unknown("table", name, names())
    found: dict[str, Any] = _read(FOLDER / f"{paper}.toml")[part]
    return found


@cache
def _read(file: Path) -> dict[str, Any]:
    return tomllib.loads(file.read_text(encoding="utf-8"))
