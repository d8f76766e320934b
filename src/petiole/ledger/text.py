"""Sizes by kind and FLOPs of one sample, of an encoder-decoder.

    % of total             trained / (language model + V->L block with its codes + everything added)
    % of language model    trained / language model alone, as the first version of the VL-Adapter paper counts

VL-Adapter (Sung et al., 2022) states the first; 4.36 % for the single adapter (first: 4.18 %) is the second. So, it
seems, are two rows of the ablation: 1.14 % for the V->L block alone is 1.121 % of the total and 1.135 % of the
language model; 1.18 % with the norms is 1.156 % and 1.171 %, which rounds to 1.17.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from petiole.backbones.encoder_decoder import Inputs, Seq2Seq
from petiole.backbones.encoder_decoder.model import bars
from petiole.backbones.hooks import attached
from petiole.errors import ConfigError
from petiole.layers.answer_head import AnswerHead
from petiole.layers.tasks import routed
from petiole.ledger.counting import flop_counter, own_gradients, own_randomness, size_of
from petiole.ledger.ledger import Question, costs, fresh_plan, parts_of, trained_parts
from petiole.methods.base import Method, Plan
from petiole.methods.text import CODES, TextMethod, is_bias

TEXT, SEEN, ANSWER = 20, 36, 10
"""Tokens of the sample that is counted unless another is stated: of text, of images, of the answer."""


@parts_of.register
def _(network: Seq2Seq) -> dict[str, int]:
    own = {name: p.numel() for name, p in network.module.named_parameters()}
    visual, codes = (
        sum(n for name, n in own.items() if name.startswith("visual.")),
        own.get(CODES, 0),
    )
    return {"language": sum(own.values()) - visual, "visual": visual - codes, "codes": codes}


@trained_parts.register
def _(network: Seq2Seq, plan: Plan) -> dict[str, int]:
    norms = set(network.norm_parameters())
    found = {"layers": sum(map(size_of, plan.adapters))}
    found |= dict.fromkeys(("visual", "norms", "biases", "weights"), 0)
    for name in plan.tune:
        if name.startswith("visual."):
            kind = "visual"
        elif name in norms:
            kind = "norms"
        else:
            kind = "biases" if is_bias(name) else "weights"
        found[kind] += network.module.get_parameter(name).numel()
    return found


@fresh_plan.register
def _(network: Seq2Seq, method: Method, classes: int) -> Plan:
    if not isinstance(method, TextMethod) or not method.classifier:
        return method.plan(network, classes)
    head = AnswerHead(network.width, tuple(map(str, range(method.classifier))))
    if network.depths[1]:
        raise ConfigError(
            f"Only written answers are counted here. A head over {method.classifier:,} answers adds {size_of(head):,} parameters "
            "to the encoder's share (classifier=0 without)."
        )
    return replace(method.plan(network, classes), head=head)


@costs.register
def _(network: Seq2Seq, plan: Plan, question: Question) -> dict[str, Any]:
    unit = _unit(network, question)
    forward, training = _flops(network, plan, unit)
    return {
        "unit": unit,
        "flops_backbone": _flops(network, Plan(), unit)[0],
        "flops_forward": forward,
        "flops_above_cut": forward,
        "flops_training": training,
    }


def _unit(network: Seq2Seq, question: Question) -> dict[str, int]:
    """Tokens of the sample by kind; 0 of a kind that the network has not."""
    usual = {
        "text_tokens": TEXT,
        **({"visual_tokens": SEEN} if network.vision_width else {}),
        **({"answer_tokens": ANSWER} if network.depths[1] else {}),
    }
    found = question.sizes(network, **usual)
    most = getattr(network.config, "max_position_embeddings", None)
    for name, count in found.items():
        least = 0 if name == "visual_tokens" else 1
        if count < least:
            raise ConfigError(f"{name}={count}: a sample for {network.name} has at least {least}.")
        if most and count > most and name != "visual_tokens":
            raise ConfigError(f"{name}={count}: {network.name} has {most} positions. Take fewer.")
    return {
        name: int(found.get(name, 0)) for name in ("text_tokens", "visual_tokens", "answer_tokens")
    }


def _flops(model: Seq2Seq, plan: Plan, unit: Mapping[str, int]) -> tuple[int, int]:
    """FLOPs of one sample of the first task: forward; forward and backward, where anything is trained."""
    tuned = {n: model.module.get_parameter(n).detach().requires_grad_() for n in plan.tune}
    trained = [*tuned.values(), *(p for part in plan.adapters for p in part.parameters())]
    with (
        _plain_attention(model),
        own_randomness(model.device),
        own_gradients(trained),
        torch.enable_grad(),
        flop_counter() as counter,
    ):
        scores = _scores(model, plan, tuned, unit)
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


def _scores(
    model: Seq2Seq, plan: Plan, tuned: Mapping[str, Tensor], unit: Mapping[str, int]
) -> Tensor:
    text, seen, answer = unit.values()
    ids = torch.zeros(1, text, dtype=torch.long, device=model.device)
    inputs = Inputs(ids, torch.ones_like(ids, dtype=torch.bool))
    if seen:
        features = torch.zeros(1, seen, model.vision_width, device=model.device)
        inputs = Inputs(ids, inputs.mask, visual=features, boxes=features[..., :4])
    with attached(model, plan.attach, tuned, plan.swapped), routed([0]):
        encoded = model.encode(inputs)
        if not answer:
            return encoded.states
        # Ready for adding, because the library looks at the values of a boolean one.
        mask = bars(encoded.mask, encoded.states.dtype)
        return model.logits(encoded._replace(mask=mask), ids.new_zeros(1, answer))
