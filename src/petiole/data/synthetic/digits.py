"""The demo's images as ordinary folders: rendered digits as source, handwritten ones as target.

The target is scikit-learn's copy of the UCI Optical Recognition of Handwritten Digits test set
(Alpaydin & Kaynak, 1998): 1,797 digits whose 32 x 32 bitmaps were reduced to 8 x 8 counts 0..16.
The source imitates that process from the fonts that matplotlib ships: the glyph's skeleton is the
path of a pen, is slanted, bent and narrowed, fills the frame as the originals do, is drawn with
strokes of varying weight into a 32 x 32 bitmap, and is counted in 4 x 4 blocks. Rendering was tuned
on the real_train pool only; real_eval was not looked at.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from sklearn.datasets import load_digits

Array = NDArray[np.float64]
Digit = NDArray[np.uint8]

FONTS = (
    "DejaVuSans",
    "DejaVuSans-Oblique",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralItalic",
    "cmr10",
    "cmss10",
    "cmtt10",
    "cmti10",
)
"""Fonts that matplotlib ships and whose zero has neither dot nor slash."""

_FRAME, _FINE = 32, 4  # the originals' bitmap, and how much finer the pen draws
_GLYPH = 96  # font size, in pixels, from which skeletons are taken
# Spread of the hands: shear, turn in degrees, bend in shares of the height, share of crossed sevens.
_SHEAR, _TURN, _BEND, _CROSSED = 0.25, 8.0, 0.05, 0.5
# Pen's weight and digit's width in pixels of the frame; blur (sigma), noise and flips of its pixels.
_WEIGHT, _WIDTH, _BLUR, _NOISE, _FLIPS = (3.5, 6.5), (20.0, 27.0), (0.3, 0.8), 0.1, 0.01
_SHOWN, _MARGIN = 56, 4  # side of the enlarged digit and its black margin in the PNG


def write_digits(root: Path, *, per_class: int = 200, seed: int = 0) -> Path:
    """Write ``root/{synthetic,real_train,real_eval}/<0..9>/*.png`` and return ``root``.

    Real digits are split within each class by their order in the file, the first half being the
    pool. Neighbours there are often by the same hand (the nearest image of a class lies 61 places
    away, in the median, against 258 by chance), so that the halves share few writers.

    The 8 x 8 digits are enlarged bicubically to 56 px with a margin of 4 px: what a centre crop of
    0.875 keeps is exactly the digit, and a frozen network sees strokes rather than blocks.

    Args:
        root: folder to write to; made when absent.
        per_class: rendered digits a class; no two are equal, and none equals a real one.
        seed: of the rendering; the same seed writes the same bytes.
    """
    root = Path(root)
    digits = load_digits()
    taken = {x.tobytes() for x in digits.images.astype(np.uint8)}
    for label in range(10):
        real = digits.images[digits.target == label].astype(np.uint8)
        half = (len(real) + 1) // 2
        rng = np.random.default_rng([seed, label])
        _write(root / "synthetic" / str(label), _new_digits(label, per_class, taken, rng))
        _write(root / "real_train" / str(label), real[:half])
        _write(root / "real_eval" / str(label), real[half:])
    return root


def render_digit(label: int, rng: np.random.Generator) -> Digit:
    """Render one digit as the originals were made: (8, 8) counts 0..16 of inked pixels."""
    path = _skeleton(FONTS[rng.integers(len(FONTS))], label)
    if label == 7 and rng.random() < _CROSSED:
        path = np.concatenate([path, _crossbar(path)])
    path = _bent(_slanted(path, rng), rng)
    return _counted(_inked(path, rng), rng)


def _new_digits(
    label: int, count: int, taken: set[bytes], rng: np.random.Generator
) -> Iterator[Digit]:
    """Yield ``count`` digits that are not in ``taken``, and add them to it."""
    while count:
        digit = render_digit(label, rng)
        if digit.tobytes() not in taken:
            taken.add(digit.tobytes())
            count -= 1
            yield digit


def _slanted(path: Array, rng: np.random.Generator) -> Array:
    shear, turn = rng.uniform(-_SHEAR, _SHEAR), np.deg2rad(rng.uniform(-_TURN, _TURN))
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    slanted: Array = path @ np.array([[1.0, shear], [0.0, 1.0]]).T @ matrix.T
    return slanted


def _bent(path: Array, rng: np.random.Generator) -> Array:
    """Displace a path of height 1 by two slow waves in each direction."""
    moved = path.copy()
    for axis in range(2):
        for _ in range(2):
            wave = rng.uniform(-2 * np.pi, 2 * np.pi, size=2)
            moved[:, axis] += _BEND * rng.normal() * np.sin(path @ wave + rng.uniform(0, 2 * np.pi))
    return moved


def _crossbar(path: Array) -> Array:
    """The bar that many hands put through the stem of a 7."""
    x, y = path[:, 0], path[:, 1]
    low, high = y.min(), y.max()
    middle = low + 0.5 * (high - low)
    stem = x[np.abs(y - middle) < 0.05 * (high - low)].mean()
    return np.stack([stem + np.linspace(-0.25, 0.25, 60), np.full(60, middle)], axis=1)


def _inked(path: Array, rng: np.random.Generator) -> Array:
    """Fit the path to the frame and draw it with a round pen: (128, 128) of 0 and 1."""
    side, weight = _FRAME * _FINE, rng.uniform(*_WEIGHT) * _FINE
    low, high = path.min(axis=0), path.max(axis=0)
    natural = (high - low)[0] / (high - low)[1] * side
    width = min(rng.uniform(*_WIDTH) * _FINE, max(natural * 1.3, weight))
    extent = np.maximum(np.array([width, side]) - weight, 0)
    path = (path - (low + high) / 2) / np.maximum(high - low, 1e-9) * extent + (side - 1) / 2
    away = np.ones((side, side), dtype=bool)
    column, row = np.clip(np.rint(path), 0, side - 1).astype(int).T
    away[row, column] = False
    ink: Array = (ndimage.distance_transform_edt(away) <= weight / 2).astype(np.float64)
    return ink


def _counted(ink: Array, rng: np.random.Generator) -> Digit:
    """Blur, add noise, threshold to the 32 x 32 bitmap, count ink in blocks of 4 x 4."""
    soft = ink.reshape(_FRAME, _FINE, _FRAME, _FINE).mean(axis=(1, 3))
    soft = ndimage.gaussian_filter(soft, rng.uniform(*_BLUR))
    bitmap = soft + rng.normal(0, _NOISE, soft.shape) > 0.5
    bitmap ^= rng.random(bitmap.shape) < _FLIPS
    counts: Digit = bitmap.reshape(8, 4, 8, 4).sum(axis=(1, 3)).astype(np.uint8)
    return counts


@cache
def _skeleton(font: str, label: int) -> Array:
    """(n, 2) points (x right, y down) along the middle of a glyph's strokes; its height is 1."""
    file = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")
    canvas = Image.new("L", (2 * _GLYPH, 2 * _GLYPH))
    ImageDraw.Draw(canvas).text(
        (_GLYPH // 2, _GLYPH // 4), str(label), 255, ImageFont.truetype(str(file), _GLYPH)
    )
    row, column = np.nonzero(_thinned(np.asarray(canvas) > 127))
    points: Array = np.stack([column, row], axis=1) / (row.max() - row.min())
    return points


def _thinned(shape: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Thin a shape to lines of one pixel (Zhang & Suen, CACM 27(3), 1984)."""
    thin = np.pad(shape, 1)
    while True:
        before = thin.copy()
        for first in (True, False):
            n, e, s, w = (
                np.roll(thin, shift, axis) for shift, axis in ((1, 0), (-1, 1), (-1, 0), (1, 1))
            )
            (ne, nw), (se, sw) = ((np.roll(x, -1, 1), np.roll(x, 1, 1)) for x in (n, s))
            ring = np.stack([n, ne, e, se, s, sw, w, nw])
            neighbours = ring.sum(axis=0)
            rises = (~ring & np.roll(ring, -1, axis=0)).sum(axis=0)
            keeps_ends = ~(n & e & s) & ~(e & s & w) if first else ~(n & e & w) & ~(n & s & w)
            thin = thin & ~((neighbours >= 2) & (neighbours <= 6) & (rises == 1) & keeps_ends)
        if (thin == before).all():
            return thin[1:-1, 1:-1]


def _write(folder: Path, digits: Iterable[Digit]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("[0-9][0-9][0-9][0-9].png"):  # of a run with more a class
        stale.unlink()
    for i, x in enumerate(digits):
        digit = Image.fromarray(np.rint(x * (255 / 16)).astype(np.uint8))
        canvas = Image.new("L", (_SHOWN + 2 * _MARGIN,) * 2)
        canvas.paste(digit.resize((_SHOWN, _SHOWN), Image.Resampling.BICUBIC), (_MARGIN, _MARGIN))
        canvas.save(folder / f"{i:04d}.png")
