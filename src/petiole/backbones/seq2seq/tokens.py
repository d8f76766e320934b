"""Texts and ids: what a language model's tokenizer must do here, and the one of the library tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from petiole.errors import BackboneError

IGNORED = -100
"""Label of a place that no loss sees."""


class Tokenizer(Protocol):
    """Ids of a text with its special tokens, and back."""

    pad: int

    def __call__(self, text: str, most: int | None = None) -> list[int]:
        """Ids, cut to ``most`` of them, the end token kept."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text, without special tokens."""
        ...


class FastTokenizer:
    """The tokenizer of a model folder, through transformers.

    Raises:
        BackboneError: the folder has none.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        try:
            self.inner: Any = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise BackboneError(
                f"{folder} has no tokenizer that transformers can read ({str(error).splitlines()[0]}). "
                "Put tokenizer.json beside config.json."
            ) from error
        self.pad = int(self.inner.pad_token_id)

    def __call__(self, text: str, most: int | None = None) -> list[int]:
        return list(self.inner(text, truncation=most is not None, max_length=most)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.inner.decode(ids, skip_special_tokens=True)).strip()


def padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """Rows of ids as one (B, longest) int64 tensor, filled up at the end."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])
