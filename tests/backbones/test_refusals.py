"""What cannot be loaded or asked for, each by its own sentence: of small parts, without a network."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from math import floor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import huggingface_hub
import pytest
import torch
import transformers
from torch import nn

from petiole.backbones import hub, preprocessor, quantized, registry
from petiole.backbones.base import Backbone
from petiole.backbones.codebook_lvlm import bundle, causal, vila_u, vila_u_files
from petiole.backbones.dual_encoder import (
    bert,
    openai_names,
    pair,
    resnet_clip,
    siglip,
    siglip2,
    tokenizers,
)
from petiole.backbones.encoder_decoder import loading
from petiole.backbones.frozen_network import FrozenNetwork, Site
from petiole.backbones.hooks import Attach
from petiole.backbones.joined import JoinedBackbone
from petiole.backbones.preprocessor import _geometry, _share
from petiole.backbones.registry import LoadRequest
from petiole.backbones.torchscript import _content, _names, _names_or_dead
from petiole.backbones.vision import classifier, cnn, timm_models, trace, vit
from petiole.backbones.vision.block_network import BlockNetwork
from petiole.backbones.vision.transformer import _linear, whole_patches
from petiole.data.preprocessing import Preprocessing
from petiole.data.readers.pickles import Unknown
from petiole.errors import BackboneError, ConfigError
from petiole.testing import backbones as tiny

LAYER = nn.Linear(2, 2)


def stub(**parts: Any) -> Any:
    return SimpleNamespace(**parts)


class Blocks(FrozenNetwork):
    """Two roles in a block, three in one of the other tower, and one beside them."""

    @property
    def sites(self) -> Mapping[str, Site]:
        names = ("block.0.in", "block.0.out", "text.block.1.in", "text.block.1.mid", "final.tokens")
        return {name: Site(LAYER, "in", 2) for name in names}

    def role_of(self, parameter: str) -> str:
        return "block.0.in" if parameter == "weight" else "final.tokens"


def test_a_role_that_blocks_of_this_kind_have_not_is_told_with_those_that_they_have() -> None:
    network = Blocks("b", nn.Linear(2, 2), 2)
    assert network.roles == tuple(network.sites)
    with pytest.raises(ConfigError, match=r"b has no block\.0\.attn\.q: its blocks have in, out o"):
        network.site("block.0.attn.q")
    with pytest.raises(ConfigError, match=r"no text\.block\.1\.mlp\.in: .* have in, mid only"):
        network.site("text.block.1.mlp.in")
    for unknown in ("block.0.somewhere", "block.7.attn.q", "final.cls"):
        with pytest.raises(ConfigError, match="role of b"):
            network.site(unknown)
    assert network.parameters_under() == ("weight", "bias")
    assert network.parameters_under("block.0") == ("weight",)
    with pytest.raises(ConfigError, match=r"part of b 'block\.3'. Did you mean block\.0, text\.bl"):
        network.parameters_under("block.3")


def test_a_layer_that_replaces_a_value_reads_it() -> None:
    for reads in (None, "a"):
        assert Attach("a", LAYER, reads, "replace").reads == reads
    assert Attach("a", LAYER, "b").reads == "b"
    with pytest.raises(ConfigError, match="replaces a reads it, not b"):
        Attach("a", LAYER, "b", "replace")


@pytest.mark.parametrize(
    ("kind", "stated", "said"),
    [
        ("ViTImageProcessor", {"do_resize": False}, "not resized, or padded"),
        ("ViTImageProcessor", {"do_pad": True}, "not resized, or padded"),
        ("ViTImageProcessor", {"size": {"longest_edge": 9}}, "'longest_edge': 9. is not one of"),
        ("ConvNextImageProcessor", {"do_center_crop": True}, "by their shortest_edge alone"),
        (
            "ConvNextImageProcessor",
            {"size": {"height": 9, "width": 9}},
            "by their shortest_edge alone",
        ),
        ("CLIPImageProcessor", {}, "without a square centre crop"),
        (
            "CLIPImageProcessor",
            {"do_center_crop": True, "crop_size": {"height": 8, "width": 9}},
            "without a square centre crop",
        ),
    ],
)
def test_images_that_come_to_no_common_size(kind: str, stated: dict[str, Any], said: str) -> None:
    usual = {"do_resize": True, "do_pad": False, "size": {"shortest_edge": 9}, "resample": 3}
    usual |= {"do_center_crop": False, "crop_size": {"height": 8, "width": 8}}
    with pytest.raises(ValueError, match=said):
        _geometry(kind, stub(**usual | stated))


@pytest.mark.parametrize(("edge", "between"), [(383, 425), (384, 384), (385, 385)])
def test_a_convnext_is_cropped_below_384_pixels_alone(edge: int, between: int) -> None:
    stated = {"do_resize": True, "do_pad": False, "size": {"shortest_edge": edge}, "resample": 2}
    found = _geometry("ConvNextImageProcessor", stub(**stated, do_center_crop=False, crop_pct=0.9))
    assert found["size"] == (edge, edge)
    assert int(edge / found["crop"]) == between
    assert (found["interpolation"], found["resized"]) == ("bilinear", "pixels")


def test_a_crop_is_of_the_shape_of_what_it_is_cut_from() -> None:
    assert _share({"height": 6, "width": 3}, {"height": 8, "width": 4}) == 0.75
    for side in range(225, 245):  # some of whose quotients fall short by the last bit
        crop = _share({"height": 224}, {"height": side})
        assert floor(224 / crop) == side
        assert crop == pytest.approx(224 / side, rel=1e-12)
    with pytest.raises(ValueError, match="of different shapes"):
        _share({"height": 6, "width": 3}, {"height": 8, "width": 8})


def test_a_processor_of_its_own_kind_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OddImageProcessorPil:
        _preprocess = resize = None

    monkeypatch.setattr(
        transformers.AutoImageProcessor, "from_pretrained", lambda *_, **__: OddImageProcessorPil()
    )
    with pytest.raises(BackboneError, match="OddImageProcessorPil prepares images in its own way"):
        preprocessor._processor(tmp_path / "preprocessor_config.json", tmp_path)


@pytest.mark.parametrize("bars", [True, False])
def test_the_library_is_quiet_for_the_length_of_a_context(bars: bool) -> None:
    from transformers.utils import logging

    level, before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    show = {True: logging.enable_progress_bar, False: logging.disable_progress_bar}
    try:
        logging.set_verbosity_info()
        show[bars]()
        with preprocessor.quiet():
            assert logging.get_verbosity() == logging.ERROR
            assert not logging.is_progress_bar_enabled()
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled() == bars
    finally:
        logging.set_verbosity(level)
        show[before]()


def test_names_that_a_pickle_may_call() -> None:
    assert _names("torch.jit._pickle", "build_intlist") is list
    assert _names("torch.jit._pickle", "restore_type_tag")("a", "b") == "a"
    dead = _names_or_dead("os", "system")("rm")
    dead["a"] = 1
    assert dead(1) is dead
    for module, name in (("os", "build_x"), ("torch", "load"), ("torch.jit._pickle", "other")):
        with pytest.raises(Unknown):
            _names(module, name)


def test_a_storage_is_named_by_a_number(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"

    def loaded(key: tuple[Any, ...]) -> Callable[..., Any]:
        return lambda _file, _names, storage: storage(key)

    torch.save({"a": torch.arange(3.0)}, file)
    with pytest.MonkeyPatch.context() as patched:
        good = ("storage", torch.float32, "0", "cpu", 3)
        patched.setattr("petiole.backbones.torchscript.load_plain", loaded(good))
        assert _content(file, script=False).tolist() == [0, 1, 2]
        for key, said in (
            (("module", *good[1:]), "refers to module 0"),
            (("storage", torch.float32, "../0", "cpu", 3), r"refers to storage \.\./0"),
        ):
            patched.setattr("petiole.backbones.torchscript.load_plain", loaded(key))
            with pytest.raises(BackboneError, match=said):
                _content(file, script=False)


def test_files_of_clips_that_are_none() -> None:
    conv, places = torch.zeros(64, 3, 4, 4), torch.zeros(5, 64)
    for read, tensors, lacks in (
        (openai_names.config_of, {}, "visual.conv1.weight"),
        (openai_names.config_of, {"visual.conv1.weight": conv}, "visual.positional_embedding"),
        (openai_names.joint_width, {}, "text_projection"),
        (openai_names.text_of, {}, "token_embedding.weight"),
        (openai_names.text_of, {"token_embedding.weight": places}, "positional_embedding"),
    ):
        with pytest.raises(BackboneError, match=rf"f holds no CLIP .*{lacks}'? is missing"):
            read(cast("dict[str, Any]", tensors), "f")


def test_what_libraries_of_an_extra_bring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("open_clip.tokenizer", "open_clip.modified_resnet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackboneError, match=r"here comes without a tokenizer.*petiole\[clip\]"):
        openai_names.tokenizer_beside(tmp_path, "here")
    with pytest.raises(BackboneError, match=r"needs open_clip's image tower"):
        resnet_clip.build(4, {}, {}, "gelu")
    monkeypatch.setattr(quantized, "find_spec", lambda _: None)
    with pytest.raises(BackboneError, match=r"needs bitsandbytes\. Install: .*\[quantized-cuda\]"):
        quantized.pack(tiny.plain(), "bnb-nf4")
    monkeypatch.setattr(openai_names, "FolderTokenizer", lambda *given: given)
    for names in (["tokenizer.json"], ["merges.txt", "vocab.json"]):
        own = tmp_path / names[0]
        own.mkdir()
        for name in names:
            (own / name).touch()
        assert openai_names.tokenizer_beside(own, "here") == (own, "CLIPTokenizer")


def test_text_towers_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(BackboneError, match=r"text encoder in .*'gpt2'"):
        bert.build(tmp_path, meta=True)
    monkeypatch.setattr(siglip, "FolderTokenizer", lambda _: stub(pads_left=True))
    with pytest.raises(BackboneError, match="states padding_side left"):
        siglip.tokenizer_of(tmp_path)
    (tmp_path / "tokenizer.json").touch()

    class Endless:
        pad_token_id = unk_token_id = None

        def __call__(self, _text: str) -> dict[str, list[int]]:
            return {"input_ids": []}

    asked: list[Any] = []
    monkeypatch.setattr(
        transformers.AutoTokenizer,
        "from_pretrained",
        lambda *given, **how: asked.append((given, how)) or Endless(),
    )
    with pytest.raises(BackboneError, match="marks no end and has no padding"):
        tokenizers.FolderTokenizer(tmp_path)
    assert asked == [((str(tmp_path),), {"local_files_only": True})]


def test_pairs_that_do_not_join() -> None:
    def image(local: int) -> Any:
        return stub(name="i", width=4, patches="final.map", width_of={"final.map": local}.get)

    with pytest.raises(BackboneError, match="i has local tokens of 5 numbers and a vector of 4"):
        pair.join("p", image(5), None, {}, None)
    text, scale = stub(config=stub(hidden_size=3)), {"logit_scale": torch.zeros(())}
    with pytest.raises(BackboneError, match=r"p/projections\.safetensors lacks text\.weight"):
        pair.join("p", image(4), text, scale, None)


def test_codebook_models_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="b: a bundle is read from its folder"):
        bundle.load_bundle(LoadRequest("b"), {}, None)
    with pytest.raises(BackboneError, match="b has images of one size"):
        bundle.load_bundle(LoadRequest("b", image_size=9), {}, tmp_path)
    (tmp_path / "tower.json").write_text(json.dumps({"kind": "large"}))
    with pytest.raises(BackboneError, match="a tower of the kind 'large'"):
        bundle.load_tower("b", tmp_path)
    with pytest.raises(BackboneError, match="Linear has no list of blocks"):
        causal.blocks(LAYER)
    with pytest.raises(BackboneError, match="No projection of an attention is known in Linear"):
        causal.attention_layers(LAYER)
    with pytest.raises(
        BackboneError, match=r"No projector 'square'\. Known are linear, mlp2x_gelu"
    ):
        causal.projector("square", 2, 3)
    words = vila_u_files.VilaUTokenizer.__new__(vila_u_files.VilaUTokenizer)
    words.folder, words.inner = tmp_path, stub(get_vocab=lambda: {"<im_start>": 1})
    with pytest.raises(BackboneError, match="does not know <im_start> and <im_end>"):
        words.prompt(marked=True)


def test_language_models_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="'gpt2' is no language model known here"):
        loading._classes({"model_type": "gpt2"})
    with pytest.raises(BackboneError, match="x is read from its folder alone"):
        loading.from_folder(
            LoadRequest("x", weights=tmp_path / "w.pth"), {"model_type": "bert"}, tmp_path
        )


def test_a_hub_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackboneError, match="built-in shape"):
        hub.load(LoadRequest("hf/nobody/nothing", meta=True))

    def away(*_: Any, **__: Any) -> Any:
        raise OSError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", away)
    with pytest.raises(BackboneError, match=r"hf/a/b is neither in the hub's .*\(OSError\)"):
        hub.load(LoadRequest("hf/a/b"))


def test_a_folder_of_timms_names_a_model_of_timms(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="Unknown timm model 'nothing'"):
        timm_models.load_folder(LoadRequest("f"), {"architecture": "nothing"}, tmp_path)
    stated = {"architecture": "test_vit", "pretrained_cfg": {"sharpness": 1}}
    with pytest.raises(
        BackboneError, match=r"config\.json: pretrained_cfg states sharpness, which"
    ):
        timm_models.load_folder(LoadRequest("f"), stated, tmp_path)


def test_classifiers_of_another_kind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="classifier of f has 999 classes, not ImageNet's 1000"):
        classifier._checked(torch.zeros(999, 2), "f")
    with pytest.raises(BackboneError, match="timm/nothing has no ImageNet classifier"):
        classifier.imagenet_rows("timm/nothing")
    rows = torch.zeros(1000, 2, dtype=torch.half)
    for name, found in (("head.weight", True), ("fc.weight", False)):
        monkeypatch.setattr(classifier, "read_safetensors", lambda _, name=name: {name: rows})
        if found:
            assert classifier.imagenet_rows("timm/test_vit", tmp_path).dtype == torch.float32
        else:
            with pytest.raises(BackboneError, match=r"has no head\.weight: its classifier was le"):
                classifier.imagenet_rows("timm/test_vit", tmp_path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda x: ([x, x], x), "several sets of features"),
        (lambda x: (x, [x]), "several sets of features"),
        (lambda x: (x, x), r"its vector is of shape \(2, 3, 4, 4\)"),
    ],
)
def test_networks_that_give_no_features_and_vector(given: Any, said: str) -> None:
    network = nn.Conv2d(3, 3, 1)
    with pytest.raises(BackboneError, match=rf"n \(Conv2d\) does not take .*4 x 4 px.*{said}"):
        trace.traced("n", network, lambda module, images: given(module(images)), (4, 4))


def test_features_that_are_neither_tokens_nor_a_map() -> None:
    network, sized = nn.Conv2d(3, 3, 1), Preprocessing.symmetric(4)
    flat = trace.traced("n", network, lambda m, x: (y := m(x).mean((2, 3)), y)[:2], (4, 4))
    with pytest.raises(BackboneError, match=r"features of shape \(2, 3\), which are\s+neither"):
        BlockNetwork("n", network, sized, lambda m, x: (m(x), m(x)), flat)
    with pytest.raises(BackboneError, match=r"features of shape \(2, 3\), which are no map"):
        cnn.of_trace("n", network, sized, flat)
    with pytest.raises(NotImplementedError, match=r"has no cut block\.0\.in inside"):
        cast("Backbone", tiny.resnet())._lower(torch.zeros(1), "block.0.in")


def test_tokens_of_no_stated_patch_are_a_square_behind_the_rest() -> None:
    network, sized = nn.Conv2d(3, 3, 1), Preprocessing.symmetric(4)

    def run(module: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = module(images).flatten(2)[:, :, :11].transpose(1, 2)
        return tokens, tokens.mean(1)

    found = BlockNetwork("n", network, sized, run, trace.traced("n", network, run, (4, 4)))
    assert (found.grid, found.prefix_tokens, found.depth) == ((3, 3), 2, 0)
    assert found.width_of("final.patches") == 3

    def wide(module: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = module(images)[..., :2]
        return maps, maps.mean((2, 3))

    own = trace.traced("n", network, lambda m, x: ((y := m(x)), y.mean((2, 3))), (4, 6))
    assert own.places == {"final.tokens": trace.Place("", "out", 6)}
    tall = BlockNetwork("n", network, sized, wide, trace.traced("n", network, wide, (4, 4)))
    assert (tall.grid, tall.prefix_tokens, tall.width_of("final.patches")) == ((4, 2), 0, 3)


@pytest.mark.parametrize("meta", [True, False])
def test_a_network_is_put_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch, meta: bool) -> None:
    put: list[str] = []

    def to(device: str) -> None:
        put.append(device)
        if device == "cuda:9":
            raise RuntimeError("no such device")

    monkeypatch.setattr(registry, "resolve", lambda _: stub(to=to))
    registry.load_any(LoadRequest("n", meta=meta), device="cpu")
    assert put == ([] if meta else ["cpu"])
    if not meta:
        with pytest.raises(BackboneError, match=r"n cannot be put on device 'cuda:9': no such"):
            registry.load_any(LoadRequest("n"), device="cuda:9")


def test_patches_tile_the_image_and_a_layer_that_is_not_has_no_roles() -> None:
    assert whole_patches("v", 28, 14) == 28
    assert whole_patches("v", 1, 1) == 1
    for size, near in ((20, 14), (22, 28), (0, 14)):
        with pytest.raises(BackboneError, match=rf"image size of {size} .*e\.g\. {near}\."):
            whole_patches("v", size, 14)
    assert _linear(None, "a", "b") == {}
    assert [(r, s.side, s.width) for r, s in _linear(nn.Linear(2, 3), "a", "b").items()] == [
        ("a", "in", 2),
        ("b", "out", 3),
    ]


def test_backbones_side_by_side_have_nothing_else_in_common() -> None:
    both = JoinedBackbone("a+b", [tiny.resnet(), tiny.resnet()])
    assert both.width_of("final.joined") == both.width == sum(part.width for part in both.parts)
    assert (both.finals, both.cuts, both.sites) == (("final.joined",), (), {})
    for ask, said in (
        (lambda: both.grid, "and no patches"),
        (lambda: both.width_of("final.cls"), r"and no final\.cls"),
        (lambda: both.role_of("0.weight"), r"and no 0\.weight"),
    ):
        with pytest.raises(ConfigError, match=said):
            ask()
    with pytest.raises(NotImplementedError, match=r"a\+b has no cut block\.0\.in inside"):
        both._lower(torch.zeros(1), "block.0.in")


def test_blocks_of_another_class_are_read_from_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vit.timm_blocks, "wrap", lambda *given: given)
    embed = stub(feat_ratio=lambda: 4)
    module = stub(dynamic_img_size=False, patch_embed=embed, blocks=[LAYER])
    for size in ((8, 8), (8, 6)):
        prepared = Preprocessing.symmetric(8).model_copy(update={"size": size})
        assert vit.wrap("v", module, prepared) == ("v", module, prepared)  # type: ignore[comparison-overlap]
    module.dynamic_img_size = True
    with pytest.raises(BackboneError, match="an image size of 6 does not fit"):
        vit.wrap("v", module, prepared)


def test_what_a_vila_u_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same = {"hidden_size": 8, "intermediate_size": 9, "num_hidden_layers": 2}
    same["num_attention_heads"] = 16
    assert vila_u._siglip(8, 9, 2, 32, 4) == {
        "text_config": {**same, "bos_token_id": None, "eos_token_id": None},
        "vision_config": {**same, "image_size": 32, "patch_size": 4},
    }
    assert vila_u._preprocessing(tmp_path, 9) == Preprocessing.symmetric(9)
    (tmp_path / "preprocessor_config.json").touch()
    monkeypatch.setattr(vila_u, "read_preprocessor", lambda *given: given)
    assert vila_u._preprocessing(tmp_path, 9) == (tmp_path, 9)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BackboneError, match="states no rqvaesiglip"):
        vila_u._stated(tmp_path)
    stated = {"n_embed": [7, 7], "code_shape": [3, 3, 2], "latent_shape": [3, 3, 5]}
    assert vila_u._sizes(stated, 3, 5, tmp_path) == (7, 2)
    for odd in (
        {"n_embed": [7, 8]},
        {"code_shape": [3, 4, 2]},
        {"code_shape": [4, 3, 2]},
        {"latent_shape": [3, 3, 6]},
    ):
        with pytest.raises(BackboneError, match="Check pretrained_model"):
            vila_u._sizes({**stated, **odd}, 3, 5, tmp_path)
    with pytest.raises(BackboneError, match="does not state n_embed"):
        vila_u._sizes({**stated, "code_shape": [3, 3]}, 3, 5, tmp_path)


def test_shapes_of_two_towers_without_weights() -> None:
    image = tiny.plain()
    image.module.to("meta")
    small = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
    text = transformers.BertModel(transformers.BertConfig(**small, vocab_size=9))
    maps = {"logit_scale": torch.zeros(1), "text.weight": torch.zeros(6, 4)}
    both = pair.join("p", image, text, maps, None)
    assert both.width == 6
    assert all(p.is_meta for p in both.module.parameters())
    shape = {"hidden_size": 12, "intermediate_size": 8, "num_hidden_layers": 1}
    words = {**shape, "num_attention_heads": 1, "vocab_size": 9, "projection_size": 12}
    eyes = {**shape, "num_attention_heads": 1, "patch_size": 4, "num_patches": 9}
    config = {"text_config": words, "vision_config": eyes}
    budgets = [siglip2.load(LoadRequest("s", image_size=side), config, None).preprocessing.budget for side in (None, 11)]  # fmt: skip
    assert budgets == [9, 4]
