"""Images that are no files: bytes, PIL images, arrays, tensors, and items of other libraries' data sets."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from petiole.data.image import MAX_PIXELS, decode, pixel_id, read_bytes, read_image, upright_rgb
from petiole.errors import DataError


@dataclass(frozen=True)
class MemoryImage:
    """One image in memory, or that something else reads.

    Attributes:
        where: which one it is, for errors: "item 3 of the list".
        fetch: gives it in any of the forms of `to_image`; for items of a data set anew at each call, so
            that a large one need not fit in memory.
    """

    where: str
    fetch: Callable[[], object]

    def __call__(self) -> Image.Image:
        """Return it upright and in mode RGB.

        Raises:
            DataError: it cannot be read, or is none of the forms of `to_image`.
        """
        return to_image(self._content(), self.where)

    @cached_property
    def id(self) -> str:
        """SHA-256 (hex) of an encoded image's bytes, as of its file; else `petiole.data.image.pixel_id`."""
        return self.identity(self._content())

    def identity(self, content: object) -> str:
        """The id that ``content`` gives this image.

        Raises:
            DataError: as of the call.
        """
        image = to_image(content, self.where)
        encoded = _encoded(content)
        return pixel_id(image) if encoded is None else hashlib.sha256(encoded).hexdigest()

    def _content(self) -> object:
        try:
            return self.fetch()
        except DataError:
            raise
        except Exception as error:  # another library's reader can fail in any way
            raise DataError(
                f"{self.where}: cannot be read ({type(error).__name__}: {error}). Repair or leave it out."
            ) from error


def kind_of(value: object) -> str:
    """What an image is given as; empty for what is no image."""
    if isinstance(value, str | os.PathLike):
        return "path"
    if isinstance(value, bytes | bytearray | memoryview):
        return "bytes"
    if isinstance(value, Image.Image):
        return "PIL image"
    if isinstance(value, np.ndarray):
        return "array"
    if isinstance(value, Tensor):
        return "tensor"
    if isinstance(value, Mapping) and value.keys() & {"bytes", "path"}:
        return "undecoded image"  # of a Hugging Face data set
    return ""


def path_of(value: object, where: str = "") -> Path | None:
    """The path that a value is, if it is one; addresses are refused."""
    if kind_of(value) != "path":
        return None
    text = str(value)
    if text.startswith(("http://", "https://")):
        at = f"{where}: " if where else ""
        raise DataError(f"{at}{text} is an address; download the file and give its path.")
    return Path(text)


def to_image(value: object, where: str) -> Image.Image:
    """Return an image upright and in mode RGB.

    Args:
        value: a path; encoded bytes; a PIL image; an array (H, W, 3) or (H, W, 1), or a tensor (3, H, W) or
            (1, H, W), of uint8 or of floats in [0, 1]; a Hugging Face image that is not decoded yet.
        where: which one it is, for the error's text.

    Raises:
        DataError: anything else, a wrong shape, or values out of range.
    """
    if isinstance(value, Mapping) and kind_of(value):
        value = value["path"] if value.get("bytes") is None else value["bytes"]
    if isinstance(value, str | os.PathLike):
        return read_image(Path(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return decode(bytes(value), where)
    if isinstance(value, Image.Image):
        try:
            return upright_rgb(value)
        except Exception as error:  # a lazily opened file fails only now
            raise DataError(f"{where}: this PIL image cannot be read ({error}).") from error
    if isinstance(value, Tensor):
        return _from_pixels(_channels_last(value, where), where)
    if isinstance(value, np.ndarray):
        return _from_pixels(_checked_shape(value, where), where)
    raise DataError(
        f"{where}: {_shown(value)} is no image. Give a path, bytes, a PIL image, an array (H, W, 3) or a "
        "tensor (3, H, W)."
    )


def _encoded(value: object) -> bytes | None:
    """The file's bytes of an image that is given as such."""
    if isinstance(value, Mapping):
        value = value["path"] if value.get("bytes") is None else value["bytes"]
    if isinstance(value, str | os.PathLike):
        return read_bytes(Path(value))
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else None


def _channels_last(tensor: Tensor, where: str) -> NDArray[Any]:
    """(C, H, W) -> (H, W, C)."""
    values = tensor.detach().cpu()
    if values.dtype is torch.bfloat16:
        values = values.float()
    if values.ndim != 3 or values.shape[0] not in (1, 3):
        raise _shape(where, "tensor", tuple(values.shape), "(3, H, W)", "permute(2, 0, 1)", -1)
    array: NDArray[Any] = values.permute(1, 2, 0).numpy()
    return array


def _checked_shape(array: NDArray[Any], where: str) -> NDArray[Any]:
    if array.ndim != 3 or array.shape[2] not in (1, 3):
        raise _shape(where, "array", array.shape, "(H, W, 3)", "transpose(1, 2, 0)", 0)
    return array


def _shape(
    where: str, kind: str, shape: tuple[int, ...], wanted: str, turned: str, other: int
) -> DataError:
    """The error of a shape, with what brings it into the right one."""
    channel = 0 if kind == "tensor" else -1
    if len(shape) == 3 and shape[other] in (1, 3):
        remedy = f"Its channels are on another axis: x.{turned}."
    elif len(shape) == 3 and shape[channel] == 4:
        part = "x[:3]" if kind == "tensor" else "x[..., :3]"
        remedy = f"Take its transparency away: {part}."
    elif len(shape) == 2:
        remedy = f"Give it a channel axis: x[{'None' if kind == 'tensor' else '..., None'}]."
    elif len(shape) == 4:
        remedy = "It holds several images: give them alone, not inside a list."
    else:
        remedy = "Colour has 3 channels, grey 1."
    return DataError(f"{where}: {kind} of shape {shape}; an image has {wanted}. {remedy}")


def _from_pixels(pixels: NDArray[Any], where: str) -> Image.Image:
    """(H, W, 1 or 3) of uint8 or floats in [0, 1]."""
    if not pixels.size:
        raise DataError(f"{where}: an image of shape {pixels.shape} has no pixels.")
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
        raise DataError(
            f"{where}: an image of shape {pixels.shape}; more than {MAX_PIXELS / 1e6:.0f} million pixels are refused. "
            "Scale it down, or cut it into tiles."
        )
    if np.issubdtype(pixels.dtype, np.floating):
        _check_range(pixels, where)
        # Row by row: a view that repeats one number takes no memory, its copy as float64 gigabytes.
        rows = (np.rint(row.astype(np.float64) * 255).astype(np.uint8) for row in pixels)
        pixels = np.stack(list(rows))
    if pixels.dtype != np.uint8:
        raise DataError(
            f"{where}: pixels of {pixels.dtype}; uint8 (0 to 255) or floats (0 to 1) are needed. Convert "
            "them: x.astype('uint8') for an array, x.byte() for a tensor."
        )
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))))


def _check_range(pixels: NDArray[Any], where: str) -> None:
    low, high = float(pixels.min()), float(pixels.max())
    if not np.isfinite([low, high]).all():
        raise DataError(f"{where}: its pixels hold NaN or infinity.")
    if low >= 0 and high <= 1:
        return
    remedy = (
        "Divide by 255."
        if low >= 0 and high <= 255
        else "If they are normalised already, leave that out: the backbone's own preprocessing is applied here."
    )
    raise DataError(
        f"{where}: float pixels from {low:.3g} to {high:.3g}; they must lie in [0, 1]. {remedy}"
    )


def _shown(value: object) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) < 60 else text[:57] + '...'}"
