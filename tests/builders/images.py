"""Small images, a small backbone and tables of vectors for the engine's tests."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from petiole.backbones.vision.cnn import ConvNet, wrap
from petiole.data.dataset import Dataset, Sample
from petiole.data.preprocessing import Preprocessing
from petiole.engine.feature_store import Rows
from petiole.engine.feature_table import StoredTable
from petiole.tasks.classification.workspace import Classification

CLASSES = ("ash", "birch", "cedar")


def write_images(
    root: Path, per_class: int, seed: int, *, classes: Sequence[str] = CLASSES, side: int = 24
) -> Path:
    """``root/<class>/*.png``: noise over one colour a class, ``side`` pixels square."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(classes):
        folder = root / name
        folder.mkdir(parents=True)
        for index in range(per_class):
            pixels = rng.integers(0, 120, (side, side, 3), dtype=np.uint8)
            pixels[..., label] += 90
            Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten target images a class."""
    return write_images(tmp_path_factory.mktemp("images") / "photos", 10, 0)


@pytest.fixture(scope="session")
def renders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six source images a class."""
    return write_images(tmp_path_factory.mktemp("images") / "renders", 6, 1)


@pytest.fixture(scope="session")
def feature_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that all tests may fill."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def bench(photos: Path, renders: Path, feature_cache: Path) -> Classification:
    """EfficientNet-Lite0 at 32 px over the small images."""
    return Classification(
        "petiole/efficientnet-lite0",
        photos,
        renders,
        image_size=32,
        cache=feature_cache,
        quiet=True,
    )


class _Network(nn.Module):
    """A timm-shaped CNN of 8 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.num_features = 8

    def forward_features(self, images: Tensor) -> Tensor:
        return self.conv(images).tanh()

    def forward_head(self, features: Tensor, **_: bool) -> Tensor:
        return features.mean((2, 3))


@pytest.fixture
def tiny() -> Callable[..., ConvNet]:
    """Builds a CNN backbone of 8 features at 16 px from a seed."""

    def build(seed: int = 0) -> ConvNet:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module = _Network()
        half = (0.5, 0.5, 0.5)
        stated = Preprocessing(
            size=(16, 16), crop=1.0, interpolation="bilinear", mean=half, std=half
        )
        return wrap("tiny", module, stated)

    return build


@pytest.fixture
def dataset() -> Callable[..., Dataset]:
    """Builds a data set without files: ``source`` and ``target`` images of every class."""

    def build(source: int, target: int, classes: int = 4) -> Dataset:
        samples = [
            Sample(Path(f"{domain}{label}-{i}.png"), label, f"{domain}-{label}-{i:04d}", domain)
            for domain, count in (("source", source), ("target", target))
            for label in range(classes)
            for i in range(count)
        ]
        return Dataset("made", tuple(f"c{i}" for i in range(classes)), tuple(samples))

    return build


@pytest.fixture
def vectors() -> Callable[..., StoredTable]:
    """Builds a table of class-dependent vectors of width 8 for a data set."""

    def build(data: Dataset, views: int = 0, seed: int = 0) -> StoredTable:
        generator = torch.Generator().manual_seed(seed)
        centres = torch.randn(len(data.classes), 8, generator=generator)
        rows = [
            centres[s.label] + torch.randn(8, generator=generator)
            for _ in range(views + 1)
            for s in data.samples
        ]
        values = {"final.pooled": torch.stack(rows)}
        return StoredTable(Rows([values], range(len(rows))), len(data), torch.device("cpu"))

    return build


@pytest.fixture
def kit(
    tiny: Callable[..., ConvNet],
    dataset: Callable[..., Dataset],
    vectors: Callable[..., StoredTable],
) -> SimpleNamespace:
    """A backbone, 12 source and 6 target images a class, and their vectors, for one training."""
    data = dataset(12, 6)
    return SimpleNamespace(backbone=tiny(), data=data, table=vectors(data))


def pixel(value: int) -> Image.Image:
    """Two pixels of so much red."""
    return Image.new("RGB", (2, 1), (value, 0, 0))
