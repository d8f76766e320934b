"""Folders as transformers and timm save them: features to the bit, heads left out, what does not fit is told apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from petiole.backbones.registry import load
from petiole.backbones.weights import remedy
from petiole.errors import BackboneError
from petiole.testing import backbones as tiny
from petiole.testing import check_backbone

PLAIN = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 16,
}
STAGES = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT": ("ViTImageProcessor", PLAIN),
    "DeiT": ("ViTImageProcessor", PLAIN),
    "Dinov2": ("ViTImageProcessor", PLAIN | {"mlp_ratio": 2}),
    "Dinov2WithRegisters": ("ViTImageProcessor", PLAIN | {"mlp_ratio": 2}),
    "DINOv3ViT": (
        "DINOv3ViTImageProcessor",
        PLAIN | {"num_register_tokens": 2, "layerscale_value": 0.5},
    ),
    "DINOv3ConvNext": ("DINOv3ViTImageProcessor", STAGES),
    "Beit": ("BeitImageProcessor", PLAIN | {"use_relative_position_bias": True}),
    "ConvNext": ("ViTImageProcessor", STAGES),
    "Swin": (
        "ViTImageProcessor",
        {
            "image_size": 32,
            "embed_dim": 12,
            "depths": [1, 1],
            "num_heads": [2, 2],
            "window_size": 2,
        },
    ),
    "Swinv2": (
        "ViTImageProcessor",
        {
            "image_size": 32,
            "embed_dim": 12,
            "depths": [1, 1],
            "num_heads": [2, 2],
            "window_size": 4,
        },
    ),
    "Hiera": (
        "BitImageProcessor",
        {
            "image_size": [32, 32],
            "patch_size": [7, 7],
            "patch_stride": [4, 4],
            "masked_unit_size": [4, 4],
            "embed_dim": 12,
            "depths": [1, 1],
            "num_heads": [1, 2],
            "num_query_pool": 1,
        },
    ),
    "Data2VecVision": ("BeitImageProcessor", PLAIN),
    "ResNet": (
        "ViTImageProcessor",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    ),
}


def saved(folder: Path, kind: str, head: bool = False) -> Any:
    """Save a tiny model of random weights as the library does; gives its network."""
    processor, config = MODELS[kind]
    cls = getattr(transformers, kind + ("ForImageClassification" if head else "Model"))
    with tiny.seeded():
        model = tiny.shaken(cls(getattr(transformers, f"{kind}Config")(**config))).eval()
    model.save_pretrained(folder)
    sides = {"height": 32, "width": 32}
    crop = {"crop_size": sides} if processor == "BitImageProcessor" else {}
    getattr(transformers, processor)(size=sides, **crop).save_pretrained(folder)
    return model.base_model if head else model


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_a_saved_model_gives_its_librarys_bits(tmp_path: Path, kind: str, head: bool) -> None:
    if head and kind.startswith("DINOv3"):
        pytest.skip("the library has no classifier of this kind")
    model = saved(tmp_path, kind, head)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = model(images)
        plain = kind in ("ViT", "DeiT", "Data2VecVision") or out.pooler_output is None
        want = out.last_hidden_state[:, 0] if plain else out.pooler_output.flatten(1)
        backbone = load(str(tmp_path))
        assert torch.equal(backbone(images), want)
    assert not any(name.startswith("classifier") for name in backbone.module.state_dict())
    if not head:
        check_backbone(str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        ("Swin", ()),
        ("Swinv2", ()),
        ("Hiera", ()),
        ("Data2VecVision", ("attn.out", "mid", "mlp.out")),
        ("Beit", ("attn.out", "mid", "mlp.out")),
    ],
)
def test_roles_inside(tmp_path: Path, kind: str, missing: tuple[str, ...]) -> None:
    saved(tmp_path, kind)
    backbone: Any = load(str(tmp_path))
    assert backbone.depth == 2
    assert backbone.traced.missing == missing
    assert backbone.cuts


def test_a_partial_or_foreign_file_is_refused_and_told_apart(tmp_path: Path) -> None:
    saved(tmp_path, "ViT")
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    gone = next(key for key in sorted(tensors) if "layernorm" in key)
    save_file({k: v for k, v in tensors.items() if k != gone}, file)
    with pytest.raises(BackboneError, match=r"model\.safetensors do not fit .*1 missing"):
        load(str(tmp_path))
    save_file({**tensors, "adapter.weight": torch.zeros(2)}, file)
    with pytest.raises(BackboneError, match=r"1 unexpected \(adapter\.weight\)"):
        load(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2_with_norms"}))
    with pytest.raises(BackboneError, match="which petiole does not know") as caught:
        load(str(tmp_path))
    assert "Did you mean" not in str(caught.value)


# --- timm ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["timm", "TimmWrapperModel", "pytorch_model.bin"])
def test_a_folder_of_timms_is_its_model(tmp_path: Path, form: str) -> None:
    with tiny.seeded():
        model = tiny.shaken(timm.create_model("test_vit", num_classes=5)).eval()
    save_for_hf(model, tmp_path, safe_serialization=form != "pytorch_model.bin")
    if form == "TimmWrapperModel":
        stated = json.loads((tmp_path / "config.json").read_text())
        del stated["model_args"]
        (tmp_path / "config.json").write_text(json.dumps(stated))
        wrapper = transformers.TimmWrapperForImageClassification.from_pretrained(tmp_path)
        wrapper.save_pretrained(tmp_path)
        assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "timm_wrapper"
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    backbone = load(str(tmp_path))
    with torch.no_grad():
        want = model.forward_head(model.forward_features(images), pre_logits=True)
        torch.testing.assert_close(backbone(images), want, rtol=0, atol=1e-6)
    own = timm.data.resolve_data_config(model=model)
    assert backbone.preprocessing.size == tuple(own["input_size"][1:])
    config = json.loads((tmp_path / "config.json").read_text())
    config["pretrained_cfg"]["sharpen"] = 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BackboneError, match="pretrained_cfg states sharpen"):
        load(str(tmp_path))


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.backbone."])
def test_a_prefix_of_all_names_is_taken_off_and_the_classifier_left_out(
    tmp_path: Path, prefix: str
) -> None:
    with tiny.seeded():
        model = tiny.shaken(timm.create_model("test_vit", num_classes=5))
    save_file({prefix + k: v for k, v in model.state_dict().items()}, tmp_path / "w.safetensors")
    own = load("timm/test_vit", weights=tmp_path / "w.safetensors").module.state_dict()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in own.items())


def test_a_position_table_of_another_size_is_loaded_at_its_size(tmp_path: Path) -> None:
    with tiny.seeded():
        model = tiny.shaken(timm.create_model("test_vit", num_classes=0, img_size=96)).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    backbone = load("timm/test_vit", weights=tmp_path / "w.safetensors")
    assert backbone.preprocessing.size == (96, 96)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), model(images), rtol=0, atol=1e-6)
    larger = load("timm/test_vit", weights=tmp_path / "w.safetensors", image_size=128)
    assert larger.preprocessing.size == (128, 128)
    assert larger.module.pos_embed.shape == model.pos_embed.shape


def test_a_size_that_patches_do_not_tile_is_the_weights_own() -> None:
    backbone = load("timm/vit_so400m_patch14_siglip_384", device="meta")
    assert (backbone.preprocessing.size, backbone.grid) == ((384, 384), (27, 27))
    with pytest.raises(BackboneError, match=r"image size of 385 .* e\.g\. 392"):
        load("timm/vit_so400m_patch14_siglip_384", device="meta", image_size=385)


def test_what_two_sets_of_names_tell() -> None:
    def keys(name: str, **options: Any) -> dict[str, torch.Tensor]:
        return tiny.timm_vit(**options).state_dict() if name == "vit" else {}

    own = keys("vit")
    assert "2 blocks and this architecture 3" in remedy(own, keys("vit", depth=2))
    assert "file has register tokens" in remedy(own, keys("vit", reg_tokens=4))
    assert "up to 144 wide" in remedy(own, keys("vit", embed_dim=36))
    flat = [keys("vit", embed_dim=width, mlp_ratio=1) for width in (36, 48)]
    assert "up to 144 wide and this architecture's 108" in remedy(*flat)
    table = remedy(own, {**own, "pos_embed": torch.zeros(1, 10, tiny.WIDTH)})
    assert "position table is for 10 tokens, not for 5" in table
    foreign = {"encoder.layer.0.norm1.weight": torch.zeros(3)}
    assert "as transformers writes them" in remedy(own, foreign)
