"""Where an image's vector looks, by hand and by torch's own attention; more tokens than patches are left out."""

from __future__ import annotations

from math import exp, sqrt

import torch
from torch import nn

from petiole.backbones.vision.attention import ClassToken, CosineAttention, ProbeAttention


def test_a_probe_looks_as_torchs_attention_does() -> None:
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    nn.init.normal_(attention.in_proj_bias)
    probe, tokens = torch.randn(1, 1, 4), torch.randn(3, 7, 4)
    _, want = attention(probe.expand(3, -1, -1), tokens, tokens)
    found = ProbeAttention(probe, attention)({"final.tokens": tokens}, tokens[:, 0], tokens[:, :5, :2])  # fmt: skip
    torch.testing.assert_close(found, want[:, 0, :5])


def test_a_class_token_looks_at_what_stands_behind_it() -> None:
    """Two heads of width 1: scores 1 and 2 times the keys; a register before the patches, a prompt behind them."""
    looking = ClassToken(block=3, heads=2, prefix=2)
    assert looking.roles == ("block.3.attn.q", "block.3.attn.k")
    queries = torch.tensor([[[1.0, 2.0], *[[9.0, 9.0]] * 4]])
    keys = torch.tensor([[[0.0, 0], [1, 0], [2, 1], [0, 3], [1, 1]]])
    found = looking(dict(zip(looking.roles, (queries, keys), strict=True)), queries[:, 0], keys[:, 2:4])  # fmt: skip
    heads = [[exp(q * k) for k in keys[0, :, i].tolist()] for i, q in enumerate((1, 2))]
    want = [sum(head[n] / sum(head) for head in heads) / 2 for n in (2, 3)]
    torch.testing.assert_close(found, torch.tensor([want]))
    wide = ClassToken(block=0, heads=1)
    two = dict(zip(wide.roles, (queries, keys), strict=True))
    scores = [exp((k[0] + 2 * k[1]) / sqrt(2)) for k in keys[0].tolist()]
    torch.testing.assert_close(
        wide(two, queries[:, 0], keys[:, 1:]), torch.tensor([scores[1:]]) / sum(scores)
    )


def test_likeness_is_of_directions_alone() -> None:
    patches, vector = torch.tensor([[[2.0, 0], [0, 3], [-1, 0]]]), torch.tensor([[5.0, 0]])
    shares = torch.tensor([[exp(1), exp(0), exp(-1)]])
    torch.testing.assert_close(CosineAttention()({}, vector, patches), shares / shares.sum())
