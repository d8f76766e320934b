"""A language model with one method on it: texts and images -> scores of the next token, and answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from petiole.backbones.base import Backbone
from petiole.backbones.encoder_decoder import Inputs, Seq2Seq
from petiole.backbones.encoder_decoder.tokens import IGNORED, padded
from petiole.backbones.frozen_network import IMAGES
from petiole.engine.adapted_model import AdaptedModel, evaluating
from petiole.errors import ConfigError
from petiole.layers.answer_head import AnswerHead
from petiole.layers.tasks import routed
from petiole.methods.base import Changes, Plan
from petiole.methods.text import TextLossInputs
from petiole.tasks.text.text_task import TextTask


@dataclass(frozen=True)
class GenerationBatch:
    """What a step learns from.

    Attributes:
        inputs: of the encoder.
        labels: (B, T) ids of the targets, ``IGNORED`` at padding.
        weights: (B,) factor of the sum of a row's token losses. They make the loss of the whole step, also where
            this is one process's part of it.
        tasks: number of each row's task.
    """

    inputs: Inputs
    labels: Tensor
    weights: Tensor
    tasks: tuple[int, ...]

    @property
    def token_counts(self) -> dict[str, int]:
        """Tokens that are computed, padding included, by the names of ``petiole.ledger.Question``."""
        visual = self.inputs.visual
        return {
            "text_tokens": self.inputs.ids.numel(),
            "visual_tokens": 0 if visual is None else len(visual) * visual.shape[1],
            "answer_tokens": self.labels.numel(),
        }


class VisionTower(AdaptedModel):
    """An image backbone that is trained with the language model: pictures -> visual features.

    Args:
        backbone: gives local tokens.
        changes: what of it is trained.
        pool: its local tokens (B, N, D) -> those that the language model sees.
    """

    def __init__(self, backbone: Backbone, changes: Changes, pool: nn.Module) -> None:
        super().__init__(backbone, changes)
        self._backbone = (backbone,)
        self.pool = pool

    @property
    def backbone(self) -> Backbone:
        """The image backbone underneath."""
        return self._backbone[0]

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, K, 3, H, W) preprocessed -> (B, K N, D)."""
        backbone = self.backbone
        rows = pictures.flatten(0, 1)
        with self.attached():
            tokens: Tensor = self.pool(
                backbone.upper({IMAGES: rows}, (backbone.patches,))[backbone.patches]
            )
        return tokens.reshape(len(pictures), -1, tokens.shape[-1])


class AdaptedTextModel(AdaptedModel):
    """Everything that is kept for prediction, over a language model that stays untouched.

    A V->L block that did not come with the weights starts anew, drawn from torch's generator.

    Args:
        model: frozen.
        plan: of one method.
        dropout: let the language model drop out in training.
        vision_tower: trained with it; without, it is given features.
        head: chooses every answer from a closed list, so that nothing is generated.
    """

    def __init__(
        self,
        model: Seq2Seq,
        plan: Plan,
        *,
        dropout: bool = False,
        vision_tower: VisionTower | None = None,
        head: AnswerHead | None = None,
    ) -> None:
        super().__init__(model, plan)
        self._model, self.plan = (model,), plan
        self.dropout, self.vision_tower, self.head = dropout, vision_tower, head
        visual = model.module.visual
        if visual is not None and not model.trained_visual:
            fresh = dict(visual.again().named_parameters(prefix="visual"))
            with torch.no_grad():
                for name, copy in self.copies.items():
                    if name in fresh:
                        copy.copy_(fresh[name])

    @property
    def model(self) -> Seq2Seq:
        """The frozen model underneath."""
        return self._model[0]

    @contextmanager
    def _at_work(self, tasks: Sequence[int]) -> Iterator[None]:
        language = self.model.module.language
        with self.attached(), routed(tasks):
            language.train(self.training and self.dropout)
            try:
                yield
            finally:
                language.eval()

    def _seen(self, inputs: Inputs) -> Inputs:
        if self.vision_tower is None or inputs.visual is None:
            return inputs
        return replace(inputs, visual=self.vision_tower(inputs.visual))

    def forward(self, inputs: Inputs, labels: Tensor, tasks: Sequence[int]) -> Tensor:
        """Scores (B, T, V) of every token of the labels."""
        with self._at_work(tasks):
            return self.model.logits(self.model.encode(self._seen(inputs)), labels)

    def judge(self, inputs: Inputs, tasks: Sequence[int]) -> Tensor:
        """Scores (B, A) of every answer of the head's list."""
        assert self.head is not None
        with self._at_work(tasks):
            encoded = self.model.encode(self._seen(inputs))
            scores: Tensor = self.head(encoded.states[:, encoded.front])
            return scores

    def answer(self, inputs: Inputs, task: TextTask, number: int) -> list[str]:
        """What the model says to each row, as the task decodes it.

        Args:
            inputs: rows of one task.
            task: states choices, or beams and length.
            number: of the task.
        """
        model = self.model
        assert model.tokenizer is not None
        with evaluating(self), self._at_work([number] * len(inputs.ids)):
            encoded = model.encode(self._seen(inputs))
            if self.head is not None:
                answers = self._chosen(self.head(encoded.states[:, encoded.front]), task)
            elif task.choices:
                place, prefix, options = _told_apart(model, task)
                labels = torch.tensor(prefix, device=model.device).expand(len(inputs.ids), -1)
                scores = model.logits(encoded, labels)[:, place, options]
                answers = [task.choices[i] for i in scores.argmax(dim=1).tolist()]
            else:
                rows = model.generate(encoded, beams=task.beams, longest=task.max_length)
                answers = [model.tokenizer.decode(row) for row in rows]
        return answers

    def _chosen(self, scores: Tensor, task: TextTask) -> list[str]:
        """The best answer of each row, of the task's choices where it has any."""
        assert self.head is not None
        known = self.head.answers
        places = [i for i, answer in enumerate(known) if answer in (task.choices or known)]
        if not places:
            raise ConfigError(
                f"None of the choices of {task.name} ({', '.join(task.choices)}) is in the head's list of "
                "answers. Train it with these in its list."
            )
        return [known[places[i]] for i in scores[:, places].argmax(dim=1).tolist()]


def _told_apart(model: Seq2Seq, task: TextTask) -> tuple[int, list[int], list[int]]:
    """First place at which the choices differ, ids up to there, and each choice's id there.

    Raises:
        ConfigError: two choices have the same token at that place.
    """
    assert model.tokenizer is not None
    rows = [model.tokenizer(choice) for choice in task.choices]
    place = next((i for i, ids in enumerate(zip(*rows, strict=False)) if len(set(ids)) > 1), 0)
    options = [row[place] for row in rows]
    if len(set(options)) < len(options):
        raise ConfigError(
            f"The choices of {task.name} ({', '.join(task.choices)}) are not told apart by one token. Use "
            "words that start differently, or a task that generates its answer (answers)."
        )
    return place, rows[0][: place + 1], options


class GenerationLoss(nn.Module):
    """Batch -> loss: L = sum_i w_i sum_t CE(logits_it, label_it) + sum_j lambda_j L_j; see ``GenerationBatch`` for w.

    L_j are the losses of the method's plan.

    Args:
        adapted: trained in place.
        smoothing: of the labels.
    """

    def __init__(self, adapted: AdaptedTextModel, smoothing: float = 0.0) -> None:
        super().__init__()
        self.adapted, self.smoothing = adapted, smoothing
        self.losses = nn.ModuleList(adapted.plan.losses)

    def forward(self, batch: GenerationBatch) -> Tensor:
        logits = self.adapted(batch.inputs, batch.labels, batch.tasks).float()
        each = cross_entropy(
            logits.transpose(1, 2),
            batch.labels,
            ignore_index=IGNORED,
            reduction="none",
            label_smoothing=self.smoothing,
        )
        total = (each.sum(dim=1) * batch.weights).sum()
        inputs = TextLossInputs(logits, batch.labels, batch, self.adapted.model)
        for loss in self.adapted.plan.losses:
            total = total + loss.weight * loss(inputs)
        return total


__all__ = ["AdaptedTextModel", "GenerationBatch", "GenerationLoss", "VisionTower", "padded"]
