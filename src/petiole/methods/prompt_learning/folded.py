"""What is left of a trained prompt learner when its class names are settled: C x d numbers.

    z = s unit(v) M^T,   M the host's class vectors (E, or TextRefiner's E^), computed once

``petiole fold`` makes it. The text tower and all that rides on it are gone; prompts or LoRA in the image tower stay.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from petiole.backbones.base import Backbone
from petiole.errors import ConfigError
from petiole.layers.matrix import ClassMatrix
from petiole.methods.base import Method, Plan
from petiole.methods.prompt_learning.class_vectors import ClassVectors
from petiole.methods.registry import create, register

TEXT = "text."


@register("folded", "class vectors stored by petiole fold, no text tower", steps=0, views=0)
@dataclass(frozen=True)
class Folded(Method):
    """Stored class vectors.

    Attributes:
        method: what was folded; empty for vectors on the bare backbone.
        settings: of that method.
    """

    method: str = ""
    settings: dict[str, Any] = field(default_factory=dict, hash=False)

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        if not self.method:
            return Plan(head=ClassMatrix(backbone.width, classes), reads=(backbone.vector,))
        host = create(self.method, self.settings).plan(backbone, classes)
        if not isinstance(host.head, ClassVectors):
            raise ConfigError(
                f"{self.method} has no class vectors to store, so it cannot be folded."
            )
        return replace(
            host,
            head=ClassMatrix(host.head.width, classes),
            attach=tuple(a for a in host.attach if not a.role.startswith(TEXT)),
            tune=tuple(p for p in host.tune if not backbone.role_of(p).startswith(TEXT)),
            losses=(),
            anchors=(),
            teacher="",
        )
