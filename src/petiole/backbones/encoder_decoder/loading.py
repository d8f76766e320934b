"""Names, folders and shapes of encoder-decoders.

    clip-bart-base, clip-t5-base               with a vision encoder for 2048-d grid features (CLIP RN101)
    clip-bart-base-video, clip-t5-base-video   with a vision encoder for 512-d frame features (CLIP ViT-B/32)
    clip-vil-base                              BERT joined with 2560-d grid features (CLIP RN50x4); no decoder
    hf/facebook/bart-large, or a folder        BART, T5 or BERT of any size; a V->L block if a vision width is asked for

A folder may hold ``visual.safetensors`` beside the language model: a V->L block that was trained with it. ``weights``
is one file with both, also a checkpoint of VL-T5 (see ``stored``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from petiole.backbones.encoder_decoder import bart, bert, stored, t5
from petiole.backbones.encoder_decoder.model import Family, Seq2Seq, Seq2SeqModule
from petiole.backbones.encoder_decoder.stored import Stored
from petiole.backbones.encoder_decoder.tokens import FastTokenizer, LanguageTokenizer
from petiole.backbones.encoder_decoder.visual import VisualEmbedding, VisualOptions
from petiole.backbones.preprocessor import quiet
from petiole.backbones.registry import LoadRequest, folder_loader, load, loader, resolve
from petiole.backbones.weights import load_strictly
from petiole.errors import BackboneError

GRID, FRAME, WIDE = 2048, 512, 2560
"""Widths of CLIP RN101's last map, of CLIP ViT-B/32's image vector, and of RN50x4's last map."""

PUBLISHED = {
    "clip-bart-base": ("hf/facebook/bart-base", GRID),
    "clip-bart-base-video": ("hf/facebook/bart-base", FRAME),
    "clip-t5-base": ("hf/google-t5/t5-base", GRID),
    "clip-t5-base-video": ("hf/google-t5/t5-base", FRAME),
    "clip-vil-base": ("hf/google-bert/bert-base-uncased", WIDE),
}


def load_language_model(
    name: str,
    *,
    weights: str | Path | None = None,
    vision_width: int = 0,
    options: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> Seq2Seq:
    """``petiole.load`` for those who need an encoder-decoder.

    Raises:
        BackboneError: it is a model of another kind, or as ``petiole.load``, whose arguments these are.
        ConfigError: no such option.
    """
    model = load(name, weights=weights, vision_width=vision_width, options=options, device=device)
    if not isinstance(model, Seq2Seq):
        raise BackboneError(
            f"{name} is no encoder-decoder, and one is wanted here, such as clip-bart-base or petiole/tiny-vl."
        )
    return model


@loader(
    "clip-bart-base",
    "clip-bart-base-video",
    "clip-t5-base",
    "clip-t5-base-video",
    "clip-vil-base",
)
def published(request: LoadRequest) -> Seq2Seq:
    """One of the models of the paper, by its short name."""
    origin, width = PUBLISHED[request.name]
    inner = replace(request, name=origin, vision_width=request.vision_width or width)
    model = resolve(inner)
    assert isinstance(model, Seq2Seq)
    model.name = request.name
    return model


@folder_loader("bart", "t5", "bert")
def from_folder(request: LoadRequest, config: dict[str, Any], folder: Path | None) -> Seq2Seq:
    """A language model of transformers, with a fresh or stored V->L block; without a folder only its shape.

    Raises:
        BackboneError: weights or tokenizer are missing, or do not fit.
    """
    if request.image_size:
        raise BackboneError(
            f"{request.name} sees features, not images, and has no image size. Leave it out."
        )
    if request.meta or folder is None:
        with torch.device("meta"):
            language, family = architecture(config)
            visual = _visual(request, language, family)
        return Seq2Seq(request.name, Seq2SeqModule(language, visual), family, None)
    configuration, _, family = _classes(config)
    if request.weights and config["model_type"] == "bert":
        raise BackboneError(f"{request.name} is read from its folder alone. Leave weights out.")
    vocabulary = configuration(**config).vocab_size
    tokenizer = FastTokenizer(folder, vocabulary)
    kept = stored.read(request.weights, vocabulary) if request.weights else stored.beside(folder)
    language = _pretrained(config, folder, kept)
    visual = _visual(request, language, family, kept.visual)
    if visual is not None and kept.visual:
        load_strictly(visual, kept.visual, kept.origin)
    return Seq2Seq(
        request.name,
        Seq2SeqModule(language, visual),
        family,
        tokenizer,
        trained_visual=bool(kept.visual),
    )


def architecture(config: dict[str, Any]) -> tuple[nn.Module, Family]:
    """A language model with random weights, and how to read it.

    Raises:
        BackboneError: neither BART nor T5 nor BERT.
    """
    configuration, model, family = _classes(config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        language = model(configuration(**config))
    language.tie_weights()  # on the meta device early transformers 5 does not
    return language, family


def _classes(config: dict[str, Any]) -> tuple[Any, Any, Family]:
    """Configuration and model of transformers, and how to read it."""
    import transformers as hf

    match config.get("model_type"):
        case "bart":
            return hf.BartConfig, hf.BartForConditionalGeneration, bart.Bart()
        case "t5":
            return hf.T5Config, hf.T5ForConditionalGeneration, t5.T5()
        case "bert":
            return hf.BertConfig, bert.encoder_class(), bert.Bert()
        case other:
            raise BackboneError(f"{other!r} is no language model known here. Use bart, t5 or bert.")


def _pretrained(config: dict[str, Any], folder: Path, kept: Stored) -> nn.Module:
    """The stored language model, or else the folder's, complete or not at all.

    Raises:
        BackboneError: the weights are missing, damaged, incomplete, or of another architecture.
    """
    configuration, model, _ = _classes(config)
    origin = kept.origin if kept.language else str(folder)
    options: dict[str, Any] = {"output_loading_info": True, "dtype": torch.float32}
    try:
        with quiet():
            if kept.language:
                language, info = model.from_pretrained(
                    None, config=configuration(**config), state_dict=dict(kept.language), **options
                )
            else:
                language, info = model.from_pretrained(folder, use_safetensors=True, **options)
    except Exception as error:  # of transformers or the format
        raise BackboneError(
            f"{origin} holds no complete weights of this {config['model_type']} "
            f"({type(error).__name__}: {error}). Copy the model again, whole."
        ) from error
    for what, names in (
        ("lacks", info["missing_keys"]),
        ("holds what the architecture has no place for:", info["unexpected_keys"]),
    ):
        if names:
            raise BackboneError(
                f"{origin} {what} {len(names)} tensors, e.g. {min(names)}. Copy the model again, whole, with the "
                "config.json that belongs to it."
            )
    loaded: nn.Module = language
    return loaded


def with_visual(
    name: str,
    language: nn.Module,
    family: Family,
    tokenizer: LanguageTokenizer | None,
    *,
    vision_width: int = 0,
    options: VisualOptions | None = None,
) -> Seq2Seq:
    """Put a language model in memory together with a fresh V->L block (none for width 0)."""
    request = LoadRequest(name, vision_width=vision_width, options=vars(options or VisualOptions()))
    return Seq2Seq(
        name, Seq2SeqModule(language, _visual(request, language, family)), family, tokenizer
    )


def _visual(
    request: LoadRequest,
    language: nn.Module,
    family: Family,
    kept: Mapping[str, Tensor] | None = None,
) -> VisualEmbedding | None:
    """A V->L block as it is asked for, or shaped as the stored one.

    It is drawn from a fixed seed, so that the fingerprint says only what the model is.

    Raises:
        BackboneError: another one is stored than is asked for.
    """
    vision_width, options = request.vision_width, dict(request.options)
    codes = family.codes
    if kept and "features.weight" in kept and "codes" in kept:
        width, norms = kept["features.weight"].shape[1], "sum" if "norm.weight" in kept else "each"
        if vision_width not in (0, width) or options.setdefault("norms", norms) != norms:
            raise BackboneError(
                f"{request.name} is stored with a V->L block for features of width {width} and norms={norms}, not "
                f"{vision_width or width} and {options.get('norms', norms)}. Ask for what is stored, or take a language "
                "model without one."
            )
        vision_width, codes = width, len(kept["codes"])
    if not vision_width:
        return None
    model: Any = language
    norm: Callable[[int], nn.Module] = family.norms[0]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VisualEmbedding(
            vision_width,
            family.width(model.config),
            codes=codes,
            norm=norm,
            std=family.std,
            options=VisualOptions.of(options),
        )
