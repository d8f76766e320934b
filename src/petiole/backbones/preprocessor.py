"""What transformers' image processors state, whichever file of a folder states it and in whichever dialect.

The library itself resolves old spellings and each class's defaults; here its attributes become a ``Preprocessing``. What a
class computes in another way than the library's base is known by name, or refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import floor, nextafter
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from petiole.backbones.weights import read_json
from petiole.data.preprocessing import Interpolation, Preprocessing
from petiole.errors import BackboneError, boundary

CLIP_COLOURS: dict[str, Any] = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}
"""What CLIP's images are normalised with."""

_RESAMPLE: dict[int, Interpolation] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
}  # PIL's numbering

FILES = ("preprocessor_config.json", "processor_config.json")
_ABOUT_FILES = {"image_processor_type", "feature_extractor_type", "processor_class", "auto_map"}
_ABOUT_FILES |= {"_valid_processor_keys", "_processor_class", "use_fast", "backend"}
_OTHER_USES = {"do_convert_rgb", "do_reduce_labels", "data_format", "input_data_format", "device"}
_OTHER_USES |= {"return_tensors", "disable_grouping", "image_seq_length", "default_to_square"}
_READ = {"do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale"}
_READ |= {"rescale_factor", "do_normalize", "image_mean", "image_std", "do_pad", "pad_size"}


@contextmanager
def quiet() -> Iterator[None]:
    """Let transformers say nothing and show no bars: what is wrong is an error here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def read_preprocessor(folder: Path, size: int | None = None) -> Preprocessing:
    """Read how a model's images are prepared.

    Args:
        folder: with preprocessor_config.json or processor_config.json.
        size: side of the image in pixels, or of the square of as many patches as an image that keeps its shape shall have;
            ``None`` takes the stated one.

    Raises:
        BackboneError: the file is missing, states a field that is not known here, or a transform that does not lead to
            images of one size.
    """
    file = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if file is None:
        raise BackboneError(
            f"{folder} has no preprocessor_config.json, so the size and colours that these weights "
            "expect are unknown. Copy it from where the model came from."
        )
    stated = read_json(file)
    stated = stated.get("image_processor", stated)
    sized = {"max_num_patches", "patch_size"} if "max_num_patches" in stated else {"size"}
    if absent := sorted((sized | {"image_mean", "image_std"}) - set(stated)):
        raise BackboneError(
            f"{file} does not state {', '.join(absent)}. Copy it from where the model came from."
        )
    processor = _processor(file, folder)
    kind = type(processor).__name__.removesuffix("Pil").removesuffix("Fast")
    known = _READ | _OWN_FIELDS.get(kind, set())
    if odd := sorted(set(stated) - known - _ABOUT_FILES - _OTHER_USES):
        raise BackboneError(
            f"{file} states {', '.join(odd)}, which petiole does not know, so its images might be prepared otherwise than "
            "these weights expect. Use a folder whose images are resized, cropped and normalised only."
        )
    try:
        found = Preprocessing(corner="floor", **_geometry(kind, processor), **_colours(processor))
    except (ValidationError, KeyError, TypeError, ValueError) as error:
        raise BackboneError(
            f"{file} does not state what petiole needs to prepare images ({str(error).splitlines()[-1].strip()}). Copy it "
            "from where the model came from."
        ) from error
    if size is None:
        return found
    if found.patch:
        return found.naflex(found.patch, (size // found.patch) ** 2)
    return found.model_copy(update={"size": (size, size)})


def _processor(file: Path, folder: Path) -> Any:
    """The library's own, which refuses nothing that it does not know.

    Raises:
        BackboneError: the library cannot read it, or its class computes in a way that is not known here.
    """
    import transformers
    from transformers.image_processing_backends import PilBackend, TorchvisionBackend

    remedy = "Copy it from where the model came from."
    said = "states no image processor that transformers knows"
    with boundary(file, remedy, BackboneError, said), quiet():
        processor = transformers.AutoImageProcessor.from_pretrained(
            str(folder), local_files_only=True
        )
    cls = type(processor)
    plain = any(
        cls._preprocess is base._preprocess and cls.resize is base.resize
        for base in (PilBackend, TorchvisionBackend)
    )
    name = cls.__name__.removesuffix("Pil")
    if not plain and name not in _OWN_WAYS:
        raise BackboneError(
            f"{file}: a {cls.__name__} prepares images in its own way, which petiole does not know. Use a model whose images are resized, cropped and normalised."
        )
    return processor


_OWN_WAYS = (
    "BeitImageProcessor",
    "ConvNextImageProcessor",
    "DINOv3ViTImageProcessor",
    "Siglip2ImageProcessor",
)
"""Processors that do not follow the library's base: BEiT's differs for labels only, the others are known to ``_geometry``."""

_OWN_FIELDS = {
    "ConvNextImageProcessor": {"crop_pct"},
    "Siglip2ImageProcessor": {"patch_size", "max_num_patches"},
}


def _geometry(kind: str, processor: Any) -> dict[str, Any]:
    """Size, crop, and how an image comes to them."""
    if kind == "Siglip2ImageProcessor":
        if not processor.do_resize:
            raise ValueError("images that are not resized have no common budget of patches")
        patch, budget = processor.patch_size, processor.max_num_patches
        size = patch, (budget + 1) * patch
        filtering = _RESAMPLE[int(processor.resample)]
        whole = {"crop": 1.0, "crop_mode": "squash", "patch": patch}
        return {"size": size, "interpolation": filtering, **whole}
    if not processor.do_resize or processor.do_pad:
        raise ValueError("images that are not resized, or padded, have no common size")
    resized, shortest = dict(processor.size), processor.size.get("shortest_edge")
    if set(resized) not in ({"shortest_edge"}, {"height", "width"}):
        raise ValueError(f"size {resized} is not one of shortest_edge, or of height and width")
    cropped = dict(processor.crop_size) if processor.do_center_crop else None
    if kind == "ConvNextImageProcessor":
        if cropped or shortest is None:
            raise ValueError("a ConvNext's images are sized by their shortest_edge alone")
        cropped = {"height": shortest, "width": shortest}
        # The library warps from 384 pixels on.
        resized = (
            {"shortest_edge": int(shortest / processor.crop_pct)} if shortest < 384 else cropped
        )
    if "shortest_edge" in resized:
        if cropped is None or cropped["height"] != cropped["width"]:
            raise ValueError(
                "a shortest_edge without a square centre crop gives images of any shape"
            )
        resized = {"height": resized["shortest_edge"], "width": resized["shortest_edge"]}
        mode = "center"
    else:
        mode = "squash"
    cropped = cropped or resized
    return {
        "size": (cropped["height"], cropped["width"]),
        "crop": _share(cropped, resized),
        "crop_mode": mode,
        "interpolation": _RESAMPLE[int(processor.resample)],
        "resized": "floats" if kind == "DINOv3ViTImageProcessor" else "pixels",
    }


def _share(cropped: dict[str, int], resized: dict[str, int]) -> float:
    """The crop that leads from one size back to the other exactly, rounding included."""
    crop = cropped["height"] / resized["height"]
    while floor(cropped["height"] / crop) < resized["height"]:
        crop = nextafter(crop, 0)
    if any(floor(cropped[side] / crop) != resized[side] for side in resized):
        raise ValueError("crop_size and size are of different shapes")
    return crop


def _colours(processor: Any) -> dict[str, Any]:
    """Mean and standard deviation on the scale of [0, 1], whatever the rescaling."""
    scale = 255 * processor.rescale_factor if processor.do_rescale else 255.0
    if abs(scale - 1) < 1e-6:
        scale = 1.0
    mean = processor.image_mean if processor.do_normalize else 0.0
    std = processor.image_std if processor.do_normalize else 1.0
    mean, std = (v if isinstance(v, (list, tuple)) else [v] * 3 for v in (mean, std))
    return {"mean": tuple(m / scale for m in mean), "std": tuple(s / scale for s in std)}
