"""What a backbone sees of an image: the evaluation transform and reproducible random views.

View 0 is the evaluation transform. View k >= 1 is a random-resized crop with flip and colour jitter
whose randomness is a pure function of (image id, k, augmentation): a cached view equals a
recomputed one in any process, thread and order, and no global random state is read or written.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, Self

import numpy as np
import torch
from PIL import Image, ImageEnhance
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor

from petiole.data.naflex import grid_for, strip_of
from petiole.errors import ConfigError, unknown

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Triple = tuple[float, float, float]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class Preprocessing(BaseModel):
    """The input that a set of weights was trained for; it always comes from the weights' own configuration.

    Attributes:
        size: (height, width) of the model input, in pixels.
        crop: share of the resized image that the centre crop keeps (timm's ``crop_pct``); above 1 the image is resized to
            less than the input and stands in the middle of black.
        interpolation: filter of the resize; all but nearest are antialiased.
        mean: per channel (R, G, B), on pixels scaled to [0, 1].
        std: per channel, on the same scale.
        crop_mode: how an image becomes (height, width) / crop before the centre crop (timm's words): ``center`` covers it and
            keeps the aspect ratio, ``squash`` fills it and does not, ``border`` lies inside it and keeps the ratio.
        fill: colour around an image that is smaller than the crop.
        corner: of a crop that leaves an odd number of pixels: ``round`` (half to even, torchvision) or ``floor`` (transformers).
        resized: ``pixels`` of 8 bits, rounded again, or ``floats``.
        parts: of several backbones that see one image; their pixels lie one behind the other, (3, 1, sum of H W).
        patch: side of a patch, in pixels, where images keep their shape and travel as strips of patches (``petiole.data.naflex``);
            0 for images of one size.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: tuple[int, int]
    crop: float
    interpolation: Interpolation
    mean: Triple
    std: Triple
    crop_mode: Literal["center", "squash", "border"] = "center"
    fill: tuple[int, int, int] = (0, 0, 0)
    corner: Literal["round", "floor"] = "round"
    resized: Literal["pixels", "floats"] = "pixels"
    parts: tuple[Preprocessing, ...] = ()
    patch: int = 0

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        if min(self.size) < 1:
            raise ValueError(f"size {self.size} must be positive")
        if not 0 < self.crop <= 2:
            raise ValueError(f"crop {self.crop} must lie in (0, 2]")
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std} must be positive")
        return self

    @classmethod
    def symmetric(cls, size: int) -> Self:
        """Whole images of ``size`` x ``size`` pixels, resized bicubically and scaled to [-1, 1]."""
        half = (0.5, 0.5, 0.5)
        return cls(size=(size, size), crop=1.0, interpolation="bicubic", mean=half, std=half)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Of several backbones that see one image."""
        pixels = sum(math.prod(part.size) for part in parts)
        first = parts[0]
        return first.model_copy(update={"size": (1, pixels), "parts": tuple(parts)})

    def naflex(self, patch: int, budget: int) -> Self:
        """The same colours and filter for images that keep their shape, of at most ``budget`` patches."""
        size = (patch, (budget + 1) * patch)
        return self.model_copy(update={"size": size, "patch": patch, "crop_mode": "squash"})

    @property
    def budget(self) -> int:
        """Most patches of an image that keeps its shape."""
        return self.size[1] // self.patch - 1

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation by channel, each to be broadcast over pixels (3, H, W)."""
        if self.parts:
            each = [
                [value.expand(3, *part.size) for value in part.statistics()] for part in self.parts
            ]
            mean, std = (_side_by_side(values) for values in zip(*each, strict=True))
            return mean, std
        mean, std = (torch.tensor(v, dtype=torch.float32) for v in (self.mean, self.std))
        return mean.view(3, 1, 1), std.view(3, 1, 1)

    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON of all fields that differ from their defaults."""
        return _digest(self.model_dump(mode="json", exclude_defaults=True))

    def __str__(self) -> str:
        if self.parts:
            return " and ".join(map(str, self.parts))
        if self.patch:
            return (
                f"the image's own shape, up to {self.budget} patches of {self.patch} × {self.patch} pixels, "
                f"{self.interpolation}"
            )
        how = {"center": "", "squash": ", squashed", "border": ", with a border"}[self.crop_mode]
        return (
            f"{self.size[1]} × {self.size[0]} pixels, {self.interpolation}, crop {self.crop:g}{how}"
        )


@dataclass(frozen=True)
class Augmentation:
    """Random-resized crop, horizontal flip, colour jitter.

    Attributes:
        scale: range of the crop's share of the image area.
        ratio: range of the crop's width / height, drawn uniformly in its logarithm.
        flip: mirror left-right with probability 1/2.
        jitter: brightness, contrast and saturation are each scaled by U(1 - jitter, 1 + jitter), in
            random order.
    """

    scale: tuple[float, float] = (0.4, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    jitter: float = 0.2

    def __post_init__(self) -> None:
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if not 0 < low <= high:
                raise ConfigError(
                    f"Augmentation {name} {(low, high)} must be positive and increasing."
                )
        if self.scale[1] > 1:
            raise ConfigError(
                f"Augmentation scale {self.scale} must not exceed 1, the whole image."
            )
        if not 0 <= self.jitter < 1:
            raise ConfigError(f"Augmentation jitter {self.jitter} must lie in [0, 1).")

    @classmethod
    def none(cls) -> Self:
        """No randomness: every view is the evaluation transform."""
        return cls(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=False, jitter=0.0)

    @property
    def identity(self) -> bool:
        """Whether every view is the evaluation transform."""
        return self == Augmentation.none()

    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON of all fields."""
        return _digest(asdict(self))


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation.none(),
    "default": Augmentation(),
    # The prompt learners' (Dassl): crops of 8 to 100 % of the image, mirrored or not.
    "crops": Augmentation(scale=(0.08, 1.0), jitter=0.0),
    # A mirrored 2 is no digit, and half a 9 is a 0.
    "digits": Augmentation(scale=(0.75, 1.0), ratio=(0.85, 1 / 0.85), flip=False, jitter=0.0),
}


def augmentation(name: str) -> Augmentation:
    """Return a preset by name.

    Raises:
        ConfigError: unknown name; the nearest are listed.
    """
    if name not in AUGMENTATIONS:
        raise unknown("augmentation", name, AUGMENTATIONS)
    return AUGMENTATIONS[name]


def evaluate_transform(p: Preprocessing) -> Callable[[Image.Image], Tensor]:
    """Return the library's own evaluation transform: resize, centre crop, scale to [0, 1], normalise.

    Bit-equal to ``timm.data.create_transform(..., is_training=False)``, with ``naflex=True`` where images keep their shape; of transformers' image processors the pixels are
    equal and the normalised values differ by float32 rounding.

    Returns:
        A function from an RGB image to float32 of shape (3, height, width).
    """
    if p.parts:
        each = [evaluate_transform(part) for part in p.parts]
        return lambda image: _side_by_side([transform(image) for transform in each])

    if p.patch:
        return lambda image: _strip(image, p, (0, 0, *image.size))

    def transform(image: Image.Image) -> Tensor:
        size, filtering = _resized(image.size, p), _RESAMPLING[p.interpolation]
        if p.resized == "floats":
            bands = [band.convert("F").resize(size, filtering) for band in image.split()]
            pixels = np.stack([np.asarray(_cropped(band, p)) for band in bands], axis=-1)
            return _normalise(pixels, p)
        return _normalise(np.array(_cropped(image.resize(size, filtering), p)), p)

    return transform


def view(
    image: Image.Image, p: Preprocessing, augmentation: Augmentation, image_id: str, index: int
) -> Tensor:
    """Return view ``index`` of an RGB image, float32 of shape (3, height, width).

    View 0 is the evaluation transform; the others depend on (image_id, index, augmentation) alone.

    Raises:
        ConfigError: a negative index.
    """
    if index < 0:
        raise ConfigError(
            f"View {index} does not exist; views are counted from 0, the evaluation transform."
        )
    if index == 0 or augmentation.identity:
        return evaluate_transform(p)(image)
    if p.parts:  # the same crop for all
        return _side_by_side([view(image, q, augmentation, image_id, index) for q in p.parts])
    seed = hashlib.sha256(f"{image_id}:{index}:{augmentation.digest()}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(seed))
    box = _crop_box(image.size, augmentation, rng)

    def changed(image: Image.Image) -> Image.Image:
        if augmentation.flip and rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return _jittered(image, augmentation.jitter, rng)

    if p.patch:
        return _strip(image, p, box, changed)
    image = image.resize((p.size[1], p.size[0]), _RESAMPLING[p.interpolation], box=box)
    return _normalise(np.array(changed(image)), p)


def _strip(
    image: Image.Image,
    p: Preprocessing,
    box: tuple[int, int, int, int],
    changed: Callable[[Image.Image], Image.Image] = lambda image: image,
) -> Tensor:
    """A box of an image at the size that its own shape asks for, cut into patches."""
    rows, columns = grid_for((box[2] - box[0], box[3] - box[1]), p.patch, p.budget)
    size = columns * p.patch, rows * p.patch
    pixels = changed(image.resize(size, _RESAMPLING[p.interpolation], box=box))
    return strip_of(_normalise(np.array(pixels), p), p.patch, p.budget)


def _side_by_side(pixels: Sequence[Tensor]) -> Tensor:
    """(3, H, W) each -> (3, 1, sum of H W)."""
    return torch.cat([image.flatten(1) for image in pixels], dim=1)[:, None]


def _resized(size: tuple[int, int], p: Preprocessing) -> tuple[int, int]:
    """(width, height) to which an image of this (width, height) is resized."""
    width, height = size
    target_height, target_width = (math.floor(side / p.crop) for side in p.size)
    if p.crop_mode == "squash":
        return target_width, target_height
    if p.crop_mode == "center" and target_height == target_width:
        # torchvision's Resize of the shorter side truncates; timm's ResizeKeepRatio below rounds.
        if width <= height:
            return target_width, int(target_width * height / width)
        return int(target_height * width / height), target_height
    ratios = height / target_height, width / target_width
    ratio = max(ratios) if p.crop_mode == "border" else min(ratios)
    return max(1, round(width / ratio)), max(1, round(height / ratio))


def framed(image: Image.Image, p: Preprocessing, interpolation: Interpolation) -> Image.Image:
    """An image of any mode, resized and cropped to what the network sees, by a filter of one's own."""
    size = _resized(image.size, p)
    return _cropped(image.resize(size, _RESAMPLING[interpolation]), p)


def placed(size: tuple[int, int], p: Preprocessing) -> tuple[tuple[int, int], tuple[int, int]]:
    """(width, height) to which an image of this (width, height) is resized, and the corner (left, top) of the crop in it."""
    resized = _resized(size, p)
    return resized, _corner(resized, p)


def _corner(size: tuple[int, int], p: Preprocessing) -> tuple[int, int]:
    """(left, top) of the crop in a resized image of (width, height); negative where the image is smaller."""
    rounded = round if p.corner == "round" else math.floor
    # What an image lacks is split with the larger part behind it.
    left, top = (
        rounded(spare / 2) if spare >= 0 else -(-spare // 2)
        for spare in (size[0] - p.size[1], size[1] - p.size[0])
    )
    return left, top


def _cropped(image: Image.Image, p: Preprocessing) -> Image.Image:
    """The middle of an image; where it is smaller it is laid on the fill colour."""
    height, width = p.size
    left, top = _corner(image.size, p)
    if left < 0 or top < 0:
        whole = Image.new(image.mode, (width, height), 0 if image.mode == "F" else p.fill)
        whole.paste(image, (-left, -top))
        return whole
    return image.crop((left, top, left + width, top + height))


def _crop_box(
    size: tuple[int, int], augmentation: Augmentation, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw torchvision's RandomResizedCrop: ten trials, then the largest central crop."""
    width, height = size
    low, high = augmentation.ratio
    for _ in range(10):
        area = width * height * rng.uniform(*augmentation.scale)
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    ratio = min(max(width / height, low), high)
    w = max(1, min(width, round(height * ratio)))
    h = max(1, min(height, round(width / ratio)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _jittered(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    if strength == 0:
        return image
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for i in rng.permutation(len(enhancers)):
        image = enhancers[i](image).enhance(float(rng.uniform(1 - strength, 1 + strength)))
    return image


def _normalise(image: np.ndarray, p: Preprocessing) -> Tensor:
    """(height, width, 3) of 0 .. 255 -> (3, height, width) float32: (pixel / 255 - mean) / std."""
    pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    mean, std = p.statistics()
    return pixels.to(torch.float32).div_(255).sub_(mean).div_(std)


def _digest(fields: object) -> str:
    return hashlib.sha256(
        json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()
