"""A frozen encoder-decoder that reads text and images together (CLIP-BART, CLIP-T5).

    encoder input = [prompt tokens, if any] [text] [visual tokens]

Text has the family's own positions and embedding norm; visual tokens have those of the V->L block and
pass by both. The encoder attends over all of it; the decoder attends to all of it. Library and weights stay as they
are: the encoder's own blocks are called one after the other, everything else is the library's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from petiole.backbones.encoder_decoder.tokens import IGNORED, LanguageTokenizer
from petiole.backbones.encoder_decoder.visual import VisualEmbedding
from petiole.backbones.frozen_network import FrozenNetwork, Site

VISUAL = "visual"
"""Role of the visual tokens, and of the V->L block's parameters."""


@dataclass(frozen=True)
class Inputs:
    """A batch for the encoder.

    Attributes:
        ids: (B, L) int64.
        mask: (B, L) bool, false at padding.
        visual: (B, K N, D_v) features of K images each; ``None`` for text alone.
        boxes: (B, K N, 4) x1, y1, x2, y2 in 0..1, where there are any.
        absent: (B, K N) bool, true where a sample has no such feature: it has fewer images than others.
        padding: (B, K N) bool, true where a zero row fills up a short video (see ``VisualOptions``).
        images: K.
    """

    ids: Tensor
    mask: Tensor
    visual: Tensor | None = None
    boxes: Tensor | None = None
    absent: Tensor | None = None
    padding: Tensor | None = None
    images: int = 1

    def to(self, device: torch.device) -> Inputs:
        """The same on another device."""
        moved: dict[str, Any] = {
            name: value.to(device)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)


class Encoded(NamedTuple):
    """States (B, S, d) and mask (B, S) bool of what the decoder attends to; the text starts at ``front``."""

    states: Tensor
    mask: Tensor
    front: int = 0


class Seq2SeqModule(nn.Module):
    """Language model, V->L block, and the place where text joins the encoder.

    Attributes:
        language: a ``...ForConditionalGeneration`` of transformers.
        visual: the V->L block; ``None`` for text alone.
        text: passes the embedded text (B, L, d), where prompts can be put in front.
        tokens: passes the visual tokens.
    """

    def __init__(self, language: nn.Module, visual: VisualEmbedding | None) -> None:
        super().__init__()
        self.language = language
        self.visual = visual
        self.text = nn.Identity()
        self.tokens = nn.Identity()


class Family(ABC):
    """What differs between BART, T5 and BERT.

    Attributes:
        codes: rows of the table of places that VL-T5 adds to the vocabulary.
        std: of the normal start of a V->L block; ``None`` for torch's own.
    """

    codes: int
    std: float | None

    @property
    @abstractmethod
    def norms(self) -> tuple[type[nn.Module], ...]:
        """Classes of the normalisations."""

    def width(self, config: Any) -> int:
        """d, width of the stream."""
        return int(config.d_model)

    @abstractmethod
    def depths(self, config: Any) -> tuple[int, int]:
        """Blocks of encoder and decoder."""

    @abstractmethod
    def embed(self, language: Any, ids: Tensor) -> Tensor:
        """Text as it joins the encoder, (B, L, d)."""

    @abstractmethod
    def encode(self, language: Any, text: Tensor, visual: Tensor | None, mask: Tensor) -> Tensor:
        """All blocks of the encoder over text and visual tokens, (B, S, d)."""

    @abstractmethod
    def sites(self, language: Any) -> dict[str, Site]:
        """Roles of all blocks."""

    @abstractmethod
    def role_of(self, parameter: str) -> str:
        """Role of one of the language model's parameters: its block, its stream, or ``words``."""


class Seq2Seq(FrozenNetwork):
    """A frozen encoder-decoder, with or without a V->L block.

    Roles: ``encoder.text`` the embedded text, ``visual`` the visual tokens, then of every block
    ``encoder.block.3.attn.in | q | k | v | out``, ``.mlp.in | hidden | out``, and in the decoder also
    ``decoder.block.3.cross.in | memory | q | k | v | out``.

    Attributes:
        tokenizer: ``None`` for a shape.
        depths: blocks of encoder and decoder.
        trained_visual: the V->L block comes with the weights; else it is a fresh start.
    """

    module: Seq2SeqModule
    vision_backbone: str = ""
    """Name of the image backbone that its V->L block was trained with; empty for none."""

    def __init__(
        self,
        name: str,
        module: Seq2SeqModule,
        family: Family,
        tokenizer: LanguageTokenizer | None,
        *,
        trained_visual: bool = False,
    ) -> None:
        language: Any = module.language
        self.config: Any = language.config
        super().__init__(name, module, family.width(self.config))
        self.family, self.tokenizer, self.trained_visual = family, tokenizer, trained_visual
        self.depths = family.depths(self.config)

    @property
    def vision_width(self) -> int:
        """D_v, width of the visual features; 0 without a V->L block."""
        return self.module.visual.width if self.module.visual else 0

    @cached_property
    def sites(self) -> Mapping[str, Site]:
        table = {"encoder.text": Site(self.module.text, "out", self.width)}
        if self.module.visual:
            table[VISUAL] = Site(self.module.tokens, "out", self.width)
        return table | self.family.sites(self.module.language)

    def role_of(self, parameter: str) -> str:
        if parameter.startswith("visual."):
            return VISUAL
        return self.family.role_of(parameter.removeprefix("language."))

    def norm_parameters(self) -> tuple[str, ...]:
        """Names of the scales and shifts of the language model's normalisations."""
        paths = {
            f"{path}.{name}"
            for path, module in self.module.named_modules()
            if isinstance(module, self.family.norms) and path.startswith("language.")
            for name, _ in module.named_parameters(recurse=False)
        }
        return tuple(name for name, _ in self.module.named_parameters() if name in paths)

    def forward(self, inputs: Inputs, labels: Tensor) -> Tensor:
        """``logits`` of what ``encode`` makes of a batch, (B, T, V)."""
        return self.logits(self.encode(inputs), labels)

    def encode(self, inputs: Inputs) -> Encoded:
        """Run the encoder over text and images."""
        with self.lock:
            language = self.module.language
            text = self.module.text(self.family.embed(language, inputs.ids))
            front = text.shape[1] - inputs.ids.shape[1]  # prompts that an adapter put there
            mask = torch.cat([inputs.mask.new_ones(len(text), front), inputs.mask], dim=1)
            visual = self._visual(inputs)
            if visual is not None:
                mask = torch.cat([mask, self._seen(inputs, visual)], dim=1)
            return Encoded(self.family.encode(language, text, visual, mask), mask, front)

    def _visual(self, inputs: Inputs) -> Tensor | None:
        if self.module.visual is None or inputs.visual is None:
            return None
        embedded = self.module.visual(inputs.visual, inputs.boxes, inputs.images)
        tokens: Tensor = self.module.tokens(embedded)
        return tokens

    def _seen(self, inputs: Inputs, visual: Tensor) -> Tensor:
        seen = visual.new_ones(visual.shape[:2], dtype=torch.bool)
        assert self.module.visual is not None
        if inputs.absent is not None:
            seen = seen & ~inputs.absent
        if inputs.padding is not None and self.module.visual.options.mask_padding:
            seen = seen & ~inputs.padding
        return seen

    def logits(self, encoded: Encoded, labels: Tensor) -> Tensor:
        """Scores of every next token, (B, T, V), with the labels' own beginning before it.

        Args:
            labels: (B, T) ids, ``IGNORED`` at padding.
        """
        with self.lock:
            out = self.module.language(
                encoder_outputs=(encoded.states,),
                attention_mask=encoded.mask,
                decoder_input_ids=self.shifted(labels),
                use_cache=False,
            )
            logits: Tensor = out.logits
            return logits

    def shifted(self, labels: Tensor) -> Tensor:
        """What the decoder reads: the labels one place later, behind the start token."""
        first = labels.new_full((len(labels), 1), self.start)
        moved = torch.cat([first, labels[:, :-1]], dim=1)
        return moved.masked_fill(moved == IGNORED, self.config.pad_token_id)

    @property
    def start(self) -> int:
        """Id before an answer's first: the configuration's, or the pad token where it states none (T5)."""
        stated = getattr(self.config, "decoder_start_token_id", None)
        return int(self.config.pad_token_id if stated is None else stated)

    @torch.no_grad()
    def generate(self, encoded: Encoded, *, beams: int = 1, longest: int = 20) -> list[list[int]]:
        """Ids of an answer for every row, by greedy or beam search.

        What is not stated here is as the model's own generation settings have it: BART-base says no 3-gram
        twice, and ends with the end token.

        Args:
            beams: 1 is greedy.
            longest: tokens with the special ones.
        """
        from transformers import GenerationConfig
        from transformers.modeling_outputs import BaseModelOutput

        settings = GenerationConfig(
            num_beams=beams,
            max_length=longest,
            do_sample=False,
            decoder_start_token_id=self.start,
            eos_token_id=self.config.eos_token_id,
            pad_token_id=self.config.pad_token_id,
        )
        language: Any = self.module.language
        with self.lock:
            ids = language.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=encoded.states),
                attention_mask=encoded.mask.long(),
                generation_config=settings,
            )
        return [row.tolist() for row in ids]


def attention_sites(
    at: str, q: nn.Linear, k: nn.Module, v: nn.Module, out: nn.Linear
) -> dict[str, Site]:
    """Roles of one attention; ``in`` is the stream as q reads it, ``memory`` as v does."""
    width, inner = q.in_features, q.out_features
    return {
        f"{at}.in": Site(q, "in", width),
        f"{at}.memory": Site(v, "in", width),
        f"{at}.q": Site(q, "out", inner),
        f"{at}.k": Site(k, "out", inner),
        f"{at}.v": Site(v, "out", inner),
        f"{at}.out": Site(out, "out", out.out_features),
    }


def mlp_sites(at: str, wide: nn.Linear, out: nn.Linear) -> dict[str, Site]:
    """Roles of one MLP."""
    return {
        f"{at}.in": Site(wide, "in", wide.in_features),
        f"{at}.hidden": Site(wide, "out", wide.out_features),
        f"{at}.out": Site(out, "out", out.out_features),
    }


def joined(text: Tensor, visual: Tensor | None, rate: float, *, training: bool) -> Tensor:
    """Text, then visual tokens, then dropout: the stream entering the first block."""
    tokens = text if visual is None else torch.cat([text, visual.to(text.dtype)], dim=1)
    return dropout(tokens, rate, training)


def bars(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What attention adds to its scores, (B, 1, 1, S): 0 where the mask (B, S) is true, else the lowest number."""
    barred = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return barred.masked_fill(~mask, torch.finfo(dtype).min)[:, None, None]


def block_role(parts: Sequence[str], stream: str, blocks: str) -> str:
    """``encoder.block.3`` for a parameter under ``<blocks>.3``; the whole stream for others."""
    if blocks in parts:
        return f"{stream}.block.{parts[parts.index(blocks) + 1]}"
    return stream
