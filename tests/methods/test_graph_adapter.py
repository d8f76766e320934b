"""The graph adapter: zero-shot at the start, its equation afterwards, and images of training as nodes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from petiole.methods.prompt_learning.graph_adapter import KINDS, GraphHead
from petiole.methods.registry import create
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.testing import dual_encoder as clips
from petiole.testing.random_weights import seeded

NAMES = ("ash", "birch", "cedar")


def head_of(method: str, **settings: object) -> tuple[AdaptedClassifier, GraphHead]:
    towers = clips.towers()
    with seeded(0):
        adapted = AdaptedClassifier(towers, create(method, settings).plan(towers, len(NAMES)))
    adapted.name(NAMES)
    adapted.eval()
    return adapted, adapted.head


@torch.no_grad()
def test_it_starts_as_zero_shot_and_then_follows_its_equation() -> None:
    _, plain = head_of("zero-shot")
    adapted, head = head_of("graph-adapter", rank=2, temperature=0.5)
    torch.testing.assert_close(head.embeddings(), plain.embeddings())
    images, labels = torch.randn(6, head.width), torch.tensor([0, 0, 2, 2, 2, 0])
    adapted.plan.start(images, labels, torch.ones(6, dtype=torch.bool))
    torch.testing.assert_close(
        head.visual[0], normalize(normalize(images[labels == 0], dim=-1).mean(0), dim=0)
    )
    assert not head.visual[1].any()
    for part in head.messages.values():
        nn.init.normal_(part.b)
    _, opposite = head_of("zero-shot", templates=("a photo of no {}.",))
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
    adapted, head = head_of("graph-adapter", rank=2)
    for part in head.messages.values():
        nn.init.normal_(part.b)
    adapted.plan.start(torch.randn(3, head.width), torch.arange(3), torch.ones(3))
    before = head.embeddings()
    adapted.name(("cedar", "oak"))
    assert head.embeddings().shape == (2, head.width)
    # A class vector depends on the other texts, through the shares.
    assert not torch.allclose(head.embeddings()[0], before[2])
