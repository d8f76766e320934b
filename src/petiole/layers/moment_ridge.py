"""Ridge regression from sums alone: any number of rows, one pass over them, the penalty chosen by whole groups left out.

    min_{W, b}  sum_i w_i |W x_i + b - t_i|^2 + alpha |W|^2

Rows of one group (the patches of an image) are alike, so that a row left out alone would be known from its neighbours; left
out here are whole groups. Both solution and error need only the moments  sum w x~ x~',  sum w x~ t',  sum w |t|^2  with
x~ = (x, 1), which are kept for each part of the groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Moments:
    """Sums over rows.

    Attributes:
        rows: sum of w x~ x~', (d + 1, d + 1).
        targets: sum of w x~ t', (d + 1, K).
        squares: sum of w |t|^2.
    """

    rows: Tensor
    targets: Tensor
    squares: Tensor

    @classmethod
    def of(cls, x: Tensor, targets: Tensor, weights: Tensor) -> Moments:
        """Those of rows (n, d) with targets (n, K) and weights (n,)."""
        ones = x.new_ones(len(x), 1)
        data = torch.cat([x, ones], dim=1).double()
        t, w = targets.double(), weights.double()[:, None]
        return cls(data.T @ (w * data), data.T @ (w * t), (w * t**2).sum())

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.rows + other.rows, self.targets + other.targets, self.squares + other.squares
        )

    def __sub__(self, other: Moments) -> Moments:
        return Moments(
            self.rows - other.rows, self.targets - other.targets, self.squares - other.squares
        )

    def solutions(self, alphas: Sequence[float]) -> list[Tensor]:
        """(W, b)' of each penalty, (d + 1, K)."""
        total = self.rows[-1, -1]
        mean, base = self.rows[-1, :-1] / total, self.targets[-1] / total
        spread = self.rows[:-1, :-1] - total * torch.outer(mean, mean)
        along = self.targets[:-1] - total * torch.outer(mean, base)
        values, vectors = torch.linalg.eigh(spread)
        turned = vectors.T @ along
        found = []
        for alpha in alphas:
            weight = vectors @ (turned / (values.clamp_min(0) + alpha)[:, None])
            found.append(torch.cat([weight, (base - mean @ weight)[None]]))
        return found

    def error(self, solution: Tensor) -> float:
        """Weighted sum of squared residuals of these rows."""
        quadratic = (solution * (self.rows @ solution)).sum()
        return float(quadratic - 2 * (solution * self.targets).sum() + self.squares)


def solve(parts: Sequence[Moments], alphas: Sequence[float]) -> tuple[Tensor, Tensor, float]:
    """W (K, d), b (K,) and the penalty that predicts parts best that it has not seen; with one part the middle one.

    Args:
        parts: moments of disjoint groups.
        alphas: penalties, ascending.
    """
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    chosen = alphas[len(alphas) // 2]
    if len(parts) > 1:
        errors = [0.0] * len(alphas)
        for part in parts:
            for i, solution in enumerate((whole - part).solutions(alphas)):
                errors[i] += part.error(solution)
        chosen = alphas[errors.index(min(errors))]
    (solution,) = whole.solutions([chosen])
    return solution[:-1].T.float(), solution[-1].float(), chosen
