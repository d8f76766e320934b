"""Parameterised hypercomplex multiplication (Zhang et al., 2021; Compacter, Mahabadi et al., 2021).

    y = x H + b,   H = sum_{i=1..k} A_i (x) B_i       (x): Kronecker product
    A_i in R^{k x k} the rule, N(0, 0.01^2);   B_i in R^{in/k x out/k}, Glorot-uniform with gain sqrt(2)

LPHM takes B_i = u_i v_i of rank r. Compacter's code draws u_i and v_i each by its own shape (bounds of
gain sqrt(6 / (in/k + r)) and sqrt(6 / (r + out/k))); drawn by the shape of B_i they start smaller. Compacter also shares the rule over all layers. CLIP-BART's "Compacter" rows do
neither (Sung et al., 2022): they are PHM adapters with k = 2.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from petiole.errors import ConfigError
from petiole.layers.checks import positive

Drawn = Literal["product", "factors"]


class Rule(nn.Module):
    """A (k, k, k): one k x k matrix for each of the k terms."""

    def __init__(self, k: int, std: float = 0.01) -> None:
        super().__init__()
        positive(k=k)
        self.value = nn.Parameter(torch.randn(k, k, k) * std)


class PHM(nn.Module):
    """(..., in) -> (..., out).

    Args:
        width: in.
        out: out.
        k: terms; divides both.
        rank: r of B; 0 for full.
        rule: a rule that belongs to others too; its own if not given.
        drawn: of a low rank, u and v by the shape of the ``product`` B, or of each of the ``factors``.

    Parameters: k^3 (own rule) + in out / k + out; with a rank k r (in + out) / k instead of in out / k.

    Raises:
        ConfigError: k does not divide a width.
    """

    def __init__(
        self,
        width: int,
        out: int,
        k: int,
        *,
        rank: int = 0,
        rule: Rule | None = None,
        drawn: Drawn = "product",
    ) -> None:
        super().__init__()
        positive(width=width, out=out, k=k)
        if width % k or out % k:
            raise ConfigError(f"k={k} must divide both widths of a PHM layer, {width} and {out}.")
        self.rule = None if rule else Rule(k)
        self._rule = (rule,)
        rows, columns = width // k, out // k
        if rank:
            whole = drawn == "product"
            self.left = _glorot(k, rows, rank, rows + (columns if whole else rank))
            self.right = _glorot(k, rank, columns, columns + (rows if whole else rank))
        else:
            self.terms = _glorot(k, rows, columns, rows + columns)
        self.rank = rank
        self.bias = nn.Parameter(torch.zeros(out))

    def matrix(self) -> Tensor:
        """H (in, out)."""
        shared = self._rule[0]
        rule = (shared or self.rule).value  # type: ignore[union-attr]
        terms = self.left @ self.right if self.rank else self.terms
        product = torch.einsum("ipr,iqs->pqrs", rule, terms)
        p, q, r, s = product.shape
        return product.reshape(p * q, r * s)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix().to(x.dtype) + self.bias


def _glorot(k: int, rows: int, columns: int, fans: int) -> nn.Parameter:
    """(k, rows, columns), Glorot-uniform of gain sqrt(2) for this sum of fan-in and fan-out."""
    bound = math.sqrt(2) * math.sqrt(6 / fans)
    return nn.Parameter(torch.empty(k, rows, columns).uniform_(-bound, bound))
