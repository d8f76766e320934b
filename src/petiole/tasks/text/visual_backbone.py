"""Images through a frozen backbone, once: local tokens of a picture, one vector a frame of a video."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from os import cpu_count
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from weakref import finalize

import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone, State
from petiole.data.checks.images import check_images, left_out
from petiole.data.dataset import Sample
from petiole.data.features.base import RawFeatures
from petiole.data.image import SUFFIXES, read_bytes
from petiole.data.preprocessing import Augmentation
from petiole.device import Precision
from petiole.engine.feature_extractor import DTYPES, Features
from petiole.engine.feature_filling import fill
from petiole.engine.feature_job import FeatureReport
from petiole.engine.feature_store import FeatureCache, Key
from petiole.engine.progress import console, progress
from petiole.engine.share import WHOLE, Share
from petiole.engine.thumbnail_store import store_thumbnails
from petiole.errors import ConfigError, DataError
from petiole.stores.pointer import checked_before
from petiole.tasks.text.grid_pool import GridPool
from petiole.tasks.text.visual_base import VisualFeatures
from petiole.tasks.text.visual_stored import StoredVisuals

TRIAL = 4
"""Images that are run to tell how long all will take."""
THREADS = 8
"""That read files, at most."""
WORTH_A_BAR = 500
"""Files; fewer are read before one could read the bar."""


@dataclass(frozen=True)
class Prepared:
    """What lies ready.

    Attributes:
        images: picture files and frames that are stored, byte-equal ones once.
        computed: how many of them were not stored before.
        left_out: names that cannot be read, of videos because of a frame.
        notes: a sentence on their files.
        megabytes: of all their features.
        seconds: that it took.
        digest: SHA-256 (hex) over what is seen and every name with the content of its files.
    """

    images: int
    computed: int
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    megabytes: float
    seconds: float
    digest: str


Extractor = Callable[[Sequence[Path], Key], FeatureReport]
"""(files, key) -> what became of their images."""


@dataclass(frozen=True)
class _Kind:
    """Pictures or frames: what is read of the backbone, and what is stored of that."""

    what: str
    role: str
    pool: nn.Module
    key: Key
    numbers: int


class BackboneVisuals:
    """Features of a frozen backbone, stored under the hash of all that decides them.

    A file is a picture: its local tokens, pooled to ``visual_tokens``. A folder of frames is a video: the image vector of
    each frame in the order of the numbers in their names, brought to ``rows``.

    The role stored is ``<local tokens>/<visual_tokens>``, or the backbone's own where nothing is pooled; so nothing is
    stored twice. Files are told apart by content, read once in the life of this object.

    Args:
        images_root: names are paths below it.
        backbone: gives ``patches`` and ``vector``.
        cache: folder of the feature cache; ``None`` for one that goes with this object.
        visual_tokens: tokens of a picture, see ``GridPool``; ``None`` for its image vector.
        rows: tokens of a video.
        precision: of the vision backbone.
        dtype: in which features are stored.

    Raises:
        ConfigError: the backbone's grid cannot be pooled to ``visual_tokens``.
    """

    def __init__(
        self,
        images_root: Path,
        backbone: Backbone,
        cache: Path | None,
        visual_tokens: int | None = 36,
        *,
        rows: int = 64,
        precision: Precision = "fp32",
        dtype: str = "float16",
    ) -> None:
        self.images_root, self.backbone = images_root, backbone
        self.cache = FeatureCache(cache or _passing(self))
        self._features = Features(backbone, self.cache, precision, dtype, quiet=True)
        self._frame = self._kind("frames", backbone.vector, nn.Identity())
        self._picture = replace(self._frame, what="pictures")
        if visual_tokens is not None:
            _ = (
                backbone.grid
            )  # an error where each image has one of its own: patches are pooled on it
            self._picture = self._kind("pictures", backbone.patches, GridPool(visual_tokens))
        self._ids: dict[Path, str] = {}
        # Frames are mapped from disk, so memory would only double them.
        self._videos = StoredVisuals(_Frames(self), rows=rows, memory=0)

    @property
    def width(self) -> int:
        """D."""
        return self.backbone.width_of(self.backbone.patches)

    @property
    def digest(self) -> str:
        """Of backbone, preprocessing, roles, visual_tokens, rows, precision and dtype; ``prepare`` adds the images."""
        return _sha256([self._picture.key.digest, self._frame.key.digest, self._videos.rows])

    def __call__(self, name: str) -> VisualFeatures:
        path = self.images_root / name
        if path.is_dir():
            return self._videos(name)
        tokens = self._values(self._picture, [path])[0].float()
        return VisualFeatures(tokens, len(tokens))

    def prepare(
        self,
        names: Sequence[str],
        *,
        skip_bad: bool = False,
        quiet: bool = False,
        extractor: Extractor | None = None,
        thumbnails: bool = False,
        share: Share = WHOLE,
    ) -> Prepared:
        """Compute and store what the cache lacks, after saying what it will cost.

        Args:
            names: of pictures and videos.
            skip_bad: leave unreadable images out, and say so in the result.
            quiet: say nothing and show no bar.
            extractor: computes and stores instead of this process, also files of many images (Parquet, WebDataset).
            thumbnails: keep what the leak check sees of them, too; an extractor is told so by whoever made it.
            share: of the images, that are computed here; the others are left to other processes.

        Raises:
            DataError: unreadable images, with their paths; nothing was computed here then, and by an extractor all others.
            CacheError: they cannot be stored.
        """
        start = time.perf_counter()
        files = {name: self._files(name) for name in sorted(set(names))}
        videos = {name for name in files if (self.images_root / name).is_dir()}
        for name in sorted(videos):
            self._check_video(name, files[name], skip_bad=skip_bad)
        images, megabytes, computed = 0, 0.0, 0
        notes: list[str] = []
        work = []
        for kind, chosen in ((self._picture, set(files) - videos), (self._frame, videos)):
            paths = [path for name in sorted(chosen) for path in files[name]]
            if extractor and paths:
                found = extractor(paths, kind.key)
                paths = [*found.ids, *found.bad]
                self._ids |= found.ids
                computed += found.computed
                notes += left_out(found.bad, len(paths), skip_bad=skip_bad)
                if kind is self._picture:  # a file may hold many
                    files = {name: files[name] for name in videos}
                    files |= {str(p.relative_to(self.images_root)): [p] for p in sorted(paths)}
            else:
                missing, bad = self._identify(kind, paths, skip_bad=skip_bad, quiet=quiet)
                notes += bad
                work.append((kind, {i: path for i, path in missing.items() if share.takes(i)}))
            stored = len({self._ids[path] for path in paths if path in self._ids})
            images, megabytes = images + stored, megabytes + self._megabytes(kind, stored)
        for kind, missing in work:
            self._store(kind, missing, quiet=quiet)
            computed += len(missing)
        if thumbnails and not extractor:
            paths = [path for own in files.values() for path in own if path in self._ids]
            seen = [Sample(path, 0, self._ids[path]) for path in paths]
            store_thumbnails(self.cache, seen, quiet=quiet)
        left = (n for n, own in sorted(files.items()) if not own or set(own) - set(self._ids))
        return Prepared(
            images,
            computed=computed,
            left_out=tuple(left),
            notes=tuple(notes),
            megabytes=megabytes,
            seconds=time.perf_counter() - start,
            digest=self._digest_of(files),
        )

    def _digest_of(self, files: dict[str, list[Path]]) -> str:
        """Of what is seen, and of every name with the content of its files."""
        content = [
            [name, [self._ids.get(p, "") for p in own]] for name, own in sorted(files.items())
        ]
        return _sha256([self.digest, content])

    def compute(self, images: Tensor, key: Key) -> State:
        """What is stored under a key of transformed images (n, 3, H, W)."""
        kind = self._picture if key == self._picture.key else self._frame
        return self._pooled(kind, self._features.run(images, (kind.role,)))

    def frames(self, name: str) -> Tensor:
        """Vectors of a video's frames as stored, (L, D).

        Raises:
            ConfigError: vectors and local tokens differ in width.
            DataError: no frames, or one that cannot be read.
        """
        files = self._files(name)
        self._check_video(name, files)
        return torch.stack(self._values(self._frame, files))

    def _kind(self, what: str, role: str, pool: nn.Module) -> _Kind:
        key = self._features.key((role,), 0, Augmentation.none())
        numbers = self.backbone.width_of(role)
        if isinstance(pool, GridPool):
            count = self.backbone.local_tokens
            pool.check(count, self.backbone.name)
            numbers *= pool.visual_tokens
            if pool.visual_tokens != count:
                key = replace(key, cut=(f"{role}/{pool.visual_tokens}",))
        return _Kind(what, role, pool, key, numbers)

    def _files(self, name: str) -> list[Path]:
        """A picture's file, or a video's frames in order."""
        path = self.images_root / name
        if not path.is_dir():
            return [path]
        found = (p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        return sorted((p for p in found if not p.name.startswith(".")), key=_numbered)

    def _check_video(self, name: str, files: Sequence[Path], *, skip_bad: bool = False) -> None:
        backbone = self.backbone
        if (own := backbone.width_of(backbone.vector)) != self.width:
            raise ConfigError(
                f"{backbone.name} has vectors of width {own} and local tokens of width {self.width}, so it cannot "
                f"show the video {name} to a model of that width. Use a backbone where both agree."
            )
        if not files and not skip_bad:
            raise DataError(
                f"{self.images_root / name}: a video is a folder of frames, and this one holds no images. Put its "
                "frames there, or leave its samples out."
            )

    def _values(self, kind: _Kind, paths: Sequence[Path]) -> list[Tensor]:
        """As stored; what is not yet is computed now."""
        missing, _ = self._identify(kind, paths, quiet=True)
        self._store(kind, missing, quiet=True)
        ids = [self._ids[path] for path in paths]
        rows = self.cache.read(kind.key, ids)
        return [rows[image][kind.key.cut[0]] for image in ids]

    def _identify(
        self, kind: _Kind, paths: Sequence[Path], *, skip_bad: bool = False, quiet: bool = False
    ) -> tuple[dict[str, Path], tuple[str, ...]]:
        """Images by content that are not stored, and notes on those that cannot be read."""
        self._read(paths, quiet=quiet)
        absent = set(self.cache.missing(kind.key, [self._ids[p] for p in paths if p in self._ids]))
        unsure = absent | {""}
        doubtful = [p for p in dict.fromkeys(paths) if self._ids.get(p, "") in unsure]
        if not doubtful:
            return {}, ()
        good, notes = check_images(doubtful, skip_bad=skip_bad)
        for path in set(doubtful) - set(good):
            self._ids.pop(path, None)
        self._ids |= good
        absent = set(self.cache.missing(kind.key, list(good.values())))
        return {image: path for path, image in good.items() if image in absent}, notes

    def _read(self, paths: Sequence[Path], *, quiet: bool) -> None:
        """Learn which content files have; those that cannot be read stay unknown."""
        new = [path for path in dict.fromkeys(paths) if path not in self._ids]
        if not new:
            return
        with (
            ThreadPoolExecutor(min(THREADS, cpu_count() or 1)) as threads,
            progress("reading images", len(new), quiet=quiet or len(new) < WORTH_A_BAR) as advance,
        ):
            for path, found in zip(new, threads.map(_content, new), strict=True):
                if found:
                    self._ids[path] = found
                advance()

    def _store(self, kind: _Kind, missing: dict[str, Path], *, quiet: bool) -> None:
        def read(ids: Sequence[str]) -> Tensor:
            chosen = [(Sample(missing[image], 0, image), 0) for image in ids]
            return self._features.read(chosen, Augmentation.none())

        def run(images: Tensor) -> State:
            return self._pooled(kind, self._features.run(images, (kind.role,)))

        if not missing:
            return
        ids = sorted(missing)
        if not quiet:
            run(read(ids[:1]))  # the first call of all is slower
            start = time.perf_counter()
            run(read(ids[:TRIAL]))
            each = (time.perf_counter() - start) / len(ids[:TRIAL])
            console.print(
                f"features {len(ids):,} {kind.what} through {self.backbone.name}: about {each * len(ids):,.0f} s, "
                f"{self._megabytes(kind, len(ids)):,.1f} MB to store in {self.cache.root}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        fill(self.cache, kind.key, ids, read, run, label=f"features of {kind.what}", quiet=quiet)

    def _pooled(self, kind: _Kind, state: State) -> State:
        # The maximum of rounded values is the rounded maximum.
        value = kind.pool(state[kind.role].float()).to(DTYPES[self._features.dtype])
        return {kind.key.cut[0]: value}

    def _megabytes(self, kind: _Kind, images: int) -> float:
        return images * kind.numbers * DTYPES[self._features.dtype].itemsize / 1e6


class _Frames:
    """Vectors of frames as a source of features."""

    def __init__(self, visuals: BackboneVisuals) -> None:
        self.visuals = visuals

    @property
    def width(self) -> int:
        return self.visuals.width

    @property
    def digest(self) -> str:
        return self.visuals._frame.key.digest

    def __call__(self, name: str) -> RawFeatures:
        return RawFeatures(self.visuals.frames(name).float().numpy())


def _content(path: Path) -> str:
    """SHA-256 (hex) of a file; nothing for one that cannot be read, whose error comes with the check."""
    try:
        return checked_before(path) or hashlib.sha256(read_bytes(path)).hexdigest()
    except DataError:
        return ""


def _passing(owner: object) -> Path:
    """A new folder that is deleted with its owner."""
    folder = mkdtemp(prefix="petiole-features-")
    finalize(owner, rmtree, folder, ignore_errors=True)
    return Path(folder)


def _numbered(path: Path) -> list[str | int]:
    """Frame 10 comes after frame 9."""
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
