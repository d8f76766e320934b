"""Methods that train copies of some of the backbone's own parameters, with a linear head.

A file for each names the parameters; this is what they share. BatchNorm statistics stay those of the
pretraining, because the backbone stays in eval mode.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from petiole.backbones.base import Backbone
from petiole.layers.heads import LinearHead
from petiole.methods.base import Method, Plan

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Tuning(Method):
    """A linear head, and copies of the parameters that ``names`` gives."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-3, 3e-3, 1e-2)

    @abstractmethod
    def names(self, backbone: Backbone) -> tuple[str, ...]:
        """Names of the backbone's parameters of which a copy is trained.

        Raises:
            ConfigError: the backbone has none of the kind.
        """

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        return Plan(
            head=LinearHead(backbone.width, classes),
            reads=(backbone.vector,),
            tune=self.names(backbone),
        )


def norms(backbone: Backbone) -> tuple[str, ...]:
    """Scales and shifts of every normalisation layer."""
    found = {
        f"{path}.{name}"
        for path, module in backbone.module.named_modules()
        if isinstance(module, _NORMS)
        for name, _ in module.named_parameters(recurse=False)
    }
    return tuple(name for name in backbone.parameters_under() if name in found)
