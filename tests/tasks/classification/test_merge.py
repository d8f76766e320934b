"""What is merged is what the adapter did: weights by the written-out equation, logits by the forward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.frozen_network import IMAGES
from petiole.backbones.hooks import Attach
from petiole.backbones.registry import load
from petiole.backbones.vision import vit
from petiole.backbones.weights import load_strictly
from petiole.errors import AdapterError, ConfigError
from petiole.files import write_json
from petiole.layers.affine import Affine
from petiole.layers.dora import DoRA
from petiole.layers.heads import CosineHead, LinearHead
from petiole.layers.lowrank import LowRank
from petiole.methods.base import Plan
from petiole.methods.registry import create, settings_of
from petiole.tasks.classification import peft_folder
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.merge import merge, write_merged
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.testing import backbones as tiny

FOLD = (
    "lora-qkv",
    "dora",
    "glora",
    "ssf",
    "bitfit",
    "layernorm",
    "full",
    "partial",
    "peft:lora",
    "peft:ia3",
)


def build(backbone: Backbone, method: str, seed: int = 0) -> AdaptedClassifier:
    """An adapter none of whose numbers is as it started."""
    with tiny.seeded(seed):
        adapted = AdaptedClassifier(backbone, create(method).plan(backbone, 3))
        tiny.shaken(adapted)
    return adapted.eval()


def custom(backbone: Backbone, *attach: Attach, tune: tuple[str, ...] = ()) -> AdaptedClassifier:
    with tiny.seeded(2):
        head = LinearHead(backbone.width, 3)
        adapted = AdaptedClassifier(
            backbone, Plan(head=head, reads=(backbone.vector,), attach=attach, tune=tune)
        )
        tiny.shaken(adapted)
    return adapted.eval()


def same_logits(adapted: AdaptedClassifier, fresh: Backbone) -> None:
    """The merged weights in an untouched backbone of the same architecture."""
    load_strictly(fresh.module, merge(adapted), "the merge")
    images = tiny.images(fresh, 4, seed=3)
    with torch.no_grad():
        want = adapted({IMAGES: images}).logits
        vector = fresh.upper({IMAGES: images}, (fresh.vector,))[fresh.vector]
        got, bare = adapted.head(vector), adapted.backbone.lower(images, (fresh.vector,))
        assert not torch.allclose(adapted.head(bare[fresh.vector]), want, atol=1e-2)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5 * float(want.abs().max()))


@pytest.mark.parametrize("method", FOLD)
def test_merged_weights_give_the_adapter_s_logits(
    method: str, transformer: Backbone, tmp_path: Path
) -> None:
    if method == "ssf" and transformer.name in ("test/vit-pooled", "test/clip"):
        pytest.skip("refused there; see the refusals")
    adapted = build(transformer, method)
    before = transformer.fingerprint
    fresh = (
        load(transformer.name)
        if Path(transformer.name).is_dir()
        else tiny.build(transformer.name.removeprefix("test/"), tmp_path)
    )
    same_logits(adapted, fresh)
    del transformer.fingerprint  # which is cached
    assert transformer.fingerprint == before


@pytest.mark.parametrize("method", ["bitfit", "layernorm", "full"])
def test_tuned_convolutions_merge_too(method: str) -> None:
    same_logits(build(tiny.resnet(), method), tiny.resnet())


def test_lora_is_w_plus_s_b_a_on_its_rows_alone() -> None:
    backbone = tiny.plain()
    adapted = build(backbone, "lora-qkv")
    merged, own = merge(adapted), backbone.module.state_dict()
    d = backbone.width
    for i in range(backbone.depth):
        name = f"blocks.{i}.attn.qkv.weight"
        want = own[name].double().clone()
        for j, part in enumerate("qkv"):
            layer = adapted.attach[f"block/{i}/attn/{part}"]
            assert isinstance(layer, LowRank)
            want[j * d : (j + 1) * d] += layer.scale * layer.b.double() @ layer.a.double()
        torch.testing.assert_close(merged.pop(name).double(), want, rtol=1e-6, atol=1e-6)
    assert all(torch.equal(value, own[name]) for name, value in merged.items())
    assert not {v.data_ptr() for v in merged.values()} & {v.data_ptr() for v in own.values()}


def test_ssf_behind_a_layer_scale_goes_below_it() -> None:
    """g * (W x + b) with  y <- (1 + s) y + c  is  g * ((1 + s) W x + (1 + s) b + c / g)."""
    backbone = tiny.plain()
    affine = Affine(backbone.width, std=0.5)
    merged = merge(custom(backbone, Attach("block.1.attn.out", affine)))
    own = {name: value.double() for name, value in backbone.module.state_dict().items()}
    s, c, g = affine.scale.double(), affine.shift.double(), own["blocks.1.ls1.gamma"]
    weight, bias = own["blocks.1.attn.proj.weight"], own["blocks.1.attn.proj.bias"]
    close(merged["blocks.1.attn.proj.weight"], torch.diag(1 + s) @ weight)
    close(merged["blocks.1.attn.proj.bias"], (1 + s) * bias + c / g)
    assert torch.equal(merged["blocks.1.ls1.gamma"].double(), g)


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


def qkv(backbone: Backbone) -> Tensor:
    return backbone.module.get_parameter("blocks.1.attn.qkv.weight")[:24]


STACKS: dict[str, Callable[[Backbone], AdaptedClassifier]] = {
    "LoRA, then SSF": lambda b: custom(b, lora("q"), Attach("block.1.attn.q", Affine(24, 0.5))),
    "SSF, then LoRA": lambda b: custom(b, Attach("block.1.attn.q", Affine(24, 0.5)), lora("q")),
    "LoRA of a scaled input": lambda b: custom(
        b, Attach("block.1.attn.in", Affine(24, 0.5)), lora("v")
    ),
    "LoRA on tuned weights": lambda b: custom(
        b, lora("k"), tune=("blocks.1.attn.qkv.weight", "blocks.1.norm1.weight")
    ),
    "DoRA on tuned weights": lambda b: custom(
        b,
        Attach("block.1.attn.q", DoRA(qkv(b), 2), "block.1.attn.in"),
        tune=("blocks.1.attn.qkv.weight",),
    ),
    "two LoRAs": lambda b: custom(b, lora("q"), lora("q")),
    "LoRA on the MLP": lambda b: custom(
        b, Attach("block.0.mlp.hidden", LowRank(24, 2, out=96), "block.0.mlp.in")
    ),
}


def lora(part: str) -> Attach:
    return Attach(f"block.1.attn.{part}", LowRank(24, 2), "block.1.attn.in")


@pytest.mark.parametrize("stack", STACKS)
def test_layers_on_top_of_each_other_merge_in_their_order(stack: str) -> None:
    same_logits(STACKS[stack](tiny.plain()), tiny.plain())


def without_qkv_bias() -> Backbone:
    return vit.wrap("test/vit", tiny.timm_vit(qkv_bias=False), tiny.preprocessing())


def with_a_dead_channel() -> Backbone:
    backbone = tiny.plain()
    backbone.module.get_parameter("blocks.0.ls1.gamma")[3] = 0.0
    return backbone


REFUSED: dict[str, tuple[Callable[[], AdaptedClassifier], str]] = {
    "adaptertune": (
        lambda: build(tiny.plain(), "adaptertune"),
        r"Bottleneck at block\.0\.out cannot be merged: its activation makes it no linear map",
    ),
    "prompts": (
        lambda: build(tiny.plain(), "vpt-deep"),
        r"PromptTokens at block\.0\.in cannot be merged: its prompts are tokens, and no weight holds",
    ),
    "vector only": (lambda: build(tiny.plain(), "cls-residual-lora"), "nothing to merge"),
    "a stream": (
        lambda: custom(tiny.plain(), Attach("block.0.out", Affine(24, 0.5))),
        r"Affine at block\.0\.out cannot be merged: no single weight makes the value",
    ),
    "from elsewhere": (
        lambda: custom(tiny.plain(), Attach("block.0.mlp.out", LowRank(24, 2), "block.0.mid")),
        r"LowRank at block\.0\.mlp\.out .* from the one that it reads",
    ),
    "pooled": (lambda: build(tiny.without_class_token(), "ssf"), r"Affine at final\.tokens"),
    "unknown layer": (
        lambda: custom(tiny.plain(), Attach("block.0.attn.q", nn.Linear(24, 24))),
        r"Linear at block\.0\.attn\.q cannot be merged: nothing is known",
    ),
    "no bias": (
        lambda: custom(without_qkv_bias(), Attach("block.0.attn.q", Affine(24, 0.5))),
        r"blocks\.0\.attn\.qkv has no bias to take its shift",
    ),
    "dead channel": (
        lambda: custom(with_a_dead_channel(), Attach("block.0.attn.out", Affine(24, 0.5))),
        "a layer scale of 0 stands before it",
    ),
    "embedded class token": (lambda: build(tiny.two_towers(), "ssf"), "Affine at embed"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_change_of_weights_is_refused_with_the_reason(case: str) -> None:
    make, reason = REFUSED[case]
    with pytest.raises(AdapterError, match=reason):
        merge(make())


def test_what_peft_cannot_merge_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*_: object, **__: object) -> None:
        raise NotImplementedError("no merging")

    monkeypatch.setattr("peft.tuners.tuners_utils.BaseTuner.merge_and_unload", cannot)
    with pytest.raises(AdapterError, match=r"peft cannot merge this type .*\(no merging\)"):
        merge(build(tiny.plain(), "peft:loha"))


def test_lora_needs_no_bias() -> None:
    same_logits(build(without_qkv_bias(), "lora-qkv"), without_qkv_bias())


def test_a_wrong_equation_would_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = build(tiny.plain(), "lora-qkv")
    right = LowRank.merged

    def without_scale(layer: LowRank, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * right(layer, weight, bias)[0] - weight, bias

    monkeypatch.setattr(LowRank, "merged", without_scale)
    with pytest.raises(AdapterError, match="would give logits that differ by"):
        merge(adapted)


def described(
    adapted: AdaptedClassifier, method: str, weights: Path | None = None
) -> ClassificationAdapter:
    return ClassificationAdapter.of(
        adapted,
        method=method,
        settings=settings_of(create(method)),
        classes=["ash", "birch", "cedar"],
        weights=weights,
        image_size=None,
    )


def test_written_files_open_by_themselves(tmp_path: Path) -> None:
    backbone = tiny.dinov2(tmp_path / "model")
    original = described(build(backbone, "lora-qkv"), "lora-qkv")
    folder = write_merged(original, tmp_path / "new" / "folder" / "merged.safetensors")
    assert sorted(p.name for p in folder.parent.iterdir()) == [
        "merged-adapter",
        "merged.json",
        "merged.safetensors",
    ]
    again = ClassificationAdapter.load(folder)
    assert not any(part.training for part in again.adapted.modules())
    assert again.manifest.method == "linear-probe"
    assert again.manifest.golden == original.manifest.golden
    assert again.classes == original.classes
    assert again.adapted.backbone.fingerprint != backbone.fingerprint
    images = tiny.images(backbone, 3)
    with torch.no_grad():
        want, got = (a.adapted({IMAGES: images}).logits for a in (original, again))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5 * float(want.abs().max()))
    cuts = again.adapted.backbone.lower(images, again.adapted.cut)
    assert cuts.keys() == {"final.cls"}  # nothing of the adapter is left inside


def test_preprocessing_goes_with_the_weights(tmp_path: Path) -> None:
    """timm's own would come back otherwise."""
    weights = tmp_path / "own.safetensors"
    with tiny.seeded():
        save_file(timm.create_model("test_vit", num_classes=0).state_dict(), weights)
    stated = {"size": [32, 32], "crop": 0.9, "interpolation": "bilinear"}
    colours = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    write_json(weights.with_suffix(".json"), stated | colours)
    backbone = load("timm/test_vit", weights=weights)
    original = described(build(backbone, "full"), "full", weights)
    folder = write_merged(original, tmp_path / "merged.safetensors")
    again = ClassificationAdapter.load(folder).adapted.backbone
    assert again.preprocessing == backbone.preprocessing
    assert again.preprocessing.mean == (0.1, 0.2, 0.3)


def test_a_merged_file_that_was_changed_is_refused(tmp_path: Path) -> None:
    backbone = tiny.dinov2(tmp_path / "model")
    out = tmp_path / "merged.safetensors"
    folder = write_merged(described(build(backbone, "bitfit"), "bitfit"), out)
    tensors = load_file(out)
    tensors["layernorm.bias"][0] += 1e-3
    save_file(tensors, out)
    with pytest.raises(AdapterError, match="fingerprint"):
        ClassificationAdapter.load(folder)


def test_nothing_is_overwritten_and_nothing_left_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny.dinov2(tmp_path / "model")
    adapter = described(build(backbone, "bitfit"), "bitfit")
    with pytest.raises(ConfigError, match=r"model\.safetensors exists already"):
        write_merged(adapter, tmp_path / "model" / "model.safetensors")
    with pytest.raises(ConfigError, match=r"config\.json exists already"):
        write_merged(adapter, tmp_path / "model" / "config.safetensors")
    with pytest.raises(ConfigError, match=r"\.safetensors file, not into"):
        write_merged(adapter, tmp_path / "merged.pth")

    def fail(*_: object, **__: object) -> None:
        raise AdapterError("does not fit")

    monkeypatch.setattr(ClassificationAdapter, "load", fail)
    with pytest.raises(AdapterError, match="does not fit"):
        write_merged(adapter, tmp_path / "merged" / "merged.safetensors")
    assert not list((tmp_path / "merged").iterdir())


def test_only_a_linear_head_on_the_vector_goes_with_it(tmp_path: Path) -> None:
    backbone = tiny.dinov2(tmp_path / "model")
    plan = create("lora-qkv").plan(backbone, 3)
    cosine = AdaptedClassifier(backbone, replace(plan, head=CosineHead(backbone.width, 3))).eval()
    with pytest.raises(AdapterError, match=r"ends in First, Identity and CosineHead"):
        write_merged(described(cosine, "lora-qkv"), tmp_path / "merged.safetensors")


@pytest.mark.parametrize("turned", [False, True])
def test_layers_on_slices_of_one_projection_are_one_layer_of_peft(turned: bool) -> None:
    """B is block-diagonal; of DoRA the lengths of rows that no layer turns are the weight's own."""
    backbone = tiny.plain()
    weight, d = backbone.module.get_parameter("blocks.1.attn.qkv.weight"), backbone.width
    with tiny.seeded(3):
        layers = [DoRA(weight[:d], 2) if turned else LowRank(d, 2, scale=0.5), DoRA(weight[2 * d :], 1) if turned else LowRank(d, 1, scale=0.5)]  # fmt: skip
        for layer in layers:
            nn.init.normal_(layer.b)
            if isinstance(layer, DoRA):
                nn.init.normal_(layer.magnitude)
    group = [Attach(f"block.1.attn.{part}", layer, "block.1.attn.in") for part, layer in zip("qv", layers, strict=True)]  # fmt: skip
    tensors, rank, scale = peft_folder._fused(group, backbone)
    assert (rank, scale) == (3, 1.0 if turned else 0.5)
    assert torch.equal(tensors["lora_A.weight"], torch.cat([layers[0].a, layers[1].a]))
    up = torch.zeros(3 * d, 3)
    up[:d, :2], up[2 * d :, 2:] = layers[0].b.detach(), layers[1].b.detach()
    assert torch.equal(tensors["lora_B.weight"], up)
    assert tensors.keys() == {"lora_A.weight", "lora_B.weight", *["lora_magnitude_vector"] * turned}
    if turned:
        lengths = weight.norm(dim=1)
        lengths[:d], lengths[2 * d :] = (layer.magnitude.detach() for layer in layers)  # type: ignore[union-attr]
        assert torch.equal(tensors["lora_magnitude_vector"], lengths)
    assert not any(value.requires_grad for value in tensors.values())
