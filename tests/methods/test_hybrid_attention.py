"""Hybrid attention: zero-shot at the start, its equation afterwards, and other names as good as the first."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import normalize

from builders.prompts import TREES
from builders.prompts import adapted as on_clip


@torch.no_grad()
def test_it_starts_as_zero_shot_and_then_follows_its_equation() -> None:
    plain, adapted = (
        on_clip("zero-shot"),
        on_clip("hybrid-attention", rank=2, temperature=0.5),
    )
    images = torch.randn(4, 3, *adapted.backbone.preprocessing.size)
    state = adapted.backbone.lower(images, adapted.plan.reads)
    torch.testing.assert_close(adapted(state).logits, plain(state).logits)
    for part in (adapted.plan.pool.inner, adapted.plan.head.cross):
        nn.init.normal_(part.b)
    texts, inner, cross = plain.head.embeddings(), adapted.plan.pool.inner, adapted.plan.head.cross
    for i, got in enumerate(adapted(state).logits):
        vector, patches, attention = (state[role][i] for role in adapted.plan.reads)
        seen = sum(a * h for a, h in zip(attention, patches, strict=True))
        v = vector / vector.norm() + inner.b @ inner.a @ (seen / seen.norm())
        v /= v.norm()
        shares = torch.exp(texts @ v / 0.5)
        v = v + cross.b @ cross.a @ (shares @ texts / shares.sum())
        torch.testing.assert_close(got, plain.head.scale * texts @ v / v.norm())


@torch.no_grad()
def test_other_names_are_attended_to_alike() -> None:
    adapted = on_clip("hybrid-attention", rank=2)
    nn.init.normal_(adapted.plan.head.cross.b)
    vectors = normalize(torch.randn(2, adapted.plan.head.width), dim=-1)
    before = adapted.plan.head(vectors)
    adapted.name(("cedar", "oak"))
    after = adapted.plan.head(vectors)
    assert after.shape == (2, 2)
    # A logit depends on the other texts, through the shares.
    assert not torch.allclose(after[:, 0], before[:, 2])
    adapted.name(TREES)
    torch.testing.assert_close(adapted.plan.head(vectors), before)
