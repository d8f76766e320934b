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


class LanguageTokenizer(Protocol):
    """Ids of a text with its special tokens, and back."""

    pad: int

    def __call__(self, text: str, most: int | None = None) -> list[int]:
        """Ids, cut to ``most`` of them, the end token kept."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text, without special tokens."""
        ...


FILES = ("tokenizer.json", "vocab.json", "spiece.model", "vocab.txt")
"""One of them is there where a folder has a tokenizer of BART, T5 or BERT."""


class FastTokenizer:
    """The tokenizer of a model folder, through transformers.

    Args:
        folder: of the model.
        vocabulary: V, number of the model's embeddings.

    Raises:
        BackboneError: the folder has none, or it is another model's.
    """

    def __init__(self, folder: Path, vocabulary: int) -> None:
        from transformers import AutoTokenizer

        # Where there is no file, transformers makes a tokenizer that knows no words.
        if not any((folder / name).is_file() for name in FILES):
            raise BackboneError(
                f"{folder} has no tokenizer. Put tokenizer.json beside config.json."
            )
        try:
            self.inner: Any = AutoTokenizer.from_pretrained(folder)
        except Exception as error:  # the library tokenizers raises bare ones
            raise BackboneError(
                f"{folder} has no tokenizer that transformers can read ({type(error).__name__}: {error}). "
                "Copy tokenizer.json and tokenizer_config.json again."
            ) from error
        if self.inner.pad_token_id is None or len(self.inner) > vocabulary:
            raise BackboneError(
                f"The tokenizer in {folder} has {len(self.inner)} tokens"
                f"{' and no pad token' if self.inner.pad_token_id is None else ''}, the model {vocabulary}. "
                "Give the tokenizer that belongs to the model."
            )
        self.pad = int(self.inner.pad_token_id)

    def __call__(self, text: str, most: int | None = None) -> list[int]:
        return list(self.inner(text, truncation=most is not None, max_length=most)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.inner.decode(ids, skip_special_tokens=True)).strip()


def padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """Rows of ids as one (B, longest) int64 tensor, filled up at the end."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])
