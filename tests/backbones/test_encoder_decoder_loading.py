"""Encoder-decoders from folders and files: whole, or refused with a word on what to do."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from builders import seq2seq as tiny
from petiole.backbones.encoder_decoder import Seq2Seq, stored
from petiole.backbones.encoder_decoder.loading import load_language_model
from petiole.backbones.registry import LoadRequest, load_any, load_backbone
from petiole.data.features.hdf5 import RegionFiles
from petiole.errors import BackboneError, ConfigError

MODEL = "model.safetensors"
FAMILIES = ("bart", "t5")


def folder_of(made: Seq2Seq, folder: Path) -> Path:
    stored.write(made, folder)
    tiny.save_tokenizer(folder, made.config.model_type)
    return folder


@pytest.fixture
def bart(tmp_path: Path) -> Path:
    return folder_of(tiny.model("bart", visual=False), tmp_path / "bart")


def same(one: Seq2Seq, other: Seq2Seq) -> None:
    batch = tiny.inputs() if one.vision_width else tiny.text_of(tiny.inputs())
    assert torch.equal(tiny.scores(one, batch), tiny.scores(other, batch))


@pytest.mark.parametrize("kind", list(tiny.CONFIGS))
@pytest.mark.parametrize("visual", [False, True])
def test_a_written_model_loads_again(kind: str, visual: bool, tmp_path: Path) -> None:
    made = tiny.model(kind, visual=visual)
    again = load_language_model(str(folder_of(made, tmp_path / kind)))
    same(made, again)
    assert again.fingerprint == made.fingerprint
    assert again.trained_visual == visual
    assert again.tokenizer is not None
    assert again.tokenizer.decode(again.tokenizer("what is red")) == "what is red"
    end = again.config.eos_token_id
    assert again.tokenizer("what is red two dog", 4)[-1] == end
    assert len(again.tokenizer("what is red two dog", 4)) == 4


def test_the_norms_of_a_stored_block_are_seen_from_its_tensors(tmp_path: Path) -> None:
    made = tiny.model("bart", norms="sum")
    folder = str(folder_of(made, tmp_path / "model"))
    same(made, load_language_model(folder))
    with pytest.raises(BackboneError, match="norms=sum, not 12 and each"):
        load_language_model(folder, options={"norms": "each"})
    with pytest.raises(BackboneError, match="width 12"):
        load_language_model(folder, vision_width=13)
    assert load_language_model(folder, options={"boxes": "grid"}).module.visual is not None


def test_files_of_the_bare_bart_model_are_read_too(bart: Path) -> None:
    tensors = load_file(bart / MODEL)
    before = load_language_model(str(bart))
    bare = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    assert "shared.weight" in bare
    save_file(bare, bart / MODEL, {"format": "pt"})
    same(before, load_language_model(str(bart)))


def test_fresh_vision_are_asked_for_by_the_width_of_what_they_see(bart: Path) -> None:
    one, two = (load_language_model(str(bart), vision_width=7) for _ in range(2))
    assert one.vision_width == 7
    assert not one.trained_visual
    assert one.fingerprint == two.fingerprint
    assert load_language_model(str(bart)).vision_width == 0
    with pytest.raises(ConfigError, match="box"):
        load_language_model(str(bart), vision_width=7, options={"box": "grid"})


@pytest.mark.parametrize("damage", ["gone", "truncated", "incomplete", "deeper", "other words"])
def test_weights_that_are_not_the_whole_model_are_refused(bart: Path, damage: str) -> None:
    file = bart / MODEL
    tensors = load_file(file)
    match damage:
        case "gone":
            file.unlink()
        case "truncated":
            file.write_bytes(file.read_bytes()[:-50])
        case "incomplete":
            rest = {k: v for k, v in tensors.items() if "encoder.layers.1.fc2" not in k}
            save_file(rest, file, {"format": "pt"})
        case "deeper":
            more = {**tensors, "model.encoder.layers.2.fc1.bias": torch.zeros(24)}
            save_file(more, file, {"format": "pt"})
        case _:
            config = json.loads((bart / "config.json").read_text())
            (bart / "config.json").write_text(json.dumps({**config, "vocab_size": 41}))
    with pytest.raises(BackboneError, match="Copy the model again, whole"):
        load_language_model(str(bart))


@pytest.mark.parametrize("damage", ["gone", "truncated", "of a larger model"])
def test_a_tokenizer_that_is_not_the_models_is_refused(bart: Path, damage: str) -> None:
    file = bart / "tokenizer.json"
    match damage:
        case "gone":
            file.unlink()
        case "truncated":
            file.write_text(file.read_text()[:-50])
        case _:
            content = json.loads(file.read_text())
            content["model"]["vocab"] |= {f"word{i}": 15 + i for i in range(40)}
            file.write_text(json.dumps(content))
    with pytest.raises(BackboneError, match="tokenizer"):
        load_language_model(str(bart))


def test_a_language_model_is_no_image_backbone_and_has_no_image_size(bart: Path) -> None:
    with pytest.raises(BackboneError, match="is a language model"):
        load_backbone(str(bart))
    with pytest.raises(BackboneError, match="no image size"):
        load_any(LoadRequest(str(bart), image_size=224))
    with pytest.raises(BackboneError, match="is no encoder-decoder"):
        load_language_model("petiole/tiny-vit")


def test_the_hubs_names_are_found_in_its_cache(bart: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[str] = []

    def cached(name: str, **_: object) -> str:
        asked.append(name)
        return str(bart)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    made = load_language_model("clip-bart-base-video")
    assert asked == ["facebook/bart-base"]
    assert made.name == "clip-bart-base-video"
    assert made.vision_width == 512


# Files of VL-T5 and VL-Adapter


def as_vl_t5(made: Seq2Seq) -> dict[str, Tensor]:
    """The state dict that the released code saves of such a model: ties and all."""
    state: dict[str, Tensor] = dict(made.module.language.state_dict())
    block: Any = made.module.visual
    at = "model." if made.config.model_type == "bart" else ""
    words = torch.cat([state[f"{at}shared.weight"], block.codes.detach()])
    for name in ("encoder.embed_tokens", "decoder.embed_tokens", "shared"):
        state[f"{at}{name}.weight"] = words
    state["lm_head.weight"] = words
    if at:
        state["final_logits_bias"] = torch.zeros(1, len(words))
    eyes = f"{at}encoder.visual_embedding."
    state[f"{eyes}obj_order_embedding.weight"] = words
    state[f"{eyes}img_order_embedding.weight"] = block.images.weight
    for theirs, ours in (
        ("feat_embedding.0", block.features),
        ("feat_embedding.1", block.feature_norm),
        ("absolute_vis_pos_embedding.0", block.boxes),
        ("absolute_vis_pos_embedding.1", block.box_norm),
        ("layer_norm", block.norm),
    ):
        for leaf, value in ours.named_parameters():
            state[f"{eyes}{theirs}.{leaf}"] = value
    return state


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("norms", ["each", "sum"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_checkpoint_of_vl_t5_gives_the_model_that_was_saved(
    kind: str, norms: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny.model(kind, norms=norms)
    folder = folder_of(tiny.model(kind, visual=False), tmp_path / "language")
    tensors = load_file(folder / MODEL)
    save_file(
        {k: torch.zeros_like(v) for k, v in tensors.items()}, folder / MODEL, {"format": "pt"}
    )
    state, file = as_vl_t5(made), tmp_path / f"LAST{suffix}"
    if suffix == ".pth":
        torch.save({f"module.{name}": value for name, value in state.items()}, file)
    else:
        save_file({name: value.detach().clone() for name, value in state.items()}, file)
    monkeypatch.setattr(torch, "load", None)  # nothing may be unpickled
    again = load_language_model(str(folder), weights=file)
    same(made, again)
    assert again.trained_visual
    assert again.fingerprint == made.fingerprint


def test_a_whole_module_state_dict_with_its_metadata_is_read(tmp_path: Path) -> None:
    language = tiny.model("t5", visual=False)
    folder, file = folder_of(language, tmp_path / "t5"), tmp_path / "own.bin"
    torch.save(language.module.language.state_dict(), file)
    same(language, load_language_model(str(folder), weights=file))


def test_weights_need_no_model_file_beside_the_tokenizer(bart: Path, tmp_path: Path) -> None:
    want, file = load_language_model(str(bart)), tmp_path / "moved.safetensors"
    (bart / MODEL).rename(file)
    same(want, load_language_model(str(bart), weights=file))


class Evil:
    def __reduce__(self) -> object:
        return print, ("run",)


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        ("adapters", "no place for"),
        ("other vocabulary", "46 word embeddings"),
        ("no codes", "40 word embeddings and a V->L block"),
        ("strange eyes", "no V->L block known here"),
        ("no images", "missing"),
        ("code", "not a readable archive"),
        ("no tensors", "more than a table"),
        ("suffix", "are read from"),
        ("gone", "no such file"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    bart: Path, tmp_path: Path, damage: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made, file = tiny.model("bart"), tmp_path / "LAST.pth"
    state: dict[str, Any] = as_vl_t5(made)
    eyes = "model.encoder.visual_embedding."
    match damage:
        case "adapters":
            state["model.encoder.layers.0.attn_adapter.adapters.vqa.down.weight"] = torch.zeros(2)
        case "other vocabulary":
            state = {k: v for k, v in state.items() if "visual" not in k}
            state["model.shared.weight"] = torch.zeros(46, tiny.WIDTH)
        case "no codes":
            state["model.shared.weight"] = torch.zeros(40, tiny.WIDTH)
        case "strange eyes":
            state[f"{eyes}relative.weight"] = torch.zeros(2)
        case "no images":
            del state[f"{eyes}img_order_embedding.weight"]
        case "code":
            state["model.shared.weight"] = Evil()
        case "no tensors":
            state = {"epoch": 3, "model": state}
        case "suffix":
            file = file.with_suffix(".ckpt")
        case _:
            pass
    if damage != "gone":
        torch.save(state, file, pickle_module=pickle)
    with pytest.raises(BackboneError, match=word):
        load_language_model(str(bart), weights=file)
    assert capsys.readouterr().out == ""


def test_the_place_of_a_code_counts_from_the_last_row(bart: Path, tmp_path: Path) -> None:
    made, file = tiny.model("bart"), tmp_path / "LAST.pth"
    state = as_vl_t5(made)
    torch.save(state, file)
    again: Any = load_language_model(str(bart), weights=file)
    assert torch.equal(again.module.visual.codes[-1], state["model.shared.weight"][-1])
    one = replace(tiny.inputs(places=1), boxes=None)
    changed = state["model.shared.weight"].clone()
    changed[-1] += 1
    tied = [k for k in state if k.endswith((*stored.WORDS, "obj_order_embedding.weight"))]
    torch.save({**state, **dict.fromkeys(tied, changed)}, file)
    other = load_language_model(str(bart), weights=file)
    assert not torch.equal(tiny.scores(again, one), tiny.scores(other, one))


def test_boxes_of_a_file_reach_the_block_as_in_vl_t5(tmp_path: Path) -> None:
    """VL-T5's loader (pixels x1 y1 x2 y2 over width and height) and its module, which names them otherwise, together."""
    h5py = pytest.importorskip("h5py")
    made = tiny.model("bart", boxes="given")
    pixels = torch.tensor([[10.0, 20.0, 60.0, 40.0], [0.0, 0.0, 100.0, 50.0]])
    features = torch.randn(2, tiny.SEEN, generator=torch.Generator().manual_seed(5))
    with h5py.File(tmp_path / "val.h5", "w") as file:
        group = file.create_group("7")
        group["features"], group["boxes"] = features.numpy(), pixels.numpy()
        group["img_w"], group["img_h"] = 100.0, 50.0
    read = RegionFiles(tmp_path / "val.h5")("7")
    assert read.boxes is not None
    block: Any = made.module.visual
    with torch.no_grad():
        tokens, boxes = torch.from_numpy(read.tokens), torch.from_numpy(read.boxes)
        got = block(tokens[None], boxes[None], 1)
        pos = pixels / torch.tensor([100.0, 50.0, 100.0, 50.0])
        height, width = pos[:, 3] - pos[:, 2], pos[:, 1] - pos[:, 0]  # as the module has it
        where = block.boxes(torch.cat([pos, (height * width)[:, None]], dim=1))
        want = block.feature_norm(block.features(features)) + block.box_norm(where)
        want = want + block.images.weight[0] + block.codes.flip(0)[:2]
    torch.testing.assert_close(got[0], want, rtol=1e-5, atol=1e-5)
