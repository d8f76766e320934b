"""Text towers: sentences become vectors, and every layer has its role.

    tokens = norm(blocks(place(words(ids)))),   e = P_t pool(tokens)

Roles are ``text.embed`` (the word embeddings of a batch of texts, before positions), ``text.block.<i>.…`` as in an
image transformer, and ``text.tokens`` (all normalised tokens). Three kinds differ in what a token sees and in which
one stands for the sentence:

    CausalTower    those before it             the end token          CLIP
    MeanTower      all of its sentence         the mean of all        BERT, sentence-transformers
    PaddedTower    all, padding too            the last slot          SigLIP
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

from petiole.backbones.frozen_network import Site
from petiole.backbones.vision.transformer import Branches, block_sites
from petiole.errors import ConfigError

TEXT = "text."


class Tokenizer(Protocol):
    """Text -> ids, without the tokens that mark start (not all have one) and end."""

    @property
    def start(self) -> int | None: ...

    @property
    def end(self) -> int: ...

    def __call__(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class TextTower(ABC):
    """A frozen text transformer, named.

    Attributes:
        embed: ids (C, T) -> word embeddings (C, T, d_t).
        place: word embeddings -> the first block's input: positions added, and what else there is.
        blocks: in order.
        step: calls one block with an additive mask or none.
        norm: final normalisation.
        project: (C, d_t) -> (C, d), into the joint space.
        width: d_t.
        longest: most tokens of a text, start and end included.
        tokenizer: ``None`` for a shape without one.
    """

    embed: nn.Embedding
    place: Callable[[Tensor], Tensor]
    blocks: Sequence[Branches]
    step: Callable[[nn.Module, Tensor, Tensor | None], Tensor]
    norm: nn.Module
    project: nn.Module
    width: int
    longest: int
    tokenizer: Tokenizer | None

    @property
    def first(self) -> int:
        """Slot of the first word: behind the start token, where there is one."""
        return 0 if self.tokenizer is not None and self.tokenizer.start is None else 1

    @cached_property
    def sites(self) -> Mapping[str, Site]:
        """Roles, in the order in which data passes them."""
        return {
            f"{TEXT}embed": Site(self.embed, "out", self.width),
            **block_sites(self.blocks, self.width, TEXT),
            f"{TEXT}tokens": Site(self.norm, "out", self.width),
        }

    def encode(self, ids: Tensor, *, trimmed: bool = False) -> Tensor:
        """Texts (C, T) -> vectors (C, d), not normalised.

        Args:
            ids: behind their end token filled up with end tokens.
            trimmed: the longest text ends about where ``ids`` do. Then all of them are run; else a GPU is waited for
                to learn where that is.

        Raises:
            ConfigError: a text is longer than the tower's positions.
        """
        end = self.tokenizer.end if self.tokenizer else int(ids.shape[1] - 1)
        ends = (ids == end).int().argmax(dim=1)
        count = ids.shape[1] if trimmed or ids.is_meta else int(ends.max()) + 1
        if count > self.longest:
            raise ConfigError(
                f"A text has {count} tokens, and this text tower takes {self.longest}. Shorten the class "
                "name, the template or the context."
            )
        tokens = self.place(self.embed(self.fitted(ids, count)))
        mask = self.mask(tokens, ends)
        for branches in self.blocks:
            tokens = self.step(branches.block, tokens, mask)
        pooled: Tensor = self.project(self.pool(self.norm(tokens), ends))
        return pooled

    def tokenise(self, texts: Sequence[str]) -> Tensor:
        """Ids (C, T) with start and end, filled up with end tokens, where the tower lives.

        Raises:
            ConfigError: this is a shape, which has no tokenizer.
        """
        if self.tokenizer is None:
            raise ConfigError(
                "This is only the shape of a model, which has no tokenizer. Load it with its weights to read texts."
            )
        opening = [] if self.tokenizer.start is None else [self.tokenizer.start]
        rows = [[*opening, *self.tokenizer(text), self.tokenizer.end] for text in texts]
        longest = max(map(len, rows), default=0)
        filled = [row + [self.tokenizer.end] * (longest - len(row)) for row in rows]
        return torch.tensor(filled, dtype=torch.long, device=self.embed.weight.device)

    def fitted(self, ids: Tensor, count: int) -> Tensor:
        """The ids that must be run, where the longest text has ``count``."""
        return ids[:, :count]

    @abstractmethod
    def mask(self, tokens: Tensor, ends: Tensor) -> Tensor | None:
        """What attention adds to its scores, for texts that end at ``ends`` (C,)."""

    @abstractmethod
    def pool(self, tokens: Tensor, ends: Tensor) -> Tensor:
        """Tokens (C, T, d_t) -> (C, d_t)."""


class CausalTower(TextTower):
    """A token sees those before it, and the end token stands for the sentence.

    What stands behind the longest end token never matters: it is cut off, exactly.
    """

    def mask(self, tokens: Tensor, ends: Tensor) -> Tensor:  # noqa: ARG002 - the same for all texts
        count = tokens.shape[1]
        hidden = torch.full((count, count), torch.finfo(tokens.dtype).min, device=tokens.device)
        return hidden.triu(1).to(tokens.dtype)[None, None]

    def pool(self, tokens: Tensor, ends: Tensor) -> Tensor:
        return tokens[torch.arange(len(tokens), device=tokens.device), ends]


class MeanTower(TextTower):
    """A token sees its whole sentence, whose mean stands for it; padding takes no part."""

    def mask(self, tokens: Tensor, ends: Tensor) -> Tensor:
        hidden = torch.zeros(
            self._own(tokens, ends).shape, dtype=tokens.dtype, device=tokens.device
        )
        hidden = hidden.masked_fill(~self._own(tokens, ends), torch.finfo(tokens.dtype).min)
        return hidden[:, None, None]

    def pool(self, tokens: Tensor, ends: Tensor) -> Tensor:
        own = self._own(tokens, ends)[..., None].to(tokens.dtype)
        return (tokens * own).sum(dim=1) / own.sum(dim=1)

    @staticmethod
    def _own(tokens: Tensor, ends: Tensor) -> Tensor:
        return torch.arange(tokens.shape[1], device=tokens.device) <= ends[:, None]


@dataclass(frozen=True)
class PaddedTower(TextTower):
    """Every token sees every slot, and the last one stands for the sentence, so all slots are filled.

    Attributes:
        padding: id of what fills them.
    """

    padding: int = 1

    def fitted(self, ids: Tensor, count: int) -> Tensor:  # noqa: ARG002 - always all slots
        if ids.is_meta:
            return ids.new_empty(len(ids), self.longest)
        end = self.tokenizer.end if self.tokenizer else self.padding
        behind = (ids == end).int().cumsum(dim=1) - (ids == end).int() > 0
        full = ids.new_full((len(ids), self.longest), self.padding)
        kept = min(ids.shape[1], self.longest)
        full[:, :kept] = ids.masked_fill(behind, self.padding)[:, :kept]
        return full

    def mask(self, tokens: Tensor, ends: Tensor) -> None:  # noqa: ARG002 - nothing is hidden
        return None

    def pool(self, tokens: Tensor, ends: Tensor) -> Tensor:  # noqa: ARG002 - always the last slot
        return tokens[:, -1]
