"""Parameterised hypercomplex multiplication (Zhang et al., 2021; Compacter, Mahabadi et al., 2021).

    y = x H + b,   H = sum_{i=1..k} A_i (x) B_i       (x): Kronecker product
    A_i in R^{k x k} the rule, N(0, 0.01^2);   B_i in R^{in/k x out/k}, Glorot-uniform with gain sqrt(2)

LPHM takes B_i = u_i v_i of rank r. Compacter also shares the rule over all layers. CLIP-BART's "Compacter" rows do
neither (Sung et al., 2022): they are PHM adapters with k = 2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from petiole.errors import ConfigError
from petiole.layers.checks import positive


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

    Parameters: k^3 (own rule) + in out / k + out; with a rank k r (in + out) / k instead of in out / k.

    Raises:
        ConfigError: k does not divide a width.
    """

    def __init__(
        self, width: int, out: int, k: int, *, rank: int = 0, rule: Rule | None = None
    ) -> None:
        super().__init__()
        positive(width=width, out=out, k=k)
        if width % k or out % k:
            raise ConfigError(f"k={k} must divide both widths of a PHM layer, {width} and {out}.")
        self.rule = None if rule else Rule(k)
        self._rule = (rule,)
        rows, columns = width // k, out // k
        bound = math.sqrt(2) * math.sqrt(6 / (rows + columns))
        if rank:
            self.left = nn.Parameter(torch.empty(k, rows, rank).uniform_(-bound, bound))
            self.right = nn.Parameter(torch.empty(k, rank, columns).uniform_(-bound, bound))
        else:
            self.terms = nn.Parameter(torch.empty(k, rows, columns).uniform_(-bound, bound))
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
