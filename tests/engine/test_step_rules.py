"""Rules that wrap an optimiser step: SAM against its closed form, and against the plain step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from petiole.engine.step_rules import make_step_rule
from petiole.errors import ConfigError
from petiole.methods.registry import create
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
    descend(
        model,
        lambda _: (),
        steps=1,
        lr=0.01,
        optimizer="sgd",
        momentum=0.0,
        weight_decay=0.0,
        **sam(0.7),
    )
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


def test_rules_state_what_they_cost_and_what_they_take() -> None:
    assert make_step_rule("plain").gradient_evaluations == 1
    assert make_step_rule("sam", {"rho": 0.1}).gradient_evaluations == 2
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
