"""Which images look like the domain, by the odds of their codes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from petiole.backbones.codebook_lvlm import VisionOutput
from petiole.errors import BackboneError
from petiole.tasks.codebook.routing import belongs, routed

GENERAL = torch.tensor([0.5, 0.25, 0.25])
DOMAIN: Any = SimpleNamespace(original=torch.tensor([[0.125, 0.25, 0.625], [9.0, 9.0, 9.0]]))


def tower(general: torch.Tensor = GENERAL) -> Any:
    return SimpleNamespace(frequencies=general, image_backbone=SimpleNamespace(name="net"))


def codes(*rows: list[int]) -> torch.Tensor:
    """First codes of tokens; the second one says the opposite."""
    first = torch.tensor(rows)
    return torch.stack([first, 2 - first], dim=-1)


def test_odds_are_summed_over_the_tokens_of_an_image() -> None:
    # log odds: -1.39, 0 and +0.92: one token of the third kind does not outweigh one of the first, two do
    found = belongs(codes([2, 2, 0], [2, 0, 1], [1, 1, 1], [1, 1, 2]), DOMAIN, tower())
    assert found.tolist() == [True, False, False, True]
    with pytest.raises(BackboneError, match=r"^net does not say how often its codes occur"):
        belongs(codes([0]), DOMAIN, tower(torch.tensor([0.5, 0.0, 0.5])))


def test_each_image_has_the_looks_of_one_encoder() -> None:
    shown = codes([2, 2], [0, 0])

    def seen_by(v: float) -> VisionOutput:
        z = torch.full((2, 2, 3), v)
        return VisionOutput(z, z + 1, shown + int(v), (z + 2).expand(2, 2, 2, 3), z[..., 0] + 3)

    tuned, original = seen_by(10.0), seen_by(0.0)
    output, own = routed(tuned, original, DOMAIN, tower())
    assert own.tolist() == [True, False]
    assert [output.z[:, 0, 0].tolist(), output.seen[:, 0, 0].tolist()] == [[10.0, 0.0], [11.0, 1.0]]
    assert output.codes[:, 0, 0].tolist() == [12, 0]
    assert output.partials[:, :, 0, 0].tolist() == [[12.0, 2.0]] * 2
    assert output.residual[:, 0].tolist() == [13.0, 3.0]
