"""What a method adds to a network, counted alike for every kind of network.

A kind of network says three things about itself, each a function that is registered for its class: ``parts_of``, the sizes
of its parts; ``trained_parts``, what a plan trains of them; ``costs``, the FLOPs of its smallest unit of work.
"""

from __future__ import annotations

from functools import singledispatch
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from petiole.backbones.frozen_network import FrozenNetwork
from petiole.backbones.registry import load_backbone
from petiole.deferred import without_compiler
from petiole.errors import ConfigError
from petiole.ledger.counting import by_shape, copied, fixed_of, own_randomness, size_of
from petiole.methods.base import Method, Plan
from petiole.methods.step_rules.base import make_step_rule


class Question(BaseModel):
    """What a network is asked, whose FLOPs are counted; ``None`` is what its kind is counted at otherwise.

    Attributes:
        keep: share of image tokens that the language model of a codebook model reads, beside all.
        text_tokens: of the text that an encoder reads; of a codebook model's prompt, everything around the image.
        visual_tokens: of images, that an encoder reads beside the text.
        answer_tokens: of the answer, with its end.
    """

    model_config = ConfigDict(frozen=True)

    keep: float | None = None
    text_tokens: int | None = None
    visual_tokens: int | None = None
    answer_tokens: int | None = None

    def sizes(self, network: FrozenNetwork, **usual: float) -> dict[str, Any]:
        """All sizes of a question to a network, by the names of ``usual``.

        Args:
            network: of any kind.
            usual: whatever the network can be asked with; of anything else there is none.

        Raises:
            ConfigError: it cannot be asked with something that is given.
        """
        given = self.model_dump(exclude_none=True)
        if unused := [name for name, size in given.items() if size and name not in usual]:
            takes = f"takes {', '.join(usual)} alone" if usual else "is asked nothing"
            raise ConfigError(
                f"{unused[0]}={given[unused[0]]} is of no use: {network.name} {takes}. Leave it out."
            )
        return {name: given.get(name, size) for name, size in usual.items()}


class QuestionFlops(BaseModel):
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


class Sizes(BaseModel):
    """Parameters of a method on a network.

    Attributes:
        backbone: parameters of the frozen network, tied ones once, without any classifier. Of a codebook model those that
            answer: encoder, codebook, projector and language model.
        adapters: trained, kept for prediction, not head (pooling and tuned copies included).
        head: trained or solved, the classifier. The support set of a kNN is counted once it exists.
        training_only: trained and dropped afterwards (e.g. a projection head).
        trainable: adapters + head + training_only.
        inference: adapters + head.
        total: distinct parameters, backbone and everything trained; a tuned copy replaces its
            original and is not counted twice.
        backbone_bytes: of the frozen network's tensors as they lie in memory, quantised ones with their scales.
        fixed: numbers that are stored but not trained (scales, random projections, drawn codes of places).
        stored_bytes: of the adapter's tensors, fp32.
        trainable_percent_of_language_model: of the part ``language``; ``None`` where there is none.
        trainable_percent_of_encoder: of the part ``encoder``, likewise.
        parts: sizes of the network by part. Image backbone: ``backbone``. Encoder-decoder: ``language``, ``visual`` (the
            V->L block without its codes), ``codes`` (its table of places, rows of the word embedding in the
            published models). Codebook model: ``encoder``, ``quantiser``, ``projector``, ``language``, and ``contrast``,
            the frozen heads of the contrastive loss, which answers do without.
        trained_parts: ``adapters`` by part: ``layers`` that were added (in a codebook model to each of its parts), and
            tuned copies: ``copies``; or ``visual``, ``norms``, ``biases``, ``weights`` of an encoder-decoder.
    """

    model_config = ConfigDict(frozen=True)

    backbone: int
    adapters: int
    head: int
    training_only: int
    trainable: int
    inference: int
    total: int
    trainable_percent_of_backbone: float
    trainable_percent_of_backbone_and_trainable: float
    trainable_percent_of_full_fine_tuning: float
    trainable_percent_of_total: float
    inference_percent_of_backbone: float
    inference_percent_of_backbone_and_inference: float
    inference_percent_of_total: float
    adapters_percent_of_backbone: float
    trainable_percent_of_language_model: float | None = None
    trainable_percent_of_encoder: float | None = None
    backbone_bytes: int = 0
    fixed: int = 0
    stored_bytes: int
    parts: dict[str, int] = Field(default_factory=dict)
    trained_parts: dict[str, int] = Field(default_factory=dict)


class Ledger(Sizes):
    """What a method adds to a network, and what it costs.

    FLOPs are of one image; of one sample of text and image tokens; or of one question about one image.

    Attributes:
        cut: where the frozen part of an image backbone ends.
        unit: what the FLOPs are of: numbers of images or tokens.
        flops_backbone: through the bare network.
        flops_forward: through network, adapters and head.
        flops_above_cut: the part of ``flops_forward`` that training repeats in every epoch.
        flops_training: a training step above the cut, forward and backward, as
            counted (extra losses are not), as often as the recipe's step rule and an adversary take a gradient (SAM: twice); 0 where
            nothing is trained by gradient, and of codebook models, where it is not counted.
        flops_classes: class vectors out of all class names, once for an evaluation, however many images.
        flops_classes_training: the same forward and backward, once in each training step.
        flops_question: by part, of a question to a codebook model with all image tokens; ``None`` for others.
        flops_pruned: with those that ``keep`` leaves.
    """

    cut: tuple[str, ...] = ()
    unit: dict[str, int] = Field(default_factory=dict)
    flops_backbone: int
    flops_forward: int
    flops_above_cut: int
    flops_training: int = 0
    flops_classes: int = 0
    flops_classes_training: int = 0
    flops_question: QuestionFlops | None = None
    flops_pruned: QuestionFlops | None = None


@singledispatch
def parts_of(network: FrozenNetwork) -> dict[str, int]:
    """Sizes of the network by part."""
    return {"backbone": network.parameter_count}


@singledispatch
def trained_parts(network: FrozenNetwork, plan: Plan) -> dict[str, int]:
    """What a plan trains inside the network, by part."""
    return {"layers": sum(map(size_of, plan.adapters)), "copies": copied(network, plan.tune)}


@singledispatch
def costs(network: FrozenNetwork, plan: Plan, question: Question) -> dict[str, Any]:
    """``cut``, ``unit`` and FLOPs of a ``Ledger``."""
    raise NotImplementedError(f"FLOPs of {type(network).__name__} are not counted.")


@singledispatch
def fresh_plan(network: FrozenNetwork, method: Method, classes: int) -> Plan:
    """A plan of which all that is trained can be counted.

    Raises:
        ConfigError: the method does not fit, or trains what nobody can count yet.
    """
    return method.plan(network, classes)


def ledger(
    network: FrozenNetwork, method: Method, classes: int = 1, question: Question | None = None
) -> Ledger:
    """Count what ``method`` adds to ``network``, which may be a meta one.

    A method for continuous twins is counted on the sizes of whatever codebook model is given. No random number is drawn
    from the global generator.

    Args:
        network: of any kind.
        method: with its settings.
        classes: of an image backbone's head.
        question: to the network; by default one of its kind's usual size.

    Raises:
        ConfigError: the method does not fit, computes with weights that a meta network lacks, or the question is
            impossible.
    """
    with by_shape(network, method):
        return repeated(count(network, _planned(network, method, classes), question), method)


def count_parameters(network: FrozenNetwork, method: Method, classes: int = 1) -> Sizes:
    """``ledger`` without FLOPs, whose counting takes seconds on large networks."""
    with by_shape(network, method):
        return sizes(network, _planned(network, method, classes))


@without_compiler()
def _planned(network: FrozenNetwork, method: Method, classes: int) -> Plan:
    with own_randomness(network.device), network.device:
        plan = fresh_plan(network, method, classes)
    for part in (*plan.adapters, plan.head):
        part.to(network.dtype)
    return plan


def gradient_evaluations(method: Method) -> int:
    """Gradients that a training step takes, by the step rule of the method's recipe."""
    recipe = method.recipe
    return make_step_rule(recipe.step_rule, recipe.step_rule_settings).gradient_evaluations


def repeated(counted: Ledger, method: Method) -> Ledger:
    """A training step as often as it takes a gradient."""
    times = gradient_evaluations(method)
    return counted.model_copy(
        update={
            "flops_training": times * counted.flops_training,
            "flops_classes_training": times * counted.flops_classes_training,
        }
    )


def params(
    backbone: str,
    method: Method,
    classes: int,
    *,
    weights: Path | None = None,
    image_size: int | None = None,
) -> Ledger:
    """Count on an image backbone by name, from a meta device."""
    shape = load_backbone(backbone, weights=weights, image_size=image_size, device="meta")
    return ledger(shape, method, classes)


@without_compiler()
def count(
    network: FrozenNetwork, plan: Plan, question: Question | None = None, *, beside: int = 0
) -> Ledger:
    """Count a plan, FLOPs too; ``beside`` as for ``sizes``."""
    own = sizes(network, plan, beside=beside).model_dump()
    return Ledger(**own, **costs(network, plan, question or Question()))


def sizes(network: FrozenNetwork, plan: Plan, *, beside: int = 0) -> Sizes:
    """Count the parameters of a plan. ``full fine-tuning`` as a denominator is backbone + this plan's head.

    Args:
        network: of any kind.
        plan: of one method on it.
        beside: numbers trained in another network, such as the image backbone of an encoder-decoder.
    """
    parts, trained = parts_of(network), trained_parts(network, plan)
    if beside:
        trained = {**trained, "vision": beside}
    base = sum(parts.values()) - parts.get("contrast", 0)
    inside = (*plan.adapters, *plan.encoder.adapters)
    adapters, head = sum(trained.values()), size_of(plan.head)
    copies = adapters - beside - sum(map(size_of, inside))
    extra = _training_only(plan)
    inference, trainable = adapters + head, adapters + head + extra
    total = base + trainable - copies
    fixed = [value for part in (*inside, plan.head) for value in fixed_of(part)]
    drawn = copied(network, plan.frozen_copies)

    def percent(part: int, whole: int | None) -> float | None:
        return 100 * part / whole if whole else None

    return Sizes.model_validate(
        {
            "backbone": base,
            "adapters": adapters,
            "head": head,
            "training_only": extra,
            "trainable": trainable,
            "inference": inference,
            "total": total,
            "trainable_percent_of_backbone": percent(trainable, base),
            "trainable_percent_of_backbone_and_trainable": percent(trainable, total),
            "trainable_percent_of_full_fine_tuning": percent(trainable, base + head),
            "trainable_percent_of_total": percent(trainable, total),
            "inference_percent_of_backbone": percent(inference, base),
            "inference_percent_of_backbone_and_inference": percent(inference, total - extra),
            "inference_percent_of_total": percent(inference, total),
            "adapters_percent_of_backbone": percent(adapters, base),
            "trainable_percent_of_language_model": percent(trainable, parts.get("language")),
            "trainable_percent_of_encoder": percent(trainable, parts.get("encoder")),
            "backbone_bytes": network.stored_bytes,
            "fixed": sum(b.numel() for b in fixed) + drawn,
            "stored_bytes": 4 * (inference + drawn) + sum(b.nbytes for b in fixed),
            "parts": parts,
            "trained_parts": trained,
        }
    )


def _training_only(plan: Plan) -> int:
    """Numbers that only the losses train, which no prediction needs."""
    inside = (*plan.adapters, *plan.encoder.adapters, plan.head)
    kept = {id(p) for part in inside for p in part.parameters()}
    own = {id(p): p for p in chain.from_iterable(loss.parameters() for loss in plan.losses)}
    return sum(p.numel() for key, p in own.items() if key not in kept)
