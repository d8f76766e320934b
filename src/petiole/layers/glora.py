"""GLoRA (Chavan et al., 2023): the weight and the bias of a frozen linear map, scaled and shifted.

    W' = W + W * A + B,    b' = b + b * D + E + W C        (* elementwise; equation 10 of the paper)

Each of the five is of one kind: ``lora`` (down times up, down = 0 at the start), ``vector`` (a number for each row),
``scalar`` or ``none``. A *path* names the kinds of A, B, C, D and E: ``lora-vector-none-scalar-vector``. In a supernet all kinds
of one support are parts of the same numbers, as in the authors' code: the vector is the first column of down, the scalar its first
number.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, reduce
from itertools import product
from random import Random

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from petiole.errors import ConfigError, unknown
from petiole.layers.checks import positive
from petiole.layers.packed import dense

MATRIX, COLUMN, BIAS = (
    ("lora", "vector", "scalar", "none"),
    ("lora", "vector", "none"),
    ("vector", "scalar", "none"),
)
KINDS = {"a": MATRIX, "b": MATRIX, "c": COLUMN, "d": BIAS, "e": BIAS}
"""Which kinds each support can be of, the largest first."""


class Support(nn.Module):
    """One of the five: a tensor that broadcasts to (rows, columns), or ``None``.

    Args:
        rows, columns: of what it is added to, or multiplied with.
        rank: r of ``lora``.
        kind: that it starts with; smaller ones are parts of its numbers.

    Parameters: r (rows + columns), rows, 1 or none.
    """

    def __init__(self, rows: int, columns: int, rank: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        shape = {"lora": (rows, rank), "vector": (rows, 1), "scalar": (1, 1), "none": (0, 0)}[kind]
        self.down = nn.Parameter(torch.zeros(*shape)) if kind != "none" else None
        self.up = nn.Parameter(torch.empty(rank, columns)) if kind == "lora" else None
        if self.up is not None:
            nn.init.xavier_uniform_(self.up)

    def forward(self) -> Tensor | None:
        if self.kind == "none":
            return None
        part = self._part(self.kind)
        return part if self.up is None or self.kind != "lora" else part @ self.up

    def _part(self, kind: str) -> Tensor:
        assert self.down is not None
        return {"lora": self.down, "vector": self.down[:, :1], "scalar": self.down[:1, :1]}[kind]

    def settle(self) -> None:
        """Keep the numbers of the kind in use."""
        kept = None if self.kind == "none" else self._part(self.kind).detach().clone()
        self.down = None if kept is None else nn.Parameter(kept)
        if self.kind != "lora":
            self.up = None

    def size(self, kind: str) -> int:
        """Numbers of a kind."""
        if kind == "none":
            return 0
        up = self.up.numel() if self.up is not None and kind == "lora" else 0
        return self._part(kind).numel() + up


class GLoRA(nn.Module):
    """F(x) = (W * A + B) x + b * D + E + W C, exactly 0 at the start; without a bias there is no D.

    Args:
        weight: W (out, width), frozen; kept by reference, neither saved nor counted.
        bias: b (out,), likewise; ``None`` where there is none.
        rank: r.
        path: kinds of A, B, C, D and E.

    Shapes: (..., width) -> (..., out).

    Raises:
        ConfigError: no such path.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, rank: int, path: str) -> None:
        super().__init__()
        positive(rank=rank)
        out, width = weight.shape
        self._frozen = weight.detach(), None if bias is None else bias.detach()
        kinds = dict(zip(KINDS, kinds_of(path), strict=True))
        if bias is None:
            kinds["d"] = "none"
        rows = {"a": out, "b": out, "c": width, "d": out, "e": out}
        columns = {"a": width, "b": width}
        self.supports = nn.ModuleDict(
            {
                name: Support(rows[name], columns.get(name, 1), rank, kind)
                for name, kind in kinds.items()
            }
        )

    @property
    def path(self) -> str:
        """The kinds in use."""
        return "-".join(support.kind for support in self._supports())

    def _supports(self) -> list[Support]:
        return [part for part in self.supports.values() if isinstance(part, Support)]

    @property
    def update(self) -> Tensor | None:
        """W * A + B (out, width)."""
        weight = dense(self._frozen[0])
        a, b = self.supports["a"](), self.supports["b"]()
        return _sum(None if a is None else weight * a, b, shape=weight.shape)

    @property
    def shift(self) -> Tensor | None:
        """b * D + E + W C (out,)."""
        weight, bias = dense(self._frozen[0]), self._frozen[1]
        c, d, e = (self.supports[name]() for name in "cde")
        moved = None if c is None else weight @ c
        scaled = None if d is None or bias is None else bias[:, None] * d
        column = _sum(moved, scaled, e, shape=(len(weight), 1))
        return None if column is None else column[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        update, shift = self.update, self.shift
        if update is not None:
            return linear(x, update, shift)
        out = len(self._frozen[0])
        shift = x.new_zeros(out) if shift is None else shift
        return shift.expand(*x.shape[:-1], out)

    def merged(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Fold into the linear map that reads the same x."""
        update, shift = self.update, self.shift
        return (
            weight if update is None else weight + update,
            bias if shift is None else bias + shift,
        )


class SearchableGLoRA(GLoRA):
    """A supernet of all paths: in training each forward draws one, as the step's seed and the layer's number say.

    Args:
        number: of the layer, so that layers draw apart.
    """

    used_within = "run"

    def __init__(self, weight: Tensor, bias: Tensor | None, rank: int, number: int) -> None:
        super().__init__(weight, bias, rank, LARGEST)
        self.number = number

    @cached_property
    def paths(self) -> tuple[str, ...]:
        return tuple("-".join(kinds) for kinds in product(*self._kinds()))

    def _kinds(self) -> list[tuple[str, ...]]:
        lacks_bias = self._frozen[1] is None
        return [("none",) if name == "d" and lacks_bias else kinds for name, kinds in KINDS.items()]

    def choose(self, path: str) -> None:
        for support, kind in zip(self._supports(), kinds_of(path), strict=True):
            support.kind = kind

    def settle(self) -> None:
        for support in self._supports():
            support.settle()

    def size(self, path: str) -> int:
        pairs = zip(self._supports(), kinds_of(path), strict=True)
        return sum(support.size(kind) for support, kind in pairs)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            # By the seed and not by the generator's state: recomputed activations and a second gradient see the same path.
            self.choose(Random(f"{torch.initial_seed()} {self.number}").choice(self.paths))
        return super().forward(x)


def _sum(*terms: Tensor | None, shape: Sequence[int]) -> Tensor | None:
    """Of those that are there, each broadcast to the shape; ``None`` of none."""
    there = [term.expand(*shape) for term in terms if term is not None]
    return reduce(torch.add, there) if there else None


def kinds_of(path: str) -> tuple[str, ...]:
    """Kinds of A, B, C, D and E.

    Raises:
        ConfigError: malformed, or a support is of no such kind.
    """
    kinds = tuple(path.split("-"))
    if len(kinds) != len(KINDS):
        raise ConfigError(
            f"A path of GLoRA names the kinds of A, B, C, D and E, as {LARGEST} does, and not {path!r}."
        )
    for (name, known), kind in zip(KINDS.items(), kinds, strict=True):
        if kind not in known:
            raise unknown(f"kind of {name.upper()} in GLoRA", kind, known)
    return kinds


LARGEST = "-".join(kinds[0] for kinds in KINDS.values())
