"""Residual prompts: the equation, whose residual a class name reads, and CoOp where there is none yet."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from builders.prompts import adapted as on_clip
from petiole.errors import ConfigError
from petiole.layers.rows import Residuals
from petiole.ledger import ledger
from petiole.methods.registry import create
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.testing import check_method
from petiole.testing import dual_encoder as clips


@torch.no_grad()
def vectors(adapted: AdaptedClassifier) -> Tensor:
    with adapted.attached():
        adapted.head.forget()
        found: Tensor = adapted.head.embeddings()
        return found.clone()


def test_rows_of_tasks_are_the_equation_s() -> None:
    rows = torch.randn(2, 3)
    layer = Residuals(3, lambda: torch.tensor([1, 2]), tasks=2, rank=4)
    nn.init.normal_(layer.up)
    for task in range(2):
        for word in range(2):
            hidden = [1 / (1 + torch.exp(-(layer.down[r] * rows[word]).sum())) for r in range(4)]
            own = rows[word] + sum(layer.up[task, :, r] * hidden[r] for r in range(4))
            torch.testing.assert_close(layer.of_tasks(rows)[task, word], own)
    assert torch.equal(layer(rows)[1], rows)
    assert torch.equal(layer(rows)[0], layer.of_tasks(rows)[1])


@pytest.mark.parametrize("host", ["coop", "maple"])
def test_it_starts_as_its_host_and_a_name_reads_its_own_set_s_residual(host: str) -> None:
    adapted = on_clip("residual-prompts", sets="ash, oak; birch", host=host)
    prompts = [m.residuals for m in adapted.modules() if getattr(m, "residuals", None)]
    assert len(prompts) == sum(a.role.startswith("text.") for a in adapted.plan.attach)
    bare = on_clip(host)
    bare.load_state_dict({k: v for k, v in adapted.state_dict().items() if "residuals" not in k})
    start = vectors(adapted)
    assert torch.equal(start, vectors(bare))
    nn.init.normal_(prompts[-1].up[1])
    moved = (vectors(adapted) != start).any(1)
    assert moved.tolist() == [False, True, False]  # cedar is of no set and reads the shared prompt
    nn.init.normal_(prompts[-1].up[0])
    for model in (
        adapted,
        bare,
    ):  # names that were not trained on: one of the first set, one of none
        model.name(("oak", "elm"))
    assert (vectors(adapted) != vectors(bare)).any(1).tolist() == [True, False]


def test_over_maple_it_keeps_the_contract_and_images_read_the_shared_prompt() -> None:
    check_method("residual-prompts", ["clip"], settings={"host": "maple", "sets": "ash; birch"})
    plain, residual = (
        on_clip(name, **more)
        for name, more in (("maple", {}), ("residual-prompts", {"host": "maple"}))
    )
    roles = [attach.role for attach in plain.plan.attach]
    assert roles == [attach.role for attach in residual.plan.attach]
    image = [a.layer for a in residual.plan.attach if not a.role.startswith("text.")]
    assert image
    assert not any(isinstance(m, Residuals) for layer in image for m in layer.modules())


def test_its_size_and_a_class_of_two_sets() -> None:
    towers = clips.towers()
    width = towers.text.width
    method = create("residual-prompts", {"sets": "ash; birch; cedar", "rank": 2})
    assert ledger(towers, method, 3).trainable == 4 * width + 2 * width + 3 * 2 * width
    with pytest.raises(ConfigError, match="'ash' stands in two of the sets"):
        create("residual-prompts", {"sets": "ash; ash"}).plan(towers, 3)
    for host in (
        {"host": "cocoop"},
        {"host_settings": {"class_specific": True}},
        {"host": "lora-qkv"},
    ):
        with pytest.raises(ConfigError, match="Use coop, maple or ivlp"):
            create("residual-prompts", host).plan(towers, 3)
