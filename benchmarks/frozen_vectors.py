"""Unit of the benchmarks on frozen vectors: a folder of labelled images, or scikit-learn's digits, once through a backbone."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from petiole.backbones.base import Backbone
from petiole.commands.options import default_cache
from petiole.data.dataset import Dataset
from petiole.data.inputs import as_dataset
from petiole.engine.feature_extractor import Features
from petiole.engine.feature_store import FeatureCache


@dataclass(frozen=True)
class Vectors:
    """Frozen vectors (n, d) and labels (n,) of one data set."""

    name: str
    x: NDArray[np.float32]
    y: NDArray[np.int64]

    @property
    def classes(self) -> int:
        return int(self.y.max()) + 1


def options(about: str) -> argparse.ArgumentParser:
    """What both scripts ask for."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("data", nargs="+", help="folders of class folders, or the word digits")
    parser.add_argument("--backbone", default="petiole/tiny-vit")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--most", type=int, default=1500, help="images of a data set")
    return parser


def vectors(name: str, backbone: Backbone, most: int) -> Vectors:
    """At most so many images, evenly over the data set, which is sorted by class."""
    data = read(name)
    keep = np.unique(np.linspace(0, len(data) - 1, min(most, len(data))).round().astype(int))
    chosen = data.select(keep)
    table = Features(backbone, FeatureCache(default_cache())).table(chosen, (backbone.vector,))
    states = table.batches(len(chosen))
    x = np.concatenate([state[backbone.vector].cpu().numpy() for state in states])
    return Vectors("/".join(Path(name).parts[-2:]), x, chosen.labels)


def read(name: str) -> Dataset:
    if name != "digits":
        return as_dataset(name)
    digits = load_digits()
    grey = (255 - digits.images * 15.9375).astype(np.uint8)
    return as_dataset((np.repeat(grey[..., None], 3, axis=-1), digits.target.tolist()))
