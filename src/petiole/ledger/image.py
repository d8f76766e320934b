"""The ledger of a method on a backbone of images; FLOPs are those of one image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from petiole.backbones.base import IMAGES, Backbone, State
from petiole.backbones.hooks import attached
from petiole.backbones.registry import load_backbone
from petiole.ledger.counting import by_shape, fixed_of, own_gradients, own_randomness, size_of
from petiole.methods.base import Method, Plan
from petiole.methods.prompt_learning.class_vectors import CachedHead


class Ledger(BaseModel):
    """What a method adds to a backbone.

    Attributes:
        backbone: parameters of the frozen model, without any classifier.
        adapters: trained, kept for prediction, not head (pooling and tuned copies included).
        head: trained or solved, the classifier. The support set of a kNN is counted once it exists.
        training_only: trained and dropped afterwards (e.g. a projection head).
        trainable: adapters + head + training_only.
        inference: adapters + head.
        total: distinct parameters, backbone and everything trained; a tuned copy replaces its
            original and is not counted twice.
        fixed: numbers that are stored but not trained (scales, random projections).
        stored_bytes: of the adapter's tensors, fp32.
        cut: where the frozen part ends.
        flops_backbone: one image through the bare backbone.
        flops_forward: one image through backbone, adapters and head.
        flops_above_cut: the part of ``flops_forward`` that training repeats in every epoch.
        flops_training: one image through a training step above the cut, forward and backward, as
            counted (extra losses are not); 0 where nothing is trained by gradient.
        flops_classes: class vectors out of all class names, once for an evaluation, however many images.
        flops_classes_training: the same forward and backward, once in each training step.
    """

    model_config = ConfigDict(frozen=True)

    backbone: int
    adapters: int
    head: int
    training_only: int
    trainable: int
    inference: int
    total: int
    trainable_percent_of_backbone: float
    trainable_percent_of_backbone_and_trainable: float
    trainable_percent_of_full_fine_tuning: float
    inference_percent_of_backbone: float
    inference_percent_of_backbone_and_inference: float
    adapters_percent_of_backbone: float
    fixed: int = 0
    stored_bytes: int
    cut: tuple[str, ...]
    flops_backbone: int
    flops_forward: int
    flops_above_cut: int
    flops_training: int = 0  # records of before it was counted have none
    flops_classes: int = 0  # in older records part of the above
    flops_classes_training: int = 0

    @classmethod
    def from_counts(
        cls,
        *,
        backbone: int,
        adapters: int,
        head: int = 0,
        training_only: int = 0,
        replaced: int = 0,
        fixed: int = 0,
        fixed_bytes: int = 0,
        cut: tuple[str, ...] = (),
        **flops: int,
    ) -> Ledger:
        """Sums and percentages of these counts; ``replaced`` are the originals of tuned copies."""
        trainable, inference = adapters + head + training_only, adapters + head
        return cls(
            backbone=backbone,
            adapters=adapters,
            head=head,
            training_only=training_only,
            trainable=trainable,
            inference=inference,
            total=backbone + trainable - replaced,
            trainable_percent_of_backbone=100 * trainable / backbone,
            trainable_percent_of_backbone_and_trainable=100
            * trainable
            / (backbone + trainable - replaced),
            trainable_percent_of_full_fine_tuning=100 * trainable / (backbone + head),
            inference_percent_of_backbone=100 * inference / backbone,
            inference_percent_of_backbone_and_inference=100
            * inference
            / (backbone + inference - replaced),
            adapters_percent_of_backbone=100 * adapters / backbone,
            fixed=fixed,
            stored_bytes=4 * inference + fixed_bytes,
            cut=cut,
            **{"flops_backbone": 0, "flops_forward": 0, "flops_above_cut": 0, **flops},
        )


def ledger(backbone: Backbone, method: Method, classes: int) -> Ledger:
    """Count what ``method`` adds to ``backbone`` (which may be a meta one) for ``classes`` classes.

    No random number is drawn from the global generator.

    Raises:
        ConfigError: the method does not fit, or computes with weights that a meta backbone lacks.
    """
    with by_shape(backbone, method):
        with own_randomness(backbone.device), backbone.device:
            plan = method.plan(backbone, classes)
        return count(backbone, plan)


def params(
    backbone: str,
    method: Method,
    classes: int,
    *,
    weights: Path | None = None,
    image_size: int | None = None,
) -> Ledger:
    """Count by name, from a meta device."""
    shape = load_backbone(backbone, weights=weights, image_size=image_size, device="meta")
    return ledger(shape, method, classes)


def count(backbone: Backbone, plan: Plan) -> Ledger:
    """Count a plan. ``full fine-tuning`` as a denominator is backbone + this plan's head."""
    own = dict(backbone.module.named_parameters())
    tuned = sum(own[name].numel() for name in plan.tune)
    fixed = [value for part in (*plan.adapters, plan.head) for value in fixed_of(part)]
    flops = _flops(backbone, plan)
    training = _training_flops(backbone, plan, names=bool(flops.classes))
    return Ledger.from_counts(
        backbone=backbone.parameter_count,
        adapters=sum(map(size_of, plan.adapters)) + tuned,
        head=size_of(plan.head),
        training_only=_beside(plan),
        replaced=tuned,
        fixed=sum(b.numel() for b in fixed),
        fixed_bytes=sum(b.nbytes for b in fixed),
        cut=plan.cut(backbone),
        flops_backbone=flops.backbone,
        flops_forward=flops.below + flops.above,
        flops_above_cut=flops.above,
        flops_training=training[0],
        flops_classes=flops.classes,
        flops_classes_training=training[1],
    )


def _beside(plan: Plan) -> int:
    """Numbers that only the losses train, which no prediction needs."""
    kept = {id(p) for part in (*plan.adapters, plan.head) for p in part.parameters()}
    own = {id(p): p for term in plan.losses for p in term.parameters()}
    return sum(p.numel() for key, p in own.items() if key not in kept)


class _Forward(NamedTuple):
    """FLOPs of one image through the bare backbone, and adapted below and above the cut; of all class names once."""

    backbone: int
    below: int
    above: int
    classes: int


def _flops(backbone: Backbone, plan: Plan) -> _Forward:
    device, cut = backbone.device, plan.cut(backbone)
    image = torch.zeros(1, 3, *backbone.preprocessing.size, device=device)
    # Fused attention is not counted on every device; dropout draws random numbers.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), own_randomness(device):
        with FlopCounterMode(display=False) as counter:
            state = backbone.lower(image, cut)
        below = counter.get_total_flops()
        # With gradients: the counter cannot follow a layer whose output is its own parameter without.
        with torch.enable_grad(), _worn(backbone, plan):
            with FlopCounterMode(display=False) as counter:
                _logits(backbone, plan, state)
            first = counter.get_total_flops()
            # What is made of class names is kept, so another image does not pay for it again.
            with FlopCounterMode(display=False) as counter:
                _logits(backbone, plan, state)
            above = counter.get_total_flops()
        if cut == plan.reads:
            return _Forward(below, below, above, first - above)
        with FlopCounterMode(display=False) as counter:
            backbone.upper({IMAGES: image}, plan.reads)
    return _Forward(counter.get_total_flops(), below, above, first - above)


def _training_flops(backbone: Backbone, plan: Plan, *, names: bool) -> tuple[int, int]:
    """FLOPs of forward and backward above the cut, for one image and, if there are any, for class names."""
    own = dict(backbone.module.named_parameters())
    tuned = {name: own[name].detach().requires_grad_() for name in plan.tune}
    trained = [*tuned.values(), *(p for part in plan.adapters for p in part.parameters())]
    trained += plan.head.parameters()
    trained = [p for p in trained if p.requires_grad]
    if not trained:
        return 0, 0
    device = backbone.device

    def step(images: int) -> int:
        batch = torch.zeros(images, 3, *backbone.preprocessing.size, device=device)
        with sdpa_kernel(SDPBackend.MATH), own_randomness(device):
            state = backbone.lower(batch, plan.cut(backbone))
            with (
                FlopCounterMode(display=False) as counter,
                torch.enable_grad(),
                _worn(backbone, plan, tuned),
                own_gradients(trained),
            ):
                torch.autograd.backward(_logits(backbone, plan, state).sum())
        return int(counter.get_total_flops())

    one = step(1)
    image = step(2) - one if names else one
    return image, one - image


def _logits(backbone: Backbone, plan: Plan, state: State) -> Tensor:
    values = backbone.upper(state, plan.reads)
    logits: Tensor = plan.head(plan.refine(plan.pool(*(values[role] for role in plan.reads))))
    return logits


@contextmanager
def _worn(
    backbone: Backbone, plan: Plan, tuned: Mapping[str, Tensor] | None = None
) -> Iterator[None]:
    """Put the plan on, with nothing kept of the class names before or after."""
    with attached(backbone, plan.attach, tuned, plan.swapped), _one_image(plan):
        _forget(plan)
        try:
            yield
        finally:
            _forget(plan)


def _forget(plan: Plan) -> None:
    if isinstance(plan.head, CachedHead):
        plan.head.forget()


@contextmanager
def _one_image(plan: Plan) -> Iterator[None]:
    """Let batch norms use their stored statistics: one image has none."""
    norms = [m for part in plan.modules() for m in part.modules() if isinstance(m, nn.BatchNorm1d)]
    training = [norm.training for norm in norms]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm, was in zip(norms, training, strict=True):
            norm.train(was)
