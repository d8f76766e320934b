"""What the frozen half gives for a data set: from the cache where stored, computed once where not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, zip_longest
from os import cpu_count
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from petiole.backbones.base import IMAGES, Backbone, State
from petiole.backbones.joined import JoinedBackbone
from petiole.data.dataset import Dataset, Sample
from petiole.data.image import load
from petiole.data.preprocessing import Augmentation, augmentation, view
from petiole.engine.feature_filling import fill
from petiole.engine.feature_store import FeatureCache, Key, Rows
from petiole.engine.share import BATCH, WHOLE, Share
from petiole.errors import BackboneError
from petiole.methods.recipe import Recipe

Precision = Literal["fp32", "bf16"]
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def chunk_size(device: torch.device) -> int:
    """Images that pass through a network together: 16 on CPU, where more are no faster and take more memory; 64 elsewhere."""
    return 16 if device.type == "cpu" else BATCH


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


Drawn = Callable[[], tuple[Tensor, Tensor]]
"""Draws rows (B,) and views (B,)."""

_Chosen = Sequence[tuple[Sample, int]]
"""Images and which view of each."""

KEPT = 256 << 20
"""Bytes of images, read and transformed, that a table keeps which is asked for them again and again."""


class Table(ABC):
    """Values at a cut, addressed by row of a data set and view."""

    size = 256
    """Rows in a batch that is not trained on."""

    @abstractmethod
    def fetch(self, rows: Tensor, views: Tensor) -> State:
        """Return the values of the images ``rows`` (B,) in the views (B,), as float32."""

    def expect(self, drawn: Drawn) -> None:  # noqa: B027
        """Say what will be fetched next, so that its images, if any must be, are read meanwhile."""

    def batches(self, count: int, size: int = 0) -> Iterator[State]:
        """Walk the first ``count`` rows in the evaluation view, ``size`` at a time or as many as suit the table."""
        parts = torch.split(torch.arange(count), size or self.size) if count else ()
        for part, after in zip_longest(parts, parts[1:]):
            state = self.fetch(part, torch.zeros_like(part))
            if after is not None:
                self.expect(partial(_evaluation_view, after))
            yield state


def _evaluation_view(rows: Tensor) -> tuple[Tensor, Tensor]:
    return rows, torch.zeros_like(rows)


class StoredTable(Table):
    """Rows that lie in memory or in memory-mapped shards.

    Args:
        rows: values of all images in one view after the other.
        images: how many.
        device: where batches are put.
    """

    def __init__(self, rows: Rows, images: int, device: torch.device) -> None:
        self.device, self._rows, self._images = device, rows, images
        # Vectors are gathered once, so that a batch is one index, on the device where they fit; token maps stay on disk.
        small = all(value.ndim == 2 for block in rows.blocks[:1] for value in block.values())
        self._dense = _near(rows.take(torch.arange(len(rows))), device) if small else None
        if not small:
            self.size = chunk_size(device)

    def fetch(self, rows: Tensor, views: Tensor) -> State:
        chosen = views * self._images + rows
        if self._dense is None:
            state = self._rows.take(chosen)
        else:
            state = {
                role: value[chosen.to(value.device, non_blocking=True)]
                for role, value in self._dense.items()
            }
        # Not waited for: what is computed with it comes behind it in the device's queue.
        return {
            role: value.to(self.device, torch.float32, non_blocking=True)
            for role, value in state.items()
        }


class JoinedTable(Table):
    """Several tables of the same images side by side; names of a part's values get its prefix."""

    def __init__(self, parts: Sequence[tuple[str, Table]]) -> None:
        self.parts = parts
        self.size = min(table.size for _, table in parts)

    def fetch(self, rows: Tensor, views: Tensor) -> State:
        return {
            prefix + role: value
            for prefix, table in self.parts
            for role, value in table.fetch(rows, views).items()
        }

    def expect(self, drawn: Drawn) -> None:
        for _, table in self.parts:
            table.expect(drawn)


class SideBySide(Table):
    """Image vectors of several backbones made one; each backbone's own are stored, and found again by runs on it alone."""

    def __init__(self, backbone: JoinedBackbone, tables: Sequence[Table]) -> None:
        self.backbone, self.tables = backbone, tables

    def fetch(self, rows: Tensor, views: Tensor) -> State:
        vectors = [
            table.fetch(rows, views)[part.vector]
            for part, table in zip(self.backbone.parts, self.tables, strict=True)
        ]
        return {self.backbone.vector: self.backbone.join(vectors)}

    def expect(self, drawn: Drawn) -> None:
        for table in self.tables:
            table.expect(drawn)


class LiveTable(Table):
    """Rows computed whenever they are asked for: the cut lies at the images, or caching is off.

    A view that is read a second time stays in memory while there is room: epochs will ask for it again, an evaluation does not.
    """

    def __init__(
        self,
        features: Features,
        samples: Sequence[Sample],
        cut: tuple[str, ...],
        spec: Augmentation,
    ) -> None:
        self.features, self.samples, self.cut, self.spec = features, samples, cut, spec
        self.size = chunk_size(features.device)  # whole images pass through what lies above the cut
        self._aside = ThreadPoolExecutor(1)
        self._expected: tuple[_Chosen, Future[Tensor]] | None = None
        self._once: set[tuple[Sample, int]] = set()
        self._kept: dict[tuple[Sample, int], Tensor] = {}
        self._room = KEPT

    def fetch(self, rows: Tensor, views: Tensor) -> State:
        chosen = self._chosen(rows, views)
        expected, self._expected = self._expected, None
        ahead = expected[1] if expected and expected[0] == chosen else None
        images = ahead.result() if ahead else self._read(chosen)
        state = self.features.run(images, self.cut)
        return {role: value.float() for role, value in state.items()}

    def expect(self, drawn: Drawn) -> None:
        chosen = self._chosen(*drawn())
        self._expected = chosen, self._aside.submit(self._read, chosen)

    def _read(self, chosen: _Chosen) -> Tensor:
        new = [pair for pair in chosen if pair not in self._kept]
        read = dict(zip(new, self.features.views(new, self.spec), strict=True))
        known = ChainMap(read, self._kept)
        images = self.features.stack([known[pair] for pair in chosen])
        for pair, image in read.items():
            if pair in self._once and image.nbytes <= self._room:
                self._kept[pair] = image
                self._room -= image.nbytes
            self._once.add(pair)
        return images

    def _chosen(self, rows: Tensor, views: Tensor) -> _Chosen:
        return [(self.samples[r], v) for r, v in zip(rows.tolist(), views.tolist(), strict=True)]


@dataclass
class Features:
    """Runs, stores and finds what lies below a cut.

    With and without a cache the values agree: both are rounded to ``dtype``, and handed on as
    float32.

    Attributes:
        backbone: frozen.
        cache: where values are kept; ``None`` recomputes them in every epoch.
        precision: ``bf16`` computes under autocast.
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

    def compute(self, chosen: _Chosen, cut: tuple[str, ...], spec: Augmentation) -> State:
        """Read, transform and run (sample, view) pairs through the frozen half."""
        return self.run(self.read(chosen, spec), cut)

    def read(self, chosen: _Chosen, spec: Augmentation) -> Tensor:
        """Images (n, 3, H, W) of (sample, view) pairs, in memory from which a GPU copies by itself."""
        return self.stack(self.views(chosen, spec))

    def views(self, chosen: _Chosen, spec: Augmentation) -> list[Tensor]:
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


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """bf16 autocast, or nothing."""
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def _near(state: State, device: torch.device) -> State:
    """On the device, if it takes no more than a quarter of what is free there; else where it is."""
    if device.type != "cuda":
        return state
    size = sum(value.nbytes for value in state.values())
    fits = size <= torch.cuda.mem_get_info(device)[0] // 4
    return {role: value.to(device) if fits else value for role, value in state.items()}
