"""Images with a mask each: a class for every pixel.

    root/images/a.jpg, root/masks/a.png              or the same in root/train/ and root/test/
    list.csv with the columns path,mask[,domain][,split]

``classes.json`` beside them says what a mask's pixels mean; without it they are numbers, called by the colours of the palette
where the masks have one:

    {"classes": ["background", "circle"], "ignore": 255}               a pixel is the place in the list
    {"classes": {"road": 7, "car": 26}, "ignore": [0, 255]}            a pixel is a number
    {"classes": {"road": [128, 64, 128]}, "ignore": [[0, 0, 0]]}       a pixel is a colour
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from petiole.data.dataset import Domain, listed
from petiole.data.image import MAX_PIXELS, SUFFIXES, read_bytes
from petiole.data.readers.json_rows import read_object
from petiole.data.readers.table import is_table, part_of, read_rows
from petiole.errors import DataError, boundary

MASK, CLASSES = "mask", "classes.json"
"""The column of a table that names masks, and the file that names classes."""
IMAGES, MASKS = "images", "masks"
UNKNOWN = 255
"""Of a pixel that is of no class; so there are at most 255 classes."""

Colour = tuple[int, ...]
"""One number, or red, green and blue."""


@dataclass(frozen=True)
class MaskClasses:
    """What the pixels of masks mean.

    Attributes:
        names: of the classes, in order.
        codes: of each class its pixel.
        ignored: pixels that are of no class.
    """

    names: tuple[str, ...]
    codes: tuple[Colour, ...]
    ignored: tuple[Colour, ...] = ((UNKNOWN,),)

    def places(self, names: Sequence[str]) -> NDArray[np.uint8]:
        """Class -> its place among ``names``, or ``UNKNOWN`` where it is none of them; (256,)."""
        table = np.full(256, UNKNOWN, dtype=np.uint8)
        for index, name in enumerate(self.names):
            if name in names:
                table[index] = names.index(name)
        return table

    def read(self, path: Path) -> NDArray[np.uint8]:
        """A mask as places of classes, (h, w); ``UNKNOWN`` where a pixel is of none.

        Raises:
            DataError: it cannot be read, or has a pixel that means nothing.
        """
        pixels, width = mask_pixels(path), len(self.codes[0])
        if pixels.shape[2] != width:
            raise DataError(
                f"{path} has {_kind(pixels.shape[2])}, and the classes are given as {_kind(width)}. Correct {CLASSES}, or the mask."
            )
        coded = _packed(pixels)
        found = np.full(coded.shape, UNKNOWN, dtype=np.uint8)
        left = np.ones(coded.shape, dtype=bool)
        for index, code in [*enumerate(self.codes), *((UNKNOWN, c) for c in self.ignored)]:
            here = coded == _packed(np.array(code))
            found[here & left] = index
            left &= ~here
        if left.any():
            odd = sorted({tuple(map(int, pixel)) for pixel in np.unique(pixels[left], axis=0)})
            raise DataError(
                f"{path} has the pixels {listed([_said(code) for code in odd])}, which are no classes here. Name them in "
                f'{CLASSES}, or put them under "ignore".'
            )
        return found


def is_masked(path: Path) -> bool:
    """Whether a folder has images and masks."""
    return any((part / MASKS).is_dir() and (part / IMAGES).is_dir() for part in _parts(path))


def mask_pixels(path: Path) -> NDArray[np.uint8]:
    """A mask's pixels as they are stored: (h, w, 1) numbers, palette's included, or (h, w, 3) colours.

    Raises:
        DataError: the file cannot be read, or is no mask.
    """
    return _pixels(_opened(path))


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    pixels = np.asarray(image.convert("L") if image.mode == "1" else image)
    return pixels.reshape(*pixels.shape[:2], -1)


def _opened(path: Path) -> Image.Image:
    content = read_bytes(path)
    remedy = "Write it as a PNG with a number or a colour for each class."
    with boundary(path, remedy, what="not a mask"):
        image = Image.open(BytesIO(content), formats=("PNG", "BMP", "TIFF", "GIF"))
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels are too many")
        if image.mode not in ("1", "L", "P", "RGB"):
            raise ValueError(f"mode {image.mode}")
        image.load()
    return image


def read_masked(path: Path) -> tuple[dict[str, list[tuple[Path, Path, Domain]]], MaskClasses]:
    """Images with their masks and domains, by part (``train``, ``test``, ``source``), and the classes.

    Raises:
        DataError: another layout, an image without a mask or a mask without an image, or a bad ``classes.json``.
    """
    parts: dict[str, list[tuple[Path, Path, Domain]]] = {}
    if is_table(path):
        for row in read_rows(path, label=MASK):
            part = part_of(path, row)
            if row.entry.domain == "source":
                part = "source" if part == "train" else None
            if part:
                mask = path.parent / row.entry.label
                parts.setdefault(part, []).append((row.entry.path, mask, row.entry.domain))
    elif is_masked(path):
        for folder in _parts(path):
            if (folder / MASKS).is_dir() and (folder / IMAGES).is_dir():
                part = "test" if folder.name == "test" and folder != path else "train"
                parts.setdefault(part, []).extend(_pairs(folder))
    else:
        raise DataError(
            f"{path}: masks are read from a folder with {IMAGES}/ and {MASKS}/ (or train/ and test/ with both), or from a table "
            f"with the columns path and {MASK}."
        )
    home = path.parent if is_table(path) else path
    masks = [mask for rows in parts.values() for _, mask, _ in rows]
    stated = next((f for f in (home / CLASSES, home.parent / CLASSES) if f.is_file()), None)
    return parts, _stated(stated) if stated else _seen(masks)


def _parts(path: Path) -> tuple[Path, ...]:
    return path, path / "train", path / "test"


def _pairs(folder: Path) -> Iterator[tuple[Path, Path, Domain]]:
    images, masks = (
        {p.stem: p for p in sorted((folder / name).iterdir()) if p.suffix.lower() in SUFFIXES}
        for name in (IMAGES, MASKS)
    )
    if alone := sorted(images.keys() ^ masks.keys()):
        where = folder / (IMAGES if alone[0] in images else MASKS)
        raise DataError(
            f"{where}: {len(alone)} files have no partner of the same name in the other folder: {listed(alone)}. Add it, or move "
            "them away."
        )
    for stem, image in images.items():
        yield image, masks[stem], "target"


def _stated(file: Path) -> MaskClasses:
    values = read_object(file).values
    classes = values.get("classes")
    with boundary(file, f"See the forms in {__name__}.", what="does not say what masks mean"):
        if isinstance(classes, list):
            named: Mapping[str, Any] = {str(name): index for index, name in enumerate(classes)}
            if len(named) < len(classes):
                raise ValueError("a class is named twice")
        else:
            named = dict(classes or {})
        if odd := sorted(values.keys() - {"classes", "ignore"}):
            raise ValueError(f"{odd[0]} is unknown")
        given = values.get("ignore", [])
        ignored = given if isinstance(given, list) else [given]
        codes, none = (tuple(map(_code, some)) for some in (named.values(), ignored))
        if not 0 < len(codes) <= UNKNOWN or len({*codes, *none}) < len(codes) + len(none):
            raise ValueError("classes and ignored pixels must be 1 to 255, and each its own")
        if len({len(code) for code in (*codes, *none)}) > 1:
            raise ValueError("numbers and colours are mixed")
    return MaskClasses(tuple(named), codes, none)


def _seen(masks: Iterable[Path]) -> MaskClasses:
    """The numbers that masks hold, by their number, or by their colour in the palette."""
    codes: set[int] = set()
    palette: list[int] | None = None
    for path in masks:
        image = _opened(path)
        pixels = _pixels(image)
        if pixels.shape[2] != 1:
            raise DataError(f"{path} is in colours. Say in {CLASSES} which class each is.")
        codes |= set(np.unique(pixels).tolist())
        palette = palette or image.getpalette()
    known = sorted(codes - {UNKNOWN})
    if not known:
        raise DataError("The masks have no pixel of a class.")
    names = [str(code) for code in known]
    if palette:
        colours = ["#" + bytes(palette[3 * code : 3 * code + 3]).hex() for code in known]
        names = colours if len(set(colours)) == len(colours) else names
    return MaskClasses(tuple(names), tuple((code,) for code in known))


def _code(value: Any) -> Colour:
    code = tuple(value) if isinstance(value, list) else (value,)
    if len(code) not in (1, 3) or any(type(v) is not int or not 0 <= v <= 255 for v in code):
        raise ValueError(f"{value!r} is neither a number from 0 to 255 nor a colour of three")
    return code


def _packed(pixels: NDArray[Any]) -> NDArray[np.int64]:
    """The last axis as one number."""
    scale = 256 ** np.arange(pixels.shape[-1])
    return np.asarray(pixels.astype(np.int64) @ scale)


def _said(code: Colour) -> str:
    return str(code[0]) if len(code) == 1 else str(list(code))


def _kind(width: int) -> str:
    return "numbers" if width == 1 else "colours"
