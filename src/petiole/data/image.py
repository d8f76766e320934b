"""One file, or one image in memory, to one upright RGB image; or one error that says what is wrong with which.

Headers are checked before any pixel is allocated, so that a small file that claims a gigapixel
costs nothing.
"""

import hashlib
import os
import stat
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageChops, UnidentifiedImageError

from petiole.data.decode_budget import room_for
from petiole.errors import DataError
from petiole.stores.pointer import checked_before, image_bytes, remember_checked

SUFFIXES = frozenset(
    [
        *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".heic", ".heif", ".avif"),
    ]
)
"""File names that are taken for images, lower case."""

SKIP = "where a folder is read, --skip-bad does so"
MAX_PIXELS = 2 * 89_478_485
"""Largest image that is decoded, about 179 million pixels: where Pillow, too, refuses."""

MAX_BYTES = 2**29
"""Largest file that is read: an uncompressed image of `MAX_PIXELS` in RGB."""

_STRIP = 2**22  # pixels that are converted at once where a conversion needs copies
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # JPEG includes phones' MPO
Image.init()  # all decoders now: `open` does not find them by name later
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Pixels(Protocol):
    """An image in memory."""

    def __call__(self) -> Image.Image:
        """Return it upright and in mode RGB.

        Raises:
            DataError: it cannot be used; the message says which one it is.
        """

    @property
    def id(self) -> str:
        """SHA-256 (hex) of its content, see `pixel_id`."""


class ImageRef(Protocol):
    """What `load` reads: an image in memory where ``image`` is set, else the file at ``path``."""

    @property
    def path(self) -> Path: ...

    @property
    def image(self) -> Pixels | None: ...

    @property
    def id(self) -> str:
        """SHA-256 (hex) of the content that is meant; empty where any will do."""


def load(ref: ImageRef) -> Image.Image:
    """Return a sample's image as `read_image` does, wherever it is.

    Raises:
        DataError: it cannot be read or used, or the bytes at the path are no longer those of the sample's ``id``.
    """
    if ref.image is not None:
        return ref.image()
    content = read_bytes(ref.path)
    if ref.id and (found := hashlib.sha256(content).hexdigest()) != ref.id:
        raise DataError(
            f"{ref.path}: its content changed since it was listed (SHA-256 {ref.id[:12]}, now {found[:12]}). "
            "Repeat the command when nothing writes to the images."
        )
    return decode(content, ref.path)


def checked_id(ref: ImageRef) -> str:
    """Decode an image and return its identity: SHA-256 (hex) of the file's bytes, or `pixel_id`.

    Raises:
        DataError: it cannot be read or used.
    """
    if ref.image is not None:
        return ref.image.id
    if known := checked_before(ref.path):
        return known
    content = read_bytes(ref.path)
    decode(content, ref.path)
    digest = hashlib.sha256(content).hexdigest()
    remember_checked(ref.path, digest)
    return digest


def pixel_id(image: Image.Image) -> str:
    """SHA-256 (hex) of mode, width, height and the raw pixels: the same on every machine, unlike a PNG's."""
    head = f"{image.mode}|{image.width}|{image.height}|".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()


def read_image(path: Path) -> Image.Image:
    """Return the image in ``path`` upright and in mode RGB.

    EXIF orientation is applied; transparency is laid over white; greyscale, palette, CMYK (with and
    without Adobe's inversion), 1-bit, 16-bit, 32-bit and float images are brought to 8 bits by
    scaling, not clipping; of several frames the first is taken.

    Raises:
        DataError: the file is missing, no regular file, not permitted, empty, no image, truncated
            or larger than `MAX_PIXELS`.
    """
    return decode(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a regular, non-empty file; of an image in a store, the object's.

    Raises:
        DataError: it is missing, a directory or other special file, not permitted, or empty.
        StoreError: the store cannot be reached, or refuses.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            kind = "is a directory" if path.is_dir() else "is no regular file"
            raise DataError(f"{path}: {kind}, not an image. Name the image files themselves.")
        if found.st_size > MAX_BYTES:
            raise _unreadable(
                path,
                f"has {found.st_size / 1e9:.1f} GB; more than {MAX_BYTES / 1e9:.1f} are refused",
            )
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Check the path.") from None
    except PermissionError:
        raise DataError(
            f"{path}: no permission to read it. Run `chmod u+r` on it, or leave it out ({SKIP})."
        ) from None
    except ValueError as error:  # a zero byte in the path
        raise DataError(f"{str(path)!r}: no path of a file ({error}). Correct it.") from None
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}). Copy it anew, or leave it out ({SKIP})."
        ) from error
    content = image_bytes(path, content, MAX_BYTES)
    if not content:
        raise _unreadable(path, "the file is empty")
    return content


def decode(content: bytes, path: Path | str, most: int | None = None) -> Image.Image:
    """Return the image in ``content`` as `read_image` does; ``path`` is only for the error's text.

    Args:
        content: of a file.
        path: what the image is called.
        most: pixels, if fewer than `MAX_PIXELS` are to be decoded.

    Raises:
        DataError: as `read_image`.
    """
    try:
        with _open(content, path, MAX_PIXELS if most is None else most) as image:
            return upright_rgb(image)
    except DataError:
        raise
    except Exception as error:  # damaged files make the decoders raise nearly anything
        raise _unreadable(path, f"damaged or truncated ({error})") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return any PIL image as `read_image` does: upright by its EXIF, in mode RGB."""
    with room_for(image.width * image.height, MAX_PIXELS):
        image.load()
        return _upright(_to_rgb(image), image)


def _open(content: bytes, path: Path | str, most: int) -> Image.Image:
    """Read the header alone and refuse what must not be decoded."""
    try:
        formats = _phone_formats() if content[4:8] == b"ftyp" else _FORMATS
        image = Image.open(BytesIO(content), formats=formats)
    except UnidentifiedImageError:
        if content[4:8] == b"ftyp" and "HEIF" not in formats:
            raise DataError(
                f"{path}: HEIC (or another film or image of its kind) needs pillow-heif. Run `pip install "
                f"'petiole[heif]'`, or leave the image out ({SKIP})."
            ) from None
        raise _unreadable(
            path,
            "not an image of a kind that is read here (JPEG, PNG, WebP, BMP, GIF, TIFF, PPM, HEIC, AVIF)",
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _bomb(path) from None
    if image.width * image.height > most:
        raise _bomb(path, image.size, most)
    return image


@cache
def _phone_formats() -> tuple[str, ...]:
    """Formats in ISO's base media file: AVIF, which Pillow reads, and HEIC where the library pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener()
    return tuple(name for name in ("AVIF", "HEIF") if name in Image.OPEN)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Bring a loaded image of any mode to RGB."""
    if image.mode in _WIDE:
        return _WIDE[image.mode](image).convert("RGB")
    if image.mode.startswith("I;16"):
        return _in_strips(image, lambda strip: _from_16_bits(strip).convert("RGB"))
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        # Pillow undoes Adobe's inversion in every CMYK JPEG; one without Adobe's marker was never
        # inverted.
        return ImageChops.invert(image).convert("RGB")
    if image.has_transparency_data:
        return _in_strips(image, _over_white)
    return image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB")


def _in_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """A conversion of each pixel by itself, a strip at a time, so that its copies stay small."""
    rows = max(1, _STRIP // image.width)
    if rows >= image.height:
        return convert(image)
    whole = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        whole.paste(convert(image.crop(box)), (0, top))
    return whole


def _upright(rgb: Image.Image, source: Image.Image) -> Image.Image:
    try:
        orientation = source.getexif().get(_ORIENTATION)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        orientation = None
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def _from_16_bits(image: Image.Image) -> Image.Image:
    return _grey(np.asarray(image).astype(np.float32) / 257)


def _from_integers(image: Image.Image) -> Image.Image:
    """32 bits: Pillow's mode for 16-bit PGM and integer TIFF; the range is the smallest usual."""
    values = np.asarray(image).astype(np.float64)
    if values.min() < 0:
        return _stretched(values)
    tops = [65535.0] if image.format in ("PNG", "PPM") else [255.0, 65535.0]
    top = next((t for t in tops if values.max() <= t), 2.0**31 - 1)
    return _grey(values * (255 / top))


def _from_floats(image: Image.Image) -> Image.Image:
    """Float: [0, 1] or [0, 255] as they are meant; any other range is stretched."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("its pixels hold NaN or infinity")
    if values.min() < 0 or values.max() > 255:
        return _stretched(values)
    return _grey(values * (255 if values.max() <= 1 else 1))


def _stretched(values: np.ndarray) -> Image.Image:
    spread = values.max() - values.min()
    return _grey((values - values.min()) / (spread or 1) * 255)  # one grey value has no spread


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(values).astype(np.uint8))


_WIDE: dict[str, Callable[[Image.Image], Image.Image]] = {"I": _from_integers, "F": _from_floats}


def _unreadable(path: Path | str, what: str) -> DataError:
    return DataError(f"{path}: {what}. Re-export the image, or leave it out ({SKIP}).")


def _bomb(
    path: Path | str, size: tuple[int, int] | None = None, most: int = MAX_PIXELS
) -> DataError:
    claimed = f"{size[0]} x {size[1]} pixels" if size else "more pixels"
    return _unreadable(path, f"claims {claimed}; more than {most / 1e6:.0f} million are refused")
