"""A classifier made of class names: what every method with a text tower shares.

    z_c = exp(logit_scale) cos(v, E_c),   E_c = text tower (sentence of class c)

A sentence is a template, or a context of M learned words about the class name (CoOp):

    end      [V]_1 .. [V]_M name .         middle   half of them, name, the other half, .
    front    name, [V]_1 .. [V]_M .

Texts are encoded in every training step and once per evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

from petiole.backbones.base import Backbone
from petiole.backbones.dual_encoder.towers import TwoTowers
from petiole.errors import ConfigError

Position = Literal["end", "middle", "front"]
PHRASE = "a photo of a"
"""What contexts start from."""
AT_ONCE = 256
"""Most texts in one pass of the text tower."""


def towers_of(backbone: Backbone) -> TwoTowers:
    """The backbone, if it has a text tower.

    Raises:
        ConfigError: it has none.
    """
    if not isinstance(backbone, TwoTowers):
        raise ConfigError(
            f"This method reads class names with a text tower, and {backbone.name} has none. Use a "
            "CLIP (hf/openai/clip-vit-base-patch16, or a model folder)."
        )
    return backbone


@dataclass(frozen=True)
class SentenceTemplate:
    """How a class name becomes a text.

    Attributes:
        templates: with one ``{}`` each; the vectors of several are averaged.
        context: M, learned words instead of a template.
        position: of the context.
        words: fixed ones between context and name.
    """

    templates: tuple[str, ...] = ("a photo of a {}.",)
    context: int = 0
    position: Position = "end"
    words: str = ""

    def tokens(self, name: str, towers: TwoTowers) -> list[tuple[list[int], list[int]]]:
        """Ids with start and end, and the slots of the context among them, of each sentence."""
        tokenizer = towers.text.tokenizer
        assert tokenizer is not None
        opening = [] if tokenizer.start is None else [tokenizer.start]
        name = name.replace("_", " ")
        if not self.context:
            texts = [tokenizer(template.format(name)) for template in self.templates]
            return [([*opening, *ids, tokenizer.end], []) for ids in texts]
        blank = tokenizer("x")[:1]
        name_ids = tokenizer(f"{self.words} {name}".strip())
        before = {"end": self.context, "middle": self.context // 2, "front": 0}[self.position]
        after = self.context - before
        first = len(opening)
        ids = [*opening, *blank * before, *name_ids, *blank * after]
        slots = [*range(first, first + before), *range(len(ids) - after, len(ids))]
        return [([*ids, *tokenizer(" ."), tokenizer.end], slots)]


def readable(
    names: Sequence[str], sentences: Sequence[list[tuple[list[int], list[int]]]], towers: TwoTowers
) -> None:
    """Check that a text tower can tell class names apart.

    Args:
        sentences: of each name, as ``SentenceTemplate.tokens`` gives them.

    Raises:
        ConfigError: a name has no tokens or only unknown ones, two names have the same, or a sentence has more than the
            tower's positions.
    """
    tokenizer, longest = towers.text.tokenizer, towers.text.longest
    assert tokenizer is not None
    unknown = getattr(tokenizer, "unknown", None)
    own = [tokenizer(name.replace("_", " ")) for name in names]
    lost = [name for name, ids in zip(names, own, strict=True) if not set(ids) - {unknown}]
    alike: dict[tuple[tuple[int, ...], ...], list[str]] = {}
    for name, sentence in zip(names, sentences, strict=True):
        alike.setdefault(tuple(tuple(ids) for ids, _ in sentence), []).append(name)
    same = [group for group in alike.values() if len(group) > 1]
    lengths = [
        (name, max(len(ids) for ids, _ in s)) for name, s in zip(names, sentences, strict=True)
    ]
    long = [f"{name!r} ({count})" for name, count in lengths if count > longest]
    problems = [
        f"{what}: {_some(found)}"
        for what, found in (
            (
                f"nothing of its vocabulary in the name{'s' * (len(lost) > 1)}",
                [repr(name) for name in lost],
            ),
            ("the same tokens for", [" and ".join(map(repr, group)) for group in same]),
            (f"more than its {longest} tokens in the sentence of", long),
        )
        if found
    ]
    if problems:
        raise ConfigError(
            f"The text tower of {towers.name} cannot tell these classes apart or read them; it finds {'; '.join(problems)}. "
            "Rename these classes in the words of its language, or use a method that reads no class names (averaged-ridge, "
            "lora-qkv)."
        )


def _some(found: Sequence[str], most: int = 5) -> str:
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more


class NamedTexts(nn.Module):
    """Class names as sentences, and the tower that reads them.

    More than ``at_once`` texts pass the tower in parts, and with gradients a part's activations are computed
    again in the backward pass instead of being kept. So memory grows with ``at_once`` and not with the classes,
    for a third more computation; values and gradients are the same.

    Args:
        towers: with the text tower.
        classes: C.
        sentence: made of a name.

    Attributes:
        slots_at_hand: slots (n, M) of the context in the texts that the tower reads now.
    """

    scale: Tensor
    names: tuple[str, ...]
    ids: Tensor
    slots: Tensor

    def __init__(self, towers: TwoTowers, classes: int, sentence: SentenceTemplate) -> None:
        super().__init__()
        self._towers, self.width = (towers,), towers.width
        self.sentence, self.at_once = sentence, AT_ONCE
        self.register_buffer("scale", towers.scale.clone())
        self.at_hand: tuple[Tensor, ...] = ()
        self.slots_at_hand = torch.zeros(0)
        self._others: dict[tuple[str, ...], tuple[tuple[str, ...], Tensor, Tensor]] = {}
        self._take([f"class {i}" for i in range(classes)])

    @property
    def towers(self) -> TwoTowers:
        return self._towers[0]

    @property
    def device(self) -> torch.device:
        """Where the text tower lives."""
        return self.towers.text.embed.weight.device

    @contextmanager
    def reading(self, names: Sequence[str]) -> Iterator[None]:
        """Speak of other classes within the context, e.g. of some that are not in the data.

        Raises:
            ConfigError: as ``rename``.
        """
        own = self.names, self.ids, self.slots
        try:
            with self._keeping():
                if tuple(names) not in self._others:
                    self.rename(names)
                    self._others = {tuple(names): (self.names, self.ids, self.slots)}
                self.names, self.ids, self.slots = self._others[tuple(names)]
                yield
        finally:
            self.names, self.ids, self.slots = own

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        """Forget what was computed of the names, and know it again afterwards."""
        yield

    def rename(self, names: Sequence[str]) -> None:
        """Set the classes by name; their number may change, e.g. to novel ones.

        Raises:
            ConfigError: the text tower cannot read a name, or cannot tell two apart.
        """
        if self.towers.text.tokenizer is not None:
            readable(
                names, [self.sentence.tokens(name, self.towers) for name in names], self.towers
            )
        self._take(names)

    def _take(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.forget()
        if self.towers.text.tokenizer is None:  # a shape: lengths as of short names
            count = self.sentence.context + 8
            self.ids = torch.zeros(len(names), count, dtype=torch.long, device=self.device)
            slots = torch.arange(1, 1 + self.sentence.context, device=self.device)
            self.slots = slots.expand(len(names), -1)
            return
        pairs = [pair for name in names for pair in self.sentence.tokens(name, self.towers)]
        longest = max(len(ids) for ids, _ in pairs)
        end = self.towers.text.tokenizer.end
        rows = [ids + [end] * (longest - len(ids)) for ids, _ in pairs]
        self.ids = torch.tensor(rows, device=self.device)
        self.slots = torch.tensor([slots for _, slots in pairs], device=self.device)

    def forget(self) -> None:
        """Encode the texts anew when they are wanted next."""

    def encode(self, rows: Tensor, *beside: Tensor) -> Tensor:
        """What the tower makes of some of the sentences, (n, d), not normalised.

        Args:
            rows: which ones (n,).
            beside: what else belongs to each of them, (n, ...); at hand while they are read.
        """
        # Texts are handed on by value: names may be others when a part is computed again.
        given = (self.ids[rows], self.slots[rows], rows, *beside)
        with self.towers.lock:
            if not 0 < self.at_once < len(rows):
                return self._read(*given)
            again = torch.is_grad_enabled()
            parts = zip(*(torch.split(each, self.at_once) for each in given), strict=True)
            return torch.cat(
                [
                    checkpoint(self._read, *part, use_reentrant=False)
                    if again
                    else self._read(*part)
                    for part in parts
                ]
            )

    def _read(self, ids: Tensor, slots: Tensor, *given: Tensor) -> Tensor:
        self.at_hand, self.slots_at_hand = given, slots
        try:
            # Not through the lock: on a GPU the backward pass comes back here in another thread.
            return self.towers.text.encode(ids, trimmed=True)
        finally:
            self.at_hand, self.slots_at_hand = (), slots[:0]


class TextHead(NamedTexts):
    """Vectors (B, d) -> logits (B, C), from the class names; of its own it has only the towers' scale."""

    _known: Tensor | None = None
    _has_graph = False

    def forget(self) -> None:
        self._known = None

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        known, self._known = (self._known, self._has_graph), None
        try:
            yield
        finally:
            self._known, self._has_graph = known

    def train(self, mode: bool = True) -> Self:
        self.forget()
        return super().train(mode)

    def embeddings(self) -> Tensor:
        """E (C, d), unit norm; computed once until ``forget``."""
        gradients = torch.is_grad_enabled()
        if self._known is None or (gradients and not self._has_graph):
            self._known, self._has_graph = self._encode(), gradients
        return self._known

    def texts(self) -> Tensor:
        """What the tower makes of every sentence, (C, sentences of a class, d), not normalised."""
        encoded = self.encode(torch.arange(len(self.ids), device=self.device))
        return encoded.reshape(len(self.names), -1, encoded.shape[-1])

    def _encode(self) -> Tensor:
        each = normalize(self.texts(), dim=-1)
        # Several templates: normalise, average, normalise.
        return each[:, 0] if each.shape[1] == 1 else normalize(each.mean(dim=1), dim=-1)

    def forward(self, vector: Tensor) -> Tensor:
        return self.scale * normalize(vector, dim=-1) @ self.embeddings().to(vector.dtype).T


def words(towers: TwoTowers, text: str, count: int) -> Tensor:
    """Word embeddings (count, d_t) of the first words of a text."""
    embed, tokenizer = towers.text.embed, towers.text.tokenizer
    if tokenizer is None:
        return embed.weight.new_zeros(count, towers.text.width)
    ids = tokenizer(text)
    if len(ids) < count:
        raise ConfigError(f"{text!r} has {len(ids)} tokens, fewer than the {count} of the context.")
    return embed.weight[torch.tensor(ids[:count], device=embed.weight.device)].detach()
