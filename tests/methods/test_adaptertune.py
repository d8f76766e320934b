"""AdapterTune (arXiv 2603.14706): its sizes, its start, and every placement as an equation."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, linear, relu

from petiole.backbones.base import Backbone
from petiole.backbones.frozen_network import IMAGES
from petiole.backbones.registry import load
from petiole.backbones.vision import vit
from petiole.backbones.weights import fingerprint
from petiole.claims import table
from petiole.errors import ConfigError
from petiole.layers.bottleneck import Bottleneck
from petiole.layers.initial import INITS
from petiole.ledger import ledger, size_of
from petiole.methods.base import Plan
from petiole.methods.registry import create
from petiole.protocols.accounting import HEADLINE, account
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.testing import backbones as tiny

PLACEMENTS = ("post", "pre", "parallel", "intermediate", "houlsby", "pfeiffer", "attn_only")
TIMM = {
    "T": "timm/deit_tiny_patch16_224",
    "S": "timm/vit_small_patch16_224",
    "B": "timm/vit_base_patch16_224",
    "L": "timm/vit_large_patch16_224",
}
FROZEN = {"T": 5_524_416, "S": 21_665_664, "B": 85_798_656, "L": 303_301_632}
# Adapters in all blocks, with biases, without head.
ADAPTERS = {
    1: (6_924, 13_836, 27_660, 73_752),
    2: (11_544, 23_064, 46_104, 122_928),
    4: (20_784, 41_520, 82_992, 221_280),
    8: (39_264, 78_432, 156_768, 417_984),
    16: (76_224, 152_256, 304_320, 811_392),
    32: (150_144, 299_904, 599_424, 1_598_208),
    64: (297_984, 595_200, 1_189_632, 3_171_840),
    128: (593_664, 1_185_792, 2_370_048, 6_319_104),
}
# With head, r = 16: count and per cent of full fine-tuning.
WITH_HEAD = {
    "T": {
        10: (78_154, 1.414),
        37: (83_365, 1.507),
        100: (95_524, 1.723),
        101: (95_717, 1.727),
        102: (95_910, 1.730),
        200: (114_824, 2.064),
    },
    "S": {
        10: (156_106, 0.720),
        37: (166_501, 0.768),
        100: (190_756, 0.879),
        101: (191_141, 0.881),
        102: (191_526, 0.882),
        200: (229_256, 1.054),
    },
    "B": {
        10: (312_010, 0.364),
        37: (332_773, 0.388),
        100: (381_220, 0.444),
        101: (381_989, 0.445),
        102: (382_758, 0.446),
        200: (458_120, 0.533),
    },
    "L": {
        10: (821_642, 0.271),
        37: (849_317, 0.280),
        100: (913_892, 0.301),
        101: (914_917, 0.302),
        102: (915_942, 0.302),
        200: (1_016_392, 0.335),
    },
}


@cache
def shape(size: str) -> Backbone:
    return load(TIMM[size], device="meta")


def plan_of(size: str, method: str = "adaptertune", classes: int = 10, **settings: Any) -> Plan:
    with torch.device("meta"):
        return create(method, settings).plan(shape(size), classes)


def adapters(plan: Plan) -> int:
    return sum(map(size_of, plan.adapters))


# --- Sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", ADAPTERS)
def test_adapters_have_their_stated_size(rank: int) -> None:
    for size, want in zip("TSBL", ADAPTERS[rank], strict=True):
        assert shape(size).parameter_count == FROZEN[size]
        assert adapters(plan_of(size, rank=rank)) == want


@pytest.mark.parametrize("size", "TSBL")
def test_adapters_have_their_stated_size_with_heads(size: str) -> None:
    for classes, (count, percent) in WITH_HEAD[size].items():
        plan = plan_of(size, classes=classes, rank=16)
        head = size_of(plan.head)
        assert adapters(plan) + head == count
        assert round(100 * count / (FROZEN[size] + head), 3) == percent


@pytest.mark.parametrize(("size", "classes"), [("T", 10), ("S", 37), ("S", 200)])
def test_the_ledger_says_the_same(size: str, classes: int) -> None:
    got = ledger(shape(size), create("adaptertune", {"rank": 16}), classes)
    count, percent = WITH_HEAD[size][classes]
    assert (got.trainable, got.backbone) == (count, FROZEN[size])
    assert round(got.trainable_percent_of_full_fine_tuning, 3) == percent
    if size == "S":  # 29.0 M of 4.60 G multiply-accumulates
        extra = (got.flops_forward - got.flops_backbone) / 2 - classes * 384
        assert extra == 2 * 384 * 16 * 197 * 12
        assert round(100 * 2 * extra / got.flops_backbone, 2) == 0.63
    # Gradients of activations cost a second forward, those of adapters and head little.
    assert 1.9 < got.flops_training / got.flops_forward < 2.1


@pytest.mark.parametrize(
    ("every", "count"), [(1, 152_256), (2, 76_128), (3, 50_752), (4, 38_064), (6, 25_376)]
)
def test_every_kth_block(every: int, count: int) -> None:
    assert adapters(plan_of("S", blocks=f"every:{every}")) == count


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"placement": "houlsby"}, 2 * 152_256),
        ({"placement": "pfeiffer"}, 152_256 + 12 * 2 * 384),
        ({"learn_scale": True}, 152_256 + 12 * 384),
        ({"blocks": "first:3"}, 3 * 12_688),
        ({"blocks": "0,7"}, 2 * 12_688),
        ({"train_norms": True}, 152_256),  # the copies are counted as tuned
    ],
    ids=str,
)
def test_other_placements_and_parts(settings: dict[str, Any], count: int) -> None:
    assert adapters(plan_of("S", **settings)) == count


@pytest.mark.parametrize(
    ("method", "settings", "count"),
    [
        ("adapter-plus", {}, 12 * (2 * 384 * 8 + 8 + 384 + 384)),
        ("adaptformer", {}, 12 * (2 * 384 * 64 + 64 + 384)),
        ("houlsby", {}, 24 * (769 * 37 + 384)),
        ("pfeiffer", {}, 12 * (769 * 74 + 384 + 768)),
        ("lora-qkv", {"rank": 14}, 2304 * 14 * 12),
        ("lora-qkv", {"targets": "q,v"}, 2 * 768 * 16 * 12),
        ("dora", {}, 2304 * 16 * 12 + 3 * 384 * 12),
        ("vpt-shallow", {"prompts": 5}, 5 * 384),
        ("vpt-deep", {"prompts": 5}, 12 * 5 * 384),
        ("ssf", {}, 2 * (384 + 12 * (2 + 3 + 1 + 1 + 4) * 384 + 384)),
    ],
    ids=str,
)
def test_rivals_by_hand(method: str, settings: dict[str, Any], count: int) -> None:
    assert adapters(plan_of("S", method, **settings)) == count


@pytest.mark.parametrize(
    ("method", "count"),
    [
        # Norms: 25 of 2 d. Biases: patch embedding, 25 norms, and in a block qkv, proj, fc1, fc2.
        ("layernorm", 25 * 2 * 384),
        ("bitfit", 384 + 25 * 384 + 12 * (3 + 1 + 4 + 1) * 384),
        ("partial", 12 * 384 * 384 + 13 * 384 + 2 * 384),
        ("full", FROZEN["S"]),
    ],
)
def test_tuned_parameters_by_hand(method: str, count: int) -> None:
    own = dict(shape("S").module.named_parameters())
    assert sum(own[name].numel() for name in plan_of("S", method).tune) == count


def test_the_papers_092_is_reproduced_and_its_accounting_named() -> None:
    """One accounting gives 0.9171, the others do not round to it but one."""
    counted = account(table("adaptertune/params", "params"))
    assert len(counted.pairs) == 15
    assert round(counted.shares[HEADLINE], 4) == 0.9171
    others = [round(v, 3) for k, v in counted.shares.items() if k != HEADLINE]
    assert others == [0.918, 0.908, 0.891, 0.811, 0.533, 0.768]
    means = {"tiny": 1.557, "small": 0.794, "base": 0.401}
    for size, mean in means.items():
        shares = [p.share for p in counted.pairs if size in p.backbone]
        assert round(sum(shares) / 5, 3) == mean


# --- Placements ----------------------------------------------------------------------------------


def naive(module: Any, plan: Plan, placement: str, images: Tensor) -> Tensor:
    """The class token of the adapted network, placement by placement."""
    layers = iter(a.layer for a in plan.attach)
    x = module._pos_embed(module.patch_embed(images))
    for block in module.blocks:
        a = block.ls1(block.attn(block.norm1(x)))

        def m(y: Tensor, block: Any = block) -> Tensor:
            return block.ls2(block.mlp(block.norm2(y)))

        adapter: Any = next(layers)
        y = x + a
        match placement:
            case "post" | "pfeiffer":
                z = y + m(y)
                x = z + adapter(z)
            case "pre":
                y = y + adapter(y)
                x = y + m(y)
            case "parallel":
                x = y + m(y) + adapter(y)
            case "intermediate":
                u = m(y)
                x = y + (u + adapter(u))
            case "attn_only":
                y = x + a + adapter(a)
                x = y + m(y)
            case "houlsby":
                y = x + (a + adapter(a))
                v = m(y)
                x = y + (v + next(layers)(v))
    return module.norm(x)[:, 0]


def adapted(
    backbone: Backbone, seed: int = 0, method: str = "adaptertune", **settings: Any
) -> AdaptedClassifier:
    with tiny.seeded(seed):
        return AdaptedClassifier(backbone, create(method, settings).plan(backbone, 3)).eval()


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_placement_is_its_equation(placement: str) -> None:
    backbone = tiny.plain()
    backbone.module.double()
    model = adapted(backbone, placement=placement, init="default", scale=0.7, rank=5).double()
    images = tiny.images(backbone).double()
    with torch.no_grad():
        want = naive(backbone.module, model.plan, placement, images)
        torch.testing.assert_close(model({IMAGES: images}).vector, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", "TSB")
def test_the_start_is_bit_equal_at_every_placement(size: str) -> None:
    """On the paper's own three backbones (random weights, four patches)."""
    name = TIMM[size].removeprefix("timm/")
    with tiny.seeded():
        module: Any = timm.create_model(name, num_classes=0, img_size=32)
    backbone = vit.wrap(TIMM[size], module, tiny.preprocessing(32))
    images = tiny.images(backbone, 2)
    bare = backbone.lower(images, ("final.cls",))["final.cls"]
    for placement in PLACEMENTS:
        model = adapted(backbone, placement=placement)
        with torch.no_grad():
            assert torch.equal(model({IMAGES: images}).vector, bare), placement
            with torch.autocast("cpu", torch.bfloat16):
                got = model({IMAGES: images}).vector
                want = backbone.upper({IMAGES: images}, ("final.cls",))["final.cls"]
            assert torch.equal(got, want), f"{placement} under bf16"


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_first_step_moves_the_up_projection_alone(placement: str) -> None:
    backbone = tiny.plain()
    model = adapted(backbone, placement=placement).train()
    model({IMAGES: tiny.images(backbone)}).logits.square().sum().backward()
    for layer in (a.layer for a in model.plan.attach):
        assert isinstance(layer, Bottleneck)
        for part, moves in ((layer.up, True), (layer.down, False)):
            for value in (part.weight, part.bias):
                assert value.grad is not None
                assert bool(value.grad.any()) == moves


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("placement", ["post", "pre"])
def test_every_start_learns(init: str, placement: str) -> None:
    """Two steps move every parameter, whatever the start; the backbone's bytes stay."""
    backbone = tiny.plain()
    before = fingerprint(backbone.module.state_dict())
    model = adapted(backbone, init=init, placement=placement).train()
    assert model.plan.identity == (init == "zero")
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model({IMAGES: tiny.images(backbone)}).logits.square().sum().backward()
        optimizer.step()
    for name, value in model.named_parameters():
        assert not torch.equal(value, start[name]), name
    assert fingerprint(backbone.module.state_dict()) == before


def test_a_dead_start_is_refused() -> None:
    with pytest.raises(ConfigError, match="zero/zero is dead"):
        adapted(tiny.plain(), init="zero/zero")
    with pytest.raises(ConfigError, match=r"Unknown init 'zeros'.*zero"):
        adapted(tiny.plain(), init="zeros")


def test_double_zero_would_learn_the_bias_alone() -> None:
    """Why the guard stands: VPT's Pfeiffer block starts like this."""
    torch.manual_seed(0)
    layer = Bottleneck(6, 4)
    nn.init.zeros_(layer.down.weight)
    for _ in range(5):
        layer.zero_grad()
        (layer(torch.randn(8, 6)) - 1).square().sum().backward()
        with torch.no_grad():
            for p in layer.parameters():
                assert p.grad is not None
                p -= 0.01 * p.grad
    assert layer.up.bias.any()
    assert not layer.up.weight.any()
    assert not layer.down.weight.any()


@pytest.mark.parametrize(
    ("init", "share"),
    [
        ("zero", 0.0),
        ("small", 3.9e-4),
        ("houlsby", 3.8e-2),
        ("bert", 7.7e-2),
        ("xavier", 0.27),
        ("default", 0.55),
    ],
)
def test_how_far_each_start_displaces_the_stream(init: str, share: float) -> None:
    """|A(h)| / |h| of Gaussian tokens at d = 384, r = 16."""
    shares = []
    for seed in range(5):
        with tiny.seeded(seed):
            h = torch.randn(400, 384)
            with torch.no_grad():
                shares.append(float(Bottleneck(384, 16, init=init)(h).norm() / h.norm()))
    # Houlsby's is cut off at two deviations, which takes 12 % off its spread.
    assert sum(shares) / 5 == pytest.approx(share, rel=0.15, abs=1e-12)


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_the_displacement_has_at_most_rank_r(rank: int, activation: str) -> None:
    with tiny.seeded(rank):
        layer = Bottleneck(32, rank, init="default", activation=activation)  # type: ignore[arg-type]
        h = torch.randn(300, 32)
    with torch.no_grad():
        moved = layer(h)
    values = torch.linalg.svdvals((moved - moved.mean(0)).double())
    assert int((values > 1e-5 * values[0]).sum()) <= rank
    jacobian = torch.autograd.functional.jacobian(layer, h[0])
    assert int(torch.linalg.matrix_rank(jacobian, rtol=1e-5)) <= rank


def test_evaluation_equals_training_without_dropout() -> None:
    backbone = tiny.plain()
    model = adapted(backbone, init="default")
    state = {IMAGES: tiny.images(backbone)}
    with torch.no_grad():
        assert torch.equal(model.train()(state).logits, model.eval()(state).logits)
    noisy = adapted(backbone, init="default", drop_path=0.5).train()
    with torch.no_grad():
        assert not torch.equal(noisy(state).logits, noisy.eval()(state).logits)


def test_a_vanilla_checkpoint_loads_under_the_adapter() -> None:
    """Attaching renames nothing: the published code's keys become blocks.i.block.*."""
    backbone = tiny.plain()
    model = adapted(backbone)
    plain = tiny.timm_vit().state_dict()
    with model.attached():
        assert backbone.module.load_state_dict(plain, strict=True).missing_keys == []


def test_no_graph_is_built_below_the_first_adapter() -> None:
    backbone = tiny.plain()
    model = adapted(backbone, blocks="last:1").train()
    seen: list[bool] = []
    hooks = [
        block.register_forward_hook(lambda _, __, out: seen.append(out.requires_grad))
        for block in backbone.module.blocks  # type: ignore[union-attr]
    ]
    model({IMAGES: tiny.images(backbone)})
    for hook in hooks:
        hook.remove()
    # These hooks run before the adapter's own, so even the last block's output is still frozen.
    assert seen == [False] * tiny.DEPTH


# --- Rivals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("deep", [False, True])
def test_prompts_are_their_equation(deep: bool) -> None:
    backbone = tiny.registers()
    backbone.module.double()
    model = adapted(backbone, method="vpt-deep" if deep else "vpt-shallow", prompts=3).double()
    prompts: list[Any] = [a.layer for a in model.plan.attach if hasattr(a.layer, "tokens")]
    images = tiny.images(backbone).double()
    module: Any = backbone.module
    with torch.no_grad():
        x = module._pos_embed(module.patch_embed(images))
        for i, block in enumerate(module.blocks):
            if deep or i == 0:  # behind the class token, as VPT has them
                fresh = prompts[i if deep else 0].tokens.expand(len(x), -1, -1)
                x = torch.cat([x[:, :1], fresh, x[:, (4 if i else 1) :]], dim=1)
            x = block(x)
        want = module.norm(x)[:, 0]
        got = backbone_values(model, images)
    torch.testing.assert_close(got["final.cls"], want, rtol=1e-10, atol=1e-10)
    assert got["final.patches"].shape[1] == 4, "the prompts are no patches"


def backbone_values(model: AdaptedClassifier, images: Tensor) -> dict[str, Tensor]:
    with model.attached(), torch.no_grad():
        return model.backbone.upper({IMAGES: images}, ("final.cls", "final.patches"))


def test_scale_and_shift_is_its_equation() -> None:
    backbone = tiny.plain()
    backbone.module.double()
    model = adapted(backbone, method="ssf", std=0.3).double()
    parts = {a.role: a.layer for a in model.plan.attach}

    def f(role: str, x: Tensor) -> Tensor:
        layer: Any = parts.pop(role)
        return (1 + layer.scale) * x + layer.shift

    images = tiny.images(backbone).double()
    module: Any = backbone.module
    with torch.no_grad():
        x = module._pos_embed(f("embed", module.patch_embed(images)))
        for i, block in enumerate(module.blocks):
            at = f"block.{i}"
            n = f(f"{at}.attn.in", block.norm1(x))
            qkv = linear(n, block.attn.qkv.weight, block.attn.qkv.bias).chunk(3, dim=-1)
            q, k, v = (
                f(f"{at}.attn.{name}", value).unflatten(-1, (tiny.HEADS, -1)).transpose(1, 2)
                for name, value in zip("qkv", qkv, strict=True)
            )
            mixed = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v
            x = x + f(
                f"{at}.attn.out", block.ls1(block.attn.proj(mixed.transpose(1, 2).flatten(2)))
            )
            hidden = f(f"{at}.mlp.hidden", block.mlp.fc1(f(f"{at}.mlp.in", block.norm2(x))))
            x = x + f(f"{at}.mlp.out", block.ls2(block.mlp.fc2(gelu(hidden))))
        want = f("final.tokens", module.norm(x))[:, 0]
        got = model({IMAGES: images}).vector
    assert not parts
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", ["lora-qkv", "dora"])
def test_low_rank_updates_are_those_of_the_weights(method: str) -> None:
    """The adapted network is the bare one with changed weights, whichever of q, k, v is changed."""
    backbone = tiny.plain()
    backbone.module.double()
    model = adapted(backbone, method=method, rank=4, rank_stabilised=True, scale=0.5).double()
    layers: dict[str, Any] = {a.role: a.layer for a in model.plan.attach}
    with torch.no_grad():
        for seed, layer in enumerate(layers.values()):
            layer.b.copy_(torch.randn(layer.b.shape, generator=torch.Generator().manual_seed(seed)))
        images = tiny.images(backbone).double()
        got = model({IMAGES: images}).vector
        module: Any = backbone.module
        for i, block in enumerate(module.blocks):
            rows = []
            for name, weight in zip("qkv", block.attn.qkv.weight.chunk(3), strict=True):
                layer = layers[f"block.{i}.attn.{name}"]
                turned = weight + 0.5 * 2 * layer.b @ layer.a  # sqrt(4) = 2
                if method == "dora":
                    turned = turned * (weight.norm(dim=1) / turned.norm(dim=1))[:, None]
                rows.append(turned)
            block.attn.qkv.weight.copy_(torch.cat(rows))
        want = module(images)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_adaptformer_is_its_equation() -> None:
    torch.manual_seed(0)
    model = adapted(tiny.plain(), method="adaptformer", rank=5)
    layer: Any = model.plan.attach[0].layer
    with torch.no_grad():
        layer.up.weight.normal_()
        x = torch.randn(4, tiny.WIDTH)
        want = 0.1 * linear(
            relu(linear(x, layer.down.weight, layer.down.bias)), layer.up.weight, layer.up.bias
        )
        torch.testing.assert_close(layer(x), want)
    assert [a.reads for a in model.plan.attach] == [f"block.{i}.mid" for i in range(tiny.DEPTH)]


def test_pfeiffer_normalises_before_it_reads() -> None:
    model = adapted(tiny.plain(), method="pfeiffer", rank=5)
    layer: Any = model.plan.attach[0].layer
    with torch.no_grad():
        x = torch.randn(4, tiny.WIDTH)
        n = layer_norm(x, (tiny.WIDTH,), eps=1e-6)
        want = layer.up(gelu(layer.down(n)))
        torch.testing.assert_close(layer(x), want)
