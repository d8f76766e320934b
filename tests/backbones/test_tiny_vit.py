"""The ViT that ships in the package: its size, its file, and that its features are trained."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from petiole.backbones.bundled.tiny_vit import WEIGHTS, architecture
from petiole.data.preprocessing import Preprocessing, evaluate_transform

CALTECH = Path(__file__).parents[2] / "../shared/data/caltech101_128"


def card() -> dict:
    return json.loads(WEIGHTS.with_suffix(".json").read_text())


@pytest.fixture(scope="module")
def trained() -> VisionTransformer:
    module = architecture().eval()
    module.load_state_dict(load_file(WEIGHTS), strict=True)
    return module


def test_builds_on_meta_with_the_stated_size() -> None:
    with torch.device("meta"):
        module = architecture()
    assert all(p.is_meta for p in module.state_dict().values())
    stem = 700_768  # EfficientNet-Lite0: first convolution and stages 0-4
    merge = 192 * (112 * 2 * 2 + 1)
    block = 2 * 2 * 192 + 192 * 576 + 576 + 192 * 192 + 192 + 2 * 192 * 768 + 768 + 192
    tokens = 192 + 26 * 192
    assert (
        sum(p.numel() for p in module.parameters()) == stem + merge + tokens + 4 * block + 2 * 192
    )
    assert card()["parameters"] == 2_572_000 == stem + merge + tokens + 4 * block + 2 * 192


def test_file_is_small_half_precision_and_as_its_card_says() -> None:
    content = WEIGHTS.read_bytes()
    assert len(content) <= 6_000_000
    assert hashlib.sha256(content).hexdigest() == card()["sha256"]
    kinds = {tensor.dtype for tensor in load_file(WEIGHTS).values()}
    assert kinds == {torch.float16, torch.int64}  # int64: batch-norm counters


def test_features_are_finite_and_tell_images_apart(trained: VisionTransformer) -> None:
    ramp = torch.linspace(-1, 1, 160).expand(3, 160, 160)
    noise = torch.rand(3, 160, 160, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        tokens = trained.forward_features(torch.stack([ramp, noise]))
    assert tokens.shape == (2, 26, 192)
    assert tokens.isfinite().all()
    known = torch.tensor([-1.13405, -4.10131, -1.82622, -1.15030])  # heads and norms have no shape
    torch.testing.assert_close(tokens[0, 0, :4], known, rtol=1e-3, atol=1e-3)
    assert torch.nn.functional.cosine_similarity(tokens[0, 0], tokens[1, 0], dim=0) < 0.9


def test_answer_does_not_depend_on_the_rest_of_the_batch(trained: VisionTransformer) -> None:
    """The stem's batch norms use stored statistics even in training mode."""
    images = torch.randn(3, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        before = trained(images[:1])
        trained.train()
        after = trained(images)[:1]
        trained.eval()
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not CALTECH.is_dir(), reason="../shared/data/caltech101_128 is absent")
def test_linear_accuracy_is_far_above_the_random_twin(trained: VisionTransformer) -> None:
    torch.manual_seed(0)
    twin = architecture().eval()
    train, y = pictures("train", 8)
    test, z = pictures("test", 4)
    scores = [linear(features(m, train), y, features(m, test), z) for m in (trained, twin)]
    assert scores[0] > 0.75
    assert scores[0] > scores[1] + 0.3


def pictures(part: str, count: int) -> tuple[Tensor, np.ndarray]:
    """The first `count` images of each of the first 20 classes."""
    fields = {k: v for k, v in card().items() if k in Preprocessing.model_fields}
    transform = evaluate_transform(Preprocessing(**fields))
    folders = sorted((CALTECH / part).iterdir())[:20]
    files = [(f, c) for c, folder in enumerate(folders) for f in sorted(folder.iterdir())[:count]]
    images = torch.stack([transform(Image.open(f).convert("RGB")) for f, _ in files])
    return images, np.array([c for _, c in files])


def features(module: VisionTransformer, images: Tensor) -> np.ndarray:
    with torch.inference_mode():
        return torch.cat([module(part) for part in images.split(32)]).numpy()


def linear(x: np.ndarray, y: np.ndarray, test: np.ndarray, z: np.ndarray) -> float:
    mean, scale = x.mean(0), x.std()
    model = LogisticRegression(C=0.3, max_iter=200).fit((x - mean) / scale, y)
    return float(model.score((test - mean) / scale, z))
