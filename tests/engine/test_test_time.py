"""Adapting on a test sample leaves nothing behind."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from petiole.engine.test_time import adapted_predictions
from training_for_tests import batches, regression, same

SAMPLES = [batches(step)[0] for step in range(3)]


def entropy_step(model: nn.Module, sample: Tensor) -> None:
    """A step downhill with the statistics of the sample, in training mode."""
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    model.net(sample).square().mean().backward()
    optimizer.step()


def test_adapting_nothing_is_plain_prediction_to_the_bit() -> None:
    model = regression().eval()
    with torch.no_grad():
        want = [model.net(sample) for sample in SAMPLES]
    got = list(adapted_predictions(model, SAMPLES, model.net))
    assert all(torch.equal(one, two) for one, two in zip(got, want, strict=True))


def test_the_reset_is_exact() -> None:
    """No prediction depends on the samples before it, and the model is as it was."""
    model = regression().eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    together = list(adapted_predictions(model, SAMPLES, model.net, entropy_step))
    alone = [next(adapted_predictions(model, [s], model.net, entropy_step)) for s in SAMPLES]
    assert all(torch.equal(one, two) for one, two in zip(together, alone, strict=True))
    assert same(dict(model.state_dict()), before)
    assert not any(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert not torch.equal(together[0], model.net(SAMPLES[0]))
