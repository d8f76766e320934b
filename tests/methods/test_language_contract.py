"""Beside the contract of methods for language models: the one whose layers depend on the task without sharing."""

from __future__ import annotations

import pytest
import torch

from petiole.testing import encoder_decoder as tiny
from petiole.testing.text_methods import TextCase, scores


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_hypernetwork_makes_other_layers_for_every_task(family: tiny.Family) -> None:
    case = TextCase("vl-hyperformer", family)
    one, of = case.trained(), case.batch()
    assert one.changes.attach
    with torch.no_grad():
        first = one(of.inputs, of.labels, [0] * len(of.tasks))
    assert not torch.allclose(first, scores(one, of), atol=1e-5)
