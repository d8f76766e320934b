"""Files of what was chosen, one line a name: ``PETIOLE_SNAPSHOT=1`` writes them anew after a change that is meant."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WRITES = os.environ.get("PETIOLE_SNAPSHOT") == "1"


def kept(file: Path, now: Mapping[str, Any]) -> dict[str, Any]:
    """What the file holds, of the same names."""
    if WRITES:
        _write(file, now)
    found: dict[str, Any] = json.loads(file.read_text())
    assert now.keys() == found.keys()
    return found


def kept_row(file: Path, name: str, now: Any) -> Any:
    """What the file holds of one name; written anew by one process at a time."""
    rows = json.loads(file.read_text()) if file.exists() else {}
    if WRITES:
        rows[name] = now
        _write(file, dict(sorted(rows.items())))
    return rows[name]


def names_in(file: Path) -> set[str]:
    """Of all that the file holds."""
    return set(json.loads(file.read_text()))


def _write(file: Path, rows: Mapping[str, Any]) -> None:
    text = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in rows.items()]
    file.write_text("{\n" + ",\n".join(text) + "\n}\n")
