"""Answers as classes: a head that scores a closed list of answers (CLIP-ViL, VL-T5's discriminative variant).

    z = W_2 LN(gelu(W_1 h + b_1)) + b_2      W_1: d -> 2d,  W_2: 2d -> A

h is the state of the first text token. The shape of the head is that of LXMERT (Tan & Bansal, 2019), which CLIP-ViL took over
(Shen et al., 2022). It stands here on the encoder of BART, T5, or BERT as in CLIP-ViL.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from petiole.errors import ConfigError
from petiole.layers.checks import positive


class AnswerHead(nn.Module):
    """(B, d) -> (B, A), one logit for each answer.

    Parameters: 2d^2 + 2d + 4d + 2dA + A.

    Args:
        width: d.
        answers: the list, in the order of the logits.

    Raises:
        ConfigError: an empty list, or an answer twice.
    """

    def __init__(self, width: int, answers: Sequence[str]) -> None:
        super().__init__()
        positive(width=width, answers=len(answers))
        if len(set(answers)) < len(answers):
            raise ConfigError("A closed list of answers names one twice. Give each once.")
        self.answers = tuple(answers)
        self.layers = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.LayerNorm(2 * width),
            nn.Linear(2 * width, len(answers)),
        )

    def forward(self, h: Tensor) -> Tensor:
        z: Tensor = self.layers(h)
        return z
