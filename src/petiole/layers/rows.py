"""Learned rows in a stream of tokens: contexts of words, deep prompts, and prompts made of others."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from petiole.layers.checks import positive
from petiole.layers.initial import normal

STD = 0.02
"""Of rows without an initial value (CoOp, MaPLe, PromptSRC)."""


class Residuals(nn.Module):
    """What each of T tasks adds to rows that all have in common: P_t = P + U_t s(D P), s the logistic function.

    U = 0 at the start, so every task starts at P. Parameters: r d + T d r.

    Args:
        width: d.
        own: gives the task of each text at hand, (B,); T where it has none, which is left with P itself.
        tasks: T.
        rank: r.
    """

    def __init__(self, width: int, own: Callable[[], Tensor], *, tasks: int, rank: int) -> None:
        super().__init__()
        positive(tasks=tasks, rank=rank)
        self._own = own
        self.down = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, width)))
        self.up = nn.Parameter(torch.zeros(tasks, width, rank))

    def of_tasks(self, rows: Tensor) -> Tensor:
        """(n, d) -> those of every task, and P last: (T + 1, n, d)."""
        hidden = (rows @ self.down.T).sigmoid()
        return torch.cat([rows + torch.einsum("tdr,nr->tnd", self.up, hidden), rows[None]])

    def forward(self, rows: Tensor) -> Tensor:
        """(n, d) -> those of each text at hand, (B, n, d)."""
        return self.of_tasks(rows)[self._own()]


class Rows(nn.Module):
    """n learned rows of width d, N(0, 0.02^2) or given; called, it gives them: (n, d).

    Attributes:
        residuals: of tasks; with them it gives the rows of each text at hand, (B, n, d).
    """

    residuals: Residuals | None

    def __init__(self, count: int, width: int, start: Tensor | None = None) -> None:
        super().__init__()
        positive(count=count, width=width)
        value = torch.randn(count, width) * STD if start is None else start.detach().clone()
        self.value = nn.Parameter(value)
        self.residuals = None

    def forward(self) -> Tensor:
        return self.residuals(self.value) if self.residuals is not None else self.value


class Coupled(nn.Module):
    """Rows made of other rows, F(P) = P W^T + b; P belongs to another layer and is not held here."""

    def __init__(self, source: nn.Parameter, width: int) -> None:
        super().__init__()
        self._source = (source,)
        self.map = nn.Linear(source.shape[-1], width)

    def forward(self) -> Tensor:
        out: Tensor = self.map(self._source[0])
        return out


class Reparametrised(nn.Module):
    """Rows made of an embedding by an MLP, W_2 tanh(W_1 e + b_1) + b_2: (n, d); by ``fold`` plain rows.

    Parameters: n d + d m + m + m d + d (prefix tuning, Li & Liang, 2021; VL-Adapter, Sung et al., 2022).

    Args:
        count: n.
        width: d.
        hidden: m.
    """

    def __init__(self, count: int, width: int, hidden: int) -> None:
        super().__init__()
        positive(count=count, width=width, hidden=hidden)
        self.value = nn.Parameter(torch.randn(count, width) * STD)
        narrow, wide = nn.Linear(width, hidden), nn.Linear(hidden, width)
        for layer in (narrow, wide):
            normal(layer, STD)
        self.mlp = nn.Sequential(narrow, nn.Tanh(), wide)

    def forward(self) -> Tensor:
        out: Tensor = self.mlp(self.value)
        return out

    @torch.no_grad()
    def fold(self) -> Rows:
        """The rows that it gives now, without the MLP."""
        out = self()
        return Rows(len(out), out.shape[1], out)


class Blank(nn.Module):
    """n rows of zeros, (n, d): places whose content others write."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        positive(count=count, width=width)
        self.register_buffer("value", torch.zeros(count, width), persistent=False)

    def forward(self) -> Tensor:
        return self.get_buffer("value")


class Prepend(nn.Module):
    """(B, N, d) -> (B, n + N, d): put the rows before the tokens."""

    halves: ClassVar[dict[str, tuple[str, ...]]] = {"down": ("rows.value",), "up": ("rows.mlp",)}

    def __init__(self, rows: Rows | Reparametrised | Blank) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        rows = self.rows().to(x.dtype).expand(x.shape[0], -1, -1)
        return torch.cat([rows, x], dim=1)


class Append(nn.Module):
    """(B, N, d) -> (B, N + n, d): put the rows behind the tokens."""

    def __init__(self, rows: Rows | Coupled) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        rows = self.rows().to(x.dtype).expand(x.shape[0], -1, -1)
        return torch.cat([x, rows], dim=1)


class Overwrite(nn.Module):
    """(B, N, d) -> (B, N, d): the n tokens from ``start`` on (from the end, if negative) become the rows."""

    def __init__(self, rows: Rows | Coupled, start: int) -> None:
        super().__init__()
        self.rows, self.start = rows, start

    def forward(self, x: Tensor) -> Tensor:
        rows = self.rows().to(x.dtype).expand(x.shape[0], -1, -1)
        first = self.start % x.shape[1]
        return torch.cat([x[:, :first], rows, x[:, first + rows.shape[1] :]], dim=1)


class Context(nn.Module):
    """Overwrite the slots of a context in word embeddings: (n, T, d) -> (n, T, d).

    Args:
        value: (M, d), one context for all classes; (C, M, d), one each; learned.
        slots: gives the slots (n, M) of the texts at hand.
        own: gives which of the C contexts each text takes, (n,), where each class has its own.
        shift: gives what is added to every word of a text's context, (n, d).

    Attributes:
        own: see above.
        residuals: of tasks, to one context for all classes.
    """

    residuals: Residuals | None

    def __init__(
        self,
        value: Tensor,
        slots: Callable[[], Tensor],
        *,
        own: Callable[[], Tensor] | None = None,
        shift: Callable[[], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.value = nn.Parameter(value.detach().clone())
        self._slots, self.own, self._shift = slots, own, shift
        self.residuals = None

    def forward(self, x: Tensor) -> Tensor:
        slots = self._slots()
        value: Tensor = self.value[self.own()] if self.own else self.value
        value = self.residuals(value) if self.residuals is not None else value
        value = value.to(x.dtype).expand(x.shape[0], -1, -1)
        if self._shift:
            value = value + self._shift()[:, None].to(x.dtype)
        return x.scatter(1, slots[..., None].expand(-1, -1, x.shape[-1]), value)
