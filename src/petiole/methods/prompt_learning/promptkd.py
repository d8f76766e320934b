"""PromptKD (Li et al., 2024): visual prompts learn a teacher's answers, without labels. It is **transductive**.

    u = unit(h(v)),   h = Linear(d, d_T), BatchNorm, ReLU, Linear(d_T, d_T)
    z = s u E_T^T,    L = w T^2 KL( softmax(z_T / T) || softmax(z / T) ) / (B C)

E_T are the class vectors of the teacher's text tower, fixed and shared. The published protocol trains on the
unlabelled images of *all* classes, the novel ones included, so its numbers stand in no fair comparison with
methods that never saw them; wherever a result of it is shown, it is called transductive.

The teacher is an adapter folder (published: PromptSRC on CLIP ViT-L/14, trained on the base classes). Without one
the frozen backbone teaches itself through a template.

Published training: SGD 0.005, batches of 8, 20 epochs; w = 1000, and 200 on FGVC-Aircraft, Flowers and DTD.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from petiole.backbones.base import Backbone
from petiole.backbones.dual_encoder.towers import TwoTowers
from petiole.backbones.hooks import Attach
from petiole.errors import ConfigError
from petiole.layers.rows import Append, Overwrite, Rows
from petiole.losses.distillation import distillation
from petiole.methods.base import Loss, LossInputs, Method, Plan
from petiole.methods.prompt_learning.class_names import SentenceTemplate, TextHead, towers_of
from petiole.methods.recipe import PROMPT_LEARNING
from petiole.methods.registry import register
from petiole.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt


class TaughtHead(nn.Module):
    """z_c = s cos(u, E_c) with fixed class vectors; the first names that it hears are the taught ones.

    Later names choose among them, e.g. the novel half.

    Args:
        width: d_T.
        classes: C.
    """

    matrix: Tensor
    scale: Tensor

    def __init__(self, width: int, classes: int, scale: Tensor) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("matrix", torch.zeros(classes, width))
        self.register_buffer("scale", scale.clone())
        self.taught: tuple[str, ...] = ()
        self._rows = torch.arange(classes)

    def rename(self, names: Sequence[str]) -> None:
        """Choose the classes that are wanted.

        Raises:
            ConfigError: a name that the teacher did not teach.
        """
        self.taught = self.taught or tuple(names)
        new = [name for name in names if name not in self.taught]
        if new:
            raise ConfigError(
                f"This student knows {len(self.taught)} classes, and {new[0]!r} is none of them. Train "
                "it with all class names, or use a method that reads new ones (promptsrc, maple, coop)."
            )
        self._rows = torch.tensor([self.taught.index(name) for name in names])

    def forget(self) -> None: ...

    def learn(self, embeddings: Tensor, scale: Tensor) -> None:
        """Take the class vectors of a teacher.

        Raises:
            ConfigError: they are of another width.
        """
        if embeddings.shape != self.matrix.shape:
            raise ConfigError(
                f"The teacher has {embeddings.shape[0]} classes of width {embeddings.shape[1]}, the "
                f"student {self.matrix.shape[0]} of width {self.matrix.shape[1]}. Set width to the "
                "teacher's."
            )
        self.matrix.copy_(embeddings)
        self.scale.copy_(scale)

    def embeddings(self) -> Tensor:
        """E (C, d_T) of the chosen classes, unit norm."""
        return self.matrix[self._rows.to(self.matrix.device)]

    def forward(self, vector: Tensor) -> Tensor:
        return self.scale * normalize(vector, dim=-1) @ self.embeddings().to(vector.dtype).T


class Distillation(Loss[LossInputs]):
    """w KL(teacher || student), from the teacher's stored logits or, without one, the frozen backbone's.

    Args:
        weight: w.
        temperature: T.
        own: the backbone's head, where it teaches itself.
        head: of the student.
        vector: role of the image vector.
    """

    def __init__(
        self, weight: float, temperature: float, own: TextHead | None, head: TaughtHead, vector: str
    ) -> None:
        super().__init__(weight)
        self.temperature, self.vector = temperature, vector
        self._own, self._head = (own,), (head,)

    @torch.no_grad()
    def begin(self) -> None:
        (own,), (head,) = self._own, self._head
        if own is not None:
            own.rename(head.taught or own.names)
            head.learn(own.embeddings(), own.scale)

    def teacher_logits(self, inputs: LossInputs) -> Tensor:
        """(B, C), without a graph."""
        if self._own[0] is None:
            return inputs.anchors["logits"]
        head = self._head[0]
        return head.scale * normalize(inputs.anchors[self.vector], dim=-1) @ head.embeddings().T

    def forward(self, inputs: LossInputs) -> Tensor:
        return distillation(inputs.logits, self.teacher_logits(inputs), self.temperature)


@register(
    "promptkd",
    "visual prompts learn a teacher's answers; transductive",
    **PROMPT_LEARNING | {"lr": 5e-3, "batch_size": 8, "epochs": 20},
)
@dataclass(frozen=True)
class PromptKD(Method):
    """Prompt distillation.

    Attributes:
        teacher: folder of the teacher's adapter; empty, and the frozen backbone teaches itself.
        width: d_T, the teacher's joint width; 0 for the backbone's own.
        image_prompts, depth: visual prompts of a layer, layers with prompts of their own.
        weight: w.
        temperature: T.
        template: by which the backbone teaches itself.
    """

    transductive: ClassVar[bool] = True

    teacher: str = ""
    width: NonNegativeInt = 0
    image_prompts: PositiveInt = 4
    depth: PositiveInt = 9
    weight: NonNegativeFloat = 1000.0
    temperature: PositiveFloat = 1.0
    template: str = "a photo of a {}."

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        towers = towers_of(backbone)
        width = self.width or towers.width
        head = TaughtHead(width, classes, towers.scale)
        own = None
        if not self.teacher:
            own = TextHead(towers, classes, SentenceTemplate(templates=(self.template,)))
        loss = Distillation(self.weight, self.temperature, own, head, backbone.vector)
        project = nn.Sequential(
            nn.Linear(towers.width, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, width),
        )
        return Plan(
            head=head,
            reads=(backbone.vector,),
            attach=tuple(self._prompts(towers)),
            refine=project,
            losses=(loss,),
            anchors=() if self.teacher else (backbone.vector,),
            teacher=self.teacher,
            supervised=0.0,
            identity=False,
        )

    def _prompts(self, towers: TwoTowers) -> list[Attach]:
        first, *later = (
            Rows(self.image_prompts, towers.stream) for _ in range(min(self.depth, towers.depth))
        )
        return [
            Attach(towers.entry, Append(first), how="replace"),
            *(
                Attach(f"block.{i}.in", Overwrite(rows, -self.image_prompts), how="replace")
                for i, rows in enumerate(later, start=1)
            ),
        ]
