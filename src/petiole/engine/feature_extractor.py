"""What the frozen half gives for a data set: from the cache where stored, computed once where not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from os import cpu_count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from petiole.backbones.base import Backbone, State
from petiole.backbones.frozen_network import IMAGES
from petiole.backbones.joined import JoinedBackbone
from petiole.data.dataset import Dataset, Sample
from petiole.data.image import load
from petiole.data.preprocessing import Augmentation, augmentation, view
from petiole.device import Precision
from petiole.engine.feature_filling import fill
from petiole.engine.feature_store import FeatureCache, Key
from petiole.engine.feature_table import (
    Chosen,
    LiveTable,
    SideBySide,
    StoredTable,
    Table,
    chunk_size,
)
from petiole.engine.precision import autocast
from petiole.engine.share import WHOLE, Share
from petiole.errors import BackboneError
from petiole.methods.recipe import Recipe

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def padded(images: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Images (n, 3, H, W) in chunks of one size, and how many of each are not padding.

    Matrix products round differently by their sizes, so an image's values would differ in their last bits with the number
    of images beside it. In chunks of one size they do not, whatever these are and wherever it stands among them. The last
    chunk is filled up with its last image.
    """
    size = chunk_size(images.device)
    for chunk in torch.split(images, size):
        rest = chunk[-1:].expand(size - len(chunk), *chunk.shape[1:])
        yield torch.cat([chunk, rest]), len(chunk)


@dataclass
class Features:
    """Runs, stores and finds what lies below a cut.

    With and without a cache the values agree: both are rounded to ``dtype``, and handed on as
    float32.

    Attributes:
        backbone: frozen.
        cache: where values are kept; ``None`` recomputes them in every epoch.
        precision: of the frozen half; see ``petiole.engine.precision``.
        dtype: in which values are stored.
        quiet: no progress bar.
    """

    backbone: Backbone
    cache: FeatureCache | None = None
    precision: Precision = "fp32"
    dtype: str = "float32"
    quiet: bool = False

    @property
    def device(self) -> torch.device:
        """Where the backbone lives."""
        return next(self.backbone.module.parameters()).device

    def table(
        self, data: Dataset, cut: tuple[str, ...], views: int = 0, spec: Augmentation | None = None
    ) -> Table:
        """Return the values of ``data`` at ``cut`` in view 0 and ``views`` random ones."""
        spec = spec or Augmentation.none()
        if isinstance(self.backbone, JoinedBackbone) and cut == self.backbone.finals:
            tables = [one.table(data, (one.backbone.vector,), views, spec) for one in self._parts()]
            return SideBySide(self.backbone, tables)
        if self.cache is None or cut == (IMAGES,):
            return LiveTable(self, data.samples, cut, spec)
        self.store(data.samples, cut, views, spec, name=data.name)
        keys = [self.key(cut, index, spec) for index in range(views + 1)]
        return StoredTable(self.cache.rows(keys, data.ids), len(data), self.device)

    def store(
        self,
        samples: Iterable[Sample],
        cut: tuple[str, ...],
        views: int = 0,
        spec: Augmentation | None = None,
        *,
        share: Share = WHOLE,
        name: str = "images",
    ) -> None:
        """Compute and keep what the cache lacks of what ``table`` reads, of the images of a share."""
        spec = spec or Augmentation.none()
        if isinstance(self.backbone, JoinedBackbone) and cut == self.backbone.finals:
            for one in self._parts():
                one.store(samples, (one.backbone.vector,), views, spec, share=share, name=name)
            return
        if self.cache is None or cut == (IMAGES,):
            return
        by_id = {sample.id: sample for sample in samples if share.takes(sample.id)}
        for index in range(views + 1):

            def read(ids: Sequence[str], index: int = index) -> Tensor:
                return self.read([(by_id[image], index) for image in ids], spec)

            def run(images: Tensor) -> State:
                return self.run(images, cut)

            label = f"features of {name}" + (f", view {index}" if index else "")
            key = self.key(cut, index, spec)
            fill(self.cache, key, sorted(by_id), read, run, label=label, quiet=self.quiet)

    def vectors(self, data: Dataset) -> NDArray[np.float32]:
        """Image vectors (n, d) of the frozen backbone, in the order of the samples."""
        role = self.backbone.vector
        states = self.table(data, (role,)).batches(len(data))
        return np.concatenate([state[role].cpu().numpy() for state in states])

    def _parts(self) -> list[Features]:
        """The same for each of the backbones that a joined one has."""
        assert isinstance(self.backbone, JoinedBackbone)
        return [replace(self, backbone=part) for part in self.backbone.parts]

    def key(self, cut: tuple[str, ...], index: int, spec: Augmentation) -> Key:
        """All that decides the values of one view."""
        random = spec.digest() if index and not spec.identity else ""
        return Key(
            fingerprint=self.backbone.fingerprint,
            preprocessing=self.backbone.preprocessing.digest(),
            cut=cut,
            dtype=self.dtype,
            precision=self.precision,
            view=index if random else 0,
            augmentation=random,
        )

    def missing(
        self, cut: tuple[str, ...], index: int, spec: Augmentation, ids: Sequence[str]
    ) -> list[str]:
        """Which of these images are not stored in this view."""
        if isinstance(self.backbone, JoinedBackbone) and cut == self.backbone.finals:
            each = (one.missing((one.backbone.vector,), index, spec, ids) for one in self._parts())
            return list(dict.fromkeys(chain.from_iterable(each)))
        return self.cache.missing(self.key(cut, index, spec), ids) if self.cache else list(ids)

    def compute(self, chosen: Chosen, cut: tuple[str, ...], spec: Augmentation) -> State:
        """Read, transform and run (sample, view) pairs through the frozen half."""
        return self.run(self.read(chosen, spec), cut)

    def read(self, chosen: Chosen, spec: Augmentation) -> Tensor:
        """Images (n, 3, H, W) of (sample, view) pairs, in memory from which a GPU copies by itself."""
        return self.stack(self.views(chosen, spec))

    def views(self, chosen: Chosen, spec: Augmentation) -> list[Tensor]:
        """Images (3, H, W) of (sample, view) pairs, transformed."""

        def prepared(pair: tuple[Sample, int]) -> Tensor:
            sample, index = pair
            image = load(sample)
            return view(image, self.backbone.preprocessing, spec, sample.id, index)

        with ThreadPoolExecutor(cpu_count()) as pool:
            return list(pool.map(prepared, chosen))

    def stack(self, images: Sequence[Tensor]) -> Tensor:
        """Images (n, 3, H, W), in memory from which a GPU copies by itself."""
        stacked = torch.stack(list(images))
        return stacked.pin_memory() if self.device.type == "cuda" else stacked

    def run(self, images: Tensor, cut: tuple[str, ...]) -> State:
        """Values of transformed images (n, 3, H, W) at the cut, in the type of the cache, in chunks of one size."""
        images = images.to(self.device, non_blocking=True)
        if cut == (IMAGES,):
            return {IMAGES: images}
        parts: list[State] = []
        for chunk, count in padded(images):
            with autocast(self.device, self.precision):
                state = self.backbone.lower(chunk, cut)
            parts.append({role: self._stored(role, v[:count]) for role, v in state.items()})
        return {role: torch.cat([part[role] for part in parts]) for role in parts[0]}

    def _stored(self, role: str, value: Tensor) -> Tensor:
        """The value in the type of the cache, finite.

        Raises:
            BackboneError: the network gives NaN or infinity, or the type cannot hold what it gives.
        """
        stored = value.to(DTYPES[self.dtype])
        if bool(stored.isfinite().all()):
            return stored
        if bool(value.isfinite().all()):
            raise BackboneError(
                f"{self.backbone.name} gives values up to {float(value.abs().max()):.3g} at {role}, which {self.dtype} "
                "cannot hold. Store features as float32 (--dtype float32)."
            )
        raise BackboneError(
            f"{self.backbone.name} gives NaN or infinity at {role}: its weights are damaged, or {self.precision} is too narrow "
            "for it. Load the weights again, or compute in fp32."
        )


def views_of(recipe: Recipe | None) -> tuple[int, Augmentation]:
    """How many random views a recipe stores, and of which kind; none without a recipe."""
    spec = augmentation(recipe.augmentation) if recipe and recipe.views else Augmentation.none()
    return (recipe.views if recipe and not spec.identity else 0), spec
