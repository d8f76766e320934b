"""A tower, a projector and a causal language model: images and a question -> an answer.

    [before]  P(z~_1) ... P(z~_N)  [between]  question  [after]  answer  [end]

Image tokens and everything before the answer carry no label. Rows are filled up on the left, so that answers end
together; places count from each row's first token. With pruned image tokens the rest keeps its places, or closes up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from petiole.backbones.codebook_lvlm import causal
from petiole.backbones.codebook_lvlm.codebook import CodebookSpec
from petiole.backbones.codebook_lvlm.tower import Tower
from petiole.backbones.frozen_network import FrozenNetwork, Site

IGNORED = -100
"""Label of a place that no loss sees."""
IMAGE = -1
"""Stands in a row of ids where an image token comes."""
Positions = Literal["keep", "compact"]


class TextTokens(Protocol):
    """Words as ids, and back."""

    def split(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text, without special tokens."""
        ...


@dataclass(frozen=True)
class PromptTemplate:
    """Ids around image, question and answer.

    Attributes:
        before: in front of the image.
        between: image and question.
        after: the question, before the answer.
        end: of an answer.
        pad: fills rows up.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    end: int
    pad: int


class Turns(NamedTuple):
    """Questions with their answers, as the language model reads them.

    Attributes:
        embedded: (B, S, w), image tokens in place.
        mask: (B, S) bool, false at padding.
        positions: (B, S).
        labels: (B, T) of the last T places, ``IGNORED`` where nothing is learnt.
    """

    embedded: Tensor
    mask: Tensor
    positions: Tensor
    labels: Tensor


class LVLMModule(nn.Module):
    """Tower, projector and language model."""

    def __init__(self, tower: Tower, projector: nn.Module, language: nn.Module) -> None:
        super().__init__()
        self.tower, self.projector, self.language = tower, projector, language


class LVLM(FrozenNetwork):
    """A frozen vision-language model over a codebook.

    Roles: ``visual`` the projected image tokens, then ``language.block.3.in | out``. The encoder is a backbone of its own,
    ``tower.image_backbone``, with the roles of every image backbone.

    Attributes:
        tokenizer: ``None`` for a shape.
        prompt: ids around image, question and answer.
        discrete: the language model sees z^; otherwise z, in the continuous twin.
        sharded: the language model is spread over several processes, which must all take part; set by ``sharded.shard``.
    """

    module: LVLMModule
    sharded: bool = False

    def __init__(
        self,
        name: str,
        module: LVLMModule,
        tokenizer: TextTokens | None,
        prompt: PromptTemplate,
        *,
        discrete: bool = True,
    ) -> None:
        language: Any = module.language
        self.config: Any = language.config
        super().__init__(name, module, int(language.get_input_embeddings().embedding_dim))
        self.tokenizer, self.prompt, self.discrete = tokenizer, prompt, discrete

    @property
    def tower(self) -> Tower:
        """Encoder and quantiser."""
        return self.module.tower

    @property
    def spec(self) -> CodebookSpec:
        """The codebook's contract."""
        return self.tower.spec

    @cached_property
    def sites(self) -> Mapping[str, Site]:
        visual = Site(self.module.projector, "out", self.width)
        return {"visual": visual} | causal.sites(self.module.language, self.width)

    def role_of(self, parameter: str) -> str:
        part, _, rest = parameter.partition(".")
        if part == "projector":
            return "visual"
        path, _ = causal.blocks(self.module.language)
        if part == "language" and rest.startswith(f"{path}."):
            return f"language.block.{rest.removeprefix(f'{path}.').split('.')[0]}"
        return part

    def turns(
        self,
        seen: Tensor,
        questions: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]] | None = None,
        *,
        kept: Tensor | None = None,
        positions: Positions = "keep",
        learn_questions: bool = False,
        learn_end: bool = True,
    ) -> Turns:
        """Lay out a batch.

        Args:
            seen: (B, N, d) what the tower sees.
            questions: ids of each.
            answers: ids of each, without the end; ``None`` to ask.
            kept: (B, M) rising numbers of the image tokens that stay; ``None`` for all.
            positions: whether these keep their places, or close up.
            learn_questions: give the question's tokens labels too.
            learn_end: give the end of an answer a label.
        """
        count = seen.shape[1]
        numbers = torch.arange(count).expand(len(seen), -1)
        if kept is not None:
            seen = seen.gather(1, kept[..., None].expand(-1, -1, seen.shape[-1]))
            numbers = kept if positions == "keep" else numbers[:, : kept.shape[1]]
        after = count if positions == "keep" else seen.shape[1]
        spoken = answers if answers is not None else [None] * len(questions)
        rows = [
            _row(self.prompt, own, after, question, answer, learn_questions, learn_end)
            for own, question, answer in zip(numbers.tolist(), questions, spoken, strict=True)
        ]
        longest = max(len(row.ids) for row in rows)
        filled = (self.prompt.pad, 0, IGNORED)
        ids, places, labels = (
            torch.tensor([[fill] * (longest - len(part)) + part for part in parts]).to(seen.device)
            for fill, parts in zip(filled, zip(*rows, strict=True), strict=True)
        )
        lengths = torch.tensor([len(row.ids) for row in rows], device=seen.device)
        mask = torch.arange(longest, device=seen.device) >= longest - lengths[:, None]
        image = ids == IMAGE
        language: Any = self.module.language
        words = language.get_input_embeddings()(ids.masked_fill(image, self.prompt.pad))
        visual = self.module.projector(seen).to(words.dtype)
        learnt = (labels != IGNORED).any(dim=0).nonzero()
        first = int(learnt[0]) if len(learnt) else longest
        return Turns(
            words.masked_scatter(image[..., None], visual), mask, places, labels[:, first:]
        )

    def forward(self, turns: Turns) -> Tensor:
        """``logits``, (B, T, V)."""
        return self.logits(turns)

    def logits(self, turns: Turns) -> Tensor:
        """Scores (B, T, V) of the token at every place of ``turns.labels``, from all that lies before it."""
        language: Any = self.module.language
        count = turns.labels.shape[1]
        with self.lock:
            scores: Tensor = language(
                inputs_embeds=turns.embedded,
                attention_mask=turns.mask.long(),
                use_cache=False,
                logits_to_keep=count + 1,
                **self._places(turns),
            ).logits
        return scores[:, -count - 1 : -1]

    @torch.no_grad()
    def generate(self, turns: Turns, longest: int = 40) -> list[list[int]]:
        """Ids of a greedy answer to every row, without the end token.

        Args:
            turns: without answers.
            longest: tokens at most.
        """
        from transformers import GenerationConfig

        p = self.prompt
        settings = GenerationConfig(
            max_new_tokens=longest, do_sample=False, eos_token_id=p.end, pad_token_id=p.pad
        )
        language: Any = self.module.language
        with self.lock:
            rows = language.generate(
                inputs_embeds=turns.embedded,
                attention_mask=turns.mask.long(),
                generation_config=settings,
                synced_gpus=self.sharded,  # then no process ends before the others
                **self._places(turns),
            ).tolist()
        return [row[: row.index(p.end)] if p.end in row else row for row in rows]

    def _places(self, turns: Turns) -> dict[str, Tensor]:
        takes_positions = causal.accepts_positions(self.module.language)
        return {"position_ids": turns.positions} if takes_positions else {}


class _Row(NamedTuple):
    ids: list[int]
    places: list[int]
    labels: list[int]


def _row(
    prompt: PromptTemplate,
    numbers: Sequence[int],
    after: int,
    question: Sequence[int],
    answer: Sequence[int] | None,
    learn_question: bool,
    learn_end: bool,
) -> _Row:
    """One row, not yet filled up: image tokens at ``numbers``, text from place ``after`` behind them."""
    target = [*answer, prompt.end] if answer is not None else []
    text = [*prompt.between, *question, *prompt.after, *target]
    ids = [*prompt.before, *[IMAGE] * len(numbers), *text]
    first = len(prompt.before)
    places = [
        *range(first),
        *(first + n for n in numbers),
        *range(first + after, first + after + len(text)),
    ]
    labels = [IGNORED] * len(ids)
    if target:
        labels[-len(target) :] = [*target[:-1], prompt.end if learn_end else IGNORED]
    if learn_question:
        at = first + len(numbers) + len(prompt.between)
        labels[at : at + len(question)] = question
    return _Row(ids, places, labels)
