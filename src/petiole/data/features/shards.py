"""Features in Parquet shards: columns ``id`` and ``features``, a list of N lists of D halves a row.

Shards are read forward in batches of `ROWS` images, so memory is small although a shard's only row
group holds 4,096 images (800 MB). In the order of `names` every shard is read once; in any other order
its start is read again and again. Pool and cache them in that order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from petiole.data.features.base import RawFeatures, absent, checked, files_digest
from petiole.errors import DataError

ROWS = 32


class Shards:
    """Features in the Parquet files of some folders.

    Args:
        folders: all their ``*.parquet`` belong together.

    Raises:
        DataError: a folder without such files.
    """

    def __init__(self, *folders: Path) -> None:
        self.files: list[Path] = []
        for folder in folders:
            files = sorted(folder.glob("*.parquet"))
            if not files:
                raise DataError(f"{folder}: no .parquet file. Check the path.")
            self.files += files
        self._cursor: _Cursor | None = None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All images in the order in which they are stored."""
        return tuple(self._index)

    @cached_property
    def width(self) -> int:
        if not self.names:
            raise DataError(f"{self.files[0].parent}: its shards hold no image.")
        return int(self(self.names[0]).tokens.shape[1])

    @cached_property
    def digest(self) -> str:
        return files_digest("shards", self.files)

    def __call__(self, name: str) -> RawFeatures:
        if name not in self._index:
            folders = ", ".join(sorted({str(path.parent) for path in self.files}))
            raise absent(name, f"the {len(self.files)} shards of {folders}")
        path, row = self._index[name]
        with _reading(path):
            if self._cursor is None or not self._cursor.reaches(path, row):
                self._cursor = _Cursor(path)
            features = self._cursor.features(row)
        return RawFeatures(checked(features, f"{path}, {name}"))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cursor": None}  # an open file does not travel to another process

    @cached_property
    def _index(self) -> dict[str, tuple[Path, int]]:
        index: dict[str, tuple[Path, int]] = {}
        for path in self.files:
            with _reading(path):
                ids = _parquet().read_table(path, columns=["id"], partitioning=None)["id"]
                rows = enumerate(ids.to_pylist())
            for row, name in rows:
                if name in index:
                    raise DataError(f"{path}: image {name!r} is in {index[name][0]} too.")
                index[name] = (path, row)
        return index


class _Cursor:
    """One shard, read forward."""

    def __init__(self, path: Path) -> None:
        self.path = path
        file = _parquet().ParquetFile(path, memory_map=True, pre_buffer=False)
        self._batches = file.iter_batches(batch_size=ROWS, columns=["features"])
        self._first, self._rows = 0, next(self._batches).column(0)

    def reaches(self, path: Path, row: int) -> bool:
        return path == self.path and row >= self._first

    def features(self, row: int) -> NDArray[np.floating]:
        """(N, D) of a row that is not behind the cursor."""
        while row >= self._first + len(self._rows):
            self._first += len(self._rows)
            self._rows = next(self._batches).column(0)
        tokens = self._rows.slice(row - self._first, 1).flatten()
        values: NDArray[np.floating] = tokens.flatten().to_numpy(zero_copy_only=False)
        return values.reshape(len(tokens), -1)


def _parquet() -> Any:
    try:
        from pyarrow import parquet
    except ImportError:
        raise DataError(
            "Parquet shards need pyarrow. Run `pip install 'petiole[parquet]'`."
        ) from None
    return parquet


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """A damaged shard, or one without the columns, says so."""
    try:
        yield
    except (OSError, LookupError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise DataError(
            f"{path}: no shard with id and features that can be read ({error}). Fetch it again."
        ) from error
