"""Logistic regression whose penalty is chosen by cross-validation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from petiole.errors import DataError
from petiole.layers.grid import GridHead, positive_grid
from petiole.layers.solved import judging

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

PAST_BEST = 2
"""Values of C beyond the best so far after which no further one is tried."""


class LogisticHead(GridHead):
    """Multinomial logistic regression, C chosen by cross-validated log-loss on the target's own images.

    Minimises  C * sum_i w_i CE_i + |W|^2 / 2  (scikit-learn, L-BFGS; for two classes
    |w_1 - w_0|^2 / 2, its binary form) on features that are centred and divided by one number, the
    root mean square of all of them; both are folded into W and b. Dividing every feature by its own
    standard deviation instead cost 4 to 10 points with ten images a class, because a hundred images do
    not estimate a thousand deviations. A class without images gets a bias that never wins. Each fold
    holds back images of ``judging`` only. The values of C are tried from the smallest on, each fold from its solution
    at the one before, until two in a row are worse than the best: with thousands of source images the
    larger ones take longest. Solved in the precision of the features.

    Args:
        grid: values of C.
        folds: at most the smallest class count; with fewer than 2 images a class the middle of
            the grid is taken.
    """

    weighs_classes = True
    setting, chosen = "C", "chosen_c"

    def __init__(
        self,
        width: int,
        classes: int,
        grid: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0),
        folds: int = 5,
    ) -> None:
        super().__init__(width, classes)
        self.grid, self.folds = positive_grid("C", grid), folds
        self.register_buffer("chosen_c", torch.tensor(0.0))

    def solve(self, x: Tensor, y: Tensor, is_target: Tensor) -> None:
        from sklearn.linear_model import LogisticRegression

        data, labels = x.double().cpu().numpy(), y.cpu().numpy()
        if len(np.unique(labels)) < 2:
            raise DataError(
                "Logistic regression needs training images of at least two classes; "
                f"there are {len(labels)} images of {len(np.unique(labels))}."
            )
        weights = self.weights(y, is_target).to(x.dtype).cpu().numpy()
        mean, basis = data.mean(0), _basis(data)
        data = ((data - mean) @ basis).astype(weights.dtype)
        c = self._choose(data, labels, weights, judging(is_target).cpu().numpy())
        model = _fit(LogisticRegression(C=c, max_iter=500), data, labels, weights)
        weight, bias = _rows(model, self.classes)
        weight = weight @ basis.T
        self._set(weight, bias - weight @ mean)
        self.chosen_c = torch.tensor(c)

    def _choose(self, x: Any, y: Any, w: Any, is_judging: Any) -> float:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold

        judged = np.flatnonzero(is_judging)
        _, counts = np.unique(y[judged], return_counts=True)
        count = min(self.folds, int(counts.min()))
        if count < 2 or len(self.grid) == 1:
            return self.grid[len(self.grid) // 2]
        split = StratifiedKFold(count, shuffle=True, random_state=0).split(judged, y[judged])
        folds = [
            (LogisticRegression(max_iter=200, tol=1e-3, warm_start=True), judged[held])
            for _, held in split
        ]
        losses: list[float] = []
        for c in self.grid:
            losses.append(sum(_held_loss(m.set_params(C=c), x, y, w, held) for m, held in folds))
            best = int(np.argmin(losses))
            if len(losses) - 1 - best == PAST_BEST:
                break
        return self.grid[best]


def _held_loss(model: LogisticRegression, x: Any, y: Any, w: Any, held: Any) -> float:
    """Fit without the images held; their summed log-loss."""
    train = np.setdiff1d(np.arange(len(y)), held)
    _fit(model, x[train], y[train], w[train])
    p = np.clip(model.predict_proba(x[held]), 1e-12, 1)
    column = np.searchsorted(model.classes_, y[held])  # classes without images have no column
    return -float(np.log(p[np.arange(len(held)), column]).sum())


def _fit(model: LogisticRegression, x: Any, y: Any, w: Any) -> LogisticRegression:
    with warnings.catch_warnings():  # one image of each of many classes is meant
        warnings.filterwarnings("ignore", "The number of unique classes")
        return model.fit(x, y, sample_weight=w)


def _basis(x: Any) -> Any:
    """Columns that scale centred rows to a root mean square of 1 and span them, (d, min(n, d)).

    An L2-penalised solution lies in the span of the images, so fewer images than features need no
    more coordinates than images.
    """
    centred = x - x.mean(0)
    scale = np.sqrt((centred**2).mean()) or 1.0
    n, d = x.shape
    return (np.linalg.qr(centred.T)[0] if n < d else np.eye(d)) / scale


def _rows(model: LogisticRegression, classes: int) -> tuple[Any, Any]:
    """Coefficients with a row for every class; absent classes get a bias that never wins."""
    coef, intercept = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        coef, intercept = np.vstack([-coef, coef]) / 2, np.hstack([-intercept, intercept]) / 2
    weight, bias = np.zeros((classes, coef.shape[1])), np.full(classes, -1e4)
    weight[model.classes_], bias[model.classes_] = coef, intercept
    return weight, bias
