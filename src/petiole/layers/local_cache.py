"""TextRefiner's memory of local image tokens (AAAI 2025).

M vectors A_j of unit norm. Reading blends them by similarity to a query; writing moves each towards the tokens
that lie nearest to it.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from petiole.collective import gathered
from petiole.errors import ConfigError
from petiole.layers.checks import positive

Start = Literal["positive", "normal"]
WriteWeights = Literal["tokens", "entries"]
Reduce = Literal["sum", "mean"]


class LocalCache(nn.Module):
    """M summaries of local tokens, without gradient.

        read     W = softmax_j( cos(E_c, A_j) / T ),   R_c = sum_j W_cj A_j
        write    a_i = argmax_j cos(x_i, A_j)
                 A_j <- unit( m A_j + (1 - m) sum_{i: a_i = j} w_ij unit(x_i) )

    w_ij is exp(s_ij - max_i s_ij) with s_ij = cos(x_i, A_j) (``tokens``, the authors' code), or the softmax of
    s_i over the entries (``entries``, their equation). An entry that no token chose keeps its value.

    Args:
        entries: M.
        width: d.
        momentum: m.
        temperature: T of reading.
        start: of the entries, ``positive`` uniform numbers or ``normal`` ones; of unit norm.
        weights: of writing.
        reduce: ``sum``, or ``mean`` over the tokens of an entry.
        unit: normalise entries after writing.

    Raises:
        ConfigError: a size below 1, a momentum outside [0, 1], a temperature that is not positive.
    """

    entries: Tensor

    def __init__(
        self,
        entries: int,
        width: int,
        *,
        momentum: float = 0.8,
        temperature: float = 1.0,
        start: Start = "positive",
        weights: WriteWeights = "tokens",
        reduce: Reduce = "sum",
        unit: bool = True,
    ) -> None:
        super().__init__()
        positive(entries=entries, width=width)
        if not 0 <= momentum <= 1 or not temperature > 0:
            raise ConfigError(
                f"momentum must lie in [0, 1] and read_temperature be positive, not {momentum} and "
                f"{temperature}."
            )
        draw = torch.rand if start == "positive" else torch.randn
        self.register_buffer("entries", normalize(draw(entries, width), dim=-1))
        self.momentum, self.temperature = momentum, temperature
        self.weights, self.reduce, self.unit = weights, reduce, unit

    def read(self, queries: Tensor) -> Tensor:
        """Queries (C, d) -> (C, d). Gradients reach the queries, never the entries."""
        entries = self.entries.clone()  # writing comes before the backward pass
        return self.shares(queries) @ entries.to(queries.dtype)

    def shares(self, queries: Tensor) -> Tensor:
        """W (C, M), rows sum to 1."""
        entries = normalize(self.entries.clone(), dim=-1).to(queries.dtype)
        return (normalize(queries, dim=-1) @ entries.T / self.temperature).softmax(dim=-1)

    @torch.no_grad()
    def assign(self, tokens: Tensor) -> Tensor:
        """The entry nearest to each token, (n, d) -> (n,)."""
        return self._similarity(tokens).argmax(dim=1)

    @torch.no_grad()
    def write(self, tokens: Tensor) -> None:
        """Move the entries towards tokens (n, d) of any norm, of all processes together; in fp32."""
        with torch.autocast(tokens.device.type, enabled=False):
            self._write(gathered(tokens.detach().float()))

    def _write(self, tokens: Tensor) -> None:
        similarity = self._similarity(tokens)
        every_entry = torch.arange(len(self.entries), device=tokens.device)
        chosen = (similarity.argmax(dim=1)[:, None] == every_entry).to(tokens.dtype)
        if self.weights == "tokens":
            weights = (similarity - similarity.amax(dim=0)).exp() * chosen
        else:
            weights = similarity.softmax(dim=1) * chosen
        moved = weights.T @ normalize(tokens, dim=-1)
        count = chosen.sum(dim=0)[:, None]
        if self.reduce == "mean":
            moved = moved / count.clamp(min=1)
        new = torch.lerp(moved, self.entries, self.momentum)
        new = torch.where(count > 0, new, self.entries)
        self.entries.copy_(normalize(new, dim=-1) if self.unit else new)

    def _similarity(self, tokens: Tensor) -> Tensor:
        return normalize(tokens, dim=-1) @ normalize(self.entries, dim=-1).T
