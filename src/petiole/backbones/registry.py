"""``petiole.load(name)``: finds the loader of a model by its name, of a folder by its config.json, of a file by its suffix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from petiole.backbones.base import Backbone
from petiole.backbones.frozen_network import FrozenNetwork
from petiole.backbones.joined import MARK, JoinedBackbone, names_of
from petiole.backbones.weights import read_json
from petiole.deferred import without_compiler
from petiole.errors import BackboneError, PetioleError, first_line, unknown
from petiole.registry import Registry

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class LoadRequest:
    """What is wanted: a name, perhaps local weights, perhaps another image size.

    Attributes:
        name: e.g. ``timm/vit_small_patch14_dinov2.lvd142m`` or a folder.
        weights: a safetensors file to use instead of the hub's.
        image_size: pixels; ``None`` takes the weights' own.
        meta: build only the shape, without weights.
        quantize: how linear layers of an image backbone are stored: ``int8``, ``bnb-int8``, ``bnb-nf4``; ``None`` for floats.
        vision_width: of a language model, the width of the visual features that it shall see; 0 for none
            (or for the model's own).
        options: of a language model, see ``VisualOptions``.
    """

    name: str
    weights: Path | None = None
    image_size: int | None = None
    meta: bool = False
    quantize: str | None = None
    vision_width: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def fixed_size(self, size: int) -> int:
        """The one image size that a model takes, for example because its position table is made for it.

        Raises:
            BackboneError: another one is wanted.
        """
        if self.image_size not in (None, size):
            raise BackboneError(f"{self.name} takes {size} px only; leave image_size out.")
        return size


Loader = Callable[[LoadRequest], FrozenNetwork]
FolderLoader = Callable[[LoadRequest, dict[str, Any], Path | None], FrozenNetwork]
"""From a stated configuration, and the folder with its files; without one only the shape."""

L = TypeVar("L", bound=Loader)
D = TypeVar("D", bound=FolderLoader)

CONFIGS = {"open_clip_config.json": "open_clip", "config.json": ""}
"""Files that state a model, and what they mean where they name no model_type."""

LOADERS = Registry[Loader](
    "backbone", "petiole.backbones", "loader", "petiole.backbones", error=BackboneError
)
FOLDERS = Registry[FolderLoader](
    "model_type",
    "petiole.backbones",
    "folder_loader",
    "petiole.backbone_folders",
    error=BackboneError,
)
FILES = Registry[Loader](
    "kind of file",
    "petiole.backbones",
    "file_loader",
    "petiole.backbone_files",
    error=BackboneError,
)


def loader(*names: str) -> Callable[[L], L]:
    """Register the loader of these names; one that ends in ``/`` stands for all that begin so."""
    return _adding(LOADERS, names)


def folder_loader(*model_types: str) -> Callable[[D], D]:
    """Register the loader of folders whose config.json states one of ``model_types``."""
    return _adding(FOLDERS, model_types)


def file_loader(*suffixes: str) -> Callable[[L], L]:
    """Register the loader of files whose names end so."""
    return _adding(FILES, suffixes)


def _adding(registry: Registry[Any], names: Sequence[str]) -> Callable[[F], F]:
    def add(function: F) -> F:
        for name in names:
            registry.add(name, function)
        return function

    return add


def load(
    name: str,
    *,
    weights: str | Path | None = None,
    image_size: int | None = None,
    device: str = "cpu",
    quantize: str | None = None,
    vision_width: int = 0,
    options: Mapping[str, Any] | None = None,
) -> FrozenNetwork:
    """Load a frozen model; what the name stands for decides of which kind.

    A ``Backbone`` maps images to vectors, and a ``TwoTowers`` texts as well; a ``Seq2Seq`` reads texts and visual features and
    writes texts; an ``LVLM`` answers questions about images.

    Args:
        name: ``petiole/tiny-vit``, ``petiole/efficientnet-lite0``, ``petiole/tiny-clip``, ``petiole/tiny-lit``, ``petiole/tiny-vl``,
            ``petiole/tiny-lvlm`` ..., ``timm/<model>``, ``hf/<owner>/<model>``, ``clip-bart-base``, ``clip-t5-base`` (either
            with ``-video``), an OpenAI ``.pt`` file, or a folder: of a Dinov2, CLIP, SigLIP, open_clip, BART, T5 or VILA-U model,
            a pair or a bundle. ``A+B`` puts the image vectors of backbones side by side.
        weights: a file with the weights of the named architecture: safetensors, and for a language model also a checkpoint
            of VL-T5.
        image_size: pixels, where the model accepts other sizes than its own.
        device: ``cpu``, ``cuda`` ...; ``meta`` builds the shape without any weights.
        quantize: store the linear layers of an image backbone in fewer bits: ``int8`` (torchao), or on CUDA ``bnb-int8``,
            ``bnb-nf4`` (bitsandbytes); see ``petiole.backbones.quantized``.
        vision_width: of a language model, the width D_v of the visual features that it shall see; 0 for none, or for
            the stored V->L block's.
        options: of a language model's V->L block, see ``VisualOptions``.

    Raises:
        BackboneError: the name is unknown, or weights or tokenizer are missing, incomplete or of another model.
        ConfigError: no such option.
    """
    file = Path(weights) if weights else None
    request = LoadRequest(
        name, file, image_size, device == "meta", quantize, vision_width, options or {}
    )
    return load_any(request, device=device)


def load_backbone(
    name: str,
    *,
    weights: str | Path | None = None,
    image_size: int | None = None,
    device: str = "cpu",
    quantize: str | None = None,
) -> Backbone:
    """``load`` for those who need a backbone of images.

    Raises:
        BackboneError: it is a model of another kind, or as ``load``.
    """
    backbone = load(name, weights=weights, image_size=image_size, device=device, quantize=quantize)
    if not isinstance(backbone, Backbone):
        raise BackboneError(
            f"{name} is a language model, and an image backbone is wanted here. As a command use petiole multitask, or "
            "petiole fit --method craft."
        )
    return backbone


def load_any(request: LoadRequest, *, device: str = "cpu") -> FrozenNetwork:
    """Load whatever kind of model a request names, on a device.

    Raises:
        BackboneError: the name is unknown, or the weights cannot be loaded completely.
    """
    from petiole.backbones import quantized

    frozen = resolve(request)
    if request.quantize:
        # Before it moves, so that the integers are the same whatever the device.
        quantized.quantize(frozen, request.quantize, device)
    if not request.meta:
        try:
            frozen.to(device)
        except (RuntimeError, AssertionError) as error:
            raise BackboneError(
                f"{request.name} cannot be put on device {device!r}: {error}. Use cpu, or install torch for "
                "that device."
            ) from error
    if request.quantize and not request.meta:
        quantized.check_runs(frozen)
    return frozen


def resolve(request: LoadRequest) -> FrozenNetwork:
    """Load a model where its loader puts it.

    Raises:
        BackboneError: it cannot be loaded, whatever a foreign library raised.
    """
    load_it = _find(request.name)
    try:
        with without_compiler():  # which first weights on a meta device ask for
            return load_it(request)
    except PetioleError:
        raise
    except Exception as error:  # files of all ages meet libraries of all versions
        raise BackboneError(
            f"{request.name} cannot be loaded ({type(error).__name__}: {first_line(error)}). Check that its files are those of the "
            "model that they name, and that this version of its library knows it."
        ) from error


def _find(name: str) -> Loader:
    if Path(name).is_dir():
        return lambda request: from_folder(request, Path(name))
    if Path(name).is_file() and (from_file := FILES.get(Path(name).suffix)):
        return from_file
    if MARK in name:
        return joined
    prefix, slash, _ = name.partition("/")
    found = LOADERS.get(name, *([f"{prefix}/"] if slash else []))
    if found is None:
        known = [f"{each}<model>" if each.endswith("/") else each for each in LOADERS.names()]
        raise unknown("backbone", name, [*known, "<folder>"], BackboneError)
    return found


def joined(request: LoadRequest) -> JoinedBackbone:
    """Load the backbones that ``A+B`` names, side by side.

    Raises:
        BackboneError: one of them cannot be loaded or is no backbone of images, or weights or an image size are
            given, of which nothing says whose they are.
    """
    given = [name for name in ("weights", "image_size") if getattr(request, name) is not None]
    if given:
        raise BackboneError(
            f"{request.name} is several backbones, and {given[0]} does not say for which. Leave it out."
        )
    parts = [resolve(replace(request, name=name)) for name in names_of(request.name)]
    for part in parts:
        if not isinstance(part, Backbone):
            raise BackboneError(
                f"{part.name} in {request.name} is no backbone of images. Leave it out."
            )
    return JoinedBackbone(request.name, [part for part in parts if isinstance(part, Backbone)])


def from_folder(request: LoadRequest, folder: Path) -> FrozenNetwork:
    """Load what a folder's config.json states.

    Raises:
        BackboneError: there is none, or it states a model that nobody here knows.
    """
    config = next((folder / name for name in CONFIGS if (folder / name).is_file()), None)
    if config is None:
        raise BackboneError(
            f"{folder} has no config.json, so it is not a model folder. Give the folder that "
            "holds config.json and model.safetensors."
        )
    return from_config(request, {"model_type": CONFIGS[config.name], **read_json(config)}, folder)


def from_config(request: LoadRequest, config: dict[str, Any], folder: Path | None) -> FrozenNetwork:
    """Build what a configuration states; without a folder only its shape.

    Raises:
        BackboneError: nobody here knows its model_type.
    """
    kind = str(config.get("model_type") or ("timm" if "architecture" in config else ""))
    from_it = FOLDERS.get(kind)
    if from_it is None:
        # No nearest name: another architecture is no remedy.
        raise BackboneError(
            f"{folder}/config.json states the model_type {kind!r}, which petiole does not know. It knows "
            f"{', '.join(FOLDERS.names())}."
        )
    return from_it(request, config, folder)
