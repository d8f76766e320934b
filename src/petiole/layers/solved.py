"""Classifier heads that are solved rather than trained: the cheap baselines of every table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize, one_hot

from petiole.data.splits import class_folds
from petiole.errors import ConfigError
from petiole.layers.checks import positive


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

    def remarks(self) -> list[str]:
        """What a person should know of the solution, a sentence each."""
        return []

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


def balanced(y: Tensor, classes: int) -> Tensor:
    """Weight of an image of each class (K,) by which all classes weigh alike."""
    return balanced_weights(torch.bincount(y, minlength=classes).double())


def balanced_weights(counts: Tensor) -> Tensor:
    """n / (K' n_c) of each class (K,) by its count n_c, images or pixels, K' the classes that have any; 0 without."""
    seen = counts > 0
    return torch.where(seen, counts.sum() / (seen.sum() * counts.where(seen, 1.0)), 0.0)


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
