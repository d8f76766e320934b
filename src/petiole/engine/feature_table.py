"""Values at a cut by row of a data set and view: out of the cache, side by side, or computed when they are asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import ChainMap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from petiole.backbones.base import State
from petiole.backbones.joined import JoinedBackbone
from petiole.data.dataset import Sample
from petiole.data.preprocessing import Augmentation
from petiole.engine.feature_store import Rows
from petiole.engine.share import BATCH

if TYPE_CHECKING:
    from petiole.engine.feature_extractor import Features

Drawn = Callable[[], tuple[Tensor, Tensor]]
"""Draws rows (B,) and views (B,)."""

Chosen = Sequence[tuple[Sample, int]]
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
        small = all(value.ndim == 2 for block in rows.blocks for value in block.values())
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
        self._expected: tuple[Chosen, Future[Tensor]] | None = None
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

    def _read(self, chosen: Chosen) -> Tensor:
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

    def _chosen(self, rows: Tensor, views: Tensor) -> Chosen:
        return [(self.samples[r], v) for r, v in zip(rows.tolist(), views.tolist(), strict=True)]


def _near(state: State, device: torch.device) -> State:
    """On the device, if it takes no more than a quarter of what is free there; else where it is."""
    if device.type != "cuda":
        return state
    size = sum(value.nbytes for value in state.values())
    fits = size <= torch.cuda.mem_get_info(device)[0] // 4
    return {role: value.to(device) if fits else value for role, value in state.items()}


def chunk_size(device: torch.device) -> int:
    """Images that pass through a network together: 16 on CPU, where more are no faster and take more memory; 64 elsewhere."""
    return 16 if device.type == "cpu" else BATCH
