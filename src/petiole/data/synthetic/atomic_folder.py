"""A folder that is whole or absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from petiole.errors import DataError


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside ``folder``; it becomes ``folder`` if nothing fails, else it vanishes.

    Raises:
        DataError: the folder exists.
    """
    if folder.exists():
        raise DataError(f"{folder} exists already. Move it away, or choose another folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=".tmp-") as staging:
        whole = Path(staging) / "whole"
        whole.mkdir()
        yield whole
        os.replace(whole, folder)
