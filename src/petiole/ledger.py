"""Parameters and FLOPs by role, counted on a meta device, without weights.

A percentage is never bare: its name says of what. FLOPs are 2 x multiply-accumulates for one image,
as torch's FlopCounterMode sees them (matrix products, convolutions, attention).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from petiole.backbones.base import IMAGES, Backbone, State
from petiole.backbones.hooks import attached
from petiole.backbones.registry import load
from petiole.errors import ConfigError
from petiole.layers.solved import SolvedHead
from petiole.methods.base import Method, Plan


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


def ledger(backbone: Backbone, method: Method, classes: int) -> Ledger:
    """Count what ``method`` adds to ``backbone`` (which may be a meta one) for ``classes`` classes.

    No random number is drawn from the global generator.

    Raises:
        ConfigError: the method does not fit, or computes with weights that a meta backbone lacks.
    """
    device = _device(backbone)
    try:
        with _own_randomness(device), device:
            plan = method.plan(backbone, classes)
        return count(backbone, plan)
    except RuntimeError as error:  # torch's, at the first value that is not there
        if not backbone.is_meta:
            raise
        raise ConfigError(
            f"{type(method).__name__} computes with the weights, so it cannot be counted on the shape "
            f"of {backbone.name} alone ({str(error).splitlines()[0]})."
        ) from error


def params(
    backbone: str,
    method: Method,
    classes: int,
    *,
    weights: Path | None = None,
    image_size: int | None = None,
) -> Ledger:
    """Count by name, from a meta device."""
    shape = load(backbone, weights=weights, image_size=image_size, device="meta")
    return ledger(shape, method, classes)


def count(backbone: Backbone, plan: Plan) -> Ledger:
    """Count a plan. ``full fine-tuning`` as a denominator is backbone + this plan's head."""
    own = dict(backbone.module.named_parameters())
    tuned = sum(own[name].numel() for name in plan.tune)
    base = backbone.parameter_count
    adapters = sum(map(size_of, plan.adapters)) + tuned
    head, extra = size_of(plan.head), _beside(plan)
    trainable, inference = adapters + head + extra, adapters + head
    fixed = [value for part in (*plan.adapters, plan.head) for value in _fixed(part)]
    flops = _flops(backbone, plan)
    return Ledger(
        backbone=base,
        adapters=adapters,
        head=head,
        training_only=extra,
        trainable=trainable,
        inference=inference,
        total=base + trainable - tuned,
        trainable_percent_of_backbone=100 * trainable / base,
        trainable_percent_of_backbone_and_trainable=100 * trainable / (base + trainable - tuned),
        trainable_percent_of_full_fine_tuning=100 * trainable / (base + head),
        inference_percent_of_backbone=100 * inference / base,
        inference_percent_of_backbone_and_inference=100 * inference / (base + inference - tuned),
        adapters_percent_of_backbone=100 * adapters / base,
        fixed=sum(b.numel() for b in fixed),
        stored_bytes=4 * inference + sum(b.nbytes for b in fixed),
        cut=plan.cut(backbone),
        flops_backbone=flops[0],
        flops_forward=flops[1],
        flops_above_cut=flops[2],
        flops_training=_training_flops(backbone, plan),
    )


def size_of(module: nn.Module) -> int:
    """Numbers that a part consists of: its parameters, or the solution where it is solved."""
    if isinstance(module, SolvedHead):
        return module.solution_size
    return sum(p.numel() for p in module.parameters())


def _beside(plan: Plan) -> int:
    """Numbers that only the losses train, which no prediction needs."""
    kept = {id(p) for part in (*plan.adapters, plan.head) for p in part.parameters()}
    own = {id(p): p for term in plan.terms for p in term.parameters()}
    return sum(p.numel() for key, p in own.items() if key not in kept)


def _fixed(module: nn.Module) -> list[Tensor]:
    """What is stored with a part although it is neither trained nor solved."""
    if isinstance(module, SolvedHead):
        return []
    trained = {name for name, _ in module.named_parameters()}
    return [value for name, value in module.state_dict().items() if name not in trained]


def _flops(backbone: Backbone, plan: Plan) -> tuple[int, int, int]:
    """FLOPs of one image: bare backbone, adapted forward, and the part of it above the cut."""
    device, cut = _device(backbone), plan.cut(backbone)
    image = torch.zeros(1, 3, *backbone.preprocessing.size, device=device)
    # Fused attention is not counted on every device; dropout draws random numbers.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _own_randomness(device):
        with FlopCounterMode(display=False) as counter:
            state = backbone.lower(image, cut)
        below = counter.get_total_flops()
        # With gradients: the counter cannot follow a layer whose output is its own parameter without.
        with FlopCounterMode(display=False) as counter, torch.enable_grad():
            _logits(backbone, plan, state)
        above = counter.get_total_flops()
        if cut == plan.reads:
            return below, below + above, above
        with FlopCounterMode(display=False) as counter:
            backbone.upper({IMAGES: image}, plan.reads)
    return counter.get_total_flops(), below + above, above


def _training_flops(backbone: Backbone, plan: Plan) -> int:
    """FLOPs of forward and backward above the cut, for one image."""
    own = dict(backbone.module.named_parameters())
    tuned = {name: own[name].detach().requires_grad_() for name in plan.tune}
    trained = [*tuned.values(), *(p for part in plan.adapters for p in part.parameters())]
    trained += plan.head.parameters()
    trained = [p for p in trained if p.requires_grad]
    if not trained:
        return 0
    device = _device(backbone)
    image = torch.zeros(1, 3, *backbone.preprocessing.size, device=device)
    with sdpa_kernel(SDPBackend.MATH), _own_randomness(device):
        state = backbone.lower(image, plan.cut(backbone))
        with FlopCounterMode(display=False) as counter, torch.enable_grad():
            total = _logits(backbone, plan, state, tuned).sum()
            with _own_gradients(trained):
                torch.autograd.backward(total)
    return int(counter.get_total_flops())


@contextmanager
def _own_gradients(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Leave the gradients of a real adapter as they were."""
    before = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    try:
        yield
    finally:
        for p, gradient in zip(parameters, before, strict=True):
            p.grad = gradient


def _logits(
    backbone: Backbone, plan: Plan, state: State, tuned: Mapping[str, Tensor] | None = None
) -> Tensor:
    with attached(backbone, plan.attach, tuned, plan.swapped), _one_image(plan):
        values = backbone.upper(state, plan.reads)
        logits: Tensor = plan.head(plan.refine(plan.pool(*(values[role] for role in plan.reads))))
    return logits


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


def _device(backbone: Backbone) -> torch.device:
    return next(backbone.module.parameters()).device


def _own_randomness(device: torch.device) -> AbstractContextManager[object]:
    """Leave the global generators as they were."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])
