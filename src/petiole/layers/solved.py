"""Classifier heads that are solved rather than trained: the cheap baselines of every table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize, one_hot

from petiole.data.splits import class_folds
from petiole.errors import ConfigError, DataError
from petiole.layers.checks import positive

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression


class SolvedHead(nn.Module, ABC):
    """A head with a ``solve`` instead of a gradient; its solution lives in buffers, so it is saved.

    Args:
        width: d.
        classes: K.
    """

    weighs_classes: ClassVar[bool] = False
    """Whether ``solve`` reads ``class_weight``."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.width, self.classes = width, classes
        self.class_weight = "none"

    def weigh(self, class_weight: str) -> None:
        """Let classes weigh as the recipe says.

        Raises:
            ConfigError: this head has no use for it.
        """
        if class_weight != "none" and not self.weighs_classes:
            raise ConfigError(
                f"class_weight={class_weight} is for ridge and logistic regression and for trained heads, and "
                f"{type(self).__name__} does not weigh images. Leave it out."
            )
        self.class_weight = class_weight

    def weights(self, y: Tensor, is_target: Tensor) -> Tensor:
        """Weight of each image (n,), mean 1: both domains alike, and with ``balanced`` the classes of each too."""
        found = domain_weights(is_target).to(y.device)
        if self.class_weight == "balanced":
            for domain in (is_target, ~is_target):
                if domain.any():
                    found[domain] *= balanced(y[domain], self.classes)[y[domain]].to(found)
        return found

    @property
    def solution_size(self) -> int:
        """Numbers that the solution consists of."""
        return sum(b.numel() for b in self.buffers() if b.is_floating_point() and b.ndim)

    @abstractmethod
    def solve(self, x: Tensor, y: Tensor, is_target: Tensor) -> None:
        """Fit to features (n, d), labels (n,) and domains (n,); both domains weigh the same.

        Raises:
            DataError: no images, or too few classes for this head.
        """

    @torch.no_grad()
    def left_out(self, x: Tensor, y: Tensor, is_target: Tensor, folds: int = 5) -> Tensor | None:
        """Logits (n_target, K) of every target image, in order, by a fit that had not seen it.

        The target images are divided into parts, each with one image of every class where classes are equally large,
        and the head is solved without each in turn; afterwards it is what it was before. A head that
        knows these logits in closed form says so here.

        Args:
            x, y, is_target: as for ``solve``.
            folds: parts, at most the images of the largest class.

        Returns:
            ``None`` where no class has two target images, so that nothing is learned without one.
        """
        rows = torch.nonzero(is_target).flatten()
        part = torch.from_numpy(class_folds(y[rows].cpu().numpy(), folds)).to(rows.device)
        if not part.any():
            return None
        before = {name: buffer.clone() for name, buffer in self.named_buffers(recurse=False)}
        logits = x.new_zeros(len(rows), self.classes)
        try:
            for fold in range(int(part.max()) + 1):
                held = rows[part == fold]
                kept = torch.ones_like(is_target)
                kept[held] = False
                self.solve(x[kept], y[kept], is_target[kept])
                logits[part == fold] = self(x[held]).to(logits)
        finally:
            for name, buffer in before.items():
                setattr(self, name, buffer)
        return logits


class SolvedLinear(SolvedHead):
    """z = W x + b with W (K, d) and b (K,) as buffers."""

    weight: Tensor
    bias: Tensor

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(width, classes)
        self.register_buffer("weight", torch.zeros(classes, width))
        self.register_buffer("bias", torch.zeros(classes))

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)

    def _set(self, weight: Any, bias: Any) -> None:
        self.weight.copy_(torch.as_tensor(np.asarray(weight)))
        self.bias.copy_(torch.as_tensor(np.asarray(bias)))


class ClassMeansHead(SolvedHead):
    """z_k = tau * cos(x, mu_k), mu_k the mean direction of class k (nearest class mean).

    A class without images gets cos = -1, the least there is.

    Args:
        scale: tau, fixed; it changes calibration only.
    """

    weight: Tensor

    def __init__(self, width: int, classes: int, scale: float = 16.0) -> None:
        super().__init__(width, classes)
        self.scale = scale
        self.register_buffer("weight", torch.zeros(classes, width))

    def solve(self, x: Tensor, y: Tensor, is_target: Tensor) -> None:
        share = domain_weights(is_target).to(x)[:, None]
        sums = one_hot(y, self.classes).to(x).T @ (normalize(x, dim=-1) * share)
        self.weight.copy_(normalize(sums, dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        cosine = linear(normalize(x, dim=-1), self.weight)
        return self.scale * cosine.where(self.weight.any(dim=-1), cosine.new_tensor(-1.0))


class MemoryHead(SolvedHead):
    """A head that keeps the training images' unit vectors (n, d) and labels (n,)."""

    support: Tensor
    labels: Tensor

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(width, classes)
        self.register_buffer("support", torch.zeros(0, width))
        self.register_buffer("labels", torch.zeros(0, dtype=torch.long))

    def solve(self, x: Tensor, y: Tensor, is_target: Tensor) -> None:  # noqa: ARG002 - domains are alike
        self.support, self.labels = normalize(x, dim=-1), y.clone()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in ("support", "labels"):
            # Their size is known only to the file.
            if (stored := state_dict.get(prefix + name)) is not None:
                setattr(self, name, getattr(self, name).new_zeros(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class KNNHead(MemoryHead):
    """Weighted k nearest neighbours on cosine similarity (Wu et al., 2018; as in DINO).

        p_k = sum over the k nearest i of exp(s_i / T) [y_i = k], normalised;  z = log p

    Every neighbour votes alike, whatever its domain.

    Args:
        k: neighbours, at most the number of training images.
        temperature: T.
    """

    def __init__(self, width: int, classes: int, k: int = 20, temperature: float = 0.07) -> None:
        super().__init__(width, classes)
        positive(k=k)
        if not temperature > 0:
            raise ConfigError(f"The temperature of kNN must be positive, not {temperature}.")
        self.k, self.temperature = k, temperature

    def forward(self, x: Tensor) -> Tensor:
        similarity = linear(normalize(x, dim=-1), self.support)
        near, index = similarity.topk(min(self.k, len(self.support)), dim=-1)
        votes = (near / self.temperature).softmax(dim=-1)
        share = votes.new_zeros(x.shape[0], self.classes).scatter_add(1, self.labels[index], votes)
        return share.clamp_min(1e-12).log()


class GridHead(SolvedLinear):
    """A head with a penalty chosen from a grid.

    Attributes:
        grid: to choose from.
        chosen: name of the buffer that says which one was; 0 before.
    """

    grid: tuple[float, ...]
    chosen: ClassVar[str]

    def left_out(self, x: Tensor, y: Tensor, is_target: Tensor, folds: int = 5) -> Tensor | None:
        """As of every solved head, with the penalty that was chosen on all images, if one was.

        With two images a class none could be chosen: without a further one its class is empty.
        """
        grid, penalty = self.grid, float(getattr(self, self.chosen))
        self.grid = (penalty,) if penalty else grid
        try:
            return super().left_out(x, y, is_target, folds)
        finally:
            self.grid = grid


class LogisticHead(GridHead):
    """Multinomial logistic regression, C chosen by cross-validated log-loss on the target's own images.

    Minimises  C * sum_i w_i CE_i + |W|^2 / 2  (scikit-learn, L-BFGS; for two classes
    |w_1 - w_0|^2 / 2, its binary form) on features that are centred and divided by one number, the
    root mean square of all of them; both are folded into W and b. Dividing every feature by its own
    standard deviation instead cost 4 to 10 points with ten images a class, because a hundred images do
    not estimate a thousand deviations. A class without images gets a bias that never wins. Each fold
    holds back images of ``judging`` only.

    Args:
        grid: values of C.
        folds: at most the smallest class count; with fewer than 2 images a class the middle of
            the grid is taken.
    """

    weighs_classes = True
    chosen = "chosen_c"

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
        weights = self.weights(y, is_target).cpu().numpy()
        mean, basis = data.mean(0), _basis(data)
        data = (data - mean) @ basis
        c = self._choose(data, labels, weights, judging(is_target).cpu().numpy())
        model = LogisticRegression(C=c, max_iter=500).fit(data, labels, sample_weight=weights)
        weight, bias = _rows(model, self.classes)
        weight = weight @ basis.T
        self._set(weight, bias - weight @ mean)
        self.chosen_c = torch.tensor(c)

    def _choose(self, x: Any, y: Any, w: Any, is_judging: Any) -> float:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold

        judged = np.flatnonzero(is_judging)
        _, counts = np.unique(y[judged], return_counts=True)
        folds = min(self.folds, int(counts.min()))
        if folds < 2 or len(self.grid) == 1:
            return self.grid[len(self.grid) // 2]
        losses = np.zeros(len(self.grid))
        for _, held in StratifiedKFold(folds, shuffle=True, random_state=0).split(
            x[judged], y[judged]
        ):
            test = judged[held]
            train = np.setdiff1d(np.arange(len(y)), test)
            model = LogisticRegression(max_iter=200, tol=1e-3, warm_start=True)
            for i, c in enumerate(self.grid):
                model.set_params(C=c).fit(x[train], y[train], sample_weight=w[train])
                p = np.clip(model.predict_proba(x[test]), 1e-12, 1)
                # Classes without images have no column.
                column = np.searchsorted(model.classes_, y[test])
                losses[i] -= np.log(p[np.arange(len(test)), column]).sum()
        return self.grid[int(losses.argmin())]


def _basis(x: Any) -> Any:
    """Columns that scale centred rows to a root mean square of 1 and span them, (d, min(n, d)).

    An L2-penalised solution lies in the span of the images, so fewer images than features need no
    more coordinates than images.
    """
    centred = x - x.mean(0)
    scale = np.sqrt((centred**2).mean()) or 1.0
    n, d = x.shape
    return (np.linalg.qr(centred.T)[0] if n < d else np.eye(d)) / scale


def balanced(y: Tensor, classes: int) -> Tensor:
    """Weight of each class (K,) by which all weigh alike: n / (K' n_c), K' the classes that have images; 0 without."""
    counts = torch.bincount(y, minlength=classes).double()
    return torch.where(counts > 0, len(y) / ((counts > 0).sum() * counts.clamp_min(1)), 0.0)


def judging(is_target: Tensor) -> Tensor:
    """Which images (n,) bool settings are chosen by: those of the target, because it is what counts; all, if it has none."""
    return is_target if bool(is_target.any()) else ~is_target


def domain_weights(is_target: Tensor) -> Tensor:
    """Sample weights (n,), mean 1, that give both domains the same total weight."""
    n, target = len(is_target), int(is_target.sum())
    if target in (0, n):
        return torch.ones(n, dtype=torch.float64)
    share = torch.where(is_target, n / (2 * target), n / (2 * (n - target)))
    return share.double()


def positive_grid(name: str, grid: Sequence[float]) -> tuple[float, ...]:
    """The values in order.

    Raises:
        ConfigError: none, or one that is not positive.
    """
    if not grid or not min(grid) > 0:
        raise ConfigError(f"The grid of {name} needs positive values, not {tuple(grid)}.")
    return tuple(sorted(grid))


def _rows(model: LogisticRegression, classes: int) -> tuple[Any, Any]:
    """Coefficients with a row for every class; absent classes get a bias that never wins."""
    coef, intercept = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        coef, intercept = np.vstack([-coef, coef]) / 2, np.hstack([-intercept, intercept]) / 2
    weight, bias = np.zeros((classes, coef.shape[1])), np.full(classes, -1e4)
    weight[model.classes_], bias[model.classes_] = coef, intercept
    return weight, bias
