"""What every adaptation of a vision-language model over a codebook shares: what is trained, and by which losses.

    L = sum of the terms, each with its weight; a weight of 0 leaves the term out

What is trained is a change in the encoder, in projector and language model, or in both. The encoder takes the layers of any
method for images (``encoder=lora-qkv``): only its head is not used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.codebook_lvlm import LVLM, VisionOutput
from petiole.backbones.codebook_lvlm.loading import lvlm_of
from petiole.data.text_sample import TextSample
from petiole.errors import ConfigError
from petiole.methods.base import Changes, Method, Plan
from petiole.methods.registry import create

CRAFT: dict[str, Any] = {
    "steps": 400,
    "batch_size": 64,
    "lr": 3e-4,
    "weight_decay": 0.0,
    "warmup": 0.1,
    "clip": 1.0,
    "epochs": 0.0,
}
"""Training of all rows at small scale (spec craft.md, 4: the paper states none of it)."""


@dataclass(frozen=True, kw_only=True)
class TextBatch:
    """What is said about the images of a batch, row by row.

    Attributes:
        questions, answers: ids.
        captions: ids of what is known of each image; empty where nothing is.
        texts: ids for the text tower; empty where it has no heads.
        groups: rows with the same one mean the same.
    """

    questions: Sequence[Sequence[int]]
    answers: Sequence[Sequence[int]]
    captions: Sequence[Sequence[int]]
    texts: Sequence[Sequence[int]]
    groups: Sequence[str]

    def words(self) -> dict[str, Any]:
        """These fields by name."""
        return {f.name: getattr(self, f.name) for f in fields(TextBatch)}


@dataclass(frozen=True, kw_only=True)
class CodebookLossInputs(TextBatch):
    """What a loss sees of a step.

    Attributes:
        model: the surrogate.
        vision_output: what the encoder sees now.
        values: roles of the encoder that the terms study, as it is now.
        anchors: the same of the encoder as it was.
        general: what the encoder sees now in images of no domain, and what it saw in them at the start.
    """

    model: LVLM
    vision_output: VisionOutput
    values: Mapping[str, Tensor] = field(default_factory=dict)
    anchors: Mapping[str, Tensor] = field(default_factory=dict)
    general: tuple[VisionOutput, VisionOutput] | None = None


class CodebookLossTerm(nn.Module, ABC):
    """One loss.

    Attributes:
        weight: its factor.
        studies: roles of the encoder that it compares with the encoder at the start.
    """

    studies: tuple[str, ...] = ()

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    @abstractmethod
    def forward(self, inputs: CodebookLossInputs) -> Tensor:
        """The loss of a batch, without its weight."""


@dataclass(frozen=True)
class LVLMMethod(Method):
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
        """Whether a term reads images of no domain."""
        return False

    def text_of(self, sample: TextSample) -> str:
        """What the text tower reads of a sample."""
        said = f"{sample.text} {next(iter(sample.targets), '')}".strip()
        if not sample.caption:
            return said
        return sample.caption if self.texts == "caption" else f"{sample.caption} {said}"

    def plan(self, backbone: Backbone, classes: int) -> Plan:  # noqa: ARG002 - no image model will do
        lvlm_of(backbone)
        raise ConfigError(f"{backbone.name} is adapted with questions, not with labelled images.")

    def eye(self, model: LVLM) -> Changes:
        """What is changed in the encoder.

        Raises:
            ConfigError: the method that is named adapts no encoder.
        """
        if self.encoder == "none":
            return Changes()
        method = create(self.encoder, self.encoder_settings)
        if isinstance(method, LVLMMethod):
            raise ConfigError(
                f"encoder={self.encoder} is no method for images. Use full, lora-qkv, adaptertune or another."
            )
        eye = model.tower.eye
        plan = method.plan(eye, 1)
        own = {f.name: getattr(plan, f.name) for f in fields(Changes)}
        changes = Changes(**own)
        if not (changes.attach or changes.tune or changes.injected):
            raise ConfigError(
                f"encoder={self.encoder} changes nothing inside the encoder, only a head, and there is none. "
                "Use full, lora-qkv, adaptertune or another that does."
            )
        return changes

    def language(self, model: LVLM) -> Changes:  # noqa: ARG002 - for methods that change it
        """What is changed in projector and language model."""
        return Changes()

    @abstractmethod
    def losses(self, model: LVLM) -> tuple[CodebookLossTerm, ...]:
        """The losses, without those of weight 0."""

    def check(self, model: LVLM) -> None:
        """Raise ConfigError unless the method is for this kind of model."""
        if self.discrete is not None and model.discrete is not self.discrete:
            kinds = {True: "codes", False: "continuous features"}
            raise ConfigError(
                f"{type(self).__name__} is for language models that see {kinds[self.discrete]}, and {model.name} "
                f"sees {kinds[model.discrete]}."
            )
