"""What is declared and takes no part stops the run; what may wait may wait."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.frozen_network import IMAGES
from petiole.backbones.hooks import Attach
from petiole.engine.adapted_model import AdaptedModel
from petiole.engine.use_check import UseCheck, _declared
from petiole.errors import RunError
from petiole.layers.lowrank import LowRank
from petiole.layers.tasks import PerTask, routed
from petiole.methods.base import Changes
from petiole.methods.registry import create
from petiole.tasks.classification.model import AdaptedClassifier, ClassificationLoss
from petiole.tasks.classification.training import Callbacks, train
from petiole.testing import backbones as tiny
from petiole.testing import image_case as contract
from training_for_tests import descend


@pytest.fixture
def bypassing() -> Iterator[Backbone]:
    """A ViT whose attention multiplies with the weights of ``qkv`` and calls no module for it."""
    backbone = tiny.plain()
    attention = type(next(m for m in backbone.module.modules() if hasattr(m, "qkv")))

    def forward(self: nn.Module, x: Tensor, *_: object, **__: object) -> Tensor:
        qkv = nn.functional.linear(x, self.qkv.weight, self.qkv.bias)
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in qkv.chunk(3, -1)
        )
        out = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "forward", forward)
        yield backbone


def hooks_of(module: nn.Module) -> list[int]:
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()]


def fit(backbone: Backbone, name: str) -> None:
    method = create(name, contract.RECIPE)
    adapted = AdaptedClassifier(backbone, method.plan(backbone, 3))
    adapted.name(contract.CLASSES)
    table = contract.Memory(adapted, stored=True)
    callbacks = Callbacks(quiet=True)
    train(adapted, contract.dataset(), table, method.recipe, seed=0, callbacks=callbacks)


def test_a_backbone_that_bypasses_a_module_is_noticed(bypassing: Backbone) -> None:
    hooks = hooks_of(bypassing.module)
    with pytest.raises(RunError, match=r"LowRank at role block\.0\.attn\.q of .*never called"):
        fit(bypassing, "lora-qkv")
    assert hooks_of(bypassing.module) == hooks


@pytest.mark.parametrize("name", ["adaptertune", "full", "bitfit"])
def test_what_goes_another_way_trains_on_it(bypassing: Backbone, name: str) -> None:
    """Its weights are read, its other modules are called."""
    fit(bypassing, name)


class Parts(nn.Module):
    """A layer for each of two tasks; the batch says whose turn it is."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part, self.head = part, nn.Linear(4, 1)

    def forward(self, x: Tensor, y: Tensor, task: int) -> Tensor:
        with routed([task] * len(x)):
            return ((self.head(self.part(x))[:, 0] - y) ** 2).mean()


def rows(task: int) -> tuple[Tensor, Tensor, int]:
    return torch.ones(2, 4), torch.ones(2), task


def layers() -> PerTask:
    return PerTask([nn.Linear(4, 4), nn.Linear(4, 4)])


def test_a_layer_of_one_task_has_a_pass_to_be_used() -> None:
    descend(Parts(layers()), lambda step: rows(step % 2), a_pass=2)
    with pytest.raises(RunError, match=r"first 3 steps.*part\.layers\.1\.weight"):
        descend(Parts(layers()), lambda _: rows(0), a_pass=3)
    with pytest.raises(RunError, match=r"first step.*part\.layers\.1\.weight"):
        descend(Parts(layers()), lambda _: rows(0), a_pass=1)
    descend(Parts(layers()), lambda _: rows(0), a_pass=9)  # it ends before a pass does


def test_a_parameter_that_the_loss_does_not_read_is_named() -> None:
    class Idle(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 4)
            self.spare = nn.Parameter(torch.zeros(3))

    with pytest.raises(RunError, match=r"first step.*part\.spare: trained, but"):
        descend(Parts(Idle()), lambda _: rows(0))
    late = Idle()
    late.used_within = "run"  # type: ignore[assignment]
    descend(Parts(late), lambda _: rows(0))


def test_a_gradient_of_zero_is_a_gradient() -> None:
    """As that of A behind B = 0."""
    module = Parts(nn.Linear(4, 4))
    nn.init.zeros_(module.head.weight)
    with UseCheck(module, 1) as used:
        module(*rows(0)).backward()
        assert not module.part.weight.grad.any()
        used.after_backward()


def test_hooks_are_gone_when_all_was_used() -> None:
    backbone = tiny.plain()
    adapted = AdaptedClassifier(backbone, create("lora-qkv", contract.RECIPE).plan(backbone, 3))
    adapted.name(contract.CLASSES)
    layers = list(adapted.attach.values())
    module = ClassificationLoss(adapted, 0.5, 0.0)
    labels, target = torch.tensor([0, 1, 2]), torch.ones(3, dtype=torch.bool)
    with UseCheck(module, 1) as used, adapted.attached():
        assert all(layer._forward_hooks for layer in layers)
        module({IMAGES: tiny.images(backbone)}, labels, target).backward()
        used.after_backward()
        assert not any(layer._forward_hooks for layer in layers)


def test_copies_of_one_network_are_one_and_other_parameters_are_their_own() -> None:
    backbone = tiny.plain()
    names = ("blocks.0.norm1.weight", "blocks.0.norm1.bias")
    adapted = AdaptedModel(backbone, Changes(tune=names))
    found = dict(_declared(nn.Sequential(adapted, nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 1))))  # fmt: skip
    assert {name: len(parameters) for name, parameters in found.items()} == {
        "0.tuned.*": 2, "2.weight": 1, "2.bias": 1
    }  # fmt: skip
    assert list(dict(_declared(adapted))) == ["tuned.*"]


def test_a_layer_at_two_places_is_watched_at_both() -> None:
    backbone = tiny.plain()
    layer = LowRank(backbone.width, 2)
    roles = ("block.0.attn.q", "block.1.attn.q")
    adapted = AdaptedModel(backbone, Changes(attach=tuple(Attach(role, layer) for role in roles)))
    with UseCheck(adapted, 1) as used:
        assert len(layer._forward_hooks) == 2
        with pytest.raises(
            RunError,
            match=r"used in the first step\. LowRank at role block\.0.*, LowRank at role block\.1",
        ):
            used.after_backward()


def test_the_patience_of_what_is_around_counts() -> None:
    inner = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    module = Parts(PerTask([inner, nn.Linear(4, 4)]))
    with UseCheck(module, 5) as used:
        module(*rows(1)).backward()
        used.after_backward()
