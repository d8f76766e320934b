"""Adapting to each test image, a few numbers at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from petiole.backbones.hooks import Attach
from petiole.errors import ConfigError
from petiole.methods.test_time import descent
from petiole.methods.test_time.affine import AffinePerImage
from petiole.methods.test_time.base import ROWS, WORDS, FrozenClassifier, make_test_time
from petiole.methods.test_time.descent import Descent, Session, entropy_of_mean
from petiole.methods.test_time.lora_ttt import LoRATTT, LowRankPerImage
from petiole.methods.test_time.mta import MTA


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(("kept", "count"), [(0.5, 2), (0.74, 2), (0.1, 1), (1.0, 4)])
def test_the_surest_views_are_averaged(kept: float, count: int) -> None:
    logits = 2 * drawn(3, 4, 5)
    logits.requires_grad_()
    p = logits.softmax(-1)
    own = -(p * p.log()).sum(-1)
    for image, found in enumerate(entropy_of_mean(logits, kept)):
        mean = p[image][own[image].argsort()[:count]].mean(0)
        torch.testing.assert_close(found, -(mean * mean.log()).sum())
    entropy_of_mean(logits, kept).sum().backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad.abs().sum(-1) > 0, own < own.sort(-1).values[:, count - 1 : count] + 1e-12)  # fmt: skip


def test_the_mode_of_few_views_by_one_round() -> None:
    """Of three views the width is set by the nearest one; without affinity the shares are the density's."""
    vectors, logits = normalize(drawn(2, 3, 4) + 1, dim=-1), drawn(2, 3, 5)
    found = MTA(affinity=0.0, rounds=1, sharpness=0.5).mode(vectors, logits)
    for image in range(2):
        v = vectors[image]
        width = [min(float((v[p] - v[q]).square().sum()) for q in range(3) if q != p) / 2 for p in range(3)]  # fmt: skip
        k = torch.stack([(-(v[p] - v[0]).square().sum() / (2 * width[p])).exp() for p in range(3)])
        y = (k / 0.5).softmax(0)
        torch.testing.assert_close(found[image], normalize((y * k) @ v, dim=0))
    assert torch.equal(MTA(rounds=0).mode(vectors, logits), vectors[:, 0])
    same = vectors[:, :1].expand(-1, 3, -1)  # views that are equal have no width
    torch.testing.assert_close(MTA().mode(same, logits), vectors[:, 0])


def test_mta_compares_unit_vectors_and_scores_the_mode() -> None:
    model: Any = SimpleNamespace(
        lower=lambda images: images[:, :4], attached=nullcontext, vectors=lambda state: state,
        scores=lambda vectors: 2 * vectors[..., :3],
    )  # fmt: skip
    views = drawn(2, 3, 6)
    found = MTA().adapt(model, views)
    vectors = views[..., :4].float()
    want = MTA().mode(normalize(vectors, dim=-1), 2 * vectors[..., :3])
    torch.testing.assert_close(found.vectors, want)
    torch.testing.assert_close(found.logits, 2 * want[:, :3])
    assert not found.logits.requires_grad


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("mta", {"views": 1}, "views must be at least 2, but is 1"),
        ("mta", {"images_at_once": 3}, "images_at_once must divide 16, but is 3"),
        ("tpt", {"images_at_once": 32}, "images_at_once must divide 16, but is 32"),
    ],
)
def test_what_cannot_be_adapted_by_is_said(name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_test_time(name, settings)
    assert make_test_time(name, {"views": 2, "images_at_once": 16}).name == name


def test_layers_of_an_image_see_its_own_rows() -> None:
    rows = drawn(6, 3, 4)  # three views of each of two images, three tokens
    layer = AffinePerImage(2, 4).double()
    assert torch.equal(layer(rows), torch.zeros_like(rows))
    with torch.no_grad():
        layer.scale.copy_(drawn(2, 4))
        layer.shift.copy_(torch.tensor([[1.0], [7.0]]))
    own = torch.arange(6) // 3
    want = rows * layer.scale[own][:, None] + layer.shift[own][:, None]
    torch.testing.assert_close(layer(rows), want)
    pair = LowRankPerImage(2, 4, 5, rank=2, scale=3.0, dropout=0.0).double()
    assert torch.equal(pair.a[0], pair.a[1])
    assert not pair.b.any()
    nn.init.normal_(pair.b)
    wanted = [3 * x @ pair.a[i].T @ pair.b[i].T for x, i in zip(rows, own.tolist(), strict=True)]
    torch.testing.assert_close(pair(rows), torch.stack(wanted))


def test_every_image_sees_the_same_dropout() -> None:
    pair = LowRankPerImage(2, 8, 3, rank=2, scale=1.0, dropout=0.5).train()
    with torch.no_grad():
        pair.b.copy_(torch.ones(2, 3, 2))
    row = torch.ones(1, 4, 8).expand(2, 4, 8)
    torch.manual_seed(0)
    found = pair(row)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0, 0], found[0, 1])  # each row of an image its own


class Toy(Descent):
    """A scale and a shift an image."""

    def session(self, _: FrozenClassifier, images: int) -> Session:
        layer = AffinePerImage(images, 3)
        return Session([Attach("role", layer)])


class Frozen:
    """A classifier whose vectors are what the session's layer adds to the images."""

    def __init__(self) -> None:
        self.layer: nn.Module | None = None
        self.modes: list[bool] = []
        self.words: list[bool] = []

    def lower(self, images: Tensor, _: Any = ()) -> Tensor:
        return images

    @contextmanager
    def attached(self, attach: Any = (), *, words: bool = True) -> Iterator[None]:
        self.layer = attach[0].layer
        self.words.append(words)
        yield
        self.layer = None

    def vectors(self, state: Tensor) -> Tensor:
        assert self.layer is not None
        self.modes.append(self.layer.training)
        return (state[:, None] + self.layer(state[:, None]))[:, 0]

    def scores(self, vectors: Tensor) -> Tensor:
        return 2 * vectors


def further(_: Any, session: Session, images: Tensor) -> Any:
    """A second loss, of both numbers."""
    layer: Any = session.layers[0]
    return lambda: ((layer.shift - images).square() + layer.scale.square() + layer.scale).sum(-1)


@pytest.mark.parametrize("more", [False, True])
def test_steps_are_adamws_on_the_entropy_of_each_image(more: bool) -> None:
    way = Toy(steps=2, lr=0.1, weight_decay=0.3, kept=0.5, views=4, images_at_once=2)
    if more:
        object.__setattr__(way, "more", further)
    views = drawn(2, 4, 3).float()
    model: Any = Frozen()
    found = way.adapt(model, views)
    scale, shift = (nn.Parameter(torch.zeros(2, 3)) for _ in range(2))
    optimizer = torch.optim.AdamW([scale, shift], lr=0.1, weight_decay=0.3)
    for _ in range(2):
        loss = entropy_of_mean(2 * (views + views * scale[:, None] + shift[:, None]), 0.5).sum()
        if more:
            loss = loss + ((shift - views[:, 0]).square() + scale.square() + scale).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    want = views[:, 0] + views[:, 0] * scale + shift
    torch.testing.assert_close(found.vectors, want)
    torch.testing.assert_close(found.logits, 2 * want)
    assert model.modes == [True, True, False]
    assert model.words == [True] * 3
    assert not found.vectors.requires_grad


def test_without_a_step_nothing_is_trained_and_an_image_is_one_of_sixteen_rows() -> None:
    way, model = Toy(steps=0, views=2, images_at_once=2), Frozen()
    rows: list[int] = []
    model.scores = lambda vectors: rows.append(vectors.shape[0] * vectors.shape[1]) or vectors  # type: ignore[method-assign,func-returns-value]
    views = drawn(2, 2, 3).float()
    found = way.adapt(model, views)  # type: ignore[arg-type]
    assert torch.equal(found.vectors, views[:, 0])
    assert torch.equal(found.logits, views[:, 0])
    assert (rows, model.modes) == ([ROWS], [False])


def test_predictions_without_a_gradient_cannot_be_stepped_on() -> None:
    trained = [nn.Parameter(torch.ones(2))]
    (gradient,) = descent._gradients((3 * trained[0]).sum(), trained)
    assert gradient.tolist() == [3, 3]
    for loss in (torch.ones(()), nn.Parameter(torch.ones(2)).sum()):
        with pytest.raises(ConfigError, match="predictions have no gradient"):
            descent._gradients(loss, trained)


def test_scores_are_by_the_class_vectors_of_the_start_or_by_the_head() -> None:
    model = object.__new__(FrozenClassifier)
    classes, vectors = normalize(drawn(5, 4), dim=-1), drawn(2, 3, 4)
    head: Any = nn.Linear(4, 5, dtype=torch.float64)
    model.plan = SimpleNamespace(head=head)  # type: ignore[assignment]
    model.classes = None
    torch.testing.assert_close(model.scores(vectors), head(vectors))

    class Named(nn.Module):
        scale = torch.tensor(7.0, dtype=torch.float64)
        embeddings = forget = rename = width = abs

    model.plan, model.classes = SimpleNamespace(head=Named()), classes  # type: ignore[assignment]
    want = 7 * normalize(vectors, dim=-1) @ classes.T
    torch.testing.assert_close(model.scores(vectors), want)


def test_layers_stand_before_and_behind_the_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    from petiole.methods.test_time import base

    said: list[Any] = []
    monkeypatch.setattr(base, "attached", lambda *given: said.append(given) or nullcontext())
    model: Any = object.__new__(FrozenClassifier)
    own = [SimpleNamespace(role=WORDS), SimpleNamespace(role="block.0.out")]
    model.backbone, model.copies = "backbone", {"a": 1}
    model.plan = SimpleNamespace(attach=own, swapped="swapped")
    with model.attached(["behind"], before=["before"]):
        pass
    with model.attached(["behind"], words=False):
        pass
    wanted = (["before", *own, "behind"], [own[1], "behind"])
    assert said == [("backbone", layers, {"a": 1}, "swapped") for layers in wanted]


def test_a_masked_view_is_compared_with_the_whole_one() -> None:
    """A quarter of eight patches stays; the squares are divided by the share that is left out."""
    said: dict[str, Any] = {}

    class Model(Frozen):
        backbone = SimpleNamespace(local_tokens=8, prefix_tokens=1)

        @contextmanager
        def attached(self, *_: Any, before: Any = ()) -> Iterator[None]:  # type: ignore[override]
            said["before"] = before
            yield

        def vectors(self, state: Any) -> Tensor:
            said.setdefault("graph", []).append(torch.is_grad_enabled())
            return state if isinstance(state, Tensor) else 3 * state["images"]

    images = drawn(2, 4)
    session: Any = SimpleNamespace(attach=())
    more = LoRATTT(masked=0.75).more(Model(), session, images)  # type: ignore[arg-type]
    assert more is not None
    torch.testing.assert_close(more(), (2 * images).float().square().mean(-1) / 0.75)
    assert said["graph"] == [False, True]
    (mask,) = said["before"]
    assert (mask.role, mask.how) == ("block.0.in", "replace")
    assert (mask.layer.prefix, mask.layer.patches, len(mask.layer.kept)) == (1, 8, 2)
    assert mask.layer.kept.tolist() == sorted(mask.layer.kept.tolist())
    assert LoRATTT(entropy_only=True).more(Model(), session, images) is None  # type: ignore[arg-type]
