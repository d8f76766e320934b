"""Residual prompts: the equation, whose residual a class name reads, and CoOp where there is none yet."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from builders.prompts import adapted as on_clip
from petiole.errors import ConfigError
from petiole.layers.rows import ResidualContext
from petiole.ledger import ledger
from petiole.methods.registry import create
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.testing import dual_encoder as clips


@torch.no_grad()
def vectors(adapted: AdaptedClassifier) -> Tensor:
    with adapted.attached():
        adapted.head.forget()
        found: Tensor = adapted.head.embeddings()
        return found.clone()


def test_contexts_are_the_equation_s() -> None:
    value = torch.randn(2, 3)
    layer = ResidualContext(value, lambda: value, lambda: value, tasks=2, rank=4)
    nn.init.normal_(layer.up)
    for task in range(2):
        for word in range(2):
            hidden = [1 / (1 + torch.exp(-(layer.down[r] * value[word]).sum())) for r in range(4)]
            own = value[word] + sum(layer.up[task, :, r] * hidden[r] for r in range(4))
            torch.testing.assert_close(layer.contexts()[task, word], own)
    assert torch.equal(layer.contexts()[2], layer.value)


def test_it_starts_as_coop_and_a_name_reads_its_own_set_s_residual() -> None:
    adapted = on_clip("residual-prompts", sets="ash, oak; birch")
    start = vectors(adapted)
    assert torch.equal(start, vectors(on_clip("coop")))
    nn.init.normal_(adapted.plan.attach[0].layer.up[1])
    moved = (vectors(adapted) != start).any(1)
    assert moved.tolist() == [False, True, False]  # cedar is of no set and reads the shared context
    nn.init.normal_(adapted.plan.attach[0].layer.up[0])
    adapted.name(
        ("oak", "elm")
    )  # names that were not trained on: one of the first set, one of none
    shared = on_clip("coop")
    shared.name(("oak", "elm"))
    moved = (vectors(adapted) != vectors(shared)).any(1)
    assert moved.tolist() == [True, False]


def test_its_size_and_a_class_of_two_sets() -> None:
    towers = clips.towers()
    width = towers.text.width
    method = create("residual-prompts", {"sets": "ash; birch; cedar", "rank": 2})
    assert ledger(towers, method, 3).trainable == 4 * width + 2 * width + 3 * 2 * width
    with pytest.raises(ConfigError, match="'ash' stands in two of the sets"):
        create("residual-prompts", {"sets": "ash; ash"}).plan(towers, 3)
