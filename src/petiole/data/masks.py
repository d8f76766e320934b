"""Masks as targets: the share of each class in each patch, and back from patches to the pixels of the image."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from petiole.data.checks.images import ImageFile, build
from petiole.data.image import read_bytes
from petiole.data.preprocessing import Preprocessing, framed, placed
from petiole.data.readers.masks import UNKNOWN, MaskClasses, read_masked
from petiole.data.targets import TargetImages, without_classes
from petiole.errors import DataError

CELLS, SIDE = 4, 64
"""Most cells along the side of a patch, and of an image, that scores are learned for: more change little and cost memory."""


@dataclass(frozen=True)
class MaskedImages(TargetImages):
    """Images of one part and their masks; what is said of an image is the SHA-256 of its mask's file.

    Attributes:
        masks: file of a mask, by that SHA-256.
        known: what their pixels mean.
    """

    masks: Mapping[str, Path] = field(default_factory=dict, hash=False)
    known: MaskClasses = field(default_factory=lambda: MaskClasses((), ()))

    def joined(self, other: TargetImages) -> MaskedImages:
        whole = super().joined(other)
        assert isinstance(whole, MaskedImages)
        assert isinstance(other, MaskedImages)
        if self.known != other.known:
            raise DataError(
                f"{self.images.name} and {other.images.name} say different things of what masks mean. Give both the same "
                "classes.json."
            )
        return replace(whole, masks={**other.masks, **self.masks})

    def mask(self, image: str, size: tuple[int, int], names: Sequence[str]) -> NDArray[np.uint8]:
        """Places among ``names`` of the pixels of an image (h, w), by its id; ``UNKNOWN`` for none.

        Raises:
            DataError: the mask is damaged, or of another size (width, height) than the image.
        """
        path = self.masks[self.said[image]]
        found = self.known.read(path)
        if found.shape[::-1] != size:
            raise DataError(
                f"{path} is of {found.shape[1]} x {found.shape[0]} pixels, and its image of {size[0]} x {size[1]}. Write the mask at "
                "the image's size."
            )
        return self.known.places(names)[found]


def open_masked(path: Path, *, skip_bad: bool = False) -> dict[str, MaskedImages]:
    """Open the parts of a folder or table of images with masks.

    Raises:
        DataError: see ``read_masked``; bad images, or one image with two masks.
    """
    parts, known = read_masked(path)
    opened = {}
    for part, rows in parts.items():
        digests = [hashlib.sha256(read_bytes(mask)).hexdigest() for _, mask, _ in rows]
        entries = [
            ImageFile(image, digest, domain)
            for (image, _, domain), digest in zip(rows, digests, strict=True)
        ]
        images = build(f"{path.stem}/{part}", entries, None, skip_bad=skip_bad)
        plain = without_classes(images, ())
        masks = {digest: mask for (_, mask, _), digest in zip(rows, digests, strict=True)}
        opened[part] = MaskedImages(plain.images, plain.said, (), masks, known)
    return opened


def shares(
    mask: NDArray[np.uint8], classes: int, p: Preprocessing, grid: tuple[int, int]
) -> NDArray[np.float32]:
    """Share of each patch that each class covers (N, K), as the network sees the image; the rest of a patch is of no class."""
    # As floats, whose border is 0: so classes count from 1.
    shifted = np.where(mask == UNKNOWN, 0, mask.astype(np.float32) + 1).astype(np.float32)
    seen = np.asarray(framed(Image.fromarray(shifted), p, "nearest")).astype(np.int64)
    rows, columns = grid
    height, width = seen.shape[0] // rows, seen.shape[1] // columns
    blocks = seen[: rows * height, : columns * width].reshape(rows, height, columns, width)
    cells = blocks.transpose(0, 2, 1, 3).reshape(rows * columns, -1)
    counts = np.stack([(cells == k).sum(axis=1) for k in range(1, classes + 1)], axis=1)
    return (counts / cells.shape[1]).astype(np.float32)


def fineness(p: Preprocessing, grid: tuple[int, int]) -> int:
    """Cells along a patch's side for which scores are learned.

    The largest divisor up to ``CELLS`` of the patch's pixels with at most ``SIDE`` cells along an image's; 1 where there is none.
    """
    sides = [size // count for size, count in zip(p.size, grid, strict=True)]
    fits = [
        k
        for k in range(2, CELLS + 1)
        if all(side % k == 0 for side in sides) and max(grid) * k <= SIDE
    ]
    return max(fits, default=1)


def finer(values: Tensor, grid: tuple[int, int], k: int) -> Tensor:
    """Values of patches (B, N, c), interpolated between their middles to k x k cells of each: (B, k^2 N, c), row by row."""
    if k == 1:
        return values
    table = values.transpose(1, 2).reshape(len(values), -1, *grid)
    return interpolate(table, scale_factor=k, mode="bilinear").flatten(2).transpose(1, 2)


def pixels_of(
    scores: Tensor, size: tuple[int, int], p: Preprocessing, grid: tuple[int, int]
) -> NDArray[np.uint8]:
    """Scores of patches (N, K) -> the class of every pixel (h, w) of an image of this (width, height).

    Scores are interpolated between the middles of patches. Pixels that a crop cut off are of the nearest patch.
    """
    rows, columns = grid
    (width, height), (left, top) = placed(size, p)
    x = (torch.arange(size[0]) + 0.5) * width / size[0] - left
    y = (torch.arange(size[1]) + 0.5) * height / size[1] - top
    x, y = 2 * x / p.size[1] - 1, 2 * y / p.size[0] - 1
    at = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None].float()
    table = scores.float().T.reshape(1, -1, rows, columns)
    found = grid_sample(table, at, padding_mode="border", align_corners=False)
    return found[0].argmax(dim=0).numpy().astype(np.uint8)
