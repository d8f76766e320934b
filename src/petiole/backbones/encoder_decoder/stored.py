"""Weights of a language model and of its V->L block as files hold them: transformers', ours, and VL-T5's.

    ours            model.safetensors (the language model)     visual.safetensors (the V->L block)
    VL-T5's         one file: the language model, and the V->L block as encoder.visual_embedding.*

In VL-T5's and VL-Adapter's checkpoints (``LAST.pth``) the codes of places are the last rows of the word embedding:
200 that were added to BART's, 72 to T5's. Here they are the V->L block's, and the output gives no
score to them; no target ever named one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from petiole.backbones.encoder_decoder.model import Seq2Seq
from petiole.backbones.encoder_decoder.tokens import FastTokenizer
from petiole.backbones.torchscript import read_checkpoint
from petiole.backbones.weights import read_safetensors
from petiole.errors import BackboneError
from petiole.files import write_tensors

VISUAL = "visual.safetensors"

BLOCK = "encoder.visual_embedding."
PARTS = {
    "feat_embedding.0": "features",
    "feat_embedding.1": "feature_norm",
    "absolute_vis_pos_embedding.0": "boxes",
    "absolute_vis_pos_embedding.1": "box_norm",
    "layer_norm": "norm",
    "img_order_embedding": "images",
}
"""Modules of VL-T5's visual embedding -> ours; its ``obj_order_embedding`` is the word embedding itself."""
CODES = "codes"

WORDS = ("shared.weight", "embed_tokens.weight", "lm_head.weight")
BIAS = "final_logits_bias"
READERS = {".safetensors": read_safetensors, ".pth": read_checkpoint, ".bin": read_checkpoint}


@dataclass(frozen=True)
class Stored:
    """Tensors by name.

    Attributes:
        language: in transformers' names; empty where the folder's own are meant.
        visual: of the V->L block, in ours; empty where there is none.
        origin: file, for messages.
    """

    language: Mapping[str, Tensor] = field(default_factory=dict)
    visual: Mapping[str, Tensor] = field(default_factory=dict)
    origin: str = ""


def beside(folder: Path) -> Stored:
    """The V->L block that lies beside a language model, if one does."""
    file = folder / VISUAL
    return Stored(visual=read_safetensors(file), origin=str(file)) if file.is_file() else Stored()


def read(file: Path, vocabulary: int) -> Stored:
    """A language model, perhaps with a V->L block.

    Args:
        file: safetensors, or .pth or .bin as ``torch.save`` writes them.
        vocabulary: rows of the word embedding without codes of places.

    Raises:
        BackboneError: the file cannot be read, or its words are not the model's.
    """
    if file.suffix not in READERS:
        raise BackboneError(
            f"{file}: weights of a language model are read from {', '.join(READERS)}. Save its state_dict "
            "as one of them."
        )
    language: dict[str, Tensor] = {}
    visual: dict[str, Tensor] = {}
    for name, tensor in READERS[file.suffix](file).items():
        plain = name.removeprefix("module.")  # left by data-parallel training
        _, found, part = plain.partition(BLOCK)
        if not found:
            language[plain] = tensor
        elif not part.startswith("obj_order_embedding"):
            visual[_ours(part, file)] = tensor
    return _apart(language, visual, vocabulary, str(file))


def _ours(part: str, file: Path) -> str:
    module, _, leaf = part.rpartition(".")
    if module not in PARTS:
        raise BackboneError(
            f"{file} has {BLOCK}{part}, which no V->L block known here has. Give a checkpoint of a plain "
            "VL-T5 or VL-BART."
        )
    return f"{PARTS[module]}.{leaf}"


def _apart(
    language: dict[str, Tensor], visual: dict[str, Tensor], vocabulary: int, origin: str
) -> Stored:
    """Give the rows behind the vocabulary to the V->L block as its codes.

    Raises:
        BackboneError: there are such rows and no V->L block, or the other way round, or too few words.
    """
    rows = next((t for name, t in language.items() if name.endswith(WORDS[0])), None)
    count = 0 if rows is None else len(rows)
    if rows is None or count < vocabulary or (count > vocabulary) != bool(visual):
        raise BackboneError(
            f"{origin} has {count} word embeddings and {'a' if visual else 'no'} V->L block; the model's "
            f"configuration states {vocabulary} words. With a V->L block its codes of places must follow the "
            "words, else nothing. Name the model that these weights were saved from."
        )
    for name, tensor in language.items():
        if name.endswith(WORDS):
            language[name] = tensor[:vocabulary]
        elif name.endswith(BIAS):
            language[name] = tensor[:, :vocabulary]
    if visual:
        visual[CODES] = rows[vocabulary:]
    return Stored(language, visual, origin)


def write(model: Seq2Seq, folder: Path) -> None:
    """Write a model as a folder that loads again: language model, V->L block, tokenizer.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    language: Any = model.module.language
    language.save_pretrained(folder)
    if isinstance(model.tokenizer, FastTokenizer):
        model.tokenizer.inner.save_pretrained(folder)
    if model.module.visual is not None:
        write_tensors(folder / VISUAL, model.module.visual.state_dict())
