"""Tables that commands write, read back."""

from __future__ import annotations

import csv
from pathlib import Path


def rows_of(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file, by column."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
