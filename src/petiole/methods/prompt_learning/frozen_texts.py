"""Class names whose texts no step changes: heads over them encode each text once, also while they are trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from petiole.backbones.dual_encoder.towers import TwoTowers
from petiole.methods.prompt_learning.class_names import SentenceTemplate, TextHead


class FrozenTextHead(nn.Module):
    """What heads over frozen texts share.

    Args:
        towers: with the text tower.
        classes: C.
        templates: of the texts, each with one ``{}``.
    """

    def __init__(self, towers: TwoTowers, classes: int, *templates: str) -> None:
        super().__init__()
        self.width = towers.width
        self.heads = nn.ModuleList(
            TextHead(towers, classes, SentenceTemplate(templates=(text,))) for text in templates
        )

    @property
    def scale(self) -> Tensor:
        """s."""
        return cast(TextHead, self.heads[0]).scale

    def rename(self, names: Sequence[str]) -> None:
        """Set the classes by name."""
        for head in self.heads:
            cast(TextHead, head).rename(names)

    def forget(self) -> None:
        """Nothing that a step changes is kept."""

    @torch.no_grad()
    def texts(self) -> list[Tensor]:
        """Unit vectors (C, d), for each template."""
        return [cast(TextHead, head).embeddings() for head in self.heads]
