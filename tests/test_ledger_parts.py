"""What a ledger counts, of a plan and a network that are small enough to count by hand."""

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from petiole.backbones.codebook_lvlm import LVLM
from petiole.backbones.frozen_network import FrozenNetwork
from petiole.backbones.hooks import Attach
from petiole.backbones.vision.cnn import ConvNet
from petiole.errors import ConfigError
from petiole.layers.solved import SolvedHead
from petiole.ledger.codebook import _attentions, _Language, _matrices
from petiole.ledger.counting import (
    _convolution_backward,
    by_shape,
    fixed_of,
    own_gradients,
    size_of,
)
from petiole.ledger.image import _one_image
from petiole.ledger.ledger import (
    Question,
    Sizes,
    _planned,
    costs,
    count,
    ledger,
    sizes,
    trained_parts,
)
from petiole.methods.base import Changes, Plan
from petiole.methods.registry import create
from petiole.testing import backbones as tiny
from petiole.testing import codebook_lvlm
from petiole.testing import encoder_decoder as languages
from petiole.testing.untouched import untouched

Tiny = Callable[..., ConvNet]


class Weights(nn.Module):
    """15 numbers, of which a method copies some."""

    def __init__(self) -> None:
        super().__init__()
        self.tuned = nn.Parameter(torch.zeros(3, 2))
        self.drawn = nn.Parameter(torch.zeros(4))
        self.left = nn.Parameter(torch.zeros(5))


class Network:
    """As much of a frozen network as sizes need."""

    module = Weights()
    parameter_count = 15
    stored_bytes = 60


class Extra(nn.Module):
    """A loss with 7 numbers of its own, that also holds those of the head."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.own, self.head = nn.Parameter(torch.zeros(7)), head


class Matrix(nn.Module):
    """A matrix in a layer of no known kind."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 3))


class Named(nn.Module):
    """Three classes of width 8, made of names of 5 numbers and kept until they are forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("names", torch.ones(3, 5))
        self.words = nn.Parameter(torch.ones(5, 8))
        self.kept: Tensor | None = None

    def forget(self) -> None:
        self.kept = None

    def forward(self, vectors: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = self.names @ self.words
        return vectors @ self.kept.T


def plan(**changes: Any) -> Plan:
    head = nn.Sequential(
        nn.BatchNorm1d(5), nn.Linear(5, 3)
    )  # 10 + 18, with 11 numbers that are not trained
    given: dict[str, Any] = {
        "head": head,
        "refine": nn.Linear(5, 5, bias=False),  # 25
        "tune": ("tuned",),  # 6
        "frozen_copies": ("drawn",),  # 4
        "losses": (Extra(head),),
    }
    return Plan(**given | changes)


def sized(of: Plan, beside: int = 0) -> Sizes:
    return sizes(cast("FrozenNetwork", Network()), of, beside=beside)


def test_every_size_by_hand() -> None:
    got = sized(plan()).model_dump()
    percentages = {name: got.pop(name) for name in list(got) if "percent" in name}
    assert got == {
        "backbone": 15,
        "adapters": 25 + 6,
        "head": 28,
        "training_only": 7,
        "trainable": 25 + 6 + 28 + 7,
        "inference": 25 + 6 + 28,
        "total": 15 + 25 + 28 + 7,  # a tuned copy replaces its original
        "backbone_bytes": 60,
        "fixed": 5 + 5 + 1 + 4,
        "stored_bytes": 4 * (25 + 6 + 28 + 4)
        + 4 * 10
        + 8,  # the norm's count of batches has 8 bytes
        "parts": {"backbone": 15},
        "trained_parts": {"layers": 25, "copies": 6},
    }
    assert percentages == {
        "trainable_percent_of_backbone": pytest.approx(100 * 66 / 15),
        "trainable_percent_of_backbone_and_trainable": pytest.approx(100 * 66 / 75),
        "trainable_percent_of_full_fine_tuning": pytest.approx(100 * 66 / 43),
        "trainable_percent_of_total": pytest.approx(100 * 66 / 75),
        "inference_percent_of_backbone": pytest.approx(100 * 59 / 15),
        "inference_percent_of_backbone_and_inference": pytest.approx(100 * 59 / 68),
        "inference_percent_of_total": pytest.approx(100 * 59 / 75),
        "adapters_percent_of_backbone": pytest.approx(100 * 31 / 15),
        "trainable_percent_of_language_model": None,
        "trainable_percent_of_encoder": None,
    }


def test_what_is_trained_in_another_network_is_added_and_not_taken_for_a_copy() -> None:
    alone, beside = sized(plan()), sized(plan(), beside=100)
    assert beside.trained_parts == {"layers": 25, "copies": 6, "vision": 100}
    for name in ("adapters", "trainable", "inference", "total"):
        assert getattr(beside, name) == getattr(alone, name) + 100
    assert beside.fixed == alone.fixed


def test_a_plan_of_nothing_stores_nothing() -> None:
    got = sized(Plan())
    assert (got.trainable, got.fixed, got.stored_bytes, got.total) == (0, 0, 0, 15)


def test_a_solved_head_has_its_solution_and_nothing_beside(tiny: Tiny) -> None:
    head = create("ridge").plan(tiny(), 3).head
    assert isinstance(head, SolvedHead)
    assert fixed_of(head) == []
    assert size_of(head) == head.solution_size
    assert [t.shape for t in fixed_of(nn.BatchNorm1d(5))] == [(5,), (5,), ()]


def test_norms_use_their_stored_statistics_meanwhile_and_are_as_before_after() -> None:
    head, refine = nn.Sequential(nn.BatchNorm1d(5), nn.BatchNorm1d(5)), nn.BatchNorm1d(5)
    head[1].eval()
    other = nn.Dropout()
    with _one_image(Plan(head=head, refine=refine, pool=other)):
        assert not any(norm.training for norm in (*head, refine))
        assert other.training
    assert [norm.training for norm in (*head, refine)] == [True, False, True]


def test_a_real_adapters_gradients_stay() -> None:
    held, none = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))
    held.grad = torch.tensor([1.0, 2.0])
    with own_gradients([held, none]):
        assert held.grad is None
        (held.sum() + none.sum()).backward()
    assert held.grad is not None
    assert held.grad.tolist() == [1, 2]
    assert none.grad is None


@pytest.mark.parametrize(
    ("refined", "frozen", "above", "training"),
    [
        # The head of 8 x 3: a product forward and one for its weight; what it reads needs no gradient.
        (False, False, 48, 96),
        # A map of 8 x 8 below it needs the gradient of what the head reads too.
        (True, False, 48 + 128, (48 + 128) + (48 + 48) + 128),
        # Without the head's own only the map's weight and the way to it are left.
        (True, True, 48 + 128, (48 + 128) + 48 + 128),
        (False, True, 48, 0),
    ],
)
def test_flops_of_what_is_above_the_cut(
    tiny: Tiny, refined: bool, frozen: bool, above: int, training: int
) -> None:
    head = nn.Linear(8, 3).requires_grad_(not frozen)
    refine = nn.Linear(8, 8) if refined else nn.Identity()
    got = count(tiny(), Plan(head=head, refine=refine, reads=("final.pooled",)))
    assert (got.cut, got.unit) == (("final.pooled",), {"images": 1})
    assert got.flops_backbone > 0
    assert got.flops_forward == got.flops_backbone + above
    assert (got.flops_above_cut, got.flops_training) == (above, training)
    assert (got.flops_classes, got.flops_classes_training) == (0, 0)
    assert all(p.grad is None for p in (*head.parameters(), *refine.parameters()))


def test_class_names_are_read_once_and_nothing_of_them_is_kept_before_or_after(tiny: Tiny) -> None:
    head = Named()
    with torch.no_grad():
        head(torch.ones(1, 8))
    got = count(tiny(), Plan(head=head, reads=("final.pooled",)))
    each, names = 2 * 8 * 3, 2 * 3 * 5 * 8
    assert (got.flops_above_cut, got.flops_classes) == (each, names)
    # An image: the product, and the gradient of the classes; names: the product, and the gradient of the words.
    assert (got.flops_training, got.flops_classes_training) == (2 * each, 2 * names)
    assert head.kept is None


def test_counting_draws_no_number_and_plans_in_the_networks_type(tiny: Tiny) -> None:
    backbone, method = tiny(), create("linear-probe")
    before = torch.random.get_rng_state()
    counted = ledger(backbone, method, 3)
    planned = _planned(backbone, method, 3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert {p.dtype for p in planned.head.parameters()} == {torch.float32}
    assert (counted.head, counted.adapters) == (8 * 3 + 3, 0)


@pytest.mark.parametrize(("wanted", "passes"), [((True, True, True), 2), ((True, False, True), 1), ((False, True, False), 1), ((False, False, True), 0)])  # fmt: skip
def test_the_gradient_of_a_bias_multiplies_nothing(wanted: tuple[bool, ...], passes: int) -> None:
    rest = (None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, wanted)
    x, weight, out = [2, 3, 8, 8], [5, 3, 3, 3], [2, 5, 8, 8]
    assert _convolution_backward(out, x, weight, *rest) == passes * 2 * 2 * 5 * 3 * 9 * 64


def test_a_network_is_as_frozen_after_counting_as_before() -> None:
    network, method = tiny.plain(), create("full")
    assert method.plan(network, 3).tune
    assert count(network, method.plan(network, 3)).flops_forward > 0
    assert not any(p.requires_grad for p in network.module.parameters())


@pytest.mark.parametrize("name", ["vl-full", "vl-adapter"])
def test_a_language_model_is_untouched_by_counting(name: str) -> None:
    network = languages.model("bart")
    with untouched(network):
        assert ledger(network, create(name)).flops_training > 0


@cache
def bare() -> LVLM:
    """A codebook model without heads of the contrastive loss."""
    return codebook_lvlm.model("gpt2", codebook_lvlm.tower(contrast=False))


def test_what_is_trained_of_a_codebook_model_by_part() -> None:
    network = bare()
    vision = network.tower.image_backbone
    named = dict(network.module.named_parameters())
    language, projector = (next(n for n in named if n.startswith(p)) for p in ("lang", "proj"))
    seen = next(iter(dict(vision.module.named_parameters())))
    own, inside = nn.Linear(3, 2), nn.Linear(4, 4)
    plan = Plan(
        shared=(own,),
        tune=(language, projector),
        encoder=Changes(shared=(inside,), tune=(seen,)),
    )
    assert trained_parts(network, plan) == {
        "encoder": 20 + vision.module.get_parameter(seen).numel(),
        "projector": named[projector].numel(),
        "language": 8 + named[language].numel(),
    }


def test_a_layer_in_a_language_model_is_met_by_every_token() -> None:
    added = Changes(attach=(Attach("language.block.0.in", nn.Linear(3, 4)),))
    with_it, without = (_Language(bare(), changes) for changes in (added, Changes()))
    assert with_it(5, 2) - without(5, 2) == 2 * 5 * 12


@pytest.mark.parametrize("meta", [True, False])
def test_a_method_that_needs_values_says_so_of_a_shape(meta: bool) -> None:
    network = cast("FrozenNetwork", SimpleNamespace(name="tiny", is_meta=meta))
    kind = ConfigError if meta else RuntimeError
    said = r"computes with .* shape of tiny alone \(none\)" if meta else "^none$"
    with pytest.raises(kind, match=said), by_shape(network, create("linear-probe")):
        raise RuntimeError("none")


def test_what_nobody_can_count_says_so() -> None:
    with pytest.raises(NotImplementedError, match="FLOPs of Network are not counted"):
        costs(cast("FrozenNetwork", Network()), Plan(), Question())
    with pytest.raises(ConfigError, match=r"matrices of a layer \(Matrix\)"):
        _matrices(Matrix())
    unasked = nn.ModuleDict({"attn": nn.ModuleDict({"o_proj": nn.Linear(2, 2)})})
    with pytest.raises(ConfigError, match="ModuleDict has attentions whose queries are not known"):
        _attentions(unasked)


def test_a_tower_without_heads_has_no_part_of_them() -> None:
    network = bare()
    with untouched(network, network.tower.image_backbone):
        counted = ledger(network, create("craft"))
    assert counted.parts["contrast"] == 0
    assert counted.backbone == sum(counted.parts.values())


def test_what_is_trained_in_the_blocks_costs_a_backward_pass() -> None:
    network = tiny.plain()
    full, frozen = (
        count(network, create(name).plan(network, 3)) for name in ("full", "linear-probe")
    )
    assert full.flops_training > 2.5 * network_flops(full)
    assert frozen.flops_training < 0.1 * full.flops_training


def network_flops(counted: Any) -> int:
    """Of the bare backbone, forward."""
    return int(counted.flops_backbone)
