"""A data set that only has a size."""

from __future__ import annotations

from typing import Any


class SizedData:
    """A data set of so many images."""

    def __init__(self, data: Any, n: int) -> None:
        self.classes, self.samples, self._n = data.classes, data.samples, n

    def __len__(self) -> int:
        return self._n
