"""Files of run folders that the HTTP process gives out as well; it reads no records, and so needs no torch."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

PAGE = "report.html"


def file_below(root: Path, folder: str, name: str) -> Path | None:
    """A file of a folder below ``root``; none where it lies elsewhere, is not there, or can be called so by no file."""
    with suppress(OSError, ValueError):
        file = (root / folder / name).resolve()
        if file.is_relative_to(root.resolve()) and file.is_file():
            return file
    return None
