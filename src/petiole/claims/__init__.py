"""Published tables as data: rows, settings and claimed values, in TOML beside this file."""

from __future__ import annotations

import tomllib
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from petiole.errors import ConfigError, boundary, unknown

FOLDER = Path(__file__).parent


def names(kind: str = "comparison") -> tuple[str, ...]:
    """All tables of a kind (``comparison``, ``params``, ``base-to-novel``, ...), as ``<paper>/<table>``."""
    return tuple(
        name for name, stated in _packaged().items() if stated.get("kind", "comparison") == kind
    )


def titles() -> dict[str, str]:
    """Titles of all tables of every kind, by name."""
    return {name: str(stated.get("title", "")) for name, stated in _packaged().items()}


def table(name: str, kind: str = "comparison") -> dict[str, Any]:
    """Return one table: title, baseline, reference, headline and rows, if it is a comparison.

    What a table states as its own ``settings`` stands in every row that names a method.

    Args:
        name: ``<paper>/<table>``, or the path of a TOML file with the same fields.
        kind: of the table that is wanted.

    Raises:
        ConfigError: no such table (the nearest are listed), or a file that is no table.
    """
    if name.endswith(".toml"):
        return _own(Path(name))
    if name not in names(kind):
        raise unknown("table", name, names(kind))
    return deepcopy(_packaged()[name])


@cache
def _packaged() -> dict[str, dict[str, Any]]:
    return {
        f"{file.stem}/{name}": stated
        for file in sorted(FOLDER.glob("*.toml"))
        for name, stated in _read(file).items()
    }


def _own(file: Path) -> dict[str, Any]:
    with boundary(file, f"See {FOLDER} for examples.", ConfigError, what="is no table"):
        found = _read(file)
    wanted = ("title", "baseline", "reference", "headline", "rows")
    if missing := [field for field in wanted if field not in found]:
        raise ConfigError(f"{file} lacks {', '.join(missing)}; see {FOLDER} for examples.")
    return found


def _read(file: Path) -> dict[str, Any]:
    tables = tomllib.loads(file.read_text(encoding="utf-8"))
    for stated in (tables, *tables.values()):
        if isinstance(stated, dict) and "rows" in stated:
            shared = stated.get("settings", {})
            stated["rows"] = [
                {**row, "settings": {**shared, **row.get("settings", {})}} if shared else row
                for row in stated["rows"]
            ]
    return tables
