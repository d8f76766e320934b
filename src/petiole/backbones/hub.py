"""``hf/<owner>/<model>``: a model of the Hugging Face hub, from its cache or, with a network, the hub itself.

Shapes of the well-known models are built in (hub.toml), so that counting asks nobody.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from petiole.backbones.frozen_network import FrozenNetwork
from petiole.backbones.registry import LoadRequest, from_config, from_folder, loader
from petiole.errors import BackboneError, unknown

FILES = [
    "*config.json",
    "*model.safetensors",
    "*model-?????-of-?????.safetensors",
    "*.safetensors.index.json",
    "*token*",
    "*.txt",
    "*merges*",
    "vocab*",
]


@loader("hf/")
def load(request: LoadRequest) -> FrozenNetwork:
    """A model by its hub name.

    Raises:
        BackboneError: the name is not known and the hub cannot be reached, or weights do not fit.
    """
    name = request.name.removeprefix("hf/")
    if request.meta:
        shapes = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
        if name not in shapes:
            raise unknown("built-in shape", name, shapes, BackboneError)
        return from_config(request, shapes[name], None)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(name, allow_patterns=FILES)
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise BackboneError(
            f"{request.name} is neither in the hub's cache nor to be had ({type(error).__name__}). "
            "Give a folder with its files instead of the name."
        ) from error
    return from_folder(request, Path(folder))
