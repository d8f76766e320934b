"""``petiole features``: images through a frozen backbone into the feature cache, ahead of training."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Group, RenderableType
from rich.text import Text

from petiole.commands.options import CommandResult, default_cache, fact, plural
from petiole.commands.options import device as device_of
from petiole.commands.placement import ClusterOptions
from petiole.commands.verb import verb
from petiole.device import Precision
from petiole.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from petiole.backbones.base import State
    from petiole.engine.feature_job import FeatureReport
    from petiole.engine.feature_store import Key
    from petiole.engine.ray_executor import Ray
    from petiole.tasks.text.visual import BackboneVisuals


class Extracted(CommandResult):
    """What lies in the cache for a folder of images.

    Attributes:
        cache: its folder.
        backbone: that saw them.
        tokens: of a picture, or 1 of a frame.
        width: of a token.
        shard: the share of the images, as ``3/8``.
        images: picture files or frames stored, byte-equal ones once.
        computed: how many of them were not stored before.
        left_out: names that cannot be read.
        notes: on their files.
        megabytes: of all their features.
        seconds: that it took.
        digest: SHA-256 over what is seen and every image.
    """

    cache: Path
    backbone: str
    tokens: int
    width: int
    shard: str
    images: int
    computed: int
    left_out: list[str]
    notes: list[str]
    megabytes: float
    seconds: float
    digest: str

    def text(self) -> RenderableType:
        part = "" if self.shard == "1/1" else f", shard {self.shard}"
        size = f"{self.tokens} x {self.width} each, {self.megabytes:,.1f} MB in {self.cache}"
        return Group(
            fact(
                "features", f"{plural(self.images, 'image')}, {self.computed:,} of them new{part}"
            ),
            fact("size", size),
            fact("digest", self.digest),
            fact("seconds", f"{self.seconds:.1f}"),
            *(Text(f"note     {note}") for note in self.notes),
        )


@verb
def features(
    images: Path,
    /,
    *,
    backbone: str = "petiole/efficientnet-lite0",
    visual_tokens: int | None = None,
    vectors: bool = False,
    videos: bool = False,
    shard: str = "1/1",
    weights: Path | None = None,
    image_size: int | None = None,
    device: str = "auto",
    precision: Precision = "fp32",
    dtype: Literal["float32", "float16", "bfloat16"] | None = None,
    cache_dir: Path | None = None,
    skip_bad: bool = False,
    quiet: bool = False,
    placement: ClusterOptions | None = None,
) -> Extracted:
    """Compute the visual features of all images below a folder once, and keep them for training.

    With --executor ray they are computed on a cluster, where Parquet files of images and WebDataset tars below the folder are read, too.

    Args:
        images: folder; images may lie at any depth.
        backbone: image backbone, as for fit.
        visual_tokens: local tokens of a picture after pooling: a square number; by default 36.
        vectors: one vector an image instead, as heads on the frozen model, kNN and the check for leaks read it, and
            the thumbnails that this check compares: to fit a head on them no image is read again.
        videos: each folder that holds images is a video, and each image a frame: one vector a frame.
        shard: compute only the third of eight shares, 3/8, while other processes or machines that see the same folder and
            cache compute theirs; an image's share follows from its path below the folder alone.
        weights: local safetensors file for the named architecture.
        image_size: pixels, where the model accepts other sizes than its own.
        device: auto, cpu, cuda, ...
        precision: bf16 and fp16 compute in mixed precision.
        dtype: in which features are stored; by default float16, and float32 with --vectors, as petiole fit reads them.
        cache_dir: the cache's folder, if it is not the usual one.
        skip_bad: leave unreadable images out, and count them.
        quiet: no progress bars.

    Raises:
        DataError: no images, or unreadable ones.
        ConfigError: a shard that there is not, or --vectors of what has one vector anyway, or is to have tokens.
        PetioleError: a backbone that cannot be loaded, or whose grid cannot be pooled so.
    """
    from petiole.engine.share import Share

    if vectors and (videos or visual_tokens is not None):
        other = "--videos, whose frames have one vector each" if videos else "--visual-tokens"
        raise ConfigError(f"--vectors stores one vector an image. Leave out {other}.")
    tokens = 36 if visual_tokens is None else visual_tokens
    share = Share.parse(shard)
    cluster = (placement or ClusterOptions()).cluster()
    terms: dict[str, Any] = {
        "images": Path(images),
        "backbone": backbone,
        "weights": weights,
        "image_size": image_size,
        "device": device_of(device),
        "cache": Path(cache_dir) if cache_dir else default_cache(),
        "visual_tokens": None if vectors else tokens,
        "precision": precision,
        "dtype": dtype or ("float32" if vectors else "float16"),
    }
    visuals = _opened(**terms)
    names = _names(Path(images), videos, packed=cluster is not None)
    done = visuals.prepare(
        [name for name in names if share.takes(name)],
        skip_bad=skip_bad,
        quiet=quiet,
        extractor=partial(_computed, cluster, terms, visuals, quiet) if cluster else None,
        thumbnails=vectors,
    )
    return Extracted(
        cache=visuals.cache.root,
        backbone=backbone,
        tokens=1 if videos or vectors else tokens,
        width=visuals.width,
        shard=str(share),
        images=done.images,
        computed=done.computed,
        left_out=list(done.left_out),
        notes=list(done.notes),
        megabytes=done.megabytes,
        seconds=done.seconds,
        digest=done.digest,
    )


def _opened(
    images: Path,
    backbone: str,
    weights: Path | None,
    image_size: int | None,
    device: str,
    cache: Path,
    visual_tokens: int | None,
    **stored: Any,
) -> BackboneVisuals:
    from petiole.backbones.registry import load_backbone
    from petiole.tasks.text.visual import BackboneVisuals

    model = load_backbone(backbone, weights=weights, image_size=image_size, device=device)
    return BackboneVisuals(images, model, cache, visual_tokens, **stored)


def _computed(
    cluster: Ray,
    terms: dict[str, Any],
    visuals: BackboneVisuals,
    quiet: bool,
    files: Sequence[Path],
    key: Key,
) -> FeatureReport:
    """Compute files' features on a cluster."""
    from petiole.engine.feature_job import FeatureJob
    from petiole.engine.ray_features import store_features

    preprocessing, device = visuals.backbone.preprocessing, terms["device"]
    opening = partial(_network, terms, key)
    thumbnails = terms["visual_tokens"] is None
    job = FeatureJob(key, preprocessing, terms["cache"], device, opening, thumbnails)
    return store_features(files, job, cluster, quiet=quiet)


def _network(terms: dict[str, Any], key: Key) -> Callable[[Tensor], State]:
    """What an actor runs."""
    return partial(_opened(**terms).compute, key=key)


def _names(root: Path, videos: bool, *, packed: bool = False) -> list[str]:
    """Images below a folder, or the folders that hold them, by their paths from it; also files of many images."""
    from petiole.data.image import SUFFIXES
    from petiole.data.readers.folder import visible_files
    from petiole.errors import DataError

    suffixes = SUFFIXES | {".parquet", ".pq", ".tar"} if packed and not videos else SUFFIXES
    found = [p.relative_to(root) for p in visible_files(root) if p.suffix.lower() in suffixes]
    if not found:
        what = "holds no images" if root.is_dir() else "no such folder"
        raise DataError(f"{root}: {what}. Name a folder of images ({' '.join(sorted(suffixes))}).")
    return sorted({str(path.parent if videos else path) for path in found})
