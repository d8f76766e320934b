"""The cheap baselines that stand in every table: solved in closed form or by a convex solver.

All read the backbone's own image vector and train on the target shots alone, those with ``-joint`` in their name on
both domains, which weigh alike; the target's images choose the penalty of either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from petiole.backbones.base import Backbone
from petiole.layers.logistic import LogisticHead
from petiole.layers.ridge import RidgeHead
from petiole.layers.solved import ClassMeansHead, KNNHead, SolvedHead
from petiole.methods.base import SOLVED, Method, Plan
from petiole.methods.heads.representation import Representation, read
from petiole.methods.registry import register
from petiole.ranges import PositiveFloat, PositiveInt


@dataclass(frozen=True)
class Baseline(Method):
    """A solved head on a frozen feature."""

    recipe_fields = SOLVED

    representation: Representation = "cls"

    def _plan(self, backbone: Backbone, make: Callable[[int], SolvedHead]) -> Plan:
        reading = read(backbone, self.representation)
        return Plan(head=make(reading.width), reads=reading.reads, pool=reading.pool)


@register("knn", "weighted k nearest neighbours", train_on="target", views=0)
@dataclass(frozen=True)
class KNN(Baseline):
    """k neighbours by cosine, weighted exp(s / T) (Wu et al., 2018)."""

    k: PositiveInt = 20
    temperature: PositiveFloat = 0.07

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        return self._plan(backbone, lambda d: KNNHead(d, classes, self.k, self.temperature))


@register("class-means", "nearest class mean", train_on="target", views=0)
@dataclass(frozen=True)
class ClassMeans(Baseline):
    """Nearest class mean by cosine."""

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        return self._plan(backbone, lambda d: ClassMeansHead(d, classes))


@register(
    "logistic-regression", "logistic regression, C by cross-validation", train_on="target", views=0
)
@register("logistic-regression-joint", "the same on source and target", train_on="joint", views=0)
@dataclass(frozen=True)
class LogisticRegression(Baseline):
    """Multinomial logistic regression with a sweep of C."""

    grid: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
    folds: PositiveInt = 5

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        return self._plan(backbone, lambda d: LogisticHead(d, classes, self.grid, self.folds))


@register(
    "ridge",
    "ridge regression on one-hot labels, penalty by leave-one-out",
    train_on="target",
    views=0,
)
@register("ridge-joint", "the same on source and target", train_on="joint", views=0)
@dataclass(frozen=True)
class Ridge(Baseline):
    """Ridge classifier whose penalty is chosen by leave-one-out."""

    grid: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5)

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        return self._plan(backbone, lambda d: RidgeHead(d, classes, self.grid))
