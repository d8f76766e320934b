"""Where an adapter looks, against differences of logits."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

import petiole
from petiole.backbones.base import Backbone
from petiole.backbones.frozen_network import IMAGES
from petiole.errors import ConfigError
from petiole.methods.registry import create
from petiole.serving.look import attribution, look
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.testing import backbones as tiny


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return petiole.load("petiole/tiny-vit")


@pytest.fixture(scope="module")
def adapted(backbone: Backbone) -> AdaptedClassifier:
    with tiny.seeded(0):
        model = AdaptedClassifier(backbone, create("adaptertune", {"rank": 2}).plan(backbone, 3))
        tiny.shaken(model)
    return model.eval()


def picture() -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((200, 170), Image.Resampling.BICUBIC)


def test_a_patch_that_fades_takes_so_much_of_the_logit(
    backbone: Backbone, adapted: AdaptedClassifier
) -> None:
    pixels = backbone.preprocess(picture())
    patches = attribution(adapted, pixels, 1)
    assert patches.shape == backbone.grid
    rows, columns = backbone.grid
    side, step = pixels.shape[-1] // columns, 1e-3
    order = patches.abs().flatten().argsort(descending=True)
    for place in order[:2].tolist():
        r, c = divmod(place, columns)
        both = torch.stack([pixels, pixels])
        window = (slice(r * side, (r + 1) * side), slice(c * side, (c + 1) * side))
        both[0][:, window[0], window[1]] *= 1 + step
        both[1][:, window[0], window[1]] *= 1 - step
        with torch.no_grad():
            above, below = adapted({IMAGES: both}).logits[:, 1]
        assert float(above - below) / (2 * step) == pytest.approx(float(patches[r, c]), rel=0.05)
    assert rows * side == pixels.shape[-2]


def test_it_shows_what_the_model_sees(backbone: Backbone, adapted: AdaptedClassifier) -> None:
    facts = {"method": "adaptertune", "settings": {"rank": 2}, "classes": ["a", "b", "c"]}
    adapter = ClassificationAdapter.of(adapted, calibration=None, **facts)  # type: ignore[arg-type]
    image = picture()
    pixels = backbone.preprocess(image)
    told = look(adapter, pixels, None)
    with torch.no_grad():
        best = int(adapted({IMAGES: pixels[None]}).logits.argmax())
    assert told["label"] == adapter.classes[best]
    assert told["patches"] == attribution(adapted, pixels, best).tolist()
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(told["seen"])))).astype(float)
    again = backbone.preprocess(Image.fromarray(shown.astype(np.uint8)))
    assert float((again - pixels).abs().mean()) < 0.05
    with pytest.raises(ConfigError, match="class of this adapter 'd'"):
        look(adapter, pixels, "d")


def test_it_answers_as_in_evaluation_whatever_the_mode(backbone: Backbone) -> None:
    with tiny.seeded(0):
        method = create("adaptertune", {"rank": 2, "dropout": 0.9})
        model = AdaptedClassifier(backbone, method.plan(backbone, 3))
        tiny.shaken(model)
    facts = {"method": "adaptertune", "settings": {"rank": 2}, "classes": ["a", "b", "c"]}
    adapter = ClassificationAdapter.of(model.eval(), calibration=None, **facts)  # type: ignore[arg-type]
    pixels = backbone.preprocess(picture())
    quiet = look(adapter, pixels, None)
    model.train()
    assert look(adapter, pixels, None) == quiet
