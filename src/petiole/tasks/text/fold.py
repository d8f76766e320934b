"""The layers of a speaker as static weights, for serving: nothing is written, made or added anew in a forward.

    hypernetwork        a plain bottleneck for each task           Written        -> Bottleneck
    PHM projection      H as one matrix                            PHM            -> Linear
    prompts of an MLP   the rows that it gives                     Reparametrised -> Rows
    LoRA, DoRA of one   into the weight that it stands beside      W x + F(x)     -> (W + dW) x
    layer for all tasks

What belongs to one task of several stays a layer of its own, and so does what no weight can stand for. Prompts and
shared rules make a file smaller; a merged weight is kept whole, and a hypernetwork becomes an adapter for
each task and place, which is smaller where tasks and places are few beside its own size.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from petiole.backbones.encoder_decoder import Inputs, Seq2Seq
from petiole.backbones.hooks import Attach
from petiole.engine.adapted_model import evaluating
from petiole.errors import AdapterError
from petiole.layers.bottleneck import Bottleneck
from petiole.layers.hypernetwork import Hypernetwork, Written
from petiole.layers.lowrank import LowRank
from petiole.layers.phm import PHM, Rule
from petiole.layers.rows import Prepend, Reparametrised
from petiole.layers.tasks import PerTask
from petiole.tasks.text.model import AdaptedTextModel

TOLERANCE = 1e-4
"""Greatest change of a score, relative; float32 adds up in another order."""
SOURCES = {"q": "in", "k": "memory", "v": "memory", "hidden": "in"}
"""Role of a linear map's value -> role of what the map reads."""


def fold(adapted: AdaptedTextModel) -> AdaptedTextModel:
    """Return a speaker of the same scores with static weights; layers that stay are common to both.

    Raises:
        AdapterError: the scores would change.
    """
    folded = static(adapted)
    _check(adapted, folded)
    return folded


@torch.no_grad()
def static(adapted: AdaptedTextModel) -> AdaptedTextModel:
    """The same without a look at the scores: of fresh layers, what a folded file is loaded into."""
    changes, model = adapted.plan, adapted.model
    merged: dict[str, Tensor] = {}
    attach: list[Attach] = []
    writer = next((m for m in changes.shared if isinstance(m, Hypernetwork)), None)
    for attachment in changes.attach:
        weight = _weight_beside(model, attachment)
        if weight is None:
            attach.append(replace(attachment, layer=_static(attachment.layer, writer)))
            continue
        layer = attachment.layer
        assert isinstance(layer, LowRank)
        now = merged.get(weight, adapted.copies.get(weight, model.module.get_parameter(weight)))
        merged[weight] = layer.merged(now, now.new_zeros(()))[0]
    left = replace(
        changes,
        attach=tuple(attach),
        tune=tuple(dict.fromkeys((*changes.tune, *merged))),
        shared=tuple(m for m in changes.shared if not isinstance(m, Hypernetwork | Rule)),
        identity=False,
    )
    with torch.random.fork_rng():  # the V->L block is drawn, and then filled
        folded = AdaptedTextModel(
            model,
            left,
            dropout=adapted.dropout,
            vision_tower=adapted.vision_tower,
            head=adapted.head,
        )
    for name, value in folded.copies.items():
        value.copy_(merged.get(name, adapted.copies.get(name, value)))
    return folded.to(model.device).eval()


def _weight_beside(model: Seq2Seq, attachment: Attach) -> str | None:
    """Name of the weight W that a low-rank layer F stands beside: both read x, and y = W x + F(x)."""
    at, _, value = attachment.role.rpartition(".")
    reads = attachment.reads or attachment.role
    # What q, k and v read is one stream, but in cross-attention.
    sources = {"in", "memory"} if at.endswith(".attn") else {SOURCES.get(value)}
    known = value in SOURCES and reads.rpartition(".")[0] == at
    if not (
        known and isinstance(attachment.layer, LowRank) and reads.rpartition(".")[2] in sources
    ):
        return None
    maker = model.site(attachment.role).module
    path = next(path for path, module in model.module.named_modules() if module is maker)
    return f"{path}.weight"


def _static(layer: nn.Module, writer: Hypernetwork | None) -> nn.Module:
    """The same map with nothing left to make."""
    match layer:
        case PerTask():
            return PerTask([_static(each, writer) for each in layer.layers])
        case Written() if writer:
            tasks = range(writer.tasks.num_embeddings)
            return PerTask([_bottleneck(*writer.weights(task, *layer.place)) for task in tasks])
        case Prepend(rows=Reparametrised() as rows):
            return Prepend(rows.fold())
        case Bottleneck(down=PHM() as down, up=PHM() as up):
            plain = copy.copy(layer)
            plain._modules = {**layer._modules, "down": _linear(down), "up": _linear(up)}
            return plain
    return layer


def _linear(phm: PHM) -> nn.Linear:
    matrix = phm.matrix()
    return _filled(nn.Linear(*matrix.shape), matrix.T, phm.bias)


def _bottleneck(down: Tensor, down_bias: Tensor, up: Tensor, up_bias: Tensor) -> Bottleneck:
    size, width = down.shape
    made = Bottleneck(width, size, activation="gelu_tanh")
    for layer, weight, bias in ((made.down, down, down_bias), (made.up, up, up_bias)):
        assert isinstance(layer, nn.Linear)
        _filled(layer, weight, bias)
    return made


def _filled(layer: nn.Linear, weight: Tensor, bias: Tensor) -> nn.Linear:
    layer.to(weight)
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
    return layer


def _check(adapted: AdaptedTextModel, folded: AdaptedTextModel) -> None:
    """Scores of both for one drawn input, as every task."""
    model, generator = adapted.model, torch.Generator().manual_seed(0)
    visual = model.module.visual
    count = max((len(m.layers) for m in folded.modules() if isinstance(m, PerTask)), default=1)
    ids = torch.randint(0, model.config.vocab_size, (2, 1, 8), generator=generator)
    words, labels = ids.expand(2, count, 8).to(model.device)
    inputs = Inputs(words, torch.ones_like(words, dtype=torch.bool))
    if visual and adapted.vision_tower is None and visual.options.boxes != "given":
        seen = torch.randn(1, 4, visual.width, generator=generator).to(words.device)
        inputs = replace(inputs, visual=seen.expand(count, -1, -1))
    with evaluating(adapted):
        want, got = (one(inputs, labels, range(count)) for one in (adapted, folded))
    worst = float(((got - want).abs() / (1 + want.abs())).max())
    if not worst <= TOLERANCE:
        raise AdapterError(
            f"Static weights would give scores that differ by {worst:.2g} (relative; allowed {TOLERANCE:g}), so "
            "they are not the adapter's. Use the adapter as it is."
        )
