"""Bottleneck adapters (Houlsby et al., 2019) at the branches of whatever transformer.

    A(h) = s act(h W_down + b_down) W_up + b_up

*In a vision backbone*: AdapterTune, Adapter+, AdaptFormer, Houlsby and Pfeiffer adapters are the same layer elsewhere.
With a = attention branch, m = MLP branch, x -> y = x + a(x) -> out = y + m(y):

    post          z = y + m(y);  out = z + A(z)                  AdapterTune, Adapter+
    pre           y <- y + A(y);  out = y + m(y)
    parallel      out = y + m(y) + A(y)                          AdaptFormer
    intermediate  u = m(y);  out = y + u + A(u)
    houlsby       u = a(x);  y = x + u + A1(u);  v = m(y);  out = y + v + A2(v)
    pfeiffer      z = y + m(y);  out = z + A(LN(z)), LN new
    attn_only     u = a(x);  y = x + u + A(u);  out = y + m(y)

Names and forms follow Adapter+ (Steitz & Roth, 2024). The scale is inside A.

*In an encoder-decoder* (VL-Adapter, Sung et al., 2022):  h <- h + A(h),  h the output of attention, cross-attention or
MLP, before dropout, residual and norm: 30 places in BART-base. VL-Adapter's bottlenecks, Compacter's (Mahabadi et
al., 2021) and Hyperformer's (Mahabadi et al., 2021b) differ in what their projections are.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import nn

from petiole.backbones.base import Backbone
from petiole.backbones.encoder_decoder import Seq2Seq
from petiole.backbones.frozen_network import FrozenNetwork
from petiole.backbones.hooks import Attach
from petiole.errors import ConfigError, unknown
from petiole.layers.bottleneck import Activation, Bottleneck
from petiole.layers.heads import LinearHead
from petiole.layers.hypernetwork import Hypernetwork, Written
from petiole.layers.initial import starts_at_zero
from petiole.layers.phm import PHM, Drawn, Rule
from petiole.methods.base import Changes, Method, Plan
from petiole.methods.blocks import select
from petiole.methods.peft.copies import norms
from petiole.methods.recipe import AS_MANY_STEPS, INSIDE_BLOCKS
from petiole.methods.registry import register
from petiole.methods.text import BRANCHES, VL_ADAPTER_RECIPE, TextMethod, blocks
from petiole.ranges import DropRate, NonNegativeInt, PositiveFloat, PositiveInt

Placement = Literal["post", "pre", "parallel", "intermediate", "houlsby", "pfeiffer", "attn_only"]

_ROLES: dict[Placement, tuple[tuple[str, str | None], ...]] = {
    "post": (("out", None),),
    "pre": (("mid", None),),
    "parallel": (("mlp.out", "mid"),),
    "intermediate": (("mlp.out", None),),
    "houlsby": (("attn.out", None), ("mlp.out", None)),
    "pfeiffer": (("out", None),),
    "attn_only": (("attn.out", None),),
}
"""What changes in a block, and what it reads if not itself."""

ADAPTERTUNE_RECIPE = INSIDE_BLOCKS | {
    "epochs": 50,
    "weight_decay": 0.05,
    "decay_all": True,
    "clip": 1.0,
}
"""What AdapterTune (Khazem, 2026) states about optimiser and length."""
ADAPTERTUNE_PAPER = {"batch_size": 128, "min_steps": 0, "max_steps": 0, "train_on": "target"}
"""Its batches, of the target alone, whatever the number of steps comes to."""


def place(
    network: FrozenNetwork,
    roles: Iterable[tuple[str, str | None]],
    make: Callable[[int], nn.Module],
) -> tuple[Attach, ...]:
    """Attach fresh layers, ``make(width)`` each, at (what changes, what it reads if not itself)."""
    return tuple(Attach(role, make(network.site(role).width), reads) for role, reads in roles)


@register(
    "adaptertune",
    "zero-initialised adapters after every block",
    paper=ADAPTERTUNE_PAPER,
    **ADAPTERTUNE_RECIPE,
)
@register(
    "adapter-plus",
    "Adapter+: after every block, a learned scale for each channel",
    paper=AS_MANY_STEPS,
    **INSIDE_BLOCKS,
    rank=8,
    init="houlsby/houlsby",
    learn_scale=True,
    drop_path=0.1,
)
@register(
    "adaptformer",
    "AdaptFormer: ReLU bottlenecks parallel to the MLP",
    paper=AS_MANY_STEPS,
    **INSIDE_BLOCKS,
    placement="parallel",
    rank=64,
    scale=0.1,
    activation="relu",
    init="kaiming/zero",
    dropout=0.1,
)
@register(
    "houlsby",
    "bottlenecks after attention and after MLP",
    paper=AS_MANY_STEPS,
    **INSIDE_BLOCKS,
    placement="houlsby",
    rank=37,
    init="houlsby/houlsby",
)
@register(
    "pfeiffer",
    "bottlenecks after the MLP, behind a LayerNorm of their own",
    paper=AS_MANY_STEPS,
    **INSIDE_BLOCKS,
    placement="pfeiffer",
    rank=74,
    init="bert/bert",
)
@dataclass(frozen=True)
class AdapterTune(Method):
    """AdapterTune (Khazem, 2026), zero-initialised after every block of a frozen ViT, and its relatives.

    With W_up = b_up = 0 the adapted network starts exactly at the pretrained function. The displacement of a block
    lies in b_up + rowspace(W_up), so its rank is at most r. Because of the GELU it cannot be merged into
    the weights: prediction costs 2 d r N multiply-accumulates a block more.

    The relatives' presets state placement, size, activation and start. Their papers' own training (SGD, stochastic
    depth in the backbone, a BatchNorm before AdaptFormer's head) is not part of them: every row of a
    comparison is trained alike.

    Attributes:
        rank: r, width of the bottleneck. Houlsby's 37 and Pfeiffer's 74 meet the budget of 3.2 % of
            CLS-Residual LoRA's Table 2 on ViT-S (Yong, 2026).
        scale: alpha, fixed; at the start, if ``learn_scale``.
        init: zero | small | houlsby | bert | xavier | default, of the up projection after a Xavier
            down projection; or DOWN/UP.
        blocks: all | every:k | every:k+offset | first:k | last:k | 0,3,7.
        placement: as above.
        activation: gelu or relu.
        learn_scale: train a scale for each channel.
        dropout: inside the bottleneck, in training.
        drop_path: chance that a sample goes without an adapter, in training.
        train_norms: also train copies of the backbone's own normalisations, as Houlsby et al. do.
    """

    lr_grid: ClassVar[tuple[float, ...]] = (3e-4, 1e-3, 3e-3)

    rank: PositiveInt = 16
    scale: float = 1.0
    init: str = "zero"
    blocks: str = "all"
    placement: Placement = "post"
    activation: Activation = "gelu"
    learn_scale: bool = False
    dropout: DropRate = 0.0
    drop_path: DropRate = 0.0
    train_norms: bool = False

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        roles = (
            (f"block.{i}.{part}", f"block.{i}.{read}" if read else None)
            for i in select(self.blocks, backbone)
            for part, read in _ROLES[self.placement]
        )
        return Plan(
            head=LinearHead(backbone.width, classes),
            reads=(backbone.vector,),
            attach=place(backbone, roles, self._layer),
            tune=norms(backbone) if self.train_norms else (),
            identity=starts_at_zero(self.init),
        )

    def _layer(self, width: int) -> Bottleneck:
        return Bottleneck(
            width,
            self.rank,
            scale=self.scale,
            learn_scale=self.learn_scale,
            activation=self.activation,
            init=self.init,
            norm=self.placement == "pfeiffer",
            dropout=self.dropout,
            drop_path=self.drop_path,
        )


@dataclass(frozen=True)
class BranchAdapters(TextMethod):
    """A bottleneck on every branch of encoder and decoder.

    Attributes:
        reduction: d over the width of the bottleneck.
    """

    reduction: PositiveFloat = 8.0

    def size(self, model: Seq2Seq) -> int:
        """Width of the bottleneck."""
        return int(model.width / self.reduction)

    def on_branches(self, model: Seq2Seq, make: Callable[[], nn.Module]) -> tuple[Attach, ...]:
        """A layer, as the tasks share it, added to what every branch gives."""
        roles = ((f"{stream}.block.{i}.{branch}.out", None) for stream, i, branch in blocks(model))
        return place(model, roles, lambda _: self.for_tasks(make))

    @abstractmethod
    def layers(self, model: Seq2Seq) -> Changes: ...


@register(
    "vl-adapter", "one adapter for all tasks, in encoder and decoder", **VL_ADAPTER_RECIPE, lr=1e-3
)
@register(
    "vl-adapters", "an adapter for each task", **VL_ADAPTER_RECIPE, lr=3e-4, sharing="multiple"
)
@register(
    "vl-half-shared",
    "adapters with the up part in common",
    **VL_ADAPTER_RECIPE,
    lr=3e-4,
    sharing="half_up",
)
@dataclass(frozen=True)
class VLAdapter(BranchAdapters):
    """VL-Adapter (Sung et al., 2022). One adapter for all tasks is the paper's best row; a half-shared one has W_up in common.

    Attributes:
        init: of the projections, see ``layers.initial``; N(0, 0.02^2), as the released code's are in the end.
            ``zero`` starts at the frozen model.
    """

    init: str = "bert/bert"

    def layers(self, model: Seq2Seq) -> Changes:
        def make() -> Bottleneck:
            return Bottleneck(model.width, self.size(model), activation="gelu_tanh", init=self.init)

        return Changes(attach=self.on_branches(model, make), identity=starts_at_zero(self.init))


@register("vl-compacter", "PHM adapters, one for all tasks", **VL_ADAPTER_RECIPE, lr=1e-3)
@register(
    "vl-compacters",
    "PHM adapters, one for each task",
    **VL_ADAPTER_RECIPE,
    lr=1e-3,
    sharing="multiple",
)
@register(
    "vl-compacter-original",
    "PHM adapters of rank 1 with one rule for all layers",
    **VL_ADAPTER_RECIPE,
    lr=1e-3,
    k=4,
    rank=1,
    shared_rule=True,
)
@dataclass(frozen=True)
class VLCompacter(BranchAdapters):
    """Compacter: projections of Kronecker products, P(x) = x (sum_i A_i (x) B_i) + b, see ``layers.phm``.

    VL-Adapter's rows of this name (Sung et al., 2022) have k = 2 and switch off what makes a
    Compacter of it (Mahabadi et al., 2021): one rule A for all layers, and B of low rank. ``vl-compacter-original``
    has both, at the same bottleneck.

    Attributes:
        k: terms of the sum; divides both widths.
        rank: of every B_i; 0 for full.
        shared_rule: all layers, and all tasks, have their A_i in common.
        drawn: with a rank, the two factors of B_i start by the shape of their ``product``, or each of the ``factors`` by its
            own, as Compacter's code draws them.
    """

    k: PositiveInt = 2
    rank: NonNegativeInt = 0
    shared_rule: bool = False
    drawn: Drawn = "product"

    def layers(self, model: Seq2Seq) -> Changes:
        if self.drawn not in get_args(Drawn):
            raise unknown("value of drawn", self.drawn, get_args(Drawn))
        if self.drawn == "factors" and not self.rank:
            raise ConfigError("drawn=factors is about the factors of a low rank: set rank too.")
        common = (Rule(self.k),) if self.shared_rule else ()

        def project(width: int, out: int) -> PHM:
            rule = next(iter(common), None)
            return PHM(width, out, self.k, rank=self.rank, rule=rule, drawn=self.drawn)

        def make() -> Bottleneck:
            return Bottleneck(
                model.width, self.size(model), activation="gelu_tanh", projection=project
            )

        return Changes(attach=self.on_branches(model, make), shared=common, identity=False)


@register(
    "vl-hyperformer", "adapters that one network writes for all tasks", **VL_ADAPTER_RECIPE, lr=1e-3
)
@dataclass(frozen=True)
class VLHyperformer(BranchAdapters):
    """Hyperformer: W_up(t, l) and W_down(t, l) are written from embeddings of task t and block l.

    Tasks share all of the network that writes but their embeddings, see ``layers.hypernetwork``.

    Attributes:
        code: d_p, width of what the weights are written from.
    """

    shares: ClassVar[bool] = False

    code: PositiveInt = 8

    def layers(self, model: Seq2Seq) -> Changes:
        depths = zip(BRANCHES.items(), model.depths, strict=True)
        streams = {name: (depth, branches) for (name, branches), depth in depths}
        writer = Hypernetwork(self.tasks, streams, model.width, self.size(model), self.code)
        attach = tuple(
            Attach(f"{stream}.block.{i}.{branch}.out", Written(writer, stream, i, branch))
            for stream, i, branch in blocks(model)
        )
        return Changes(attach=attach, shared=(writer,), identity=False)
