"""What every adaptation of a vision-language model over a codebook shares: what is trained, and by which losses.

    L = sum of the losses, each with its weight; a weight of 0 leaves the loss out

What is trained is a change in the encoder, in projector and language model, or in both. The encoder takes the layers of any
method for images (``encoder=lora-qkv``): only its head is not used.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from petiole.backbones.codebook_lvlm import LVLM
from petiole.backbones.codebook_lvlm.loading import lvlm_of
from petiole.backbones.frozen_network import FrozenNetwork
from petiole.data.text_sample import TextSample
from petiole.errors import ConfigError
from petiole.methods.base import Changes, Loss, Method, Plan
from petiole.methods.codebook.losses import (
    Captioning,
    CodebookLossInputs,
    SurrogateAlignment,
    with_weight,
)
from petiole.methods.registry import create, register
from petiole.ranges import NonNegativeFloat

CRAFT_RECIPE: dict[str, Any] = {
    "steps": 400,
    "batch_size": 64,
    "lr": 3e-4,
    "weight_decay": 0.0,
    "warmup": 0.1,
    "clip": 1.0,
    "epochs": 0.0,
}
"""Training of all rows at small scale; CRAFT (arXiv 2602.19449) states none of it."""


@dataclass(frozen=True)
class CodebookMethod(Method):
    """An adaptation of a vision-language model over a codebook.

    Attributes:
        encoder: ``none``; ``full`` for copies of all its parameters; or the name of a method for images whose layers it takes.
        encoder_settings: of that method.
        texts: what the text tower reads of a sample: its caption, or that with question and answer behind it. Without a
            caption it is question and answer.
    """

    lr_grid: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 1e-3)
    adapts: ClassVar[Literal["images", "language", "codebook"]] = "codebook"
    discrete: ClassVar[bool | None] = True
    """Which models it is for: those that see codes, their continuous twins (False), both (None)."""

    encoder: str = "none"
    encoder_settings: dict[str, Any] = field(default_factory=dict, hash=False)
    texts: Literal["caption", "caption+answer"] = "caption"

    @property
    def adapts_language(self) -> bool:
        """Whether projector or language model change."""
        return False

    @property
    def wants_general(self) -> bool:
        """Whether a loss reads images of no domain."""
        return False

    def text_of(self, sample: TextSample) -> str:
        """What the text tower reads of a sample."""
        question = f"{sample.text} {next(iter(sample.targets), '')}".strip()
        if not sample.caption:
            return question
        return sample.caption if self.texts == "caption" else f"{sample.caption} {question}"

    def plan(self, network: FrozenNetwork, classes: int = 0) -> Plan:  # noqa: ARG002 - answers are texts
        """Changes in projector and language model, those in the encoder beside them, and the losses.

        Raises:
            ConfigError: the network has no codebook, or see ``encoder_changes``.
        """
        model = lvlm_of(network)
        encoder = self.encoder_changes(model)
        own = _fields(self.language_changes(model))
        return Plan(**own, encoder=encoder, losses=self.losses(model))

    def encoder_changes(self, model: LVLM) -> Changes:
        """What is changed in the encoder.

        Raises:
            ConfigError: the method that is named adapts no encoder.
        """
        if self.encoder == "none":
            return Changes()
        method = create(self.encoder, self.encoder_settings)
        if method.adapts != "images":
            raise ConfigError(
                f"encoder={self.encoder} is no method for images. Use full, lora-qkv, adaptertune or another."
            )
        changes = Changes(**_fields(method.plan(model.tower.image_backbone, 1)))
        if not (changes.attach or changes.tune or changes.injected):
            raise ConfigError(
                f"encoder={self.encoder} changes nothing inside the encoder, only a head, and there is none. "
                "Use full, lora-qkv, adaptertune or another that does."
            )
        return changes

    def language_changes(self, model: LVLM) -> Changes:  # noqa: ARG002 - for methods that change it
        """What is changed in projector and language model."""
        return Changes()

    @abstractmethod
    def losses(self, model: LVLM) -> tuple[Loss[CodebookLossInputs], ...]:
        """The losses, without those of weight 0."""

    def check(self, model: LVLM) -> None:
        """Raise ConfigError unless the method is for this kind of model."""
        if self.discrete is not None and model.discrete is not self.discrete:
            kinds = {True: "codes", False: "continuous features"}
            raise ConfigError(
                f"{type(self).__name__} is for language models that see {kinds[self.discrete]}, and {model.name} "
                f"sees {kinds[model.discrete]}."
            )


def _fields(changes: Changes) -> dict[str, Any]:
    """Those that every kind of changes has."""
    return {f.name: getattr(changes, f.name) for f in fields(Changes)}


@register("lvlm-zero-shot", "the vision-language model as it is", **CRAFT_RECIPE | {"steps": 0})
@dataclass(frozen=True)
class ZeroShotLVLM(CodebookMethod):
    """Nothing is trained."""

    discrete: ClassVar[bool | None] = None

    def losses(self, model: LVLM) -> tuple[Loss[CodebookLossInputs], ...]:  # noqa: ARG002
        return ()


@dataclass(frozen=True)
class CaptioningMethod(CodebookMethod):
    """One that learns captions by generation: L = CE(answers) + describe CE(captions).

    Attributes:
        describe: factor of the loss on captions.
        wish: question that asks for one.
        end: learn where answers end.
    """

    describe: NonNegativeFloat = 1.0
    wish: str = "describe ."
    end: bool = False

    def losses(self, model: LVLM) -> tuple[Loss[CodebookLossInputs], ...]:
        question = model.tokenizer.split(self.wish) if model.tokenizer else []
        return with_weight(
            SurrogateAlignment(1.0, end=self.end), Captioning(self.describe, question)
        )


@dataclass(frozen=True)
class LanguageSideMethod(CaptioningMethod):
    """A row that adapts projector or language model and leaves the encoder alone.

    Captions are learnt by generation, because no contrastive loss reaches what is trained here; and where answers end
    too, as in any fine-tuning of a language model.
    """

    discrete: ClassVar[bool | None] = None

    end: bool = True

    @property
    def adapts_language(self) -> bool:
        return True
