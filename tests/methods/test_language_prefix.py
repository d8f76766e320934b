"""Prefixes against attention over longer keys and values, written out in float64 without blank places."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from builders import seq2seq as tiny
from petiole.backbones.encoder_decoder import Seq2Seq
from petiole.backbones.hooks import observed
from petiole.methods.registry import create
from petiole.methods.text import TextMethod
from petiole.tasks.text.model import AdaptedTextModel

N, TASKS = 3, (1, 0, 1)


def speaker(kind: str, sharing: str = "multiple") -> tuple[Seq2Seq, AdaptedTextModel]:
    model = tiny.model(kind)
    model.module.double()
    method = create("vl-prefix", {"prefix": N, "tasks": 2, "sharing": sharing})
    assert isinstance(method, TextMethod)
    torch.manual_seed(0)
    one = AdaptedTextModel(model, method.plan(model)).double().eval()
    with torch.no_grad():
        for parameter in one.attach.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return model, one


def inputs() -> Any:
    batch = tiny.inputs()
    assert batch.visual is not None
    return type(batch)(batch.ids, batch.mask, visual=batch.visual.double(), boxes=None)


def by_hand(
    model: Seq2Seq,
    one: AdaptedTextModel,
    at: str,
    row: int,
    queries: Tensor,
    memory: Tensor,
    add: Tensor,
) -> Tensor:
    """softmax(q [P_k; K]^T s + add) [P_v; V] of each head, then the output map; (Q, d)."""
    site = {value: model.site(f"{at}.{value}").module for value in ("q", "k", "v", "out")}
    key = at.replace(".", "/")
    prefix = [one.attach[f"{key}/{value}"].layers[TASKS[row]].rows() for value in ("k", "v")]  # type: ignore[union-attr,index]
    q, k, v = site["q"](queries), site["k"](memory), site["v"](memory)
    k, v = torch.cat([prefix[0], k]), torch.cat([prefix[1], v])
    bart = hasattr(model.config, "encoder_attention_heads")
    heads = (
        (
            model.config.encoder_attention_heads
            if "encoder" in at
            else model.config.decoder_attention_heads
        )
        if bart
        else model.config.num_heads
    )
    size = q.shape[1] // heads
    outs = []
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        scores = q[:, part] @ k[:, part].T * (size**-0.5 if bart else 1.0) + add[h % len(add)]
        outs.append(torch.softmax(scores, dim=-1) @ v[:, part])
    result: Tensor = site["out"](torch.cat(outs, dim=1))
    return result


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_attention_sees_the_learned_keys_and_values_before_its_own(kind: str) -> None:
    model, one = speaker(kind)
    batch, labels = inputs(), torch.arange(3, 8).repeat(3, 1)
    at = ("encoder.block.1.attn", "decoder.block.0.cross")
    roles = [f"{place}.{value}" for place in at for value in ("in", "out")]
    with torch.no_grad(), one._at_work(TASKS), observed(model, roles) as seen:
        encoded = model.encode(batch)
        model.logits(encoded, labels)
    length, places = batch.ids.shape[1], batch.visual.shape[1]
    for row in range(3):
        hidden = torch.zeros(N + length + places, dtype=torch.float64)
        hidden[N : N + length][~batch.mask[row]] = -torch.inf
        bias = torch.zeros(1, length + places, N + length + places, dtype=torch.float64)
        if kind == "t5":  # the prefix stands before the text
            language: Any = model.module.language
            first = language.encoder.block[0].layer[0].SelfAttention
            own = first.compute_bias(N + length, N + length)[0, :, N:].detach()
            bias = pad(own, (0, places, 0, places))
        with torch.no_grad():
            stream = seen[f"{at[0]}.in"][row, N:]
            own_attention = by_hand(model, one, at[0], row, stream, stream, bias + hidden)
            inference, memory = seen[f"{at[1]}.in"][row], encoded.states[row, N:]
            cross = by_hand(model, one, at[1], row, inference, memory, hidden[None, None])
        real = torch.cat([batch.mask[row], torch.ones(places, dtype=torch.bool)])
        got = seen[f"{at[0]}.out"][row, N:]
        torch.testing.assert_close(got[real], own_attention[real], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(seen[f"{at[1]}.out"][row], cross, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_what_lies_in_the_blank_places_reaches_no_score(kind: str) -> None:
    model, one = speaker(kind)
    labels = torch.arange(3, 8).repeat(3, 1)
    with torch.no_grad():
        want = one(inputs(), labels, TASKS)
        blank: Any = one.attach["encoder/text"]
        blank.rows.value.add_(torch.randn(N, model.width))
        torch.testing.assert_close(one(inputs(), labels, TASKS), want, rtol=1e-9, atol=1e-9)
        other = one(inputs(), labels, (0, 0, 0))
    assert not torch.allclose(other, want, atol=1e-3), "the prefix must matter"


def test_the_state_holds_keys_and_values_alone() -> None:
    model, one = speaker("bart", "single")
    places = [f"encoder/block/{i}/attn" for i in range(2)] + ["decoder/block/0/cross"]
    keys = {f"attach.{at}/{value}.rows.value" for at in places for value in ("k", "v")}
    assert {key for key in one.state_dict() if key.startswith("attach")} == keys
    assert all(one.state_dict()[key].shape == (N, model.width) for key in keys)
