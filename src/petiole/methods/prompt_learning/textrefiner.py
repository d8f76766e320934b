"""TextRefiner (AAAI 2025): class vectors refined by what was seen in local image tokens; a plug-in.

    X^ = g(X), X the class token and patches of the image tower's last block, projected
    E^ = alpha Linear([E, R]) + E, R read from a cache of M summaries of X^, see ``LocalCache``
    L = L_host(s v E^T) + l_1 CE(s S E^T, y) + l_2 mean| unit(E^) - E |

S: of each image the class token, its k most attended patches and the mean of all, out of X^. In prediction neither g nor
tokens are needed, and E^ can be stored (``petiole fold``). The host is any method whose head gives a unit vector for
each class name, or for each class name and image (CoCoOp: refined image by image, nothing to store).

``mode=code`` is the released code, ``mode=paper`` its slides' equations; every difference is a setting of
its own, which wins over the mode. Where the slides are silent the two agree. Hosts that learn
from a teacher (PromptKD) take KL to the teacher in the place of CE, as their variant of the code does.

The cache is read before it is written in each inputs. No gradient enters it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, l1_loss, normalize

from petiole.backbones.base import Backbone
from petiole.errors import ConfigError
from petiole.layers.local_cache import LocalCache, Reduce, Start, WriteWeights
from petiole.layers.token_alignment import TokenAlignment, salient
from petiole.losses.distillation import distillation
from petiole.methods.base import Loss, LossInputs, Method, Plan
from petiole.methods.prompt_learning.class_vectors import ClassVectors, ImageClassVectors
from petiole.methods.prompt_learning.promptkd import Distillation
from petiole.methods.prompt_learning.refined_head import Refined, Refiner, refine
from petiole.methods.recipe import PROMPT_LEARNING, Recipe
from petiole.methods.registry import create, preset_of, register
from petiole.ranges import NonNegativeFloat, PositiveFloat, PositiveInt, UnitInterval

Cache = Literal["tokens", "zeros", "noise", "mean", "none"]


@dataclass(frozen=True)
class RefinerVariant:
    """The choices in which the released code and its slides differ.

    Attributes:
        start: of the cache's entries.
        weights: of writing.
        unit_entries: normalise entries after writing.
        unit_refined: normalise E^ in the logits.
        target: class vectors that S is compared with: ``host`` E, ``refined`` E^.
        mean_token: whether the mean token is part of S.
        unit_tokens: normalise S.
    """

    start: Start
    weights: WriteWeights
    unit_entries: bool
    unit_refined: bool
    target: Literal["host", "refined"]
    mean_token: bool
    unit_tokens: bool


READINGS = {
    "code": RefinerVariant("positive", "tokens", True, False, "host", True, False),
    "paper": RefinerVariant("normal", "entries", False, True, "refined", False, True),
}


class Semantics(Loss[LossInputs]):
    """l_1 CE(s S E^T, y) on aligned tokens; writes them into the cache afterwards.

    Args:
        weight: l_1.
        head: refined.
        align: g, trained by this loss alone and dropped after training.
        roles: of image vector, patches and attention.
        k: patches.
        reading: code or paper.
        raw: write tokens as they come from the tower instead of aligned ones.
        teacher: gives the logits of a teacher instead of labels.
    """

    def __init__(
        self,
        weight: float,
        head: Refined,
        align: TokenAlignment,
        *,
        roles: tuple[str, str, str],
        k: int,
        reading: RefinerVariant,
        raw: bool,
        teacher: Callable[[LossInputs], Tensor] | None,
    ) -> None:
        super().__init__(weight)
        self.align, self._head = align, (head,)
        self.roles = self.studies = roles
        self.k, self.reading, self.raw = k, reading, raw
        self._teacher = teacher

    def samples(self, inputs: LossInputs) -> tuple[Tensor, Tensor]:
        """X (B, 1 + P, d) and the aligned S (B, k + 1 or k + 2, d')."""
        vector, patches, attention = (inputs.values[role] for role in self.roles)
        tokens = torch.cat([vector[:, None], patches], dim=1)
        aligned = self.align(tokens)
        chosen = salient(aligned, attention, self.k, mean=self.reading.mean_token)
        return (tokens if self.raw else aligned), chosen

    def forward(self, inputs: LossInputs) -> Tensor:
        (head,) = self._head
        tokens, chosen = self.samples(inputs)
        classes, refined = head.pair(inputs.values[self.roles[0]])
        if self.reading.target == "refined":
            classes = normalize(refined, dim=-1)
        if self.reading.unit_tokens:
            chosen = normalize(chosen, dim=-1)
        count = chosen.shape[1]
        logits = (head.scale * chosen @ classes.to(chosen.dtype).mT).flatten(0, 1).float()
        if self._teacher:
            loss = distillation(logits, self._teacher(inputs).repeat_interleave(count, 0))
        else:
            loss = cross_entropy(logits, inputs.labels.repeat_interleave(count))
        cache = head.refiner.cache
        if self.training and isinstance(cache, LearnedCache):
            cache.write(tokens.flatten(0, 1))
        return loss


class Retention(Loss[LossInputs]):
    """l_2 mean| unit(E^) - E |: refined class vectors stay near the host's."""

    def __init__(self, weight: float, head: Refined, vector: str) -> None:
        super().__init__(weight)
        self._head, self.vector = (head,), vector

    def forward(self, inputs: LossInputs) -> Tensor:
        (head,) = self._head
        own, refined = head.pair(inputs.values[self.vector])
        return l1_loss(normalize(refined, dim=-1), own)


class LearnedCache(LocalCache):
    """One that is written to in training; the controls' are not."""


def _as_host(host: str, **preset: Any) -> dict[str, Any]:
    """A host, and its training unless ``preset`` says otherwise."""
    recipe = {f.name for f in fields(Recipe)}
    training = {k: v for k, v in preset_of(host).items() if k in recipe}
    return {"host": host, **training, **preset}


@register(
    "coop+textrefiner",
    "coop with class vectors refined by local image tokens",
    **_as_host("coop", epochs=10),
)
@register(
    "cocoop+textrefiner",
    "cocoop with class vectors refined by local image tokens",
    **_as_host("cocoop"),
)
@register(
    "maple+textrefiner",
    "maple with class vectors refined by local image tokens",
    **_as_host("maple"),
)
@register(
    "promptsrc+textrefiner",
    "promptsrc with class vectors refined by local image tokens",
    **_as_host("promptsrc"),
)
@register(
    "promptkd+textrefiner",
    "promptkd with class vectors refined by local image tokens",
    **_as_host("promptkd", semantic_weight=10.0),
)
@register(
    "zero-shot+textrefiner",
    "zero-shot with class vectors refined by local image tokens",
    **_as_host("zero-shot", **PROMPT_LEARNING, epochs=10),
)
@dataclass(frozen=True)
class TextRefiner(Method):
    """A refiner over a host.

    Attributes:
        host: registered name of a method with class vectors.
        host_settings: of the host.
        entries: M.
        alpha: 0 leaves the host's class vectors as they are.
        cache_momentum: m, of writing.
        k: patches of S.
        semantic_weight, retention_weight: l_1, l_2.
        read_temperature: T of reading.
        reduce: how the tokens of an entry are joined in writing.
        raw_tokens: write tokens as the tower gives them.
        keep_alignment: store g in the adapter, for ``petiole inspect ADAPTER --images FOLDER``.
        cache: what is read: ``tokens``, or for comparison ``zeros``, ``noise`` (fixed), ``mean`` (one entry,
            the mean token) or ``none`` (Linear on E alone).
        mode: ``code`` or ``paper``; each following setting overrules it, see ``RefinerVariant``.
    """

    host: str = "coop"
    host_settings: dict[str, Any] = field(default_factory=dict, hash=False)
    entries: PositiveInt = 25
    alpha: float = 0.2
    cache_momentum: UnitInterval = 0.8
    k: PositiveInt = 5
    semantic_weight: NonNegativeFloat = 0.02
    retention_weight: NonNegativeFloat = 20.0
    read_temperature: PositiveFloat = 1.0
    reduce: Reduce = "sum"
    raw_tokens: bool = False
    keep_alignment: bool = False
    cache: Cache = "tokens"
    mode: Literal["code", "paper"] = "code"
    start: Start | None = None
    weights: WriteWeights | None = None
    unit_entries: bool | None = None
    unit_refined: bool | None = None
    target: Literal["host", "refined"] | None = None
    mean_token: bool | None = None
    unit_tokens: bool | None = None

    @property
    def reading(self) -> RefinerVariant:
        """The mode, with what overrules it."""
        mode = READINGS[self.mode]
        own = {f.name: getattr(self, f.name) for f in fields(RefinerVariant)}
        return replace(mode, **{name: value for name, value in own.items() if value is not None})

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        plan = create(self.host, self.host_settings).plan(backbone, classes)
        if not isinstance(plan.head, ClassVectors | ImageClassVectors):
            raise ConfigError(
                f"TextRefiner needs a host whose head has one vector for each class name; {self.host} "
                "has none. Use coop, cocoop, maple, ivlp, promptsrc, promptkd, clip-lora or zero-shot."
            )
        roles = (backbone.vector, backbone.patches, "final.attention")
        width = plan.head.width
        align = TokenAlignment(backbone.width_of(backbone.patches), width)
        kept = align if self.keep_alignment else None
        refiner = Refiner(width, self.alpha, self._cache(width), kept)
        head = refine(plan.head, refiner, unit=self.reading.unit_refined)
        taught = (loss for loss in plan.losses if isinstance(loss, Distillation))
        teacher = next(taught, None)
        semantics = Semantics(
            self.semantic_weight,
            head,
            align,
            roles=roles,
            k=self.k,
            reading=self.reading,
            raw=self.raw_tokens,
            teacher=teacher and teacher.teacher_logits,
        )
        losses = (*plan.losses, semantics, Retention(self.retention_weight, head, backbone.vector))
        return replace(plan, head=head, losses=losses)

    def _cache(self, width: int) -> LocalCache | None:
        reading = self.reading
        choices: dict[str, Any] = {
            "momentum": self.cache_momentum,
            "temperature": self.read_temperature,
            "start": reading.start,
            "weights": reading.weights,
            "reduce": self.reduce,
            "unit": reading.unit_entries,
        }
        match self.cache:
            case "none":
                return None
            case "mean":
                return LearnedCache(1, width, **{**choices, "reduce": "mean"})
            case "tokens":
                return LearnedCache(self.entries, width, **choices)
        fixed = LocalCache(self.entries, width, **choices)
        if self.cache == "zeros":
            fixed.entries.zero_()
        return fixed
