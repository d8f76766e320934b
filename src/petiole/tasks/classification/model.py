"""A backbone with one plan on it: state at the cut -> vector -> logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone, State
from petiole.backbones.frozen_network import IMAGES
from petiole.engine.adapted_model import AdaptedModel, evaluating
from petiole.errors import ConfigError, RunError
from petiole.losses.classification import domain_cross_entropy
from petiole.methods.base import LossInputs, Plan

ANCHOR = "anchor."
"""Before the names of values in a training state that no adapter changes."""


def divided(state: State) -> tuple[State, State]:
    """The values at the cut, and the anchors beside them under their own names."""
    anchors = {r.removeprefix(ANCHOR): v for r, v in state.items() if r.startswith(ANCHOR)}
    return {r: v for r, v in state.items() if not r.startswith(ANCHOR)}, anchors


class ClassifierOutput(NamedTuple):
    """Refined vectors (B, d) and logits (B, K)."""

    vector: Tensor
    logits: Tensor


class Predictions(NamedTuple):
    """Refined vectors (n, d) and logits (n, K) of many images."""

    vectors: Tensor
    logits: Tensor

    @property
    def probabilities(self) -> Tensor:
        """softmax(z), (n, K)."""
        return self.logits.softmax(-1)


class AdaptedClassifier(AdaptedModel):
    """Everything that is kept for prediction, over a backbone that stays untouched.

    Its ``state_dict`` is the adapter: layers by role, pooling, refinement, head and tuned copies.

    Args:
        backbone: frozen.
        plan: of one method.
        checkpoint: recompute blocks in the backward pass instead of keeping activations.
        compiled: run training steps inside the backbone through ``torch.compile``.
    """

    def __init__(
        self, backbone: Backbone, plan: Plan, *, checkpoint: bool = False, compiled: bool = False
    ) -> None:
        super().__init__(backbone, plan)
        self._backbone = (backbone,)
        self.plan = plan
        self.cut = plan.cut(backbone)
        self.training_cut = plan.cut(backbone, training=True)
        self.checkpoint, self.compiled = checkpoint, compiled
        self.pool, self.refine, self.head = plan.pool, plan.refine, plan.head

    @property
    def backbone(self) -> Backbone:
        """The frozen model underneath."""
        return self._backbone[0]

    def _enter(self) -> None:
        if isinstance(self.head, ClassNameHead):
            self.head.forget()

    def values(self, state: State, reads: Sequence[str]) -> State:
        """Final roles, with the adapter at work."""
        with self.attached():
            return self.backbone.upper(
                state,
                reads,
                checkpoint=self.checkpoint,
                compiled=self.compiled and self.training,
            )

    def pooled(self, state: State) -> Tensor:
        """The vector before refinement."""
        return self._pooled(self.values(state, self.plan.reads))

    def _pooled(self, values: State) -> Tensor:
        out: Tensor = self.pool(*(values[role] for role in self.plan.reads))
        return out

    def name(self, classes: Sequence[str], data: str = "") -> None:
        """Tell the class names to a head that is made of them, and to such heads inside losses; others need none.

        Args:
            data: the data set that they are of, for messages.

        Raises:
            ConfigError: a head cannot read them.
        """
        inside = (part for loss in self.plan.losses for part in loss.modules())
        for part in (self.head, *inside):
            if isinstance(part, ClassNameHead):
                try:
                    part.rename(classes)
                except ConfigError as error:
                    raise ConfigError(f"{data}: {error}" if data else str(error)) from error

    def forward(self, state: State) -> ClassifierOutput:
        with self.attached():
            return self.top(self.values(state, self.plan.reads))

    def top(self, values: State) -> ClassifierOutput:
        """From final roles on."""
        with self.attached():  # a head of class names runs the text tower
            vector = self.refine(self._pooled(values))
            return ClassifierOutput(vector, self.head(vector))


@runtime_checkable
class ClassNameHead(Protocol):
    """A head that is computed from class names and keeps the result while weights rest."""

    def rename(self, names: Sequence[str]) -> None: ...

    def forget(self) -> None: ...


class ClassificationLoss(nn.Module):
    """An adapted model with its extra losses: batch -> total loss.

    L = s (w CE(target) + (1 - w) CE(source)) + sum_j lambda_j L_j

    CE weighs classes by ``class_weights`` (K,), where they are given. The state holds the values at the training cut and, with ``ANCHOR`` before their names, anchors. Of a mixed batch
    the cross-entropy is  s CE(y_i) + (1 - s) CE(y_j).
    """

    class_weights: Tensor | None

    def __init__(
        self,
        adapted: AdaptedClassifier,
        target_weight: float,
        label_smoothing: float,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.adapted = adapted
        self.losses = nn.ModuleList(adapted.plan.losses)
        self.adversary = adapted.plan.adversary
        self.target_weight, self.label_smoothing = target_weight, label_smoothing
        self.register_buffer("class_weights", class_weights, persistent=False)
        for loss in adapted.plan.losses:
            loss.begin()

    def forward(
        self,
        state: State,
        labels: Tensor,
        is_target: Tensor,
        partner: tuple[float, Tensor, Tensor] | None = None,
    ) -> Tensor:
        adapted, plan = self.adapted, self.adapted.plan
        own, anchors = divided(state)
        with adapted.attached():
            if self.adversary and self.training:
                own = self._attacked(own, labels, is_target, partner)
            if isinstance(adapted.head, ClassNameHead):
                adapted.head.forget()  # the last step has changed the weights
            values = adapted.values(own, plan.studied)
            vector, logits = adapted.top(values)
            scores = logits.float()

            def cross_entropy() -> Tensor:
                # Of `scores`, not of `step`: a step that refers to itself stays in memory until garbage is collected.
                return self._cross_entropy(scores, labels, is_target, partner)

            step = LossInputs(
                vector,
                scores,
                labels,
                is_target,
                values,
                anchors,
                again=lambda: self._again(own),
                supervised=cross_entropy,
            )
            losses = [loss.weight * loss(step) for loss in plan.losses]
        if plan.supervised:
            losses.append(plan.supervised * cross_entropy())
        return torch.stack(losses).sum()

    def _attacked(
        self,
        state: State,
        labels: Tensor,
        is_target: Tensor,
        partner: tuple[float, Tensor, Tensor] | None,
    ) -> State:
        """The images as the adversary changes them; what it draws leaves the step's own dropout as it is."""
        adapted, adversary = self.adapted, self.adversary
        assert adversary is not None

        def loss(images: Tensor) -> Tensor:
            if isinstance(adapted.head, ClassNameHead):
                adapted.head.forget()
            logits = adapted({IMAGES: images}).logits.float()
            return self._cross_entropy(logits, labels, is_target, partner)

        images = state[IMAGES]
        with torch.random.fork_rng([images.device] if images.is_cuda else []):
            return {IMAGES: adversary(loss, images)}

    def _cross_entropy(
        self,
        logits: Tensor,
        labels: Tensor,
        is_target: Tensor,
        partner: tuple[float, Tensor, Tensor] | None,
    ) -> Tensor:
        def of(labels: Tensor, is_target: Tensor) -> Tensor:
            return domain_cross_entropy(
                logits,
                labels,
                is_target,
                self.target_weight,
                self.label_smoothing,
                self.class_weights,
            )

        own = of(labels, is_target)
        if partner is None:
            return own
        share, others, targets = partner
        return share * own + (1 - share) * of(others, targets)

    def _again(self, state: State) -> ClassifierOutput:
        """The batch under the weights of the moment, as in prediction; class vectors are not carried over."""
        adapted, training = self.adapted, self.adapted.training
        adapted.eval()
        try:
            adapted._enter()
            out: ClassifierOutput = adapted(state)
            return out
        finally:
            adapted._enter()
            adapted.train(training)


def predict(adapted: AdaptedClassifier, batches: Iterator[State] | Sequence[State]) -> Predictions:
    """Run batches in evaluation mode; their results are joined, on the CPU, in fp32.

    Raises:
        RunError: logits that no probabilities can be made of.
    """
    vectors, scores = [], []
    with evaluating(adapted), adapted.attached():
        for state in batches:
            vector, logits = adapted(state)
            vectors.append(vector.float().cpu())
            scores.append(logits.float().cpu())
    found = Predictions(torch.cat(vectors), torch.cat(scores))
    if not found.logits.logsumexp(-1).isfinite().all():
        raise RunError(
            "The adapted model gives logits that are NaN or infinite: its training diverged. Train it again with a lower lr, or with "
            "clip=1."
        )
    return found
