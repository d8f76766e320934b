"""FLOPs of one image through a backbone with a plan on it, and of all class names once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from petiole.backbones.base import Backbone, State
from petiole.backbones.hooks import attached
from petiole.layers.searchable import SearchableLayer
from petiole.ledger.counting import flop_counter, own_gradients, own_randomness
from petiole.ledger.ledger import Question, costs
from petiole.methods.base import Plan
from petiole.methods.prompt_learning.class_vectors import CachedHead


@costs.register
def _(network: Backbone, plan: Plan, question: Question) -> dict[str, Any]:
    question.sizes(network)
    flops = _flops(network, plan)
    # An adversary goes through the network as often as it asks for a gradient, and the step once more.
    times = 1 + plan.adversary.gradient_evaluations if plan.adversary else 1
    image, names = (
        times * each for each in _training_flops(network, plan, names=bool(flops.classes))
    )
    return {
        "cut": plan.cut(network),
        "unit": {"images": 1},
        "flops_backbone": flops.backbone,
        "flops_forward": flops.below + flops.above,
        "flops_above_cut": flops.above,
        "flops_training": image,
        "flops_classes": flops.classes,
        "flops_classes_training": names,
    }


class _Forward(NamedTuple):
    """FLOPs of one image through the bare backbone, and adapted below and above the cut; of all class names once."""

    backbone: int
    below: int
    above: int
    classes: int


def _flops(backbone: Backbone, plan: Plan) -> _Forward:
    state, below = _blank(backbone, plan.cut(backbone))
    # Fused attention is not counted on every device; dropout draws random numbers. With gradients: the counter cannot
    # follow a layer whose output is its own parameter without.
    with (
        torch.enable_grad(),
        sdpa_kernel(SDPBackend.MATH),
        own_randomness(backbone.device),
        _worn(backbone, plan),
    ):
        with flop_counter() as counter:
            _logits(backbone, plan, state)
        first = counter.get_total_flops()
        # What is made of class names is kept, so another image does not pay for it again.
        with flop_counter() as counter:
            _logits(backbone, plan, state)
        above = counter.get_total_flops()
    return _Forward(_blank(backbone, plan.reads)[1], below, above, first - above)


def _blank(backbone: Backbone, cut: Sequence[str], images: int = 1) -> tuple[State, int]:
    """What blank images are at a cut of the bare backbone, and the FLOPs up to it.

    Kept as long as the backbone, since a comparison counts every run on the same one.
    """
    size, device, kept = (
        backbone.preprocessing.size,
        backbone.device,
        _BLANK.setdefault(backbone, {}),
    )
    key = (*cut, images, *size, device, backbone.dtype)
    if key not in kept:
        blank = torch.zeros(images, 3, *size, device=device, dtype=backbone.dtype)
        with sdpa_kernel(SDPBackend.MATH), own_randomness(device), flop_counter() as counter:
            state = backbone.lower(blank, cut)
        kept[key] = state, int(counter.get_total_flops())
    return kept[key]


_BLANK: WeakKeyDictionary[Backbone, dict[tuple[Any, ...], tuple[State, int]]] = WeakKeyDictionary()


def _training_flops(backbone: Backbone, plan: Plan, *, names: bool) -> tuple[int, int]:
    """FLOPs of forward and backward above the cut, for one image and, if there are any, for class names."""
    own = dict(backbone.module.named_parameters())
    tuned = {name: own[name].detach().requires_grad_() for name in plan.tune}
    trained = [*tuned.values(), *(p for part in plan.adapters for p in part.parameters())]
    trained += plan.head.parameters()
    trained = [p for p in trained if p.requires_grad]
    if not trained:
        return 0, 0

    def step(images: int) -> int:
        state, _ = _blank(backbone, plan.cut(backbone), images)
        with (
            sdpa_kernel(SDPBackend.MATH),
            own_randomness(backbone.device),
            flop_counter() as counter,
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
    """Let batch norms use their stored statistics: one image has none; and searchable layers the path in use, not a drawn one."""
    parts = [m for part in plan.modules() for m in part.modules()]
    chosen = [m for m in parts if isinstance(m, nn.BatchNorm1d | SearchableLayer)]
    training = [module.training for module in chosen]
    for module in chosen:
        module.eval()
    try:
        yield
    finally:
        for module, was in zip(chosen, training, strict=True):
            module.train(was)
