"""When changes are at work, in which mode a model is evaluated, and how layers are called that share a role."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.test_use_check import hooks_of
from petiole.backbones.hooks import Attach
from petiole.engine.adapted_model import AdaptedModel, evaluating
from petiole.errors import ConfigError
from petiole.layers.lowrank import LowRank
from petiole.methods.base import Changes
from petiole.testing import backbones as tiny


def test_changes_are_on_within_and_off_afterwards_however_often() -> None:
    backbone, entered = tiny.plain(), list[bool]()
    layer = LowRank(backbone.width, 2)
    adapted = AdaptedModel(backbone, Changes(attach=(Attach("block.0.attn.q", layer),)))
    adapted._enter = lambda: entered.append(True)  # type: ignore[method-assign]
    bare = hooks_of(backbone.module)
    for count in (1, 2, 3):
        with adapted.attached():
            on = hooks_of(backbone.module)
            assert sum(on) > sum(bare)
            assert len(entered) == count
            with adapted.attached():
                assert hooks_of(backbone.module) == on, "they are put on once"
            assert hooks_of(backbone.module) == on
        assert hooks_of(backbone.module) == bare
        assert len(entered) == count
    with pytest.raises(KeyError), adapted.attached():
        raise KeyError
    assert hooks_of(backbone.module) == bare


@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_evaluated_without_gradients_and_left_in_its_mode(training: bool) -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(1, 1)).train(training)
    with evaluating(model):
        assert not any(part.training for part in model.modules())
        assert not torch.is_grad_enabled()
    assert {part.training for part in model.modules()} == {training}
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert model.training is training


def test_integers_are_not_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny.plain()
    names = ("blocks.0.norm1.weight", "blocks.0.norm1.bias")
    monkeypatch.setattr("petiole.engine.adapted_model.is_packed", lambda value: value is packed)
    packed = backbone.module.blocks[0].norm1.bias
    with pytest.raises(ConfigError, match=r"a copy of blocks\.0\.norm1\.bias.* have no gradient"):
        AdaptedModel(backbone, Changes(tune=names))
    copies = AdaptedModel(backbone, Changes(tune=names[:1], frozen_copies=names[1:])).copies
    assert {name: copy.requires_grad for name, copy in copies.items()} == dict(zip(names, (True, False), strict=True))  # fmt: skip
    assert torch.equal(copies[names[1]], packed)
    assert copies[names[1]] is not packed


def test_layers_that_share_a_role_are_counted() -> None:
    backbone = tiny.plain()
    roles = ("block.0.attn.q", "block.1.attn.q", "block.0.attn.q", "block.0.attn.q")
    layers = [Attach(role, LowRank(backbone.width, 2)) for role in roles]
    adapted = AdaptedModel(backbone, Changes(attach=tuple(layers)))
    assert list(adapted.attach) == [
        "block/0/attn/q", "block/1/attn/q", "block/0/attn/q+1", "block/0/attn/q+2"
    ]  # fmt: skip
