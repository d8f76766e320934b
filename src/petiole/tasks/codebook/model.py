"""A vision-language model with one method on it: images and questions -> answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from petiole.backbones.codebook_lvlm import LVLM, VisionOutput
from petiole.backbones.hooks import observed
from petiole.engine.adapted_model import AdaptedModel, evaluating
from petiole.layers.token_pruning import Positions, Pruning
from petiole.methods.base import Changes, Loss
from petiole.methods.codebook.losses import CodebookLossInputs, TextBatch


class AdaptedCodebookModel(nn.Module):
    """Everything kept for prediction, over a model that stays untouched.

    Args:
        model: frozen.
        encoder: changes in its encoder.
        language: changes in its projector and language model.
    """

    def __init__(self, model: LVLM, encoder: Changes, language: Changes) -> None:
        super().__init__()
        self._model = (model,)
        self._tower = (model.tower,)  # whose encoder it is, also before other language models
        self.encoder = AdaptedModel(model.tower.image_backbone, encoder)
        self.language = AdaptedModel(model, language)

    @property
    def model(self) -> LVLM:
        """The frozen model underneath."""
        return self._model[0]

    @property
    def changes_encoder(self) -> bool:
        """Whether images are seen otherwise than by the frozen encoder."""
        return bool(list(self.encoder.parameters()) or list(self.encoder.buffers()))

    @property
    def changes_language(self) -> bool:
        """Whether codes are read otherwise than by the frozen language model."""
        return bool(list(self.language.parameters()) or list(self.language.buffers()))

    def on(self, model: LVLM) -> AdaptedCodebookModel:
        """This encoder before another language model over the same codebook; shares its parameters.

        Raises:
            BackboneError: the codebooks differ.
        """
        self.model.spec.check(model.spec, self.model.name, model.name)
        other = AdaptedCodebookModel(model, Changes(), Changes())
        other.encoder, other._tower = self.encoder, self._tower
        return other.eval()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Keep the changes in the language model on.

        Those in the encoder are on only while it looks, because losses compare it with the encoder as it was.
        """
        with self.language.attached():
            yield

    def encode_images(self, pictures: Tensor) -> VisionOutput:
        """See preprocessed images (B, 3, H, W)."""
        model = self.model
        with self.encoder.attached():
            z = self._tower[0].tokens(pictures)
        return model.tower.quantised(z, discrete=model.discrete)

    def answer(
        self,
        vision_output: VisionOutput,
        questions: Sequence[str],
        *,
        pruning: Pruning | None = None,
        frequencies: Tensor | None = None,
        longest: int = 40,
    ) -> list[str]:
        """What the model says, greedily.

        Args:
            vision_output: at the image of each question.
            questions: as texts.
            pruning: of image tokens before the language model; ``None`` keeps all.
            frequencies: (K,) of codes in the domain, for the pruning; by default those of general images.
            longest: tokens of an answer.
        """
        model = self.model
        assert model.tokenizer is not None
        kept: Tensor | None = None
        positions: Positions = "keep"
        if pruning is not None and pruning.keep < 1:
            usual = model.tower.frequencies if frequencies is None else frequencies
            kept = pruning.select(
                vision_output.codes, vision_output.residual, usual, model.spec.grid
            )
            positions = pruning.positions
        parts = [model.tokenizer.split(question) for question in questions]
        with evaluating(self), self.language.attached():
            turns = model.turns(vision_output.seen, parts, kept=kept, positions=positions)
            rows = model.generate(turns, longest)
        return [model.tokenizer.decode(row) for row in rows]


@dataclass(frozen=True, kw_only=True)
class CodebookBatch(TextBatch):
    """A batch to learn from.

    Attributes:
        pictures: (B, 3, H, W); empty where looks are given.
        vision_output: at them, where the encoder does not change.
        general: pictures of no domain.
    """

    pictures: Tensor
    vision_output: VisionOutput | None = None
    general: Tensor | None = None


class CodebookLoss(nn.Module):
    """Batch -> loss: the sum of the terms, each with its weight.

    Args:
        adapted: trained in place.
        losses: of the method.
    """

    def __init__(
        self, adapted: AdaptedCodebookModel, losses: Sequence[Loss[CodebookLossInputs]]
    ) -> None:
        super().__init__()
        self.adapted = adapted
        self.losses = nn.ModuleList(losses)
        self.roles = tuple(dict.fromkeys(role for loss in losses for role in loss.studies))

    def forward(self, batch: CodebookBatch) -> Tensor:
        inputs = self._loss_inputs(batch)
        losses = [loss.weight * loss(inputs) for loss in self.losses]
        return torch.stack(losses).sum()

    def _loss_inputs(self, batch: CodebookBatch) -> CodebookLossInputs:
        adapted, model = self.adapted, self.adapted.model
        vision_output, values, anchors = (
            batch.vision_output,
            dict[str, Tensor](),
            dict[str, Tensor](),
        )
        if vision_output is None:
            with adapted.encoder.attached():  # first, or observers miss what is added at their role
                vision_output, values = self._seen(adapted.encode_images, batch.pictures)
        if self.roles:
            with torch.no_grad():
                _, anchors = self._seen(model.tower.encode_images, batch.pictures)
        general = None
        if batch.general is not None:
            with torch.no_grad():
                before = model.tower.encode_images(batch.general)
            general = adapted.encode_images(batch.general), before
        return CodebookLossInputs(
            model=model,
            vision_output=vision_output,
            values=values,
            anchors=anchors,
            general=general,
            **batch.words(),
        )

    def _seen(
        self, vision_outputs: Callable[[Tensor], VisionOutput], pictures: Tensor
    ) -> tuple[VisionOutput, dict[str, Tensor]]:
        """A look at pictures, and the values at the roles that terms study."""
        with observed(self.adapted.model.tower.image_backbone, self.roles) as seen:
            vision_output = vision_outputs(pictures)
            return vision_output, dict(seen)
