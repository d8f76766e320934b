"""The file of a tuned encoder: what it opens before, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from petiole.backbones.codebook_lvlm import LVLM
from petiole.engine.adapter import find, kind_of, read_manifest
from petiole.errors import AdapterError, ConfigError
from petiole.files import write_sealed
from petiole.methods.registry import methods, settings_of
from petiole.tasks.codebook.adapter import (
    CodebookAdapter,
    Frequencies,
    build_model,
    is_lvlm_method,
    method_of,
)
from petiole.tasks.codebook.model import AdaptedCodebookModel
from petiole.testing import codebook_lvlm as tiny

METHODS = [name for name in methods() if is_lvlm_method(name)]
LANGUAGE = ("projector-ft", "llm-lora")


def made(
    folder: Path, name: str = "craft", model: LVLM | None = None, **settings: Any
) -> AdaptedCodebookModel:
    """A file whose encoder, projector or language model has moved."""
    continuous = methods()[name].cls.discrete is False  # type: ignore[attr-defined]
    model = model or tiny.model(discrete=not continuous)
    method = method_of(name, settings)
    torch.manual_seed(0)
    adapted = build_model(method, model)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.03 * torch.randn(parameter.shape)
    share = torch.rand(2, tiny.DEPTH, tiny.ENTRIES)
    CodebookAdapter.of(
        adapted.eval(), Frequencies(*share), method=name, settings=settings_of(method)
    ).save(folder)
    return adapted


@pytest.mark.parametrize("name", METHODS)
def test_a_file_opens_bit_for_bit_before_a_fresh_model(name: str, tmp_path: Path) -> None:
    adapted = made(tmp_path, name)
    fresh = tiny.model(discrete=adapted.model.discrete)
    opened = CodebookAdapter.load(tmp_path, backbone=fresh)
    assert not any(part.training for part in opened.adapted.modules())
    theirs = opened.adapted.state_dict()
    assert theirs.keys() == adapted.state_dict().keys()
    assert all(torch.equal(value, theirs[n]) for n, value in adapted.state_dict().items())
    assert torch.equal(
        opened.frequencies.tuned, load_file(tmp_path / "adapter.safetensors")["frequencies.tuned"]
    )
    pictures, asked = tiny.pictures(), ["what is at left ?"] * 3
    with torch.no_grad():
        vision_output, again = (
            adapted.encode_images(pictures),
            opened.adapted.encode_images(pictures),
        )
        assert torch.equal(vision_output.seen, again.seen)
        assert adapted.answer(vision_output, asked, longest=5) == opened.adapted.answer(
            again, asked, longest=5
        )
    manifest = opened.manifest
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert manifest.ledger.trainable == trained
    assert opened.details.language == (name in LANGUAGE)
    assert opened.details.whole == (name not in (*LANGUAGE, "lvlm-zero-shot"))
    assert kind_of(tmp_path) == "codebook"


@pytest.mark.parametrize("name", METHODS)
def test_an_encoder_opens_before_other_models_and_a_changed_language_side_does_not(
    name: str, tmp_path: Path
) -> None:
    adapted = made(tmp_path, name)
    other = tiny.model("gpt2", discrete=adapted.model.discrete)
    before = tiny.hashes(other)
    if name in LANGUAGE:
        with pytest.raises(AdapterError, match="changed the language side"):
            CodebookAdapter.load(tmp_path, backbone=other)
        return
    opened = CodebookAdapter.load(tmp_path, backbone=other)
    with torch.no_grad():
        codes = opened.adapted.encode_images(tiny.pictures()).codes
        assert torch.equal(codes, adapted.encode_images(tiny.pictures()).codes)
    assert tiny.hashes(other) == before


def test_another_codebook_is_refused_by_its_hash(tmp_path: Path) -> None:
    made(tmp_path)
    with pytest.raises(AdapterError, match="sha256"):
        CodebookAdapter.load(tmp_path, backbone=tiny.model(over=tiny.tower(seed=5)))


def other_tower(seed: int = 5) -> LVLM:
    """The same codebook behind an encoder with other weights."""
    tower = tiny.tower()
    with torch.no_grad():
        tower.encoder.blocks[0].mlp.fc1.weight += 0.1 * torch.randn(
            tower.encoder.blocks[0].mlp.fc1.weight.shape,
            generator=torch.Generator().manual_seed(seed),
        )
    return tiny.model(over=tower)


def test_layers_need_their_encoder_and_a_whole_one_needs_none(tmp_path: Path) -> None:
    adapted = made(tmp_path / "whole")
    opened = CodebookAdapter.load(tmp_path / "whole", backbone=other_tower())
    with torch.no_grad():
        assert torch.equal(
            opened.adapted.encode_images(tiny.pictures()).z,
            adapted.encode_images(tiny.pictures()).z,
        )
    for encoder in ("lora-qkv", "peft:lora"):
        made(tmp_path / encoder, encoder=encoder)
        CodebookAdapter.load(tmp_path / encoder, backbone=tiny.model("gpt2"))
        with pytest.raises(AdapterError, match="fingerprint"):
            CodebookAdapter.load(tmp_path / encoder, backbone=other_tower())


def rewritten(folder: Path, **changes: Any) -> None:
    file = folder / "adapter.json"
    write_sealed(file, json.loads(file.read_text()) | changes)


def test_golden_tokens_are_replayed(tmp_path: Path) -> None:
    made(tmp_path, encoder="lora-qkv")
    golden = read_manifest(tmp_path).golden
    assert len(golden) == 64
    rewritten(tmp_path, golden=[golden[0] + 0.1, *golden[1:]])
    with pytest.raises(AdapterError, match="golden input"):
        CodebookAdapter.load(tmp_path, backbone=tiny.model())
    rewritten(tmp_path, golden=[*golden[:-1], float("nan")])
    with pytest.raises(AdapterError):
        CodebookAdapter.load(tmp_path, backbone=tiny.model())
    # Weights other than those that its fingerprint was taken of give themselves away as well.
    rewritten(tmp_path, golden=golden)
    model = tiny.model()
    assert model.tower.image_backbone.fingerprint == read_manifest(tmp_path).details["encoder"]
    with torch.no_grad():
        model.tower.encoder.blocks[1].mlp.fc1.weight *= 3
    with pytest.raises(AdapterError, match="golden input"):
        CodebookAdapter.load(tmp_path, backbone=model)


def test_damage_is_refused(tmp_path: Path) -> None:
    made(tmp_path)
    file = tmp_path / "adapter.safetensors"
    tensors = load_file(file)
    tensors["frequencies.tuned"][0, 0] += 1
    save_file(tensors, file)
    with pytest.raises(AdapterError, match="checksum"):
        CodebookAdapter.load(tmp_path, backbone=tiny.model())
    made(tmp_path)
    rewritten(tmp_path, settings={"no_such": 1})
    with pytest.raises(AdapterError, match="no_such"):
        CodebookAdapter.load(tmp_path, backbone=tiny.model())
    rewritten(tmp_path, format=3)
    with pytest.raises(AdapterError, match="another version"):
        CodebookAdapter.load(tmp_path, backbone=tiny.model())
    rewritten(tmp_path, kind="else")
    assert kind_of(tmp_path) != "codebook"
    with pytest.raises(AdapterError):
        CodebookAdapter.load(tmp_path, backbone=tiny.model())
    rewritten(tmp_path, format=2, kind="text")
    with pytest.raises(AdapterError, match=r"kind text, and .* kind codebook is wanted"):
        read_manifest(find(tmp_path), kind="codebook")
    with pytest.raises(AdapterError):
        CodebookAdapter.load(tmp_path / "nothing", backbone=tiny.model())


def test_models_are_found_by_name(tmp_path: Path) -> None:
    """A file opens before any bundle over its tower, named by folder; a run folder will do as well."""
    folders = tiny.save(tmp_path / "bundle")
    from petiole.backbones.codebook_lvlm.bundle import load_bundle
    from petiole.backbones.registry import LoadRequest
    from petiole.backbones.weights import read_json

    home = folders["llama"]
    model = load_bundle(LoadRequest(str(home)), read_json(home / "config.json"), home)
    made(tmp_path / "run" / "adapter", model=model)
    assert kind_of(tmp_path / "run") == "codebook"
    own = CodebookAdapter.load(tmp_path / "run")
    assert own.adapted.model.fingerprint == model.fingerprint
    other = CodebookAdapter.load(tmp_path / "run", backbone=str(folders["gpt2"]))
    with torch.no_grad():
        assert torch.equal(
            own.adapted.encode_images(tiny.pictures()).codes,
            other.adapted.encode_images(tiny.pictures()).codes,
        )


def test_methods_for_images_have_no_such_file() -> None:
    for name in ("houlsby", "linear-probe", "vl-adapter"):
        assert not is_lvlm_method(name)
        with pytest.raises(ConfigError, match="craft"):
            method_of(name, {})
