"""A feature generator is a ``Loss`` with parameters: a worked example of the seam."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import backbones_for_tests as tiny
import contract
from petiole.methods.base import Loss, LossInputs
from petiole.methods.registry import create
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.tasks.classification.training import Callbacks, train


class GeneratedFeatures(Loss):
    """CE of features that a small network makes for classes that the batch lacks, through the run's own head.

    Args:
        head: of the plan; held, not owned: it stays the adapter's.
        width: of the vectors.
        classes: number of them.
    """

    def __init__(self, head: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.weight = 0.5
        self.generator = nn.Sequential(nn.Embedding(classes, 8), nn.ReLU(), nn.Linear(8, width))
        self._head = (head,)
        self.seen: list[list[int]] = []

    def forward(self, step: LossInputs) -> Tensor:
        classes = torch.arange(step.logits.shape[1])
        absent = classes[~torch.isin(classes, step.labels)]
        self.seen.append(absent.tolist())
        return cross_entropy(self._head[0](self.generator(absent)), absent)


def test_a_generator_is_trained_with_the_run_and_dropped_from_the_adapter() -> None:
    backbone = tiny.plain()
    method = create("lora-qkv", contract.RECIPE | {"classes_per_batch": 2})
    with tiny.seeded(0):
        plan = method.plan(backbone, 3)
        loss = GeneratedFeatures(plan.head, backbone.width, 3)
        adapted = AdaptedClassifier(backbone, replace(plan, losses=(loss,)))
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    table = contract.Memory(adapted, stored=True)
    callbacks = Callbacks(quiet=True)
    train(adapted, contract.dataset(), table, method.recipe, seed=0, callbacks=callbacks)
    assert [len(absent) for absent in loss.seen] == [1] * contract.STEPS
    assert all(not torch.equal(value, before[name]) for name, value in loss.state_dict().items())
    kept = {id(tensor) for tensor in adapted.state_dict(keep_vars=True).values()}
    assert kept.isdisjoint(id(parameter) for parameter in loss.parameters())
