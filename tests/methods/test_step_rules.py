"""Rules that wrap an optimiser step: against their closed forms, and against the plain step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from petiole.engine.adapted_model import AdaptedModel
from petiole.errors import ConfigError
from petiole.layers.lowrank import LowRank
from petiole.ledger import ledger
from petiole.methods.registry import create
from petiole.methods.step_rules.base import (
    STEP_RULES,
    StepContext,
    make_step_rule,
    moved,
    norm,
)
from petiole.methods.step_rules.eflat_lora import LowRankRule
from petiole.methods.step_rules.flat_lora import FlatLoRA
from petiole.methods.step_rules.glad import Conflict, Project
from petiole.testing import backbones as tiny
from training_for_tests import descend, learned, regression, same


def sam(rho: float) -> dict[str, object]:
    return {"step_rule": "sam", "step_rule_settings": {"rho": rho}}


def test_sam_of_radius_0_is_the_plain_step_to_the_bit() -> None:
    """Both gradients see the same dropout, and the batch norm counts its batch once."""
    plain = descend(regression())
    assert same(descend(regression(), **sam(0.0)), plain)
    other = descend(regression(), **sam(0.3))
    assert not same(other, plain)
    assert torch.equal(other["net.1.num_batches_tracked"], plain["net.1.num_batches_tracked"])


class Quadratic(nn.Module):
    """L = theta^T H theta / 2 over two tensors, so that a norm a tensor would be noticed."""

    def __init__(self, hessian: Tensor, start: Tensor) -> None:
        super().__init__()
        self.register_buffer("hessian", hessian)
        self.a, self.b = nn.Parameter(start[:2].clone()), nn.Parameter(start[2:].clone())

    def forward(self) -> Tensor:
        theta = torch.cat([self.a, self.b])
        return theta @ self.hessian @ theta / 2


def test_sam_on_a_quadratic_is_its_closed_form() -> None:
    """theta' = theta - lr H (theta + rho H theta / |H theta|) (Foret et al., 2021, equations 2 and 3)."""
    torch.manual_seed(1)
    root = torch.randn(5, 5, dtype=torch.float64)
    hessian, theta = root @ root.T, torch.randn(5, dtype=torch.float64)
    model = Quadratic(hessian, theta)
    one_step(model, "sam", rho=0.7)
    gradient = hessian @ theta
    want = theta - 0.01 * hessian @ (theta + 0.7 * gradient / gradient.norm())
    got = torch.cat([model.a, model.b]).detach()
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_an_interrupted_run_with_sam_resumes_to_the_same_bits(tmp_path: Path) -> None:
    whole = descend(regression(), checkpoint=tmp_path / "whole", **sam(0.1))
    with pytest.raises(KeyboardInterrupt):
        descend(regression(), checkpoint=tmp_path / "parts", stop=3, **sam(0.1))
    assert same(descend(regression(), checkpoint=tmp_path / "parts", **sam(0.1)), whole)
    assert learned(whole, regression().state_dict())


def test_asam_on_a_quadratic_is_its_closed_form() -> None:
    """eps = rho T^2 g / |T g|, T = |theta| + eta (Kwon et al., 2021, equation 8)."""
    torch.manual_seed(2)
    root = torch.randn(5, 5, dtype=torch.float64)
    hessian, theta = root @ root.T, torch.randn(5, dtype=torch.float64)
    model = Quadratic(hessian, theta)
    one_step(model, "asam", rho=0.7, eta=0.2)
    gradient, t = hessian @ theta, theta.abs() + 0.2
    want = theta - 0.01 * hessian @ (theta + 0.7 * t**2 * gradient / (t * gradient).norm())
    torch.testing.assert_close(torch.cat([model.a, model.b]).detach(), want, rtol=1e-10, atol=1e-10)


def one_step(model: nn.Module, rule: str, **settings: float) -> None:
    descend(
        model,
        lambda _: (),
        steps=1,
        lr=0.01,
        optimizer="sgd",
        momentum=0.0,
        weight_decay=0.0,
        step_rule=rule,
        step_rule_settings=settings,
    )


def test_glad_leaves_what_agrees_and_takes_out_what_opposes() -> None:
    torch.manual_seed(3)
    g, sharp = torch.randn(7, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    sharp = sharp * torch.sign(g @ sharp)
    assert torch.equal(Conflict().steer(g, sharp), g)
    steered = Conflict().steer(g, -sharp)
    assert not torch.allclose(steered, g)
    assert abs(float(steered @ sharp)) < 1e-12
    torch.testing.assert_close(steered + Project().steer(g, -sharp), g)


@pytest.mark.parametrize(("beta", "other"), [(0.0, {}), (1.0, sam(0.3))])
def test_glad_mixes_the_plain_step_and_sam(beta: float, other: dict[str, object]) -> None:
    mixed = descend(
        regression(), step_rule="glad-mix", step_rule_settings={"rho": 0.3, "beta": beta}
    )
    assert same(mixed, descend(regression(), **other))
    assert learned(mixed, regression().state_dict())


@pytest.mark.parametrize("rule", ["glad", "glad-project"])
def test_steering_a_tensor_at_a_time_is_another_step(rule: str) -> None:
    torch.manual_seed(1)
    root = torch.randn(5, 5, dtype=torch.float64)
    found = []
    for per_tensor in (0.0, 1.0):
        model = Quadratic(root @ root.T, torch.ones(5, dtype=torch.float64))
        one_step(model, rule, rho=20.0, per_tensor=per_tensor)
        found.append(torch.cat([model.a, model.b]).detach())
    assert (rule == "glad") == torch.equal(*found)  # both tensors agree with SAM's gradient here


class Pair(nn.Module):
    """L = <C, s B A>, linear in B, so its gradient stays; A rests. ``curved`` adds |s B A|^2."""

    def __init__(self, *, curved: bool = False) -> None:
        super().__init__()
        self.curved = curved
        with torch.random.fork_rng():
            torch.manual_seed(4)
            self.pair = LowRank(6, 3, scale=0.5, out=5).double()
            self.register_buffer("direction", torch.randn(5, 6, dtype=torch.float64))
            nn.init.normal_(self.pair.b)
        self.pair.a.requires_grad_(False)

    def forward(self) -> Tensor:
        change = self.pair.scale * self.pair.b @ self.pair.a
        return (self.direction * change).sum() + self.curved * change.square().sum()


def test_eflat_lora_climbs_along_the_gradient_of_the_weight() -> None:
    """eps_W = rho G_W / |G_W| with G_W on A's row space, computed with matrices of the weight's size."""
    module = Pair()
    rule = make_step_rule("eflat-lora-exact", {"rho": 0.3})
    assert isinstance(rule, LowRankRule)
    rule.prepare(module)
    module().backward()
    module.pair.a.requires_grad_(True)
    ((b, change),) = rule.ascent()
    assert b is module.pair.b
    assert not change.requires_grad
    a = module.pair.a.detach()
    of_weight = module.direction @ torch.linalg.pinv(a) @ a
    wanted = 0.3 * of_weight / of_weight.norm()
    torch.testing.assert_close(module.pair.scale * change @ a, wanted, rtol=1e-9, atol=1e-12)


def test_the_running_mean_without_memory_is_the_exact_change() -> None:
    module = Pair()
    rule = make_step_rule("eflat-lora", {"rho": 0.3, "beta": 0.0})
    exact = make_step_rule("eflat-lora-exact", {"rho": 0.3})
    assert isinstance(exact, LowRankRule)
    for each in (rule, exact):
        each.prepare(module)
    calls = []

    def evaluate() -> Tensor:
        module.zero_grad()
        calls.append(module.pair.b.detach().clone())
        loss: Tensor = module()
        loss.backward()
        return loss.detach()

    context = StepContext([module.pair.b], evaluate, lambda: None)
    start = module.pair.b.detach().clone()
    for _ in range(2):
        rule.step(context)
    ((_, change),) = exact.ascent()
    assert len(calls) == 2  # one backward a step
    assert torch.equal(calls[0], start)
    torch.testing.assert_close(calls[1], start + change, rtol=1e-12, atol=1e-12)
    assert torch.equal(module.pair.b, start)


def test_eflat_lora_resumes_with_its_mean(tmp_path: Path) -> None:
    rule: dict[str, object] = {"step_rule": "eflat-lora", "step_rule_settings": {"rho": 0.5}}

    def run(file: str, stop: int = 0) -> dict[str, Tensor]:
        pair = Pair(curved=True)
        return descend(pair, lambda _: (), checkpoint=tmp_path / file, stop=stop, **rule)

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("parts", stop=3)
    assert same(run("parts"), whole)
    plain = descend(Pair(curved=True), lambda _: ())
    assert not torch.allclose(whole["pair.b"], plain["pair.b"])  # the mean has a say
    with pytest.raises(ConfigError, match=r"low-rank pairs.*lora-qkv"):
        descend(regression(), **rule)


def test_the_ledger_counts_what_a_rule_repeats() -> None:
    backbone = tiny.plain()
    plain, sharp = (
        ledger(backbone, create("adaptertune", {"step_rule": rule}), 3) for rule in ("plain", "sam")
    )
    assert sharp.flops_training == 2 * plain.flops_training > 0
    assert sharp.flops_forward == plain.flops_forward


def test_rules_state_what_they_cost_and_what_they_take() -> None:
    costs = {name: make_step_rule(name).gradient_evaluations for name in STEP_RULES.names()}
    assert costs == {"plain": 1, "eflat-lora": 1, "flat-lora": 1} | dict.fromkeys(
        ("asam", "eflat-lora-exact", "glad", "glad-mix", "glad-project", "sam"), 2
    )
    with pytest.raises(ConfigError, match="sam"):
        make_step_rule("sma")
    with pytest.raises(ConfigError, match="rho"):
        make_step_rule("sam", {"radius": 0.1})
    with pytest.raises(ConfigError, match="negative"):
        make_step_rule("sam", {"rho": -1.0})


def test_a_command_line_can_set_a_rule() -> None:
    """``--set`` gives texts."""
    recipe = create("lora-qkv", {"step_rule": "sam", "step_rule_settings": "rho=0.1"}).recipe
    assert recipe.step_rule_settings == {"rho": 0.1}
    with pytest.raises(ConfigError, match="rho"):
        create("lora-qkv", {"step_rule_settings": "rho=much"})


def carrying() -> tuple[AdaptedModel, nn.Linear]:
    """LoRA on the fused q, k and v of a tiny ViT, with weights of its own."""
    backbone = tiny.plain()
    with tiny.seeded(0):
        plan = create("lora-qkv", {"rank": 2, "blocks": "0"}).plan(backbone, 3)
    for attachment in plan.attach:
        nn.init.normal_(attachment.layer.b, std=0.1)
    module = backbone.site("block.0.attn.q").module
    assert isinstance(module, nn.Linear)
    return AdaptedModel(backbone, plan), module


def test_flat_lora_draws_noise_of_the_size_of_the_adapted_rows() -> None:
    model, qkv = carrying()
    rule = FlatLoRA(0.5)
    rule.prepare(model)
    ((weight, first), *others) = rule.noise()
    assert weight is qkv.weight
    assert not others
    layers = [a.layer for a in model.changes.attach]
    adapted = qkv.weight + torch.cat([layer.scale * layer.b @ layer.a for layer in layers])
    draws = torch.stack([first, *(rule.noise()[0][1] for _ in range(199))])
    ratio = draws.square().sum(2).mean(0).sqrt() / adapted.norm(dim=1)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.5), rtol=0.1, atol=0)


def test_flat_lora_gives_the_gradient_there_and_the_old_bits_back() -> None:
    model, qkv = carrying()
    rule, seen, before = FlatLoRA(0.5), [], qkv.weight.clone()
    rule.prepare(model)

    def evaluate() -> Tensor:
        seen.append((qkv.weight.clone(), torch.get_rng_state()))
        return torch.zeros(())

    torch.manual_seed(3)
    state = torch.get_rng_state()
    rule.step(StepContext(list(model.parameters()), evaluate, lambda: None))
    torch.manual_seed(3)
    assert torch.equal(seen[0][0], before + rule.noise()[0][1])
    assert torch.equal(seen[0][1], state)
    assert torch.equal(qkv.weight, before)
    with pytest.raises(ConfigError, match="low-rank pairs"):
        FlatLoRA().prepare(regression())


@pytest.mark.parametrize(
    ("rule", "settings", "words"),
    [
        ("sam", {"rho": -0.1}, "rho of step_rule=sam must not be negative, but is -0.1"),
        ("asam", {"eta": -1.0}, "eta of step_rule=asam must not be negative"),
        ("glad", {"per_tensor": 2.0}, r"per_tensor of step_rule=glad must lie in \[0, 1\]"),
        ("glad-mix", {"beta": 1.1}, r"beta of step_rule=glad-mix must lie in \[0, 1\], but is 1.1"),
        ("glad-mix", {"beta": -0.1}, "must lie in"),
        ("flat-lora", {"sigma": -1.0}, "sigma of step_rule=flat-lora must not be negative"),
        ("eflat-lora", {"rho": -1.0}, "rho of step_rule=eflat-lora must not be negative"),
        ("eflat-lora", {"beta": 1.5}, r"beta of step_rule=eflat-lora must lie in \[0, 1\]"),
        ("eflat-lora-exact", {"rho": float("nan")}, "must not be negative, but is nan"),
        ("samm", {}, "sam"),
        ("sam", {"radius": 1.0}, "setting of step_rule=sam"),
    ],
)
def test_settings_of_a_rule_have_bounds(rule: str, settings: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_step_rule(rule, settings)


def test_the_bounds_of_a_rule_are_inside() -> None:
    for rule, settings in (("sam", {"rho": 0.0}), ("asam", {"rho": 0.0, "eta": 0.0}), ("glad", {"per_tensor": 1.0}), ("glad-mix", {"beta": 0.0}), ("glad-mix", {"beta": 1.0}), ("flat-lora", {"sigma": 0.0}), ("eflat-lora", {"rho": 0.0, "beta": 0.0})):  # fmt: skip
        assert make_step_rule(rule, settings)


def test_weights_that_moved_have_their_bits_again_even_after_an_error() -> None:
    one = nn.Parameter(torch.tensor([0.1, 0.2], dtype=torch.bfloat16))
    before = one.detach().clone()
    context = moved([(one, torch.tensor([1e-3, 5.0]))])
    context.__enter__()
    assert one.tolist()[1] == 5.1875
    assert not context.__exit__(KeyError, KeyError(), None)
    assert torch.equal(one, before)
    assert one.grad is None


def test_a_norm_is_of_all_tensors_in_single_precision_at_least() -> None:
    parts = [torch.full((4096,), 0.01, dtype=torch.bfloat16), torch.tensor([3.0])]
    assert norm(parts).dtype is torch.float32
    assert float(norm(parts)) == pytest.approx((4096 * 0.01001**2 + 9) ** 0.5, rel=1e-3)
    assert norm([torch.ones(2, dtype=torch.float64)]).dtype is torch.float64


def test_what_has_no_low_rank_pair_is_refused_by_its_rules() -> None:
    for rule in ("flat-lora", "eflat-lora", "eflat-lora-exact"):
        with pytest.raises(ConfigError, match=f"step_rule={rule.removesuffix('-exact')} moves"):
            make_step_rule(rule).prepare(nn.Linear(2, 2))
