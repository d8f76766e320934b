"""Prompt tuning of a language model: learned tokens before the text of the encoder (spec vladapter.md, 2.5).

    encoder input = [P] [text] [visual tokens],   P = W_2 tanh(W_1 E + b_1) + b_2

P has no positions in BART and stands before the text in T5. Nothing of the language model is trained. The MLP can
be folded away after training.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from petiole.backbones.encoder_decoder import Seq2Seq
from petiole.backbones.hooks import Attach
from petiole.layers.rows import Prepend, Reparametrised
from petiole.methods.language.base import LANGUAGE, Also, LanguageMethod
from petiole.methods.registry import register


@register("vl-prompt", "prompts made by an MLP, the same for all tasks", **LANGUAGE, lr=1e-3)
@register("vl-prompts", "prompts for each task", **LANGUAGE, lr=1e-3, sharing="multiple")
@dataclass(frozen=True)
class VLPrompt(LanguageMethod):
    """Prompts before the text. A half-shared one has the MLP (``half_up``) or E (``half_down``) in common.

    Attributes:
        prompts: rows of E.
        hidden: width in the middle of the MLP.
    """

    also: Also = "nothing"
    prompts: int = 40
    hidden: int = 800

    def layers(self, model: Seq2Seq) -> tuple[tuple[Attach, ...], tuple[nn.Module, ...]]:
        def make() -> Prepend:
            return Prepend(Reparametrised(self.prompts, model.width, self.hidden))

        return (Attach("encoder.text", self.for_tasks(make), how="replace"),), ()
