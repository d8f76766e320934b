"""Folders of our own: a tower, and language models aligned to it, each with the tower's contract.

    tower/tower.json, tower.safetensors                the tower, its words, its contract
    llama/config.json, model.safetensors               projector and language model; ``"tower": "../tower"``

A tower file names its ``kind``; ``small`` is the only one that is written so far. Tensors may be stored in half precision.
``petiole/tiny-lvlm``, ``-gpt2``, ``-lfm2`` and ``-small`` are such folders inside the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.bundled import tiny_lvlm
from petiole.backbones.bundled.word_list import WordList
from petiole.backbones.codebook_lvlm import causal
from petiole.backbones.codebook_lvlm.codebook import CodebookSpec, digest
from petiole.backbones.codebook_lvlm.model import LVLM, LVLMModule, PromptTemplate
from petiole.backbones.codebook_lvlm.tower import Tower
from petiole.backbones.registry import LoadRequest, folder_loader, loader
from petiole.backbones.weights import load_strictly, read_json, read_safetensors
from petiole.errors import BackboneError, first_line
from petiole.files import write_json, write_tensors
from petiole.layers.residual_quantiser import ResidualQuantiser

KIND = "petiole-lvlm"
SMALL = "small"
TOWER, MODEL = "tower", "model"
START, PAD, END, OTHER, IMAGE, IMAGE_END, SPECIALS = range(7)
"""Ids before the first word."""
PROMPT = PromptTemplate((START, IMAGE), (IMAGE_END,), (), END, PAD)
PACKAGED = Path(__file__).parent.parent / "weights" / "tiny_lvlm"


@folder_loader(KIND)
def load_bundle(request: LoadRequest, config: dict[str, Any], folder: Path | None) -> LVLM:
    """A language model of a bundle with its tower.

    Raises:
        BackboneError: a file is missing or does not fit, or the tower has another codebook.
    """
    if folder is None:
        raise BackboneError(f"{request.name}: a bundle is read from its folder.")
    if request.image_size:
        raise BackboneError(f"{request.name} has images of one size. Leave image_size out.")
    home = folder / str(config["tower"])
    tower, words = load_tower(request.name, home, meta=request.meta)
    _stated(config, folder).check(tower.spec, str(folder), str(home))
    with torch.device("meta" if request.meta else "cpu"):
        language: Any = causal.build({**config["language"], "vocab_size": len(words)})
        projector = causal.projector(
            str(config["projector"]), tower.spec.width, language.config.hidden_size
        )
    if not request.meta:
        part = nn.ModuleDict({"projector": projector, "language": language})
        _fill(part, request.weights or folder / f"{MODEL}.safetensors")
    return LVLM(
        request.name,
        LVLMModule(tower, projector, language),
        None if request.meta else words,
        PROMPT,
        discrete=bool(config.get("discrete", True)),
    )


def load_tower(name: str, home: Path, *, meta: bool = False) -> tuple[Tower, WordList]:
    """A bundle's tower and the words of its text tower.

    Raises:
        BackboneError: a file is missing or damaged, or the codebook is not the one that is stated.
    """
    config = read_json(home / f"{TOWER}.json")
    if config.get("kind") != SMALL:
        raise BackboneError(
            f"{home / TOWER}.json states a tower of the kind {config.get('kind')!r}, and {SMALL!r} is the only one "
            "known here. Update petiole."
        )
    words = WordList(config["words"], SPECIALS, OTHER)
    with torch.device("meta" if meta else "cpu"):
        tower = fresh_tower(name, config, words)
    if not meta:
        _fill(tower, home / f"{TOWER}.safetensors")
        own = digest(tower.quantiser.codebooks)
        if own != tower.spec.sha256:
            raise BackboneError(
                f"{home / TOWER}.safetensors holds the codebook {own[:12]}, but {TOWER}.json states "
                f"{tower.spec.sha256[:12]}. Copy both files again."
            )
    return tower, words


def fresh_tower(name: str, config: Mapping[str, Any], words: WordList) -> Tower:
    """A tower as its file states it, with fresh weights."""
    spec = _stated(config, Path(name))
    image_backbone = tiny_lvlm.encoder(f"{name}:tower", config)
    quantiser = ResidualQuantiser(spec.entries, spec.width, spec.depth, shared=spec.shared)
    return Tower(image_backbone, quantiser, spec, tiny_lvlm.contrast(config, words, PAD))


@loader("petiole/tiny-lvlm-tower")
def load_image_backbone(request: LoadRequest) -> Backbone:
    """The encoder of the packaged tower alone, as a backbone of images."""
    tower, _ = load_tower(request.name, PACKAGED / TOWER, meta=request.meta)
    image_backbone = tower.image_backbone
    image_backbone.name = request.name
    return image_backbone


@loader(
    "petiole/tiny-lvlm",
    "petiole/tiny-lvlm-gpt2",
    "petiole/tiny-lvlm-lfm2",
    "petiole/tiny-lvlm-small",
)
def packaged(request: LoadRequest) -> LVLM:
    """A packaged model, by its name's last part."""
    home = PACKAGED / (request.name.removeprefix("petiole/tiny-lvlm").lstrip("-") or "llama")
    return load_bundle(request, read_json(home / "config.json"), home)


def save_tower(tower: Tower, config: Mapping[str, Any], words: WordList, home: Path) -> None:
    """Write a tower; ``config`` is that of ``small``."""
    stated = {**config, "kind": SMALL, "words": list(words.known), "codebook": _dump(tower.spec)}
    write_tensors(home / f"{TOWER}.safetensors", halved(tower.state_dict(), "quantiser."))
    write_json(home / f"{TOWER}.json", stated)


def save_language(
    model: LVLM, language: Mapping[str, Any], projector: str, home: Path, tower: str = "../tower"
) -> None:
    """Write a language model and its projector.

    Args:
        model: trained.
        language: the configuration that ``causal.build`` takes.
        projector: its kind.
        home: folder to be made.
        tower: path of the tower's folder from there.
    """
    part = nn.ModuleDict({"projector": model.module.projector, "language": model.module.language})
    write_tensors(home / f"{MODEL}.safetensors", halved(_untied(part)))
    write_json(
        home / "config.json",
        {
            "model_type": KIND,
            "tower": tower,
            "codebook": _dump(model.spec),
            "language": dict(language),
            "projector": projector,
            "discrete": model.discrete,
        },
    )


def halved(tensors: Mapping[str, Tensor], exact: str = "\\0") -> dict[str, Tensor]:
    """Tensors in half precision, but for those whose names start with ``exact``."""
    return {
        name: (value if name.startswith(exact) or not value.is_floating_point() else value.half())
        .clone()
        .contiguous()
        for name, value in tensors.items()
    }


def _untied(module: nn.Module) -> dict[str, Tensor]:
    """The state without the second name of a tied tensor."""
    kept = {name for name, _ in module.named_parameters()} | {n for n, _ in module.named_buffers()}
    return {name: value for name, value in module.state_dict().items() if name in kept}


def _fill(module: nn.Module, file: Path) -> None:
    tensors = {
        name: value.float() if value.is_floating_point() else value
        for name, value in read_safetensors(file).items()
    }
    own = module.state_dict(keep_vars=True)
    names = {id(value): name for name, value in own.items() if name in tensors}
    for name, value in own.items():  # ties are stored once
        if name not in tensors and id(value) in names:
            tensors[name] = tensors[names[id(value)]]
    load_strictly(module, tensors, str(file))


def _stated(config: Mapping[str, Any], folder: Path) -> CodebookSpec:
    try:
        return CodebookSpec.model_validate(config["codebook"])
    except (KeyError, ValidationError) as error:
        raise BackboneError(
            f"{folder} states no codebook that can be read ({first_line(error)}). Copy its JSON file again."
        ) from error


def _dump(spec: CodebookSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json")
