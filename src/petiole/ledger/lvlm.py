"""The ledger of a method on a vision-language model over a codebook; FLOPs are those of one question about one image.

An image of N tokens, of which M = max(1, round(keep N)) stay; a prompt of T other tokens; A tokens of answer, its end included:

    encoder      one image, counted as torch's FlopCounterMode sees it
    quantiser    2 N D K d            distances of N tokens to K entries of width d, D times
    projector    2 M w_P              w_P numbers in its matrices
    prefill      f(M + T, 0)          gives the first token of the answer
    per token    f(1, M + T)          the second token, over a cache of everything before
    decoding     sum_{j=0}^{A-2} f(1, M + T + j)

    f(S, C) = 2 S w + 4 a S (C + S) + 2 w_head

S tokens behind a cache of C, through blocks with w numbers in linear layers and convolutions; a is heads times width of a head, summed
over attentions, whose two products are counted as full squares; scores are computed of the last token alone. With keep = 0.8, 20 % of
the image tokens go, and with them 16 % of the language model's FLOPs where image tokens are 80 % of them (spec craft.md, 7.4).
"""

from __future__ import annotations

import re
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from petiole.backbones.codebook_lvlm import LVLM
from petiole.backbones.codebook_lvlm.causal import attention_layers
from petiole.backbones.hooks import attached
from petiole.errors import ConfigError
from petiole.layers.token_pruning import Pruning
from petiole.ledger.counting import by_shape, own_randomness, size_of
from petiole.methods.base import Changes
from petiole.methods.codebook.base import LVLMMethod

QUERY = re.compile(r"(q_proj|c_attn|query_key_value|qkv_proj|Wqkv)$")
"""The layer that every attention has once: that of its queries, alone or with keys and values."""
UNCHANGED = Changes()


class LVLMFlops(BaseModel):
    """FLOPs of one question about one image.

    Attributes:
        keep: share of image tokens that the language model reads.
        image_tokens: these.
        text_tokens: of the prompt, everything around the image.
        answer_tokens: of the answer, with its end.
        encoder: the image through the encoder.
        quantiser: distances to the codebook's entries; a continuous twin runs it too, for codes that are reported.
        projector: of the tokens that stay.
        prefill: the prompt through the language model, to the first token of the answer.
        per_token: the token after that.
        decoding: all tokens after the first.
        language: prefill + decoding.
        total: encoder + quantiser + projector + language.
        image_percent_of_language_flops: what ``language`` would be less by without image tokens.
    """

    model_config = ConfigDict(frozen=True)

    keep: float
    image_tokens: int
    text_tokens: int
    answer_tokens: int
    encoder: int
    quantiser: int
    projector: int
    prefill: int
    per_token: int
    decoding: int
    language: int
    total: int
    image_percent_of_language_flops: float


class LVLMLedger(BaseModel):
    """What a method trains in a vision-language model, and what a question costs.

    Attributes:
        encoder: parameters.
        quantiser: numbers in the codebook, none of them trained.
        projector, language: parameters, tied ones once.
        contrast: frozen image head and text tower of the contrastive loss, which answers do without; 0 if there are none.
        trained_encoder, trained_projector, trained_language: layers that are added to each, and copies of its own.
        training_only: trained and dropped afterwards.
        trainable: all of these.
        inference: what is trained and kept for answers.
        total: encoder + quantiser + projector + language + layers that are added; a tuned copy replaces its original.
        flops: of a question with all image tokens, the method's layers at work.
        flops_pruned: with those that ``keep`` leaves.
    """

    model_config = ConfigDict(frozen=True)

    encoder: int
    quantiser: int
    projector: int
    language: int
    contrast: int
    trained_encoder: int
    trained_projector: int
    trained_language: int
    training_only: int
    trainable: int
    inference: int
    total: int
    trainable_percent_of_encoder: float
    trainable_percent_of_language_model: float
    trainable_percent_of_total: float
    inference_percent_of_total: float
    flops: LVLMFlops
    flops_pruned: LVLMFlops


def lvlm_ledger(
    model: LVLM,
    method: LVLMMethod,
    *,
    keep: float = 0.8,
    text_tokens: int = 32,
    answer_tokens: int = 8,
) -> LVLMLedger:
    """Count what ``method`` trains in ``model``, which may be a meta one.

    A method for continuous twins is counted on the sizes of whatever model is given. No random number is drawn from the
    global generator.

    Args:
        model: the one that is adapted.
        method: with its settings.
        keep, text_tokens, answer_tokens: as for ``flops``.

    Raises:
        ConfigError: the method does not fit, computes with weights that a meta model lacks, or see ``flops``.
    """
    with by_shape(model, method):
        with own_randomness(model.device), model.device:
            eye, language = method.eye(model), method.language(model)
            terms = method.losses(model)
        whole, pruned = (
            flops(model, share, text_tokens, answer_tokens, eye=eye, language=language)
            for share in (1.0, keep)
        )
    return LVLMLedger(
        **_sizes(model, eye, language, sum(map(size_of, terms))), flops=whole, flops_pruned=pruned
    )


def flops(
    model: LVLM,
    keep: float = 1.0,
    text_tokens: int = 32,
    answer_tokens: int = 8,
    *,
    eye: Changes = UNCHANGED,
    language: Changes = UNCHANGED,
) -> LVLMFlops:
    """FLOPs of one question about one image, by part.

    Args:
        model: real or meta.
        keep: share of image tokens that stay, in (0, 1].
        text_tokens: of the prompt, everything around the image.
        answer_tokens: of the answer, with its end.
        eye: layers at work in the encoder.
        language: layers at work in projector and language model.

    Raises:
        ConfigError: numbers out of range, or matrices of which it is not known how often they are used.
        BackboneError: attentions of an unknown kind.
    """
    if text_tokens < 0 or answer_tokens < 1:
        raise ConfigError(
            f"A question needs text_tokens >= 0 and answer_tokens >= 1, not {text_tokens} and {answer_tokens}."
        )
    spec, steps = model.spec, answer_tokens - 1
    tokens = spec.grid[0] * spec.grid[1]
    seen = Pruning(keep).count(tokens)
    through = _Language(model, language)
    prompt = seen + text_tokens
    prefill, decoding = through(prompt), through.following(prompt, steps)
    blind = (through(text_tokens) if text_tokens else 0) + through.following(text_tokens, steps)
    encoder = _encoder(model, eye)
    quantiser = 2 * tokens * spec.depth * spec.entries * spec.width
    projector = 2 * seen * _matrices(model.module.projector)
    return LVLMFlops(
        keep=keep,
        image_tokens=seen,
        text_tokens=text_tokens,
        answer_tokens=answer_tokens,
        encoder=encoder,
        quantiser=quantiser,
        projector=projector,
        prefill=prefill,
        per_token=through(1, prompt),
        decoding=decoding,
        language=prefill + decoding,
        total=encoder + quantiser + projector + prefill + decoding,
        image_percent_of_language_flops=100 * (1 - blind / (prefill + decoding)),
    )


class _Language:
    """f(S, C) of a language model with layers at work in it."""

    def __init__(self, model: LVLM, changes: Changes) -> None:
        language: Any = model.module.language
        head = language.get_output_embeddings()
        self.head = _matrices(head)
        self.blocks = _matrices(language) - self.head
        self.blocks += sum(_matrices(attachment.layer) for attachment in changes.attach)
        for path, module in changes.swapped.items():
            self.blocks += _matrices(module) - _matrices(model.module.get_submodule(path))
        config = language.config
        width = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        self.attention = _attentions(language) * config.num_attention_heads * width

    def __call__(self, tokens: int, cached: int = 0) -> int:
        products: int = self.attention * tokens * (cached + tokens)
        return 2 * tokens * self.blocks + 4 * products + 2 * self.head

    def following(self, cached: int, tokens: int) -> int:
        """One after the other."""
        return sum(self(1, cached + j) for j in range(tokens))


def _attentions(language: nn.Module) -> int:
    """How many there are."""
    found = sum(1 for name in attention_layers(language) if QUERY.search(name))
    if not found:
        raise ConfigError(
            f"{type(language).__name__} has attentions whose queries are not known by name, so their products cannot be counted."
        )
    return found


def _matrices(module: nn.Module) -> int:
    """Numbers in a module's matrices, each of which every token meets once.

    Raises:
        ConfigError: a matrix is in no linear layer, convolution or table of words: experts, for instance.
    """
    from transformers.pytorch_utils import Conv1D

    found = 0
    for path, part in module.named_modules():
        own = [p for p in part._parameters.values() if p is not None and p.ndim > 1]
        if isinstance(part, nn.Linear | nn.Conv1d | Conv1D):
            found += int(part.weight.numel())
        elif own and not isinstance(part, nn.Embedding):
            raise ConfigError(
                f"It is not known how often a token meets the matrices of {path or 'a layer'} ({type(part).__name__}), so "
                "their FLOPs cannot be counted."
            )
    return found


def _encoder(model: LVLM, changes: Changes) -> int:
    eye = model.tower.eye
    image = torch.zeros(1, 3, *eye.preprocessing.size, device=model.device)
    # Fused attention is not counted on every device; dropout draws random numbers. With gradients, because the counter
    # cannot follow a layer whose output is its own parameter without.
    with (
        attached(eye, changes.attach, None, changes.swapped),
        torch.enable_grad(),
        sdpa_kernel(SDPBackend.MATH),
        own_randomness(model.device),
        FlopCounterMode(display=False) as counter,
    ):
        model.tower.tokens(image)
    return int(counter.get_total_flops())


def _sizes(model: LVLM, eye: Changes, language: Changes, extra: int) -> dict[str, Any]:
    """Parameters by part; ``extra`` of them the losses train."""
    tower, parts = model.tower, model.module
    encoder, projector, speaker = map(size_of, (tower.encoder, parts.projector, parts.language))
    quantiser = tower.quantiser.codebooks.numel()
    tuned = {name: parts.get_parameter(name).numel() for name in language.tune}
    visual = sum(n for name, n in tuned.items() if model.role_of(name) == "visual")
    in_eye, in_language = (sum(map(size_of, changes.adapters)) for changes in (eye, language))
    own = sum(tower.eye.module.get_parameter(name).numel() for name in eye.tune)
    trained = {
        "trained_encoder": in_eye + own,
        "trained_projector": visual,
        "trained_language": in_language + sum(tuned.values()) - visual,
    }
    inference = sum(trained.values())
    trainable = inference + extra
    total = encoder + quantiser + projector + speaker + in_eye + in_language
    return {
        "encoder": encoder,
        "quantiser": quantiser,
        "projector": projector,
        "language": speaker,
        "contrast": size_of(tower.contrast) if tower.contrast is not None else 0,
        **trained,
        "training_only": extra,
        "trainable": trainable,
        "inference": inference,
        "total": total,
        "trainable_percent_of_encoder": 100 * trainable / encoder,
        "trainable_percent_of_language_model": 100 * trainable / speaker,
        "trainable_percent_of_total": 100 * trainable / total,
        "inference_percent_of_total": 100 * inference / total,
    }
