"""Learned prompts in both towers, layer after layer: MaPLe and IVLP.

    text    slots 1..n of layer 0 are P_0; before layer i < J they become P_i
    image   n tokens P'_0 behind the patches, before the first norm; before layer i < J they become P'_i

MaPLe (Khattak et al., 2023) couples them, P'_i = F_i(P_i) with a linear F_i for each layer. IVLP (the same
authors' independent prompting, which PromptSRC builds on) learns both. Above layer J prompts flow
through. P_0 starts from words, all else from N(0, 0.02^2).

With MaPLe's n = 2 the words are "a photo", and "of a" stays between them and the class name, as in the
authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass

from petiole.backbones.base import Backbone
from petiole.backbones.hooks import Attach
from petiole.errors import ConfigError
from petiole.layers.rows import Append, Context, Coupled, Overwrite, Rows
from petiole.methods.base import Method, Plan
from petiole.methods.prompt_learning.class_names import (
    PHRASE,
    SentenceTemplate,
    TextHead,
    towers_of,
    words,
)
from petiole.methods.recipe import PROMPT_LEARNING
from petiole.methods.registry import register
from petiole.ranges import NonNegativeInt, PositiveInt


@register(
    "maple",
    "coupled prompts in both towers",
    coupled=True,
    text_prompts=2,
    image_prompts=2,
    **PROMPT_LEARNING | {"lr": 3.5e-3, "batch_size": 4, "epochs": 5},
)
@register(
    "ivlp",
    "independent prompts in both towers",
    **PROMPT_LEARNING | {"lr": 2.5e-3, "batch_size": 4, "epochs": 20},
)
@dataclass(frozen=True)
class DeepPrompts(Method):
    """Deep prompts.

    Attributes:
        text_prompts, image_prompts: n of either tower; 0 leaves the image tower alone.
        depth: J, layers with prompts of their own; all, where a tower has fewer.
        coupled: make the image's of the text's (MaPLe).
        phrase: words that layer 0 starts from; those beyond n stay in the sentence.
    """

    text_prompts: PositiveInt = 4
    image_prompts: NonNegativeInt = 4
    depth: PositiveInt = 9
    coupled: bool = False
    phrase: str = PHRASE

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        towers = towers_of(backbone)
        self._check()
        n, m = self.text_prompts, self.image_prompts
        stream = towers.stream if m else 0
        rest = " ".join(self.phrase.split()[n:])
        head = TextHead(towers, classes, SentenceTemplate(context=n, words=rest))
        first = Context(words(towers, self.phrase, n), lambda: head.slots_at_hand)
        attach = [Attach("text.embed", first, how="replace")]
        source: Context | Rows = first
        for i in range(min(self.depth, len(towers.text.blocks), towers.depth if m else self.depth)):
            if i:
                source = Rows(n, towers.text.width)
                attach.append(
                    Attach(
                        f"text.block.{i}.in", Overwrite(source, towers.text.first), how="replace"
                    )
                )
            if not m:
                continue
            visual: Coupled | Rows
            visual = Coupled(source.value, stream) if self.coupled else Rows(m, stream)
            role, layer = (
                (f"block.{i}.in", Overwrite(visual, -m)) if i else (towers.entry, Append(visual))
            )
            attach.append(Attach(role, layer, how="replace"))
        return Plan(head=head, reads=(backbone.vector,), attach=tuple(attach), identity=False)

    def _check(self) -> None:
        if self.coupled and self.text_prompts != self.image_prompts:
            raise ConfigError(
                f"Coupled prompts are equally many in both towers, not {self.text_prompts} and "
                f"{self.image_prompts}."
            )
