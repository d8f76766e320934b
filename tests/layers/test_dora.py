"""DoRA against its equation, on weights that are not square."""

import torch
from torch import nn
from torch.nn.functional import linear

from petiole.layers.dora import DoRA

OUT, WIDTH = 5, 3


def moved() -> tuple[torch.Tensor, DoRA]:
    torch.manual_seed(0)
    weight = torch.randn(OUT, WIDTH)
    layer = DoRA(weight, 2, scale=0.5)
    for value in layer.parameters():
        nn.init.normal_(value)
    return weight, layer


def test_it_adds_nothing_at_its_start() -> None:
    weight, x = torch.randn(OUT, WIDTH), torch.randn(4, WIDTH)
    layer = DoRA(weight, 2)
    assert torch.equal(layer(x), torch.zeros(4, OUT))
    assert torch.equal(layer.magnitude, weight.norm(dim=1))


def test_every_row_gets_the_length_that_was_trained_for_it() -> None:
    weight, layer = moved()
    x = torch.randn(4, WIDTH)
    rows = []
    for out in range(OUT):
        turned = weight[out] + 0.5 * layer.b[out] @ layer.a
        rows.append(layer.magnitude[out] * turned / turned.square().sum().sqrt())
    wanted = linear(x, torch.stack(rows)) - linear(x, weight)
    torch.testing.assert_close(layer(x), wanted)
    torch.testing.assert_close(layer.merged(weight, torch.zeros(OUT))[0], torch.stack(rows))


def test_no_gradient_passes_through_the_length() -> None:
    weight, layer = moved()
    x = torch.randn(4, WIDTH)
    layer(x).square().sum().backward()
    got = {name: value.grad.clone() for name, value in layer.named_parameters()}  # type: ignore[union-attr]
    length = (weight + 0.5 * layer.b @ layer.a).norm(dim=1).tolist()
    layer.zero_grad()
    turned = weight + 0.5 * layer.b @ layer.a
    scaled = (layer.magnitude / torch.tensor(length))[:, None] * turned
    (linear(x, scaled) - linear(x, weight)).square().sum().backward()
    for name, value in layer.named_parameters():
        assert value.grad is not None
        torch.testing.assert_close(got[name], value.grad)
        assert value.grad.abs().max() > 1e-3


def test_the_weight_that_it_reads_gets_no_gradient() -> None:
    weight = torch.randn(OUT, WIDTH, requires_grad=True)
    layer = DoRA(weight, 2)
    nn.init.normal_(layer.b)
    layer(torch.randn(4, WIDTH)).square().sum().backward()
    assert weight.grad is None
