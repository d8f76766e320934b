"""Published tables as data: rows, settings and claimed values, in TOML beside this file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from petiole.errors import ConfigError, unknown

FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """All tables, as ``<paper>/<table>``."""
    return tuple(
        f"{file.stem}/{table}" for file in sorted(FOLDER.glob("*.toml")) for table in _read(file)
    )


def table(name: str) -> dict[str, Any]:
    """Return one table: title, baseline, reference, headline and rows.

    Args:
        name: ``<paper>/<table>``, or the path of a TOML file with the same fields.

    Raises:
        ConfigError: no such table (the nearest are listed), or a file that is no table.
    """
    if name.endswith(".toml"):
        return _own(Path(name))
    paper, _, part = name.partition("/")
    if name not in names():
        raise unknown("table", name, names())
    found: dict[str, Any] = _read(FOLDER / f"{paper}.toml")[part]
    return found


def _own(file: Path) -> dict[str, Any]:
    try:
        found = _read(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file} is no table: {error}.") from error
    wanted = ("title", "baseline", "reference", "headline", "rows")
    if missing := [field for field in wanted if field not in found]:
        raise ConfigError(f"{file} lacks {', '.join(missing)}; see {FOLDER} for examples.")
    return found


def _read(file: Path) -> dict[str, Any]:
    return tomllib.loads(file.read_text(encoding="utf-8"))
