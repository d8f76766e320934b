"""Adapting to each test image: against the plain prediction, each image alone, and the equations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from petiole.backbones.base import Backbone
from petiole.backbones.frozen_network import IMAGES
from petiole.backbones.hooks import Attach, attached
from petiole.data.inputs import as_images
from petiole.errors import ConfigError
from petiole.layers.lowrank import LowRank
from petiole.methods.registry import create
from petiole.methods.test_time.base import make_test_time
from petiole.methods.test_time.descent import entropy_of_mean
from petiole.methods.test_time.lora_ttt import Masked
from petiole.methods.test_time.mta import MTA
from petiole.tasks.classification import test_time as adapting
from petiole.tasks.classification.adapter import outputs_of
from petiole.tasks.classification.model import AdaptedClassifier, Predictions
from petiole.tasks.classification.test_time import adapted_outputs, views_of
from petiole.testing import backbones as tiny
from petiole.testing import dual_encoder as clips
from petiole.testing.random_weights import seeded, shaken

NAMES = ("ash", "birch", "cedar")
QUICK = {"views": 10, "kept": 0.3, "images_at_once": 2}


def pictures(count: int = 3) -> list[Image.Image]:
    drawn = np.random.default_rng(0).integers(0, 256, (count, 40, 33, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in drawn]


def adapter(method: str = "zero-shot", backbone: Backbone | None = None) -> AdaptedClassifier:
    network = backbone or clips.towers()
    with seeded(0):
        built = AdaptedClassifier(network, create(method).plan(network, len(NAMES)))
        if any(True for _ in built.parameters()):
            shaken(built)
    built.name(NAMES)
    return built


def outputs(
    built: AdaptedClassifier, way: str, images: list[Image.Image], **settings: object
) -> Predictions:
    return adapted_outputs(built, as_images(images), make_test_time(way, settings), quiet=True)


def test_a_masked_image_keeps_prompts_before_and_behind() -> None:
    x = torch.randn(2, 2 + 5 + 3, 4)
    found = Masked(2, 5, torch.tensor([3, 0]))(x)
    assert torch.equal(found, x[:, [0, 1, 5, 2, 7, 8, 9]])


WAYS = [
    ("lora-ttt", "zero-shot"),
    ("lora-ttt", "lora-qkv"),
    ("affine", "clip-lora"),
    ("tpt", "zero-shot"),
    ("tpt", "coop"),
    ("mta", "maple"),
]


@pytest.mark.parametrize(("way", "method"), WAYS)
def test_images_adapted_together_end_as_alone_and_leave_nothing_behind(
    way: str, method: str
) -> None:
    built = adapter(method, tiny.plain() if method == "lora-qkv" else None)
    before = {name: value.clone() for name, value in built.state_dict().items()}
    settings = {"views": 10, "images_at_once": 2} | (
        {} if way == "mta" else {"kept": 0.3, "lr": 0.05}
    )
    together = outputs(built, way, pictures(), **settings)
    alone = [outputs(built, way, [one], **settings).logits for one in pictures()]
    torch.testing.assert_close(together.logits, torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert not any(value.requires_grad for value in together)
    assert all(torch.equal(value, before[name]) for name, value in built.state_dict().items())
    assert all(p.grad is None for p in built.parameters())
    assert not built.backbone.carries
    plain = outputs_of(built, as_images(pictures())).logits
    assert not torch.allclose(together.logits, plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("way", "method"), [w for w in WAYS if w[0] in ("lora-ttt", "affine")])
def test_without_a_step_it_is_the_plain_prediction_to_the_bit(way: str, method: str) -> None:
    built = adapter(method, tiny.plain() if method == "lora-qkv" else None)
    got, want = (
        outputs(built, way, pictures(), steps=0, **QUICK),
        outputs_of(built, as_images(pictures())),
    )
    assert torch.equal(got.vectors, want.vectors)
    torch.testing.assert_close(got.logits, want.logits, rtol=1e-6, atol=1e-6)


def test_lora_ttt_is_its_equations() -> None:
    """One image, its loss written out, with the library's own LoRA in the place of the grouped one."""
    built = adapter()
    towers = built.backbone
    way = make_test_time("lora-ttt", {**QUICK, "dropout": 0, "lr": 0.05, "rank": 2})
    views = views_of(pictures()[0], built, 10)
    got = adapted_outputs(built, as_images(pictures()[:1]), way, quiet=True).logits
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [LowRank(24, 2, scale=2.0) for _ in range(6)]
        kept = torch.randperm(4)[:1]
    places = [(f"block.{i}.attn.{n}", f"block.{i}.attn.in") for i in (1, 2) for n in "qkv"]
    attach = [Attach(p[0], layer, p[1]) for p, layer in zip(places, layers, strict=True)]
    texts = built.head.embeddings().detach()

    def seen(images: Tensor, *first: Attach) -> Tensor:
        with attached(towers, [*first, *attach]):
            return towers.upper({IMAGES: images}, (towers.vector,))[towers.vector]

    class Drop(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, [0, 1 + int(kept)]]

    optimizer = torch.optim.AdamW(
        [p for x in layers for p in x.parameters()], 0.05, weight_decay=0.2
    )
    logits = built.head.scale * normalize(seen(views), dim=-1) @ texts.T
    p = logits.softmax(-1)
    entropies = -(p * p.log()).sum(-1)
    mean = p[entropies.argsort()[:3]].mean(0)
    masked = seen(views[:1], Attach("block.0.in", Drop(), how="replace"))
    away = (masked - seen(views[:1]).detach()).square().mean() / 0.75
    loss = -(mean * mean.log()).sum() + away
    loss.backward()
    optimizer.step()
    want = built.head.scale * normalize(seen(views[:1]), dim=-1) @ texts.T
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(entropy_of_mean(logits, 0.3), -(mean * mean.log()).sum())


def test_tpt_starts_from_the_context_of_the_adapter() -> None:
    built = adapter("coop")
    got = outputs(built, "tpt", pictures(), steps=0, **QUICK)
    torch.testing.assert_close(
        got.logits, outputs_of(built, as_images(pictures())).logits, rtol=1e-4, atol=1e-4
    )


def test_mta_is_its_equations() -> None:
    assert MTA(views=2).views == 2, "the fewest that can be compared"
    """A view at a time."""
    with seeded(4):
        vectors = normalize(torch.randn(12, 6, dtype=torch.float64) + 1, dim=-1)
        logits = 3 * torch.randn(12, 4, dtype=torch.float64)
    likely, mode, y = logits.softmax(-1), vectors[0], [1 / 12] * 12
    widths = []
    for p in range(12):
        away = sorted(float((vectors[p] - vectors[q]).norm()) for q in range(12) if q != p)
        widths.append(sum(d**2 for d in away[:3]) / 3 / 2)
    for _ in range(5):
        k = [
            float((-((v - mode).norm() ** 2) / (2 * w)).exp())
            for v, w in zip(vectors, widths, strict=True)
        ]
        for _ in range(5):
            drawn = [sum(float(likely[p] @ likely[q]) * y[q] for q in range(12)) for p in range(12)]
            raw = torch.tensor(
                [(k[p] + 4 * drawn[p]) / 0.2 for p in range(12)], dtype=torch.float64
            )
            y = raw.softmax(0).tolist()
        mode = normalize(sum(y[p] * k[p] * vectors[p] for p in range(12)), dim=0)
    got = MTA().mode(vectors[None].repeat(2, 1, 1), logits[None].repeat(2, 1, 1))
    torch.testing.assert_close(got, mode.expand(2, -1), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("way", "method", "says"),
    [
        ("tpt", "lora-qkv", "has none"),
        ("mta", "lora-qkv", "head has none"),
        ("tpt", "cocoop", "one context"),
    ],
)
def test_an_adapter_that_a_way_does_not_fit_is_refused(way: str, method: str, says: str) -> None:
    built = adapter(method, tiny.plain() if method == "lora-qkv" else None)
    with pytest.raises(ConfigError, match=says):
        outputs(built, way, pictures(1))


@pytest.mark.parametrize(
    ("way", "settings"),
    [
        *[("lora", {}), ("mta", {"rank": 3}), ("tpt", {"kept": 0}), ("mta", {"views": 1})],
        *((way, {"images_at_once": 3}) for way in ("affine", "mta", "tpt", "lora-ttt")),
        ("affine", {"views": 0}),
    ],
)
def test_bad_settings_are_refused(way: str, settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        make_test_time(way, settings)


def test_one_view_and_one_image_at_once_are_enough() -> None:
    none = adapted_outputs(adapter(), [], make_test_time("affine", {}), quiet=True)
    assert [len(one) for one in none] == [0, 0]
    assert make_test_time("affine", {"views": 1, "images_at_once": 1, "kept": 1.0})


@pytest.mark.parametrize(("count", "most", "size"), [(5, 2, 2), (3, 8, 4), (1, 8, 1), (0, 8, 1)])
def test_images_are_adapted_to_in_batches_of_one_size(count: int, most: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """The last batch is filled up by copies, whose answers are left out."""
    told: list[Any] = []
    asked: list[list[float]] = []

    @contextmanager
    def bar(*given: Any, quiet: bool) -> Iterator[Any]:
        told.append((*given, quiet))
        yield told.append

    class Model(nn.Module):
        backbone, plan, copies = SimpleNamespace(device="cpu"), "plan", "copies"

    def adapt(model: Any, views: Tensor) -> Predictions:
        assert model == (Model.backbone, "plan", "copies")
        asked.append(views.tolist())
        return Predictions(views[:, None].double(), 10 * views[:, None].double())

    method: Any = SimpleNamespace(images_at_once=most, views=7, check=told.append, adapt=adapt)
    monkeypatch.setattr(adapting, "progress", bar)
    monkeypatch.setattr(adapting, "FrozenClassifier", lambda *given: given)
    monkeypatch.setattr(adapting, "load_image", lambda ref: ref)
    monkeypatch.setattr(adapting, "views_of", lambda image, _, views: torch.tensor(float(image)) if views == 7 else None)  # fmt: skip
    model = Model().train()
    found = adapted_outputs(model, range(count), method, lambda image: image + 1)  # type: ignore[arg-type]
    rows = [float(i + 1) for i in range(count)]
    assert found.vectors.shape == found.logits.shape == (count, 1)
    assert found.vectors.flatten().tolist() == rows
    assert found.logits.flatten().tolist() == [10 * row for row in rows]
    assert {found.vectors.dtype, found.logits.dtype} == {torch.float32}
    starts = range(0, count, size)
    parts = [rows[start : start + size] for start in starts]
    assert asked == [[*part, *part[-1:] * (size - len(part))] for part in parts]
    assert told == [("adapting", count, False), (Model.backbone, "plan", "copies"), *map(len, parts)]  # fmt: skip
    assert model.training
