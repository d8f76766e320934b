"""Names, folders and shapes of encoder-decoders.

    clip-bart-base, clip-t5-base               with eyes for 2048-d grid features (CLIP RN101)
    clip-bart-base-video, clip-t5-base-video   with eyes for 512-d frame features (CLIP ViT-B/32)
    hf/facebook/bart-large, or a folder        BART or T5 of any size; eyes if a vision width is asked for

A folder may hold ``visual.safetensors`` beside the language model: a V->L block that was trained with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from petiole.backbones.registry import Request, folder_loader, loader, resolve
from petiole.backbones.seq2seq import bart, t5
from petiole.backbones.seq2seq.model import Family, Joint, Seq2Seq
from petiole.backbones.seq2seq.tokens import FastTokenizer, Tokenizer
from petiole.backbones.seq2seq.visual import VisualEmbedding, VisualOptions
from petiole.backbones.weights import load_strictly, read_safetensors
from petiole.errors import BackboneError

GRID, FRAME = 2048, 512
"""Widths of CLIP RN101's last map and of CLIP ViT-B/32's image vector."""

PUBLISHED = {
    "clip-bart-base": ("hf/facebook/bart-base", GRID),
    "clip-bart-base-video": ("hf/facebook/bart-base", FRAME),
    "clip-t5-base": ("hf/google-t5/t5-base", GRID),
    "clip-t5-base-video": ("hf/google-t5/t5-base", FRAME),
}
EYES = "visual.safetensors"


def published(request: Request) -> Seq2Seq:
    """One of the models of the paper, by its short name."""
    origin, width = PUBLISHED[request.name]
    inner = replace(request, name=origin, vision_width=request.vision_width or width)
    model = resolve(inner)
    assert isinstance(model, Seq2Seq)
    model.name = request.name
    return model


for _name in PUBLISHED:
    loader(_name)(published)


@folder_loader("bart", "t5")
def from_folder(request: Request, config: dict[str, Any], folder: Path | None) -> Seq2Seq:
    """A language model of transformers, with fresh or stored eyes; without a folder only its shape.

    Raises:
        BackboneError: weights or tokenizer are missing, or do not fit.
    """
    if request.meta or folder is None:
        with torch.device("meta"):
            language, family = architecture(config)
            eyes = _eyes(request, language, family)
        return Seq2Seq(request.name, Joint(language, eyes), family, None)
    language, family = _pretrained(config, folder)
    eyes = _eyes(request, language, family)
    stored = folder / EYES
    if eyes is not None and stored.is_file():
        load_strictly(eyes, read_safetensors(stored), str(stored))
    tokenizer: Tokenizer = FastTokenizer(folder)
    return Seq2Seq(
        request.name, Joint(language, eyes), family, tokenizer, trained_eyes=stored.is_file()
    )


def architecture(config: dict[str, Any]) -> tuple[nn.Module, Family]:
    """A language model with random weights, and how to read it.

    Raises:
        BackboneError: neither BART nor T5.
    """
    given = {k: v for k, v in config.items() if k != "model_type"}
    configuration, model, family = _classes(config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model(configuration(**given)), family


def _classes(config: dict[str, Any]) -> tuple[Any, Any, Family]:
    """Configuration and model of transformers, and how to read it."""
    import transformers as hf

    match config.get("model_type"):
        case "bart":
            return hf.BartConfig, hf.BartForConditionalGeneration, bart.Bart()
        case "t5":
            return hf.T5Config, hf.T5ForConditionalGeneration, t5.T5()
        case other:
            raise BackboneError(f"{other!r} is no encoder-decoder known here. Use bart or t5.")


def _pretrained(config: dict[str, Any], folder: Path) -> tuple[nn.Module, Family]:
    """The language model of a folder, complete or not at all.

    Raises:
        BackboneError: the weights are missing, damaged or incomplete.
    """
    _, model, family = _classes(config)
    try:
        language, info = model.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise BackboneError(
            f"{folder} holds no complete model.safetensors ({str(error).splitlines()[0]}). Copy the "
            "model folder again, whole."
        ) from error
    if info["missing_keys"]:
        raise BackboneError(
            f"{folder} lacks {len(info['missing_keys'])} tensors, e.g. {min(info['missing_keys'])}. "
            "Copy the model folder again, whole."
        )
    return language, family


def with_eyes(
    name: str,
    language: nn.Module,
    family: Family,
    tokenizer: Tokenizer | None,
    *,
    vision_width: int = 0,
    options: VisualOptions | None = None,
) -> Seq2Seq:
    """Put a language model in memory together with a fresh V->L block (none for width 0)."""
    request = Request(name, vision_width=vision_width)
    return Seq2Seq(
        name, Joint(language, _eyes(request, language, family, options)), family, tokenizer
    )


def _eyes(
    request: Request, language: nn.Module, family: Family, options: VisualOptions | None = None
) -> VisualEmbedding | None:
    """Drawn from a fixed seed, so that the fingerprint says only what the model is."""
    if not request.vision_width:
        return None
    model: Any = language
    norm: Callable[[int], nn.Module] = family.norms[0]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VisualEmbedding(
            request.vision_width,
            int(model.config.d_model),
            codes=family.codes,
            norm=norm,
            std=family.std,
            options=options or VisualOptions(**request.options),
        )
