"""Files of a VILA-U checkpoint: weights whole or in shards, and the tokenizer with its conversation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from petiole.backbones.codebook_lvlm.model import PromptTemplate
from petiole.backbones.torchscript import read_checkpoint
from petiole.backbones.weights import read_json, read_safetensors
from petiole.errors import BackboneError

READERS = {"model.safetensors": read_safetensors, "pytorch_model.bin": read_checkpoint}

TOWER = "rqvaesiglip."
MAKES_IMAGES = ("rqtransformer.", "rqvaesiglip.post_quant_conv.", "rqvaesiglip.decoder.")
"""Parts that only make images: the depth transformer and the pixel decoder. Nothing that sees runs through them."""
AVERAGES = (".cluster_size_ema", ".embed_ema")
"""Of a table of the quantiser: running means that only its training uses."""
COUNTERS = ".embeddings.position_ids"
"""Constants that older versions of transformers stored."""

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""Of the repository's conversation vicuna_v1."""
USER, ASSISTANT = "USER: ", "ASSISTANT:"
MARKS = ("<im_start>", "<im_end>")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a part, from one file or from the shards of its index. Nothing is unpickled.

    Raises:
        BackboneError: there is no such file, or it cannot be read.
    """
    for name, read in READERS.items():
        if (folder / name).is_file():
            return read(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            found: dict[str, Tensor] = {}
            for shard in _shards(index):
                found |= read(folder / shard)
            return found
    raise BackboneError(
        f"{folder} has no weights ({', '.join(READERS)}, or their .index.json with shards). Copy them from where the "
        "model came from."
    )


def _shards(index: Path) -> list[str]:
    names = read_json(index).get("weight_map")
    files = set(names.values()) if isinstance(names, dict) else set()
    if not files or not all(isinstance(file, str) and Path(file).name == file for file in files):
        raise BackboneError(
            f"{index} names no shards beside it under weight_map. Copy it again from where the model came from."
        )
    return sorted(files)


def read_tower(folder: Path) -> dict[str, Tensor]:
    """Tensors of SigLIP and the quantiser, without what only makes images or only served training.

    Names lose the prefix ``rqvaesiglip.``.

    Raises:
        BackboneError: as ``read_weights``.
    """
    kept: dict[str, Tensor] = {}
    for name, value in read_weights(folder).items():
        average = name.startswith(f"{TOWER}quantizer.codebooks.") and name.endswith(AVERAGES)
        if not (name.startswith(MAKES_IMAGES) or average or name.endswith(COUNTERS)):
            kept[name.removeprefix(TOWER)] = value
    return kept


def one_of(tensors: dict[str, Tensor], names: Sequence[str], origin: str) -> None:
    """Leave one tensor that the original shares under several names, under the first of them.

    Raises:
        BackboneError: the names hold different values.
    """
    found = {name: tensors.pop(name) for name in names if name in tensors}
    if not found:
        return  # missing: a strict load says so
    first, *others = found
    for other in others:
        if not torch.equal(found[first], found[other]):
            raise BackboneError(
                f"{origin}: {first} and {other} are one tensor in VILA-U, but differ here. Copy the weights again, "
                "or set shared_codebook in its config.json as they were trained."
            )
    tensors[names[0]] = found[first]


class VilaUTokenizer:
    """The language model's own tokenizer.

    Args:
        folder: llm.
        vocabulary: rows of the language model's embedding.

    Raises:
        BackboneError: it has none, or one that is not the model's.
    """

    def __init__(self, folder: Path, vocabulary: int) -> None:
        from transformers import AutoTokenizer

        # Where there is no file, transformers makes a tokenizer that knows no words.
        if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
            raise BackboneError(
                f"{folder} has no tokenizer (tokenizer.json or tokenizer.model). Copy it from where the model came "
                "from."
            )
        try:
            self.inner: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # the library tokenizers raises bare ones
            raise BackboneError(
                f"{folder} has no tokenizer that transformers can read ({type(error).__name__}: {error}). Copy "
                "tokenizer.json and tokenizer_config.json again."
            ) from error
        ends = self.inner.bos_token_id, self.inner.eos_token_id
        if None in ends or len(self.inner) > vocabulary:
            raise BackboneError(
                f"The tokenizer in {folder} has {len(self.inner)} tokens and start and end {ends}, the model "
                f"{vocabulary} tokens. Give the tokenizer that belongs to the model."
            )
        self.folder = folder

    def split(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        return list(self.inner(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """The text, without special tokens."""
        return str(self.inner.decode(list(ids), skip_special_tokens=True)).strip()

    def prompt(self, *, marked: bool) -> PromptTemplate:
        r"""The conversation, cut at the image as the repository cuts it.

            <s>SYSTEM USER: <im_start> [image] <im_end>\n question ASSISTANT: answer</s>

        Args:
            marked: with the marks of image start and end.

        Raises:
            BackboneError: marks are wanted that the tokenizer does not know.
        """
        known = self.inner.get_vocab()
        if marked and not all(mark in known for mark in MARKS):
            raise BackboneError(
                f"The tokenizer in {self.folder} does not know {' and '.join(MARKS)}, and config.json states "
                "mm_use_im_start_end. Copy its files again, added_tokens.json too."
            )
        start, end = MARKS if marked else ("", "")
        stop = int(self.inner.eos_token_id)
        pad = self.inner.pad_token_id
        return PromptTemplate(
            before=(int(self.inner.bos_token_id), *self.split(f"{SYSTEM} {USER}{start}")),
            between=tuple(self.split(f"{end}\n")),
            after=tuple(self.split(ASSISTANT)),
            end=stop,
            pad=stop if pad is None else int(pad),
        )
