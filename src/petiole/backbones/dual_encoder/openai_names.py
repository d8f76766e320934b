"""CLIP as OpenAI and open_clip name and lay out its tensors, turned into transformers' ``CLIPModel``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

from torch import Tensor

from petiole.backbones.dual_encoder.text_tower import Tokenizer
from petiole.backbones.dual_encoder.tokenizers import FolderTokenizer
from petiole.errors import BackboneError

SIZES = ("input_resolution", "context_length", "vocab_size")
"""Numbers that OpenAI's files keep among the weights."""

HEAD = 64
"""Width of an attention head in all of OpenAI's models."""

RENAMED = (
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
PROJECTIONS = {
    "visual.proj": "visual_projection.weight",
    "text_projection": "text_projection.weight",
}


def to_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under transformers' names: projections transposed, q, k and v apart.

    OpenAI's layout is that of the code of Radford et al. (2021), ``clip/model.py``.
    """
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if key in SIZES or key == "attn_mask":
            continue
        if key in PROJECTIONS:
            found[PROJECTIONS[key]] = tensor.T.contiguous()
            continue
        name = key
        for pattern, new in RENAMED:
            name = re.sub(pattern, new, name)
        joined = re.fullmatch(r"(.*)\.attn\.in_proj_(weight|bias)", name)
        if joined:
            for part, value in zip("qkv", tensor.chunk(3), strict=True):
                found[f"{joined[1]}.self_attn.{part}_proj.{joined[2]}"] = value.contiguous()
        else:
            found[name] = tensor
    return found


def config_of(tensors: Mapping[str, Tensor], origin: str) -> dict[str, Any]:
    """The configuration that the shapes of OpenAI's tensors imply.

    Raises:
        BackboneError: it is no CLIP with a vision transformer.
    """
    try:
        width, _, patch, _ = tensors["visual.conv1.weight"].shape
        grid = isqrt(len(tensors["visual.positional_embedding"]) - 1)
    except (KeyError, ValueError) as error:
        raise BackboneError(
            f"{origin} holds no CLIP of OpenAI's layout ({error} is missing)."
        ) from error
    return clip_config(
        joint_width(tensors, origin),
        text=text_of(tensors, origin),
        vision={
            "width": width,
            "layers": _layers(tensors, "visual.transformer.resblocks."),
            "heads": width // HEAD,
            "patch_size": patch,
            "image_size": patch * grid,
        },
        act="quick_gelu",
    )


def joint_width(tensors: Mapping[str, Tensor], origin: str) -> int:
    """d, of the joint space.

    Raises:
        BackboneError: the tensors are of no CLIP.
    """
    if "text_projection" not in tensors:
        raise BackboneError(
            f"{origin} holds no CLIP of OpenAI's layout (text_projection is missing)."
        )
    return int(tensors["text_projection"].shape[1])


def text_of(tensors: Mapping[str, Tensor], origin: str) -> dict[str, int]:
    """The numbers of the text tower, which the shapes of OpenAI's tensors imply.

    Raises:
        BackboneError: the tensors are of no CLIP.
    """
    try:
        vocabulary, width = tensors["token_embedding.weight"].shape
        longest = len(tensors["positional_embedding"])
    except (KeyError, ValueError) as error:
        raise BackboneError(
            f"{origin} holds no CLIP of OpenAI's layout ({error} is missing)."
        ) from error
    return {
        "width": width,
        "layers": _layers(tensors, "transformer.resblocks."),
        "heads": width // HEAD,
        "vocab_size": vocabulary,
        "context_length": longest,
    }


def clip_config(
    joint: int, *, text: Mapping[str, int], vision: Mapping[str, int], act: str
) -> dict[str, Any]:
    """A ``CLIPConfig`` of the numbers with which OpenAI and open_clip describe a model."""
    return {
        "model_type": "clip",
        "projection_dim": joint,
        "text_config": text_config(text, act),
        "vision_config": {
            **_tower(vision, act),
            "patch_size": vision["patch_size"],
            "image_size": vision["image_size"],
        },
    }


def text_config(text: Mapping[str, int], act: str) -> dict[str, Any]:
    """A ``CLIPTextConfig``, likewise."""
    end = text["vocab_size"] - 1
    return {
        **_tower(text, act),
        "vocab_size": text["vocab_size"],
        "max_position_embeddings": text["context_length"],
        "bos_token_id": end - 1,
        "eos_token_id": end,
        "pad_token_id": end,
    }


def _tower(stated: Mapping[str, int], act: str) -> dict[str, Any]:
    return {
        "hidden_size": stated["width"],
        "intermediate_size": 4 * stated["width"],
        "num_hidden_layers": stated["layers"],
        "num_attention_heads": stated["heads"],
        "hidden_act": act,
    }


class BytePairs:
    """OpenAI's byte-pair vocabulary, which the package open_clip_torch brings.

    Raises:
        BackboneError: that package is not installed.
    """

    def __init__(self, origin: str) -> None:
        try:
            from open_clip.tokenizer import SimpleTokenizer
        except ImportError as error:
            raise BackboneError(
                f"{origin} comes without a tokenizer. Put tokenizer.json beside it, or install one with: pip "
                "install 'petiole[clip]'"
            ) from error
        self._tokenizer = SimpleTokenizer()
        self.start: int = self._tokenizer.sot_token_id
        self.end: int = self._tokenizer.eot_token_id

    def __call__(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(self._tokenizer.clean_fn(text))
        return ids


def tokenizer_beside(folder: Path, origin: str) -> Tokenizer:
    """The folder's own tokenizer if it has one, else OpenAI's."""
    names = {file.name for file in folder.iterdir()}
    if "tokenizer.json" in names or {"vocab.json", "merges.txt"} <= names:
        return FolderTokenizer(folder, "CLIPTokenizer")
    return BytePairs(origin)


def _layers(tensors: Mapping[str, Tensor], prefix: str) -> int:
    return len(
        {key.removeprefix(prefix).split(".")[0] for key in tensors if key.startswith(prefix)}
    )
