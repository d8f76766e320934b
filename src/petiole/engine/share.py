"""A share of the images, for writers that do not know of each other: the jobs of a Slurm array, the workers of a pool."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Self

from petiole.errors import ConfigError
from petiole.processes import rank, world

BATCH, SHARD = 64, 512
"""Images that are computed at once, and that one file of the feature cache holds."""


@dataclass(frozen=True)
class Share:
    """The ``index``-th of ``of`` shares, counted from 1. Every image is in exactly one of them, by its own hash alone."""

    index: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of ``3/8``.

        Raises:
            ConfigError: it does not read so.
        """
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ConfigError(
                f"A share is its number and how many there are, from 1/8 to 8/8, and not {text!r}. In a Slurm array: "
                "--shard $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT with --array=1-8."
            )
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def own(cls) -> Self:
        """This process's, of those that train one model together; all images where it trains alone."""
        return cls(rank() + 1, world())

    def takes(self, image: str) -> bool:
        """Whether the image of this id is in the share."""
        number = int.from_bytes(hashlib.sha256(image.encode()).digest()[:8], "big")
        return number % self.of == self.index - 1

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"


WHOLE = Share()
"""All images."""
