"""The contract suite finds what is broken: each breach of a method or a backbone, by the clause that names it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.frozen_network import Site
from petiole.backbones.hooks import Attach
from petiole.errors import ConfigError
from petiole.layers.heads import LinearHead
from petiole.layers.lowrank import LowRank
from petiole.layers.solved import ClassMeansHead
from petiole.methods import registry
from petiole.methods.base import Loss, LossInputs, Method, Plan
from petiole.testing import ContractError, check_backbone, check_method
from petiole.testing import backbones as tiny


class Unseen(nn.Module):
    """Has a parameter that nothing reads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.low_rank, self.spare = LowRank(width, 2), nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.low_rank(x)


class Forgetful(LowRank):
    """Multiplies by a number that is drawn at construction and not stored."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 2)
        self.factor = float(torch.rand(())) + 0.5

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * super().forward(x)


class Batchwise(LowRank):
    """Subtracts the mean over the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(dim=0, keepdim=True))


class Writer(LowRank):
    """Writes into the tensor that it is given, past the hooks."""

    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight.mul_(1.01)
        return super().forward(x)


class Branching(LowRank):
    """Asks the device before it goes on."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.isfinite().all() else x


class Flat(Loss[LossInputs]):
    """Looks at logits from which the graph was cut."""

    def forward(self, inputs: LossInputs) -> Tensor:
        return inputs.logits.detach().square().mean()


@dataclass(frozen=True)
class Broken(Method):
    """A layer at the first block, broken in one way."""

    how: str = "not at all"

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        width = backbone.width
        if self.how == "refuses without a name":
            raise ConfigError("This needs something else.")
        if self.how == "refuses all":
            raise ConfigError(f"{backbone.name} is not good enough. Use a better one.")
        layer: nn.Module = LowRank(width, 2)
        match self.how:
            case "starts elsewhere":
                nn.init.ones_(layer.b)
            case "parameter without use":
                layer = Unseen(width)
            case "asks the device":
                layer = Branching(width, 2)
            case "forgets":
                layer = Forgetful(width)
            case "sees the batch":
                layer = Batchwise(width, 2)
            case "is as wide as another role":
                layer = Batchwise(width + 1, 2)
            case "writes into the backbone":
                layer = Writer(width, 2)
                layer.weight = next(backbone.module.parameters())
        attach = Attach("block.1.in", layer)
        head = LinearHead(width, classes)
        if self.how == "solves and takes steps":
            return Plan(head=ClassMeansHead(width, classes), reads=(backbone.vector,))
        losses = (Flat(),) if self.how == "teaches nothing" else ()
        return Plan(attach=(attach,), head=head, reads=(backbone.vector,), losses=losses)


@pytest.fixture
def broken() -> Iterator[Callable[[str], None]]:
    """Checks a method that is broken as said."""
    registry.register("broken", "for tests")(Broken)

    def check(how: str) -> None:
        check_method("broken", ["vit"], settings={"how": how})

    yield check
    del registry.METHODS._known["broken"]  # alone: what was imported meanwhile stays registered


def test_one_that_is_not_broken_passes(broken: Callable[[str], None]) -> None:
    broken("not at all")


@pytest.mark.parametrize(
    ("how", "clause", "found"),
    [
        ("starts elsewhere", "starts_where_it_says", "identity=True"),
        (
            "parameter without use",
            "moves_all_it_declares_and_nothing_else",
            r"spare: trained, but the loss does not depend on it",
        ),
        ("teaches nothing", "has_losses_that_teach", "Flat: nothing trained takes part in it"),
        ("is as wide as another role", "starts_where_it_says", "came out of .*, line .*Otherwise:"),
        ("forgets", "survives_saving", "differ"),
        ("sees the batch", "is_the_same_from_the_cache|mixes_in_a_batch", "differ"),
        ("writes into the backbone", "starts_where_it_says|moves_all_it_declares", "backbone|bare"),
        (
            "asks the device",
            "trains_without_waiting_for_the_device",
            r"_local_scalar_dense in .*test_broken\.py",
        ),
        ("solves and takes steps", "reads_the_recipe_that_it_says", "its head is solved"),
        ("refuses without a name", "a refusal names the backbone", "needs something else"),
        ("refuses all", "some backbone can carry it", "refuses vit"),
    ],
)
def test_a_breach_of_a_method_is_named(
    how: str, clause: str, found: str, broken: Callable[[str], None]
) -> None:
    with pytest.raises(ContractError, match=found) as caught:
        broken(how)
    assert "method 'broken'" in caught.value.subject
    assert "vit" in str(caught.value)
    assert any(part in caught.value.clause for part in clause.split("|"))
    for line in ("clause:", "found:", "means:", "remedy:"):
        assert line in str(caught.value)


def trains(backbone: Any) -> None:
    next(backbone.module.parameters()).requires_grad_(True)


def wrong_width(backbone: Any) -> None:
    sites = backbone.sites
    role = next(iter(sites))
    old = sites[role]
    backbone.__dict__["sites"] = {**sites, role: Site(old.module, old.side, old.width + 1)}


def unreached(backbone: Any) -> None:
    added = Site(nn.Identity(), "out", 4)
    backbone.__dict__["sites"] = {**backbone.sites, "block.9.in": added}


def disordered(backbone: Any) -> None:
    backbone.__dict__["sites"] = dict(reversed(backbone.sites.items()))


def cut_elsewhere(backbone: Any) -> None:
    lower = backbone._lower
    backbone._lower = lambda images, cut: lower(images, cut) * 1.01


def random_numbers(backbone: Any) -> None:
    upper = backbone._upper

    def noisy(*args: Any, **options: Any) -> dict[str, Tensor]:
        return {k: v + torch.randn_like(v) for k, v in upper(*args, **options).items()}

    backbone._upper = noisy


def misplaced(backbone: Any) -> None:
    backbone.role_of = lambda _: "block.2.in"


def unprepared(backbone: Any) -> None:
    backbone.preprocessing = backbone.preprocessing.model_copy(update={"std": (0.0, 1.0, 1.0)})


def keeps_a_hook(backbone: Any) -> None:
    upper, module = backbone._upper, backbone.module

    def hooked(*args: Any, **options: Any) -> dict[str, Tensor]:
        module.register_forward_hook(lambda *_: None)
        return upper(*args, **options)

    backbone._upper = hooked


@pytest.mark.parametrize(
    ("breach", "clause", "found"),
    [
        (trains, "is_frozen", "requires_grad=True"),
        (wrong_width, "has_sound_sites", "width at embed: 24 instead of 25"),
        (unreached, "has_sound_sites", r"never reaches block\.9\.in"),
        (disordered, "meets_its_sites_in_order", "the forward pass meets embed, not"),
        (cut_elsewhere, "is_the_same_from_every_cut", r"block\.1\.in and from images differ"),
        (random_numbers, "is_deterministic", "two passes"),
        (misplaced, "is_frozen_below_the_cut", r"tuned parameter .* lies above block\.2\.in"),
        (unprepared, "states_its_preprocessing", r"std is \(0\.0"),
        (keeps_a_hook, "takes_adapters_and_leaves_no_trace", "hooks were left"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_breach_of_a_backbone_is_named(
    breach: Callable[[Backbone], None], clause: str, found: str
) -> None:
    backbone = tiny.plain()
    breach(backbone)
    with pytest.raises(ContractError, match=found) as caught:
        check_backbone(backbone)
    assert caught.value.clause == clause
    assert caught.value.subject == "backbone 'test/vit'"


def test_an_unknown_tiny_model_is_told() -> None:
    with pytest.raises(ConfigError, match="Use vit, "):
        check_method("adaptertune", ["resnet-50"])
    with pytest.raises(ConfigError, match="Use bart, t5"):
        check_method("vl-adapter", ["vit"])
