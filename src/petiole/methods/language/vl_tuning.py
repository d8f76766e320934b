"""Rows without layers: the V->L block alone, or with parameters of the language model's own.

``vl-full`` is the paper's full fine-tuning (everything but the eyes), ``vl-bitfit`` VL-PET's row (Ben Zaken et al., 2022),
``vl-projection`` and ``vl-layernorm`` the ablation of VL-Adapter (Sung et al., 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from petiole.backbones.encoder_decoder import Seq2Seq
from petiole.backbones.hooks import Attach
from petiole.methods.language.base import LANGUAGE, LanguageMethod
from petiole.methods.registry import register


@register("vl-full", "the whole language model", **LANGUAGE, lr=1e-4, also="everything")
@register("vl-bitfit", "the language model's biases", **LANGUAGE, lr=1e-3, also="biases")
@register("vl-layernorm", "the language model's norms", **LANGUAGE, lr=1e-3, also="norms")
@register("vl-projection", "the V->L block alone", **LANGUAGE, lr=1e-3, also="nothing")
@dataclass(frozen=True)
class VLTuning(LanguageMethod):
    """The V->L block and what ``also`` names; one copy for all tasks."""

    shares: ClassVar[bool] = False

    def layers(self, model: Seq2Seq) -> tuple[tuple[Attach, ...], tuple[nn.Module, ...]]:  # noqa: ARG002
        return (), ()

    def starts_as_it_was(self) -> bool:
        return True
