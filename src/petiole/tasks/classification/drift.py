"""How far an adapter has moved the stream of tokens, block by block, while it trains.

    D_l(t) = |h_l(t) - h_l(0)| / |h_l(0)|

h_l are the tokens behind block l, adapters included, of a few fixed training images (Frobenius norm);
h_l(0) those of the bare backbone. A start that is exactly the pretrained function has D_l = 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from petiole.backbones.base import State
from petiole.backbones.hooks import observed
from petiole.engine.adapted_model import evaluating
from petiole.tasks.classification.model import AdaptedClassifier, divided

IMAGES = 16
"""Probe images: few, because the probe is repeated."""


class Drift:
    """Measures an adapted transformer on fixed images.

    Tokens that an adapter puts in (prompts) stay out of the comparison: they have no bare twin.

    Args:
        adapted: with attachments or tuned copies inside the backbone, see ``moves_tokens``.
        state: values of the probe images at the plan's cut.
    """

    def __init__(self, adapted: AdaptedClassifier, state: State) -> None:
        self.adapted, state = adapted, divided(state)[0]
        self.state = state
        self.roles = roles_above(adapted)
        with torch.no_grad(), observed(adapted.backbone, self.roles) as seen:
            adapted.backbone.upper(state, adapted.plan.reads)
            self._bare = {role: seen[role].float() for role in self.roles}

    def __call__(self) -> dict[str, float]:
        """D_l by role."""
        adapted = self.adapted
        with (
            evaluating(adapted),
            adapted.attached(),
            observed(adapted.backbone, self.roles) as seen,
        ):
            adapted.pooled(self.state)
            return {role: _relative(seen[role].float(), self._bare[role]) for role in self.roles}


def roles_above(adapted: AdaptedClassifier) -> list[str]:
    """Outputs of the blocks that lie above the cut."""
    start = int(adapted.cut[0].split(".")[1]) if adapted.cut[0].startswith("block.") else 0
    return [f"block.{i}.out" for i in range(start, adapted.backbone.depth)]


def moves_tokens(adapted: AdaptedClassifier) -> bool:
    """Whether there is a stream of tokens that the plan can move."""
    backbone = adapted.backbone
    return bool(backbone.depth) and not set(adapted.cut) <= set(backbone.finals)


def _relative(now: Tensor, bare: Tensor) -> float:
    now = now[:, : bare.shape[1]]  # prompts stand behind the image's own tokens
    return float((now - bare).norm() / bare.norm())
