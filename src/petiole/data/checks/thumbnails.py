"""What the leak check sees of an image: a perceptual hash, and the thumbnail that a near hash is held against."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray
from PIL import Image

from petiole.data.dataset import Sample
from petiole.data.image import load

_SIDE, _LOW = 32, 8
MIN_SIDE = 32
"""Shorter side in pixels below which an image gets no perceptual hash."""
MIN_CONTRAST = 2.0
"""Standard deviation of the low-pass grey values (0..255) below which an image gets no hash."""


HashAndThumbnail = tuple[int | None, NDArray[np.uint8]]
"""Of one image."""


@dataclass(frozen=True)
class Thumbnails:
    """Of n images.

    Attributes:
        hashes: perceptual ones (n,), 0 where there is none.
        valid: whether there is one (n,).
        thumbnails: grey values (n, 1024) of 32 x 32 pixels.
    """

    hashes: NDArray[np.uint64]
    valid: NDArray[np.bool_]
    thumbnails: NDArray[np.uint8]

    @classmethod
    def of(
        cls,
        samples: Iterable[Sample],
        shown: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    ) -> "Thumbnails":
        """Read images.

        Args:
            samples: of them.
            shown: hands on one result after the other, under a progress bar.

        Raises:
            DataError: an unreadable image.
        """
        with ThreadPoolExecutor(4) as pool:
            seen = pool.map(lambda sample: hash_and_thumbnail(load(sample)), samples)
            return cls.joined(shown(seen))

    @classmethod
    def joined(cls, seen: Iterable[HashAndThumbnail]) -> "Thumbnails":
        """Those of images, one after the other."""
        both = list(seen)
        return cls(
            np.array([h or 0 for h, _ in both], np.uint64),
            np.array([h is not None for h, _ in both], np.bool_),
            np.array([t for _, t in both], np.uint8).reshape(-1, _SIDE * _SIDE),
        )


def hash_and_thumbnail(image: Image.Image) -> HashAndThumbnail:
    """The perceptual hash of an image, or None where it would say nothing, and its thumbnail."""
    return perceptual_hash(image), _thumbnail(image)


def perceptual_hash(image: Image.Image) -> int | None:
    """Return the 64-bit DCT hash, or None where it would say nothing.

    The image is reduced to 32 x 32 grey values x; with C the 8 x 8 lowest coefficients of their
    DCT-II, bit (u, v) is C[u, v] > median(C without C[0, 0]). (Zauner, Implementation and
    benchmarking of perceptual image hash functions, 2010, section 3.2.1.) Small and nearly
    constant images have no such structure: see `MIN_SIDE` and `MIN_CONTRAST`.
    """
    if min(image.size) < MIN_SIDE:
        return None
    low = scipy.fft.dctn(_thumbnail(image).astype(np.float64), norm="ortho")[:_LOW, :_LOW].ravel()
    if np.linalg.norm(low[1:]) / _SIDE < MIN_CONTRAST:
        return None
    return int.from_bytes(np.packbits(low > np.median(low[1:])).tobytes())


def _thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    reduced = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return np.asarray(reduced, dtype=np.uint8)
