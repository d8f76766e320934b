"""The ledger of a method on an encoder-decoder, with both denominators in use (spec vladapter.md, 3).

    % of total             trained / (language model + V->L block with its codes + everything added)
    % of language model    trained / language model alone, as the first version of the VL-Adapter paper counts

The published tables state the first; 4.36 % for the single adapter (first: 4.18 %) is the second. So, it
seems, are two rows of the ablation: 1.14 % for the V->L block alone is 1.121 % of the total and 1.135 % of the
language model; 1.18 % with the norms is 1.156 % and 1.171 %, which rounds to 1.17.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from petiole.backbones.encoder_decoder import Inputs, Seq2Seq
from petiole.backbones.encoder_decoder.model import bars
from petiole.backbones.hooks import attached
from petiole.errors import ConfigError
from petiole.layers.tasks import routed
from petiole.ledger.counting import by_shape, fixed_of, own_gradients, own_randomness, size_of
from petiole.methods.base import Changes
from petiole.methods.language.base import CODES, LanguageMethod, is_bias

TEXT, SEEN, TARGET = 20, 36, 10
"""Tokens of the sample whose FLOPs are counted: text, visual, target."""


class LanguageSizes(BaseModel):
    """What a method trains in an encoder-decoder.

    Attributes:
        language: parameters of the language model, tied ones once.
        visual: of the V->L block without its codes; 0 without eyes.
        codes: of the table of places, rows of the word embedding in the published models.
        adapters: trained layers that the method adds.
        trained_visual: trained of ``visual`` and ``codes``.
        trained_norms: trained scales and shifts of the language model's normalisations.
        trained_biases: its other trained biases.
        trained_weights: all else of it that is trained.
        trainable: adapters + everything trained_*.
        total: language + visual + codes + adapters; a tuned copy replaces its original.
        fixed: numbers that are stored but not trained (the codes).
        stored_bytes: of the adapter's tensors, fp32.
    """

    model_config = ConfigDict(frozen=True)

    language: int
    visual: int
    codes: int
    adapters: int
    trained_visual: int
    trained_norms: int
    trained_biases: int
    trained_weights: int
    trainable: int
    total: int
    trainable_percent_of_total: float
    trainable_percent_of_language_model: float
    fixed: int
    stored_bytes: int


class LanguageLedger(LanguageSizes):
    """Sizes, and what one sample costs.

    Attributes:
        text_tokens, visual_tokens, target_tokens: of the sample.
        flops_model: it through encoder and decoder, nothing changed.
        flops_forward: the same with the method's layers.
        flops_training: it through a training step, forward and backward.
    """

    text_tokens: int
    visual_tokens: int
    target_tokens: int
    flops_model: int
    flops_forward: int
    flops_training: int


def language_ledger(model: Seq2Seq, method: LanguageMethod) -> LanguageLedger:
    """Count what ``method`` trains in ``model``, which may be a meta one.

    No random number is drawn from the global generator.

    Raises:
        ConfigError: the method does not fit, computes with weights that a meta model lacks, or chooses answers.
    """
    if method.classifier:
        d, answers = model.width, method.classifier
        raise ConfigError(
            f"Only written answers are counted here. A head over {answers:,} answers adds "
            f"{2 * d * d + 6 * d + answers * (2 * d + 1):,} parameters to the encoder's share (classifier=0 without)."
        )
    with by_shape(model, method):
        with own_randomness(model.device), model.device:
            changes = method.changes(model)
        return count_language(model, changes)


def count_language(model: Seq2Seq, changes: Changes) -> LanguageLedger:
    """Count a method's changes, FLOPs too."""
    flops = _flops(model, changes)
    return LanguageLedger(
        **sizes(model, changes).model_dump(),
        text_tokens=TEXT,
        visual_tokens=SEEN if model.vision_width else 0,
        target_tokens=TARGET,
        flops_model=_flops(model, Changes())[0],
        flops_forward=flops[0],
        flops_training=flops[1],
    )


def sizes(model: Seq2Seq, changes: Changes) -> LanguageSizes:
    """Count the parameters of a method's changes."""
    own = {name: p.numel() for name, p in model.module.named_parameters()}
    trained = _by_kind(model, changes.tune)
    visual = sum(n for name, n in own.items() if name.startswith("visual."))
    codes = own.get(CODES, 0)
    adapters = sum(map(size_of, changes.adapters))
    trainable = adapters + sum(trained.values())
    language, total = sum(own.values()) - visual, sum(own.values()) + adapters
    fixed = sum(own[name] for name in changes.kept)
    fixed += sum(value.numel() for part in changes.adapters for value in fixed_of(part))
    return LanguageSizes(
        language=language,
        visual=visual - codes,
        codes=codes,
        adapters=adapters,
        **{f"trained_{kind}": n for kind, n in trained.items()},
        trainable=trainable,
        total=total,
        trainable_percent_of_total=100 * trainable / total,
        trainable_percent_of_language_model=100 * trainable / language,
        fixed=fixed,
        stored_bytes=4 * (trainable + fixed),
    )


def _by_kind(model: Seq2Seq, names: tuple[str, ...]) -> dict[str, int]:
    """Numbers in the model's own trained parameters, each under one kind."""
    norms = set(model.norm_parameters())
    found = dict.fromkeys(("visual", "norms", "biases", "weights"), 0)
    for name in names:
        if name.startswith("visual."):
            kind = "visual"
        elif name in norms:
            kind = "norms"
        else:
            kind = "biases" if is_bias(name) else "weights"
        found[kind] += model.module.get_parameter(name).numel()
    return found


def _flops(model: Seq2Seq, changes: Changes) -> tuple[int, int]:
    """FLOPs of one sample of the first task: forward; forward and backward, where anything is trained."""
    tuned = {n: model.module.get_parameter(n).detach().requires_grad_() for n in changes.tune}
    trained = [*tuned.values(), *(p for part in changes.adapters for p in part.parameters())]
    with (
        _plain_attention(model),
        own_randomness(model.device),
        own_gradients(trained),
        torch.enable_grad(),
        FlopCounterMode(display=False) as counter,
    ):
        scores = _scores(model, changes, tuned)
        forward = int(counter.get_total_flops())
        if trained:
            torch.autograd.backward(scores.sum())
    return forward, int(counter.get_total_flops())


@contextmanager
def _plain_attention(model: Seq2Seq) -> Iterator[None]:
    """Two matrix products that can be counted; for a fused one the library looks at the masks' values."""
    language: Any = model.module.language
    with model.lock:
        before = language.config._attn_implementation
        language.set_attn_implementation("eager")
        try:
            yield
        finally:
            language.set_attn_implementation(before)


def _scores(model: Seq2Seq, changes: Changes, tuned: Mapping[str, Tensor]) -> Tensor:
    ids = torch.zeros(1, TEXT, dtype=torch.long, device=model.device)
    inputs = Inputs(ids, torch.ones_like(ids, dtype=torch.bool))
    if model.vision_width:
        features = torch.zeros(1, SEEN, model.vision_width, device=model.device)
        inputs = Inputs(ids, inputs.mask, visual=features, boxes=features[..., :4])
    with attached(model, changes.attach, tuned, changes.swapped), routed([0]):
        encoded = model.encode(inputs)
        # Ready for adding, because the library looks at the values of a boolean one.
        mask = bars(encoded.mask, encoded.states.dtype)
        return model.logits(encoded._replace(mask=mask), ids[:, :TARGET])
