"""The graph adapter: zero-shot at the start, its equation afterwards, and images of training as nodes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from builders.prompts import adapted as on_clip
from petiole.methods.prompt_learning.graph_adapter import KINDS


@torch.no_grad()
def test_it_starts_as_zero_shot_and_then_follows_its_equation() -> None:
    plain = on_clip("zero-shot").head
    adapted = on_clip("graph-adapter", rank=2, temperature=0.5)
    head = adapted.head
    torch.testing.assert_close(head.embeddings(), plain.embeddings())
    images, labels = torch.randn(6, head.width), torch.tensor([0, 0, 2, 2, 2, 0])
    adapted.plan.start(images, labels, torch.ones(6, dtype=torch.bool))
    torch.testing.assert_close(
        head.visual[0], normalize(normalize(images[labels == 0], dim=-1).mean(0), dim=0)
    )
    assert not head.visual[1].any()
    for part in head.messages.values():
        nn.init.normal_(part.b)
    opposite = on_clip("zero-shot", templates=("a photo of no {}.",)).head
    texts = plain.embeddings()
    nodes = dict(zip(KINDS, (texts, opposite.embeddings(), head.visual), strict=True))
    for c, got in enumerate(head.embeddings()):
        want: Tensor = texts[c].clone()
        for kind, node in nodes.items():
            shares = torch.exp(node @ texts[c] / 0.5)
            message = sum(a * h for a, h in zip(shares / shares.sum(), node, strict=True))
            want += head.messages[kind].b @ head.messages[kind].a @ message
        torch.testing.assert_close(got, want / want.norm())


@torch.no_grad()
def test_other_names_read_the_same_images() -> None:
    adapted = on_clip("graph-adapter", rank=2)
    head = adapted.head
    for part in head.messages.values():
        nn.init.normal_(part.b)
    adapted.plan.start(torch.randn(3, head.width), torch.arange(3), torch.ones(3))
    before = head.embeddings()
    adapted.name(("cedar", "oak"))
    assert head.embeddings().shape == (2, head.width)
    # A class vector depends on the other texts, through the shares.
    assert not torch.allclose(head.embeddings()[0], before[2])
