"""Two towers with one joint space: images and texts become vectors whose cosine is a score.

    s(x, t) = exp(logit_scale) cos(v, e),   v = P_v norm(CLS of the image),  e = P_t norm(EOT of the text)

The image tower is a ``Transformer``. The text tower's roles are ``text.embed`` (the word embeddings of
a batch of texts, before positions), ``text.block.<i>.…`` as in the image tower, and ``text.tokens`` (all
normalised tokens). What touches only texts leaves the image's cut where it is, at the final vector.

Texts are causal and pooled at their end token, so what stands behind the longest end token of a batch
never matters: it is cut off, exactly (spec 8.4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import Protocol

import torch
from torch import Tensor, nn

from petiole.backbones.base import Site, State
from petiole.backbones.hooks import observed
from petiole.backbones.transformer import Branches, Parts, Transformer, block_sites
from petiole.data.preprocessing import Preprocessing
from petiole.errors import ConfigError

TEXT = "text."


class Tokenizer(Protocol):
    """Text -> ids, without the tokens that mark start and end."""

    start: int
    end: int

    def __call__(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class TextParts:
    """A causal text tower, named.

    Attributes:
        embed: ids (C, T) -> word embeddings (C, T, d_t).
        positions: table (longest, d_t).
        blocks: in order.
        step: calls one block, with the causal mask.
        norm: final normalisation.
        project: (C, d_t) -> (C, d), into the joint space.
        width: d_t.
        tokenizer: ``None`` for a shape without one.
    """

    embed: nn.Embedding
    positions: nn.Embedding
    blocks: Sequence[Branches]
    step: Callable[[nn.Module, Tensor], Tensor]
    norm: nn.Module
    project: nn.Module
    width: int
    tokenizer: Tokenizer | None

    @property
    def longest(self) -> int:
        """Most tokens of a text, start and end included."""
        return self.positions.num_embeddings


class TwoTowers(Transformer):
    """A frozen image transformer and a frozen text transformer.

    Final roles: ``final.image`` (B, d) the projected class token, not normalised; ``final.patches``
    (B, P, d) the other tokens, projected alike; ``final.attention`` (B, P) what the class token
    attends to in the last block, averaged over heads.

    Args:
        width: d, of the joint space.
        stream: width of the image tower.
        heads: of the image tower.
        patch_count: P.
        scale: logarithm of the logits' scale, a parameter of ``module``.
        text_prefix: what the names of the text tower's parameters start with.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        preprocessing: Preprocessing,
        width: int,
        parts: Parts,
        text: TextParts,
        *,
        stream: int,
        heads: int,
        patch_count: int,
        scale: nn.Parameter,
        text_prefixes: tuple[str, ...],
    ) -> None:
        super().__init__(name, module, preprocessing, width, parts)
        self.text, self.stream, self.heads, self.patch_count = text, stream, heads, patch_count
        self.vector = "final.image"
        self._scale, self._text_prefixes = scale, text_prefixes

    @property
    def scale(self) -> Tensor:
        """exp(logit_scale), frozen."""
        return self._scale.detach().exp()

    @cached_property
    def sites(self) -> Mapping[str, Site]:
        t = self.text
        return {
            **super().sites,
            f"{TEXT}embed": Site(t.embed, "out", t.width),
            **block_sites(t.blocks, t.width, TEXT),
            f"{TEXT}tokens": Site(t.norm, "out", t.width),
        }

    @property
    def finals(self) -> tuple[str, ...]:
        return ("final.image", "final.patches", "final.attention")

    def width_of(self, role: str) -> int:
        return self.patch_count if role == "final.attention" else self.width

    def role_of(self, parameter: str) -> str:
        if parameter.startswith(self._text_prefixes):
            return f"{TEXT}tokens"
        return super().role_of(parameter)

    def parameters_under(self, prefix: str = "") -> tuple[str, ...]:
        """Those of the image tower, unless ``prefix`` names a part of the text tower."""
        names = super().parameters_under(prefix)
        if prefix.startswith(TEXT):
            return names
        return tuple(name for name in names if not name.startswith(self._text_prefixes))

    def cut_below(self, touched: Sequence[str], reads: Sequence[str]) -> tuple[str, ...]:
        """As for an image tower; what happens to texts happens beside it."""
        return super().cut_below([role for role in touched if not role.startswith(TEXT)], reads)

    def encode(self, ids: Tensor) -> Tensor:
        """Texts (C, T) -> vectors (C, d), not normalised.

        Raises:
            ConfigError: a text is longer than the tower's positions.
        """
        text = self.text
        ends = (ids == self._end(ids)).int().argmax(dim=1)
        count = int(ends.max()) + 1 if not ids.is_meta else ids.shape[1]
        if count > text.longest:
            raise ConfigError(
                f"A text has {count} tokens, and {self.name} takes {text.longest}. Shorten the class "
                "name, the template or the context."
            )
        with self.lock:
            tokens = text.embed(ids[:, :count]) + text.positions.weight[:count]
            for branches in text.blocks:
                tokens = text.step(branches.block, tokens)
            tokens = text.norm(tokens)
        pooled: Tensor = text.project(tokens[torch.arange(len(ids), device=ids.device), ends])
        return pooled

    def _end(self, ids: Tensor) -> int:
        return self.text.tokenizer.end if self.text.tokenizer else int(ids.shape[1] - 1)

    def _upper(self, cut: str, value: Tensor, reads: Sequence[str], *, checkpoint: bool) -> State:
        if "final.attention" not in reads:
            return super()._upper(cut, value, reads, checkpoint=checkpoint)
        last = f"block.{self.depth - 1}.attn"
        with observed(self, (f"{last}.q", f"{last}.k")) as seen:
            others = [role for role in reads if role != "final.attention"] or ["final.image"]
            values = super()._upper(cut, value, others, checkpoint=checkpoint)
            values["final.attention"] = self._attention(seen[f"{last}.q"], seen[f"{last}.k"])
        return {role: values[role] for role in reads}

    def _attention(self, queries: Tensor, keys: Tensor) -> Tensor:
        """softmax(q_cls k^T / sqrt(d_h)), mean over heads; prompts take part and are left out."""
        query = queries[:, 0].reshape(len(queries), self.heads, -1)
        key = keys.reshape(*keys.shape[:2], self.heads, -1)
        scores = torch.einsum("bhd,bnhd->bhn", query, key) / sqrt(query.shape[-1])
        return scores.softmax(dim=-1).mean(dim=1)[:, 1 : 1 + self.patch_count]

    def _final(self, role: str, tokens: Tensor) -> Tensor:
        if role == "final.image":
            return tokens[:, 0]
        return tokens[:, 1 : 1 + self.patch_count]  # deep prompts stand behind the patches
