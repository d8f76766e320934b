"""Many adapters over one backbone: switched from call to call, or mixed in one batch."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone, State
from petiole.backbones.frozen_network import IMAGES
from petiole.errors import AdapterError, ConfigError, unknown
from petiole.methods.base import Plan
from petiole.serving.mixed import compatible, forward
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.model import AdaptedClassifier, ClassifierOutput, ClassNameHead


@dataclass(frozen=True, eq=False)
class PoolPrediction:
    """What one adapter says about one image.

    Attributes:
        adapter: its name in the pool; ``None`` for the bare backbone.
        vector: the refined image vector (d,).
        logits: (K,); none (K = 0) from the bare backbone.
        classes: names of the K classes.
    """

    adapter: str | None
    vector: Tensor
    logits: Tensor
    classes: tuple[str, ...]

    @property
    def probabilities(self) -> dict[str, float]:
        """By class, most probable first."""
        values = self.logits.float().softmax(-1).cpu()
        return {self.classes[i]: float(values[i]) for i in values.argsort(descending=True).tolist()}


@dataclass(frozen=True)
class PoolMember:
    """An adapter in a pool."""

    adapted: AdaptedClassifier
    classes: tuple[str, ...]


class AdapterPool:
    """Adapters that share one frozen backbone.

    Whatever the mix, each image gets what its adapter gives it alone, up to the rounding of other
    batch sizes: in fp32 below 1e-5 of its largest logit. Threads may share a pool; they take turns.

        pool = petiole.AdapterPool(petiole.load("petiole/tiny-vit"))
        pool.add("birds", "runs/birds/adapter")
        pool.add("trees", "runs/trees/adapter")
        pool.mixed(images, ["birds", "trees", "birds", None])
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._members: dict[str, PoolMember] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Of the adapters, in the order in which they came."""
        return tuple(self._members)

    def add(
        self,
        name: str,
        adapter: ClassificationAdapter | AdaptedClassifier | str | Path,
        classes: Sequence[str] = (),
    ) -> None:
        """Take an adapter in; it is in evaluation mode from then on.

        Args:
            name: what calls name it by.
            adapter: a file, an opened one, or a model just trained.
            classes: names of the classes of a model that comes without; by default 0, 1, 2, ...

        Raises:
            AdapterError: the name is taken, or the adapter is for another backbone or preprocessing.
        """
        if isinstance(adapter, str | Path):
            adapter = ClassificationAdapter.load(adapter, backbone=self.backbone)
        adapted = adapter.adapted if isinstance(adapter, ClassificationAdapter) else adapter
        named = adapter.classes if isinstance(adapter, ClassificationAdapter) else classes
        member = PoolMember(self._own(name, adapted).eval(), tuple(named))
        with self.backbone.lock:
            if name in self._members:
                raise AdapterError(f"This pool has an adapter {name!r} already. Remove it first.")
            self._members[name] = member

    def remove(self, name: str) -> None:
        """Let an adapter go.

        Raises:
            AdapterError: no such name; the nearest are listed.
        """
        with self.backbone.lock:
            self._member(name)
            del self._members[name]

    @torch.no_grad()
    def __call__(self, inputs: Tensor | State, name: str) -> ClassifierOutput:
        """Run one adapter on a batch.

        Args:
            inputs: images (B, 3, H, W), or what ``backbone.lower`` gave at a cut that lies below the
                adapter.

        Raises:
            AdapterError: no such name.
            ConfigError: the state was taken above the adapter's lowest layer.
        """
        state = {IMAGES: inputs} if isinstance(inputs, Tensor) else inputs
        with self.backbone.lock:
            adapted = self._member(name).adapted
            self._check_below(name, state, adapted.cut)
            output: ClassifierOutput = adapted(state)
        return output

    @torch.no_grad()
    def mixed(self, images: Tensor, names: Sequence[str | None]) -> list[PoolPrediction]:
        """Run a batch in which every image names its adapter; ``None`` asks for the bare vector.

        Adapters share one forward as far as ``explain`` says.

        Args:
            images: (B, 3, H, W), preprocessed.
            names: B names.

        Returns:
            One answer an image, in the order of the images.

        Raises:
            AdapterError: no such name.
            ConfigError: not one name an image.
        """
        if len(images) != len(names):
            raise ConfigError(f"{len(images)} images need as many names, not {len(names)}.")
        with self.backbone.lock:
            return self._mixed(images, names)

    def explain(self) -> dict[str, str]:
        """Why an adapter cannot share a forward with all others; those that can are left out."""
        with self.backbone.lock:
            members = dict(self._members)
        return {name: reason for name, m in members.items() if (reason := _reason(m.adapted.plan))}

    def _mixed(self, images: Tensor, names: Sequence[str | None]) -> list[PoolPrediction]:
        members = {name: self._member(name) for name in dict.fromkeys(names)}
        groups: dict[Hashable, list[str | None]] = {}
        for name, member in members.items():
            groups.setdefault(compatible(member.adapted), []).append(name)
        answers: dict[int, PoolPrediction] = {}
        for group in groups.values():
            rows = {name: [i for i, n in enumerate(names) if n == name] for name in group}
            order = [i for name in group for i in rows[name]]
            owners = [(members[name].adapted, len(rows[name])) for name in group]
            outputs = forward(self.backbone, images[order], owners)
            for name, output in zip(group, outputs, strict=True):
                pairs = zip(rows[name], _answers(name, members[name], output), strict=True)
                answers.update(pairs)
        return [answers[i] for i in range(len(names))]

    def _member(self, name: str | None) -> PoolMember:
        if name is None:
            return _bare(self.backbone)
        if name not in self._members:
            raise unknown("adapter of this pool", name, self._members, AdapterError)
        return self._members[name]

    def _own(self, name: str, adapted: AdaptedClassifier) -> AdaptedClassifier:
        """The same adapter on this pool's backbone."""
        mine, other = self.backbone, adapted.backbone
        if other is mine:
            return adapted
        if other.fingerprint != mine.fingerprint or other.preprocessing != mine.preprocessing:
            raise AdapterError(
                f"Adapter {name!r} belongs to {other.name} with fingerprint {other.fingerprint[:12]} at "
                f"{other.preprocessing.size} px, but this pool serves {mine.name} with "
                f"{mine.fingerprint[:12]} at {mine.preprocessing.size} px. Put it into a pool of its own."
            )
        own = AdaptedClassifier(mine, adapted.plan)
        own.load_state_dict(adapted.state_dict())
        return own.to(next(mine.module.parameters()).device)

    def _check_below(self, name: str, state: State, cut: Sequence[str]) -> None:
        if set(cut) <= set(self.backbone.finals):
            return  # the backbone itself checks what can be had
        order = (IMAGES, *self.backbone.roles)
        if any(order.index(role) > order.index(cut[0]) for role in state):
            raise ConfigError(
                f"Adapter {name!r} changes the backbone from {cut[0]} on, but the state was taken at "
                f"{', '.join(state)}. Take it at {cut[0]} or below, or give images."
            )


class _NoHead(nn.Module):
    """No logits: (B, d) -> (B, 0)."""

    def forward(self, vector: Tensor) -> Tensor:
        return vector[:, :0]


def _bare(backbone: Backbone) -> PoolMember:
    return PoolMember(
        AdaptedClassifier(backbone, Plan(head=_NoHead(), reads=(backbone.vector,))).eval(), ()
    )


def _answers(
    name: str | None, member: PoolMember, output: ClassifierOutput
) -> list[PoolPrediction]:
    classes = member.classes or tuple(map(str, range(output.logits.shape[-1])))
    return [
        PoolPrediction(name, v, z, classes)
        for v, z in zip(output.vector, output.logits, strict=True)
    ]


def _reason(plan: Plan) -> str:
    if plan.tune:
        return (
            f"runs alone: it has copies of {len(plan.tune)} of the backbone's parameters, and all rows "
            "of a forward use the same ones"
        )
    if isinstance(plan.head, ClassNameHead):
        return "runs alone: its class names go through a text tower, whose rows are classes"
    if plan.injected:
        return "runs alone: modules of another library answer in the place of the backbone's own"
    for a in plan.attach:
        if a.how == "replace":
            return (
                f"shares a forward only with adapters of its own shape: its {type(a.layer).__name__} at "
                f"{a.role} may change the number of tokens, which all rows of a forward have in common"
            )
    return ""
