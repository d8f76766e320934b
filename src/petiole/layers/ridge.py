"""Ridge regression, onto one-hot labels or any other targets, its penalty chosen by leave-one-out in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from petiole.layers.grid import GridHead, positive_grid
from petiole.layers.solved import judging


class RidgeHead(GridHead):
    """Least squares on one-hot targets in {-1, 1} with an L2 penalty chosen by leave-one-out.

        min_W  sum_i w_i |W x_i + b - t_i|^2 + alpha |W|^2

    One singular value decomposition serves every alpha and every image left out: with U S V' that of the centred
    images' rows sqrt(w_i) x_i, the i-th left-out residual is

        (r_i - u_i D U' r) / (1 - w_i / sum_j w_j - u_i D u_i'),   D = S^2 / (S^2 + alpha),  r_i = sqrt(w_i) t_i

    (Golub, Heath and Wahba, Technometrics 21, 1979). Only the images of ``judging`` choose: with both domains, those
    of the target. The scores are no log-probabilities: do not read much into their calibration error.
    """

    weighs_classes = True
    setting, chosen = "alpha", "chosen_alpha"

    def __init__(
        self,
        width: int,
        classes: int,
        grid: Sequence[float] = (0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5),
    ) -> None:
        super().__init__(width, classes)
        self.grid = positive_grid("alpha", grid)
        self.register_buffer("chosen_alpha", torch.tensor(0.0))

    def solve(self, x: Tensor, y: Tensor, is_target: Tensor) -> None:
        targets = 2.0 * one_hot(y, self.classes).double() - 1.0
        self.solve_targets(x, targets, self.weights(y, is_target), judging(is_target))

    def solve_targets(self, x: Tensor, targets: Tensor, weights: Tensor, judged: Tensor) -> Tensor:
        """Fit to features (n, d) and any targets (n, K); returns what each judged image is given by a fit without it.

        Args:
            x: features (n, d).
            targets: what the outputs shall be (n, K).
            weights: of the images (n,).
            judged: which of them (n,) bool choose the penalty.
        """
        data, targets, weights = (
            x.double(),
            targets.to(x.device).double(),
            weights.to(x.device).double(),
        )
        share, root = (weights / weights.sum())[:, None], weights.sqrt()[:, None]
        mean, base = (share * data).sum(0), (share * targets).sum(0)
        u, s, v = torch.linalg.svd(root * (data - mean), full_matrices=False)
        wanted = root * (targets - base)
        along, judged = u.T @ wanted, judged.to(x.device)
        # Of an image that alone decides its own prediction nothing is left to judge by.
        known = 1 - share[judged].squeeze(1)

        def residuals(alpha: float) -> Tensor:
            kept = s**2 / (s**2 + alpha)
            free = (known - u[judged] ** 2 @ kept).clamp_min(1e-12)[:, None]
            found: Tensor = (wanted[judged] - u[judged] * kept @ along) / free
            return found

        alpha = min(self.grid, key=lambda value: float((residuals(value) ** 2).sum()))
        weight = ((v.T * (s / (s**2 + alpha))) @ along).T
        self._set(weight.cpu(), (base - weight @ mean).cpu())
        self.chosen_alpha = torch.tensor(alpha)
        left_out: Tensor = targets[judged] - residuals(alpha) / root[judged]
        return left_out
