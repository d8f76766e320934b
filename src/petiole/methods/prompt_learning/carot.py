"""CaRot (Oh et al., NeurIPS 2024, arXiv 2311.01723): contrastive fine-tuning that keeps the projection orthogonal and learns from itself.

    L = InfoNCE(v_i, E_{y_i}) + l_o |W W' - 1|_F + l_s CE to the mean teacher

Each image is paired with the caption of its class by a template and compared with the captions of the batch, in both directions; captions of one class that stand
twice in a batch count as different, as published. W (d, d_v) is the visual projection, whose copy is trained. The teacher's part compares the same (B, B)
similarities, both directions, from the second step on; its weights are an average whose momentum rises from ``average_from`` to ``average_decay`` in the share
``average_rise`` of the training.

``tune`` says what is trained beside the host's own layers: ``all`` of both towers, as published, the ``image`` tower, or the ``projection`` alone. Over a host
that trains other layers (clip-lora, maple) the losses are the same. The published penalty on W_v' W_t is not built.

Published training: AdamW 1e-5, decay 0.1, l_o 0.2, l_s 1.5.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softmax

from petiole.backbones.base import Backbone
from petiole.errors import ConfigError
from petiole.methods.base import Loss, LossInputs, Method, Plan, SelfTeacher
from petiole.methods.prompt_learning.class_names import TextHead
from petiole.methods.registry import create, register
from petiole.ranges import NonNegativeFloat


def both_directions(logits: Tensor, targets: Tensor, targets_across: Tensor) -> Tensor:
    """Cross-entropy of (B, B) similarities by row and by column, the mean of both; targets are labels or probabilities."""
    return (cross_entropy(logits, targets) + cross_entropy(logits.T, targets_across)) / 2


class Contrastive(Loss[LossInputs]):
    """InfoNCE of images and the captions of their classes."""

    def forward(self, inputs: LossInputs) -> Tensor:
        logits = inputs.logits[:, inputs.labels]
        own = torch.arange(len(logits), device=logits.device)
        return both_directions(logits, own, own)


class Orthogonal(Loss[LossInputs]):
    """|W W' - 1|_F of the visual projection.

    Args:
        weight: l_o.
        backbone: with it.
        name: of W (d, d_v) in it; the copy that is trained stands in its place.
    """

    def __init__(self, weight: float, backbone: Backbone, name: str) -> None:
        super().__init__(weight)
        self._backbone, self.name = (backbone,), name

    def forward(self, inputs: LossInputs) -> Tensor:  # noqa: ARG002 - of the weights alone
        w = self._backbone[0].module.get_parameter(self.name).float()
        apart: Tensor = torch.linalg.matrix_norm(w @ w.T - torch.eye(len(w), device=w.device))
        return apart


class ToTeacher(Loss[LossInputs]):
    """Cross-entropy of the student's similarities to the mean teacher's; 0 in the first step, where both are one.

    Args:
        weight: l_s.
    """

    passed: Tensor

    def __init__(self, weight: float) -> None:
        super().__init__(weight)
        self.register_buffer("passed", torch.zeros((), dtype=torch.long))
        self._teacher: SelfTeacher | None = None

    def learn_from(self, teacher: SelfTeacher) -> None:
        """See ``SelfTaught``."""
        self._teacher = teacher

    def forward(self, inputs: LossInputs) -> Tensor:
        assert self._teacher is not None
        assert inputs.again is not None
        with self._teacher.weights():
            _, logits = inputs.again()
        taught = logits.float()[:, inputs.labels]
        own = inputs.logits[:, inputs.labels]
        loss = both_directions(own, softmax(taught, dim=-1), softmax(taught.T, dim=-1))
        started = self.passed > 0
        if self.training:
            self.passed += 1
        return torch.where(started, loss, 0.0 * loss)


@register(
    "carot",
    "contrastive fine-tuning of CLIP with an orthogonal projection and a mean teacher",
    lr=1e-5,
    weight_decay=0.1,
    batch_size=32,
    train_on="target",
    average_decay=0.999,
    average_from=0.9,
    average_rise=0.2,
    average_as="teacher",
)
@dataclass(frozen=True)
class CaRot(Method):
    """Calibrated robust fine-tuning.

    Attributes:
        host: registered name of a method whose head reads class names (zero-shot: nothing but ``tune`` is trained).
        host_settings: of the host.
        tune: copies that are trained: all | image | projection.
        orthogonality: l_o; 0 leaves the term out.
        self_distillation: l_s; 0 leaves it out.
    """

    host: str = "zero-shot"
    host_settings: dict[str, Any] = field(default_factory=dict, hash=False)
    tune: Literal["all", "image", "projection"] = "all"
    orthogonality: NonNegativeFloat = 0.2
    self_distillation: NonNegativeFloat = 1.5

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        plan = create(self.host, self.host_settings).plan(backbone, classes)
        if not isinstance(plan.head, TextHead):
            raise ConfigError(
                f"CaRot needs a host whose classes are sentences; those of {self.host} are not. Use zero-shot, coop, maple or clip-lora."
            )
        projection = _projection(backbone)
        parts = {"projection": (projection,), "image": backbone.parameters_under()}
        both = (*backbone.parameters_under(), *backbone.parameters_under("text.tokens"))
        named = parts.get(self.tune, both)
        # What scales the logits is kept by the head, so a copy of it would take no part.
        tuned = [n for n in named if backbone.module.get_parameter(n).numel() > 1]
        losses: list[Loss[Any]] = [*plan.losses, Contrastive()]
        if self.orthogonality:
            losses.append(Orthogonal(self.orthogonality, backbone, projection))
        if self.self_distillation:
            losses.append(ToTeacher(self.self_distillation))
        return replace(
            plan,
            losses=tuple(losses),
            supervised=0.0,
            tune=tuple(dict.fromkeys((*plan.tune, *tuned))),
        )


def _projection(backbone: Backbone) -> str:
    """The name of the matrix that ends in the joint space.

    Raises:
        ConfigError: there is none, or more than one.
    """
    found = [
        name
        for name in backbone.parameters_under("final.tokens")
        if backbone.module.get_parameter(name).ndim == 2
    ]
    if len(found) != 1:
        raise ConfigError(
            f"CaRot keeps the one visual projection orthogonal, and {backbone.name} has {len(found) or 'none'}. Use a CLIP, or a pair of a ViT "
            "written by petiole pair --image-projection."
        )
    return found[0]
