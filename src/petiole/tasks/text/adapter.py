"""The adapter of an encoder-decoder: everything trained, the V->L block with its codes, and the tasks.

Its golden values are scores of the first tokens (or answers) of a fixed input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from petiole.backbones.base import Backbone
from petiole.backbones.encoder_decoder import Inputs, Seq2Seq
from petiole.backbones.registry import LoadRequest, load_any, load_backbone
from petiole.engine.adapted_model import evaluating
from petiole.engine.adapter import Adapter, Manifest, TaskName, building, check_fingerprint
from petiole.engine.model_card import FrozenModel, ModelCard
from petiole.engine.task import register
from petiole.errors import AdapterError, ConfigError
from petiole.layers.answer_head import AnswerHead
from petiole.ledger import Ledger, count, repeated
from petiole.methods.registry import create
from petiole.methods.registry import find as registered
from petiole.methods.text import TextMethod, encoder_decoder_of
from petiole.tasks.text import fold
from petiole.tasks.text.model import AdaptedTextModel
from petiole.tasks.text.visual import BackboneVisuals, PixelSource, VisualSource, open_vision_tower

WORDS, PLACES, SCORES = 8, 4, 64
"""Of the golden input: ids, visual features, scores that are kept."""


class TextDetails(FrozenModel):
    """What a manifest says of this kind.

    Attributes:
        prefixes: whether tasks put their hard prompts before texts.
        answers: list of the head that chooses among them; empty where answers are written.
        folded: the tensors are those of ``fold``'s static layers in place of the method's own.
    """

    prefixes: bool = True
    answers: list[str] = Field(default_factory=list)
    folded: bool = False


@register("text")
class TextAdapter(Adapter):
    """A trained encoder-decoder, and what its file says."""

    kind: ClassVar[str] = "text"
    options: ClassVar[frozenset[str]] = frozenset({"backbone", "vision_backbone", "device"})
    adapted: AdaptedTextModel

    @property
    def details(self) -> TextDetails:
        """See ``TextDetails``."""
        return TextDetails.model_validate(self.manifest.details)

    @classmethod
    def open(
        cls,
        folder: Path,
        manifest: Manifest,
        *,
        backbone: Seq2Seq | None = None,
        vision_backbone: Backbone | None = None,
        device: str = "cpu",
    ) -> TextAdapter:
        """See ``Adapter.load``; ``vision_backbone`` is needed where it was trained too."""
        card = manifest.backbone
        if backbone is None:
            request = LoadRequest(card.name, vision_width=card.vision_width, options=card.options)
            backbone = encoder_decoder_of(load_any(request, device=device))
        check_fingerprint(folder, card, backbone)
        details = TextDetails.model_validate(manifest.details)
        with building(folder, manifest):
            method = method_of(manifest.method, manifest.settings)
        tower = None
        if method.vision != "frozen":
            vision = _vision(card, vision_backbone, device)
            tower = open_vision_tower(vision, card.visual_tokens, method.vision)
        with building(folder, manifest):
            head = AnswerHead(backbone.width, details.answers) if details.answers else None
            plan = method.plan(backbone)
            adapted = AdaptedTextModel(backbone, plan, vision_tower=tower, head=head)
        adapted.to(backbone.device).eval()
        adapter = cls(manifest, fold.static(adapted) if details.folded else adapted)
        adapter.fill(folder)
        return adapter

    @classmethod
    def of(
        cls,
        adapted: AdaptedTextModel,
        *,
        method: str,
        settings: dict[str, Any],
        tasks: Sequence[TaskName],
        prefixes: bool = True,
        **card: Any,
    ) -> TextAdapter:
        """Describe a trained model, with its golden scores.

        Args:
            card: facts for ``ModelCard``: how images are seen.
        """
        model = adapted.model
        answers = list(adapted.head.answers) if adapted.head else []
        manifest = Manifest(
            kind=cls.kind,
            method=method,
            settings=settings,
            tasks=list(tasks),
            backbone=ModelCard.of(model, vision_width=model.vision_width, **card),
            ledger=repeated(_ledger(adapted), create(method, settings)),
            details=TextDetails(prefixes=prefixes, answers=answers).model_dump(),
            golden=golden_scores(adapted).tolist(),
        )
        return cls(manifest, adapted)

    @property
    def frozen(self) -> dict[str, Any]:
        tower = self.adapted.vision_tower
        vision = {"vision_backbone": tower.backbone} if tower else {}
        return {"backbone": self.adapted.model, **vision}

    def golden_values(self) -> Tensor:
        return golden_scores(self.adapted)

    def fold(self) -> Self:
        """The same scores from static weights, for serving; see ``tasks.text.fold``.

        Raises:
            AdapterError: its weights are static already, or the scores would change.
        """
        folded, manifest = fold.fold(self.adapted), self.manifest
        if folded.state_dict().keys() == self.adapted.state_dict().keys():
            again = " again" * self.details.folded
            raise AdapterError(
                f"Nothing of this {manifest.method} can be folded{again}: its weights are "
                "static, or belong to one task of several. Use the adapter as it is."
            )
        known = {
            "details": self.details.model_copy(update={"folded": True}).model_dump(),
            "golden": golden_scores(folded).tolist(),
        }
        return type(self)(manifest.model_copy(update=known), folded)

    def visuals(self, root: Path) -> VisualSource:
        """How pictures below a folder were shown to the model in training.

        Raises:
            AdapterError: it saw none, or given features, or its image backbone has other weights now.
        """
        card, tower = self.manifest.backbone, self.adapted.vision_tower
        if not card.vision_width:
            raise AdapterError(
                f"This {self.manifest.method} was trained on text alone, so it sees no pictures. Ask without one."
            )
        if card.vision_backbone is None:
            raise AdapterError(
                f"This {self.manifest.method} was trained on given features, so it does not say how pictures are "
                "seen. Ask it in Python, with features of the same kind (petiole.tasks.text.training.answers)."
            )
        if tower is not None:
            return PixelSource(root, tower.backbone, card.visual_tokens)
        vision = _vision(card, None, str(self.adapted.model.device))
        return BackboneVisuals(root, vision, None, card.visual_tokens)


def _vision(card: ModelCard, given: Backbone | None, device: str) -> Backbone:
    """The image backbone of the training.

    Raises:
        AdapterError: it has other weights.
    """
    stated = card.vision_backbone
    assert stated is not None
    backbone = given or load_backbone(stated.name, device=device)
    if stated.fingerprint != backbone.fingerprint:
        raise AdapterError(
            f"The training saw through {stated.name} with fingerprint {stated.fingerprint[:12]}, but "
            f"{backbone.name} has {backbone.fingerprint[:12]}. Load the original weights or train a new adapter."
        )
    return backbone


def method_of(name: str, settings: Mapping[str, Any]) -> TextMethod:
    """A method for encoder-decoders by name.

    Raises:
        ConfigError: no such method, or one for other models.
    """
    adapts = registered(name).cls.adapts
    if adapts != "language":
        what = "image backbones" if adapts == "images" else "models over a codebook"
        raise ConfigError(
            f"{name} adapts {what}. For an encoder-decoder use one of the vl- methods "
            "(petiole inspect methods)."
        )
    method = create(name, settings)
    assert isinstance(method, TextMethod)
    return method


def golden_scores(adapted: AdaptedTextModel) -> Tensor:
    """Scores of the first tokens, or answers, for a fixed input, drawn by numpy's PCG64, as the first task."""
    model = adapted.model
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(rng.integers(0, model.config.vocab_size, (2, WORDS)))
    seen = rng.standard_normal((1, PLACES, max(1, model.vision_width))).astype(np.float32)
    given = model.vision_width and adapted.vision_tower is None
    visual = torch.from_numpy(seen) if given else None
    inputs = Inputs(ids[:1], torch.ones(1, WORDS, dtype=torch.bool), visual).to(model.device)
    labels = ids[1:, :2].to(model.device)
    with evaluating(adapted):
        judged = adapted.judge(inputs, (0,)) if adapted.head else None
        scores = adapted(inputs, labels, (0,))[:, -1] if judged is None else judged
    return scores[0, :SCORES].float().cpu()


def _ledger(adapted: AdaptedTextModel) -> Ledger:
    """What is stored, on the model that it is for."""
    plan, tower = adapted.plan, adapted.vision_tower
    if adapted.head is not None:
        plan = replace(plan, head=adapted.head)
    beside = sum(copy.numel() for copy in tower.copies.values()) if tower else 0
    return count(adapted.model, plan, beside=beside)
