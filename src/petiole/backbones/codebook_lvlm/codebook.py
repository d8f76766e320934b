"""The contract between an image encoder and every language model that reads its codes."""

from __future__ import annotations

import hashlib
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from petiole.data.preprocessing import Preprocessing
from petiole.errors import BackboneError


class CodebookSpec(BaseModel):
    """What must be equal for codes to mean the same: what CRAFT (arXiv 2602.19449) keeps frozen between models.

    Attributes:
        entries: K, of every table.
        width: d of an entry.
        depth: D, codes of a token.
        shared: one table for all depths.
        sha256: of the tables as float32, little-endian, depth by depth.
        tap: number of the block whose output is quantised.
        grid: rows and columns of tokens.
        preprocessing: of images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    entries: int
    width: int
    depth: int
    shared: bool
    sha256: str
    tap: int
    grid: tuple[int, int]
    preprocessing: Preprocessing

    @classmethod
    def of(
        cls,
        codebooks: Tensor,
        depth: int,
        *,
        tap: int,
        grid: tuple[int, int],
        preprocessing: Preprocessing,
    ) -> Self:
        """The contract of these tables, (D or 1, K, d)."""
        tables, entries, width = codebooks.shape
        return cls(
            entries=entries,
            width=width,
            depth=depth,
            shared=tables == 1,
            sha256=digest(codebooks),
            tap=tap,
            grid=grid,
            preprocessing=preprocessing,
        )

    def check(self, other: CodebookSpec, mine: str, theirs: str) -> None:
        """Raise unless both are one contract.

        Args:
            other: the other side's.
            mine, theirs: what the two belong to, for the message.

        Raises:
            BackboneError: they differ; the message says in what.
        """
        own, foreign = self.model_dump(mode="json"), other.model_dump(mode="json")
        differ = [
            f"{k} {_short(own[k])} against {_short(foreign[k])}"
            for k in own
            if own[k] != foreign[k]
        ]
        if differ:
            raise BackboneError(
                f"{mine} and {theirs} have different codebooks ({'; '.join(differ)}), so the codes of one mean "
                "nothing to the other. Use a language model that was aligned to the same codebook."
            )


def digest(codebooks: Tensor) -> str:
    """SHA-256 (hex) of the tables' bytes as float32, little-endian."""
    values = codebooks.detach().to("cpu", torch.float32).contiguous().numpy()
    return hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 12 else f"{text[:12]}..."
