"""Zero-shot classification by class names (Radford et al., 2021): nothing is trained.

One template, or the seven that CoOp's code selects: each sentence normalised, averaged, normalised.
"""

from __future__ import annotations

from dataclasses import dataclass

from petiole.backbones.base import Backbone
from petiole.errors import ConfigError
from petiole.methods.base import Method, Plan
from petiole.methods.prompt_learning.class_names import SentenceTemplate, TextHead, towers_of
from petiole.methods.prompt_learning.templates import SEVEN
from petiole.methods.registry import register


@register("zero-shot", "class names through one template", steps=0, views=0)
@register(
    "zero-shot-ensemble",
    "class names through seven templates",
    steps=0,
    views=0,
    templates=SEVEN,
)
@dataclass(frozen=True)
class ZeroShot(Method):
    """Zero-shot.

    Attributes:
        templates: sentences with one ``{}`` each.
    """

    recipe_fields = frozenset()  # nothing is trained

    templates: tuple[str, ...] = ("a photo of a {}.",)

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        for template in self.templates:
            if template.count("{}") != 1:
                raise ConfigError(f"A template needs one {{}} for the class name: {template!r}.")
        head = TextHead(towers_of(backbone), classes, SentenceTemplate(templates=self.templates))
        return Plan(head=head, reads=(backbone.vector,))
