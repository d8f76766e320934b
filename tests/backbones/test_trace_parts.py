"""What a traced pass tells, of modules that are small enough to know by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from petiole.backbones.vision import trace
from petiole.backbones.vision.block_network import _answering, _stopping, _zeros
from petiole.backbones.vision.trace import (
    _Call,
    _is_first_token,
    _place,
    _record,
    _takes_tokens,
    _whole,
    probe_of,
)


class Scaled(nn.Module):
    """A block that takes more than its stream."""

    def forward(self, x: Tensor, scale: float, shift: float) -> Tensor:
        assert (scale, shift) == (2.0, 1.0)
        return x * scale + shift


class Net(nn.Module):
    def __init__(self, tokens: int | None = None) -> None:
        super().__init__()
        self.first, self.last, self.tokens = Scaled(), Scaled(), tokens

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.first(x, 2.0, 1.0), 2.0, 1.0)
        if self.tokens is not None and y.shape[1] != self.tokens:
            raise ValueError("another number of tokens")
        return y


def taken(net: nn.Module, x: Tensor) -> bool:
    calls = _record(net)
    net(x)
    return _takes_tokens(net, lambda m, images: (m(images), images), x, ["first", "last"], calls)


def test_more_tokens_are_tried_on_blocks_that_take_other_things_too() -> None:
    x = torch.zeros(2, 3, 4)
    assert taken(Net(), x)
    assert taken(Net(tokens=3), x), "what is put before the first block is gone behind the last"
    assert not taken(Net(), torch.zeros(2, 3, 3, 4)), "maps are no tokens"
    net = Net(tokens=3)
    net.first.register_forward_hook(lambda *_: torch.zeros(2, 5, 4))
    with pytest.raises(ValueError, match="another number"):
        net(x)
    calls = {name: _Call(0, x, value_out=x) for name in ("first", "last")}
    assert not _takes_tokens(net, lambda m, i: (m(i), i), x, ["first", "last"], calls)
    assert not any(part._forward_pre_hooks for part in net.modules())


def test_the_first_token_is_a_view_of_its_place_alone() -> None:
    base = torch.randn(2, 3, 4)
    for features in (base, torch.randn(2, 5, 4)[:, 1:4]):
        assert _is_first_token(features[:, 0], features)
        assert not _is_first_token(features[:, 1], features)
        assert not _is_first_token(features[:, 0].clone(), features)
        assert not _is_first_token(features[:1, 0], features)
        assert not _is_first_token(features[0, :2], features)
    assert not _is_first_token(base[:, 0], base[:, :, None])


def test_calls_are_counted_and_told_in_their_order() -> None:
    net = nn.Sequential(nn.Identity(), nn.Linear(2, 2))
    calls = _record(net)
    net(torch.zeros(1, 2))
    order = sorted((when, name) for name, c in calls.items() for when in (c.began, c.ended))
    assert [name for _, name in order] == ["", "0", "0", "1", "1", ""]
    assert all(call.is_block for call in calls.values())
    net(torch.zeros(1, 2))
    assert [call.calls for call in calls.values()] == [2, 2, 2]
    assert not any(call.is_block for call in calls.values())
    assert not _Call(0, [torch.zeros(1)]).is_block


def test_a_place_is_where_one_call_has_floats() -> None:
    x, whole = torch.zeros(2, 5, 12), torch.zeros(2, 5, 12, dtype=torch.long)
    calls = {
        "b": _Call(1, x, 9, (x, whole)),
        "b.qkv": _Call(2, x, 3, x),
        "b.ls": _Call(4, x, 5, x),
        "b.twice": _Call(6, x, 7, x, calls=2),
        "b.ids": _Call(6, whole, 7, [x]),
    }
    found = {
        text: _place("b", text, calls) for text in (" in", " out", "qkv out 2/3", "ls in + qkv")
    }
    assert {text: at[0] for text, at in found.items() if at} == {
        " in": 1,
        " out": 9,
        "qkv out 2/3": 3,
        "ls in + qkv": 4,
    }
    told = [
        (p.module, p.side, p.width, p.columns, p.rejoin) for _, p in filter(None, found.values())
    ]
    assert told == [
        ("b", "in", 12, None, ""),
        ("b", "out", 12, None, ""),
        ("b.qkv", "out", 4, slice(8, 12), ""),
        ("b.ls", "in", 12, None, "b.qkv"),
    ]
    for nowhere in ("gone in", "twice in", "ids in", "ids out", "ls in + twice", "ls in + gone"):
        assert _place("b", nowhere, calls) is None


def test_a_whole_block_gives_a_row_an_image_in_all_that_it_gives() -> None:
    two, one = torch.zeros(2, 3), torch.zeros(1, 3)
    assert _whole(_Call(0, two, value_out=two))
    assert _whole(_Call(0, two, value_out=(two, None, [one])))
    for call in (_Call(0, one, value_out=two), _Call(0, two, value_out=[two, one])):
        assert not _whole(call)


@pytest.mark.parametrize("light", [True, False])
def test_a_probe_copies_no_tensor_and_evaluates(light: bool, monkeypatch: Any) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout()).train()
    size = 16 * 6  # 6 x 2 patches of 16 x 16 pixels
    numbers = sum(p.numel() for p in net.parameters())
    monkeypatch.setattr(trace, "LIGHT", numbers * 12 if light else numbers * 12 - 1)
    probe = probe_of(net, (size, 32))
    assert net.training
    assert not any(part.training for part in probe.modules())
    assert not any(part is own for part, own in zip(probe.modules(), net.modules(), strict=True))
    for made, own in ((probe.parameters(), net.parameters()), (probe.buffers(), net.buffers())):
        for new, old in zip(made, own, strict=True):
            assert (new is old) == light
            assert (new.is_meta, new.shape, new.dtype) == (not light, old.shape, old.dtype)
            assert isinstance(new, nn.Parameter) == isinstance(old, nn.Parameter)
            assert light or not new.requires_grad


def test_a_pass_is_stopped_before_a_block_and_its_forward_answers_otherwise() -> None:
    net, x = Net(), torch.ones(1, 2, 3)
    with _stopping(net.last) as seen:
        net(x)
    assert [each.tolist() for each in seen] == [(2 * x + 1).tolist()]
    assert not net.last._forward_pre_hooks
    blank = _zeros([torch.zeros(2, 5, 3), "said"], x)
    zeros, said = blank(1, two=2)
    assert (zeros.shape, said) == ((1, 5, 3), "said")
    with _answering(net.last, lambda *_: "outer"):
        with _answering(net.last, lambda *_: "inner"):
            assert net.last(x) == "inner"
        assert net.last(x) == "outer"
    assert "forward" not in vars(net.last)
