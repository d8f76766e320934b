"""Rows that adapt the language side and leave the eyes alone: projector, LoRA in the language model, nothing.

    L = CE(answers) + describe CE(captions)

Captions are learnt by generation, because no contrastive loss reaches what is trained here. LoRA is that of the library peft
(spec craft.md, section 6: r 16, alpha 32, dropout 0.05 on the attention's projections, which are our choice).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from petiole.backbones.codebook_lvlm import LVLM
from petiole.backbones.codebook_lvlm.causal import attention_layers
from petiole.layers.injected import Injected
from petiole.methods.base import Changes
from petiole.methods.codebook.base import CRAFT, CodebookLossTerm, LVLMMethod
from petiole.methods.codebook.losses import Captioning, SurrogateAlignment, with_weight
from petiole.methods.registry import register


@dataclass(frozen=True)
class LanguageSide(LVLMMethod):
    """What these rows share.

    Attributes:
        describe: factor of the loss on captions.
        wish: question that asks for one.
        end: learn where answers end, as fine-tuning of a language model does.
    """

    discrete: ClassVar[bool | None] = None

    describe: float = 1.0
    wish: str = "describe ."
    end: bool = True

    @property
    def adapts_language(self) -> bool:
        return True

    def losses(self, model: LVLM) -> tuple[CodebookLossTerm, ...]:
        asked = model.tokenizer.split(self.wish) if model.tokenizer else []
        return with_weight(SurrogateAlignment(1.0, end=self.end), Captioning(self.describe, asked))


@register("lvlm-zero-shot", "the vision-language model as it is", **CRAFT | {"steps": 0})
@dataclass(frozen=True)
class ZeroShotLVLM(LVLMMethod):
    """Nothing is trained."""

    discrete: ClassVar[bool | None] = None

    def losses(self, model: LVLM) -> tuple[CodebookLossTerm, ...]:  # noqa: ARG002
        return ()


@register("projector-ft", "the projector alone", **CRAFT | {"lr": 1e-3})
@dataclass(frozen=True)
class ProjectorFT(LanguageSide):
    """Copies of the projector's parameters."""

    def language(self, model: LVLM) -> Changes:
        return Changes(tune=model.parameters_under("visual"))


@register("llm-lora", "LoRA in the attention of the language model", **CRAFT | {"lr": 1e-3})
@dataclass(frozen=True)
class LLMLoRA(LanguageSide):
    """LoRA in the language model.

    Attributes:
        rank: r.
        alpha: the product B A is scaled by alpha / r.
        branch_dropout: on the input of A.
    """

    rank: int = 16
    alpha: float = 32.0
    branch_dropout: float = 0.05

    def language(self, model: LVLM) -> Changes:
        import peft

        language = model.module.language
        config = peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.branch_dropout,
            target_modules=list(attention_layers(language)),
        )
        injected = Injected(
            language, lambda twin: peft.inject_adapter_in_model(config, twin), "language"
        )
        return Changes(injected=injected)
