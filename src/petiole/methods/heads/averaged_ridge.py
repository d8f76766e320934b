"""The head that is trained by default: closed form, both domains, nothing to tune."""

from __future__ import annotations

from dataclasses import dataclass

from petiole.backbones.base import Backbone
from petiole.layers.averaged_ridge import PENALTIES, SOURCE_SHOTS, AveragedRidgeHead
from petiole.methods.base import Plan
from petiole.methods.heads.baselines import Baseline
from petiole.methods.registry import register


@register("averaged-ridge", "ridge on both domains, averaged over its penalties", views=0)
@dataclass(frozen=True)
class AveragedRidge(Baseline):
    """Ridge with a bias for each domain, averaged over a grid under a prior (see ``AveragedRidgeHead``).

    Attributes:
        source_shots: values of m, the shots of a class that the source counts as.
        penalties: values of gamma.
    """

    source_shots: tuple[float, ...] = SOURCE_SHOTS
    penalties: tuple[float, ...] = PENALTIES

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        return self._plan(
            backbone, lambda d: AveragedRidgeHead(d, classes, self.source_shots, self.penalties)
        )
