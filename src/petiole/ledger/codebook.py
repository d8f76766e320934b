"""Sizes by part and FLOPs of one question about one image, of a vision-language model over a codebook.

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
the image tokens go, and with them 16 % of the language model's FLOPs where image tokens are 80 % of them, as CRAFT
(arXiv 2602.19449, Table 4) states.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from petiole.backbones.codebook_lvlm import LVLM
from petiole.backbones.codebook_lvlm.causal import attention_layers
from petiole.backbones.hooks import attached
from petiole.errors import ConfigError
from petiole.layers.token_pruning import Pruning
from petiole.ledger.counting import copied, flop_counter, own_randomness, size_of
from petiole.ledger.ledger import Question, QuestionFlops, costs, parts_of, trained_parts
from petiole.methods.base import Changes, Plan

QUERY = re.compile(r"(q_proj|c_attn|query_key_value|qkv_proj|Wqkv)$")
"""The layer that every attention has once: that of its queries, alone or with keys and values."""
UNCHANGED = Plan()

KEEP, TEXT, ANSWER = 0.8, 32, 8
"""The question that is counted unless another is stated: share of image tokens, tokens of prompt and answer."""


@parts_of.register
def _(network: LVLM) -> dict[str, int]:
    tower, parts = network.tower, network.module
    return {
        "encoder": size_of(tower.encoder),
        "quantiser": tower.quantiser.codebooks.numel(),
        "projector": size_of(parts.projector),
        "language": size_of(parts.language),
        "contrast": size_of(tower.contrast) if tower.contrast is not None else 0,
    }


@trained_parts.register
def _(network: LVLM, plan: Plan) -> dict[str, int]:
    projector = [name for name in plan.tune if network.role_of(name) == "visual"]
    language = [name for name in plan.tune if name not in projector]
    in_encoder, in_language = (sum(map(size_of, one.adapters)) for one in (plan.encoder, plan))
    return {
        "encoder": in_encoder + copied(network.tower.image_backbone, plan.encoder.tune),
        "projector": copied(network, projector),
        "language": in_language + copied(network, language),
    }


@costs.register
def _(network: LVLM, plan: Plan, question: Question) -> dict[str, Any]:
    asked = question.sizes(network, keep=KEEP, text_tokens=TEXT, answer_tokens=ANSWER)
    text, answer = asked["text_tokens"], asked["answer_tokens"]
    whole, pruned = (
        question_flops(network, keep, text, answer, plan=plan) for keep in (1.0, asked["keep"])
    )
    tokens = whole.image_tokens
    return {
        "unit": {"image_tokens": tokens, "text_tokens": text, "answer_tokens": answer},
        "flops_backbone": question_flops(network, 1.0, text, answer).total,
        "flops_forward": whole.total,
        "flops_above_cut": whole.total,
        "flops_question": whole,
        "flops_pruned": pruned,
    }


def question_flops(
    model: LVLM,
    keep: float = 1.0,
    text_tokens: int = TEXT,
    answer_tokens: int = ANSWER,
    *,
    plan: Plan = UNCHANGED,
) -> QuestionFlops:
    """FLOPs of one question about one image, by part.

    Args:
        model: real or meta.
        keep: share of image tokens that stay, in (0, 1].
        text_tokens: of the prompt, everything around the image.
        answer_tokens: of the answer, with its end.
        plan: layers at work in encoder, projector and language model.

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
    through = _Language(model, plan)
    prompt = seen + text_tokens
    prefill, decoding = through(prompt), through.following(prompt, steps)
    blind = (through(text_tokens) if text_tokens else 0) + through.following(text_tokens, steps)
    encoder = _encoder(model, plan.encoder)
    quantiser = 2 * tokens * spec.depth * spec.entries * spec.width
    projector = 2 * seen * _matrices(model.module.projector)
    return QuestionFlops(
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
    image_backbone = model.tower.image_backbone
    image = torch.zeros(1, 3, *image_backbone.preprocessing.size, device=model.device)
    # Fused attention is not counted on every device; dropout draws random numbers. With gradients, because the counter
    # cannot follow a layer whose output is its own parameter without.
    with (
        attached(image_backbone, changes.attach, None, changes.swapped),
        torch.enable_grad(),
        sdpa_kernel(SDPBackend.MATH),
        own_randomness(model.device),
        flop_counter() as counter,
    ):
        model.tower.tokens(image)
    return int(counter.get_total_flops())
