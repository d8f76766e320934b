"""Folders of our own: what comes back, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from petiole.backbones.codebook_lvlm import LVLM, bundle
from petiole.backbones.codebook_lvlm.codebook import digest
from petiole.backbones.registry import LoadRequest, load_any
from petiole.errors import BackboneError
from petiole.testing import codebook_lvlm as tiny


def opened(folder: Path, **wishes: Any) -> LVLM:
    made = load_any(LoadRequest(str(folder), **wishes))
    assert isinstance(made, LVLM)
    return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tiny.Family, Path]:
    """Read only."""
    return tiny.save(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of bundles to be spoilt."""
    tiny.save(tmp_path)
    return tmp_path


def test_what_is_written_comes_back(folders: dict[tiny.Family, Path]) -> None:
    """In half precision, but the codebook to the bit; tied tensors are stored once and tied again."""
    tower = tiny.tower()
    towers = []
    for family, folder in folders.items():
        got, want = opened(folder), tiny.model(family, tower)
        theirs = got.module.state_dict()
        assert theirs.keys() == want.module.state_dict().keys()
        for name, value in want.module.state_dict().items():
            exact = name.startswith("tower.quantiser.") or not value.is_floating_point()
            assert torch.equal(theirs[name], value if exact else value.half().float()), name
        assert got.spec == want.spec
        assert got.discrete
        assert not any(p.requires_grad for p in got.module.parameters())
        assert opened(folder).fingerprint == got.fingerprint
        towers.append(got.tower.image_backbone.fingerprint)
        tied = want.module.language.config.tie_word_embeddings
        words = got.module.language.get_input_embeddings().weight  # type: ignore[operator]
        head = got.module.language.get_output_embeddings().weight  # type: ignore[operator]
        assert (words is head) == tied
    assert len(set(towers)) == 1
    stored = load_file(folders["gpt2"] / "model.safetensors")
    assert "language.lm_head.weight" not in stored


def test_an_opened_model_answers(folders: dict[tiny.Family, Path]) -> None:
    model = opened(folders["gpt2"])
    assert model.tokenizer is not None
    question = model.tokenizer.split("what shape is the red thing ?")
    with torch.no_grad():
        seen = model.tower.encode_images(tiny.pictures(1)).seen
        ids = model.generate(model.turns(seen, [question]), 4)
    assert model.tokenizer.decode(ids[0])


def test_a_shape_needs_no_weights(folders: dict[tiny.Family, Path]) -> None:
    shape = opened(folders["llama"], meta=True)
    assert shape.is_meta
    assert shape.tokenizer is None
    assert shape.parameter_count == tiny.model().parameter_count


def test_a_continuous_twin_says_so(own: Path) -> None:
    twin = tiny.model("gpt2", discrete=False)
    bundle.save_language(twin, tiny.LANGUAGES["gpt2"], "linear", own / "twin")
    assert not opened(own / "twin").discrete


def stated(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text())
    content["codebook"] |= changes
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change", [{"sha256": "0" * 64}, {"tap": 1}, {"grid": [2, 8]}, {"depth": 1}], ids=str
)
def test_a_model_for_another_codebook_is_refused(own: Path, change: dict[str, Any]) -> None:
    stated(own / "llama" / "config.json", **change)
    with pytest.raises(BackboneError, match=next(iter(change))):
        opened(own / "llama")


def test_a_codebook_that_is_not_the_stated_one_is_refused(own: Path) -> None:
    """One bit of one entry."""
    file = own / "tower" / "tower.safetensors"
    tensors = load_file(file)
    tensors["quantiser.codebooks"].view(torch.int32)[0, 3, 5] ^= 1
    assert digest(tensors["quantiser.codebooks"]) != tiny.tower().spec.sha256
    save_file(tensors, file)
    with pytest.raises(BackboneError, match="holds the codebook"):
        opened(own / "gpt2")


def test_damage_is_named(own: Path) -> None:
    content = json.loads((own / "lfm2" / "config.json").read_text())
    del content["codebook"]
    (own / "lfm2" / "config.json").write_text(json.dumps(content))
    with pytest.raises(BackboneError, match="states no codebook"):
        opened(own / "lfm2")
    tensors = load_file(own / "llama" / "model.safetensors")
    tensors.pop("projector.0.weight")
    save_file(tensors, own / "llama" / "model.safetensors")
    with pytest.raises(BackboneError, match=r"projector\.0\.weight"):
        opened(own / "llama")
    (own / "tower" / "tower.json").unlink()
    with pytest.raises(BackboneError, match=r"tower\.json"):
        opened(own / "gpt2")


def test_images_of_another_size_are_refused(folders: dict[tiny.Family, Path]) -> None:
    with pytest.raises(BackboneError, match="image_size"):
        opened(folders["llama"], image_size=32)


def test_the_digest_is_of_little_endian_floats_depth_by_depth() -> None:
    import hashlib
    import struct

    tables = torch.randn(2, 3, 4)
    flat = [x for table in tables for entry in table for x in entry.tolist()]
    want = hashlib.sha256(struct.pack(f"<{len(flat)}f", *flat)).hexdigest()
    assert digest(tables) == digest(tables.double()) == want
    assert digest(torch.nn.Parameter(tables)) == want, "where it is trained, too"
    assert digest(tables.flip(0)) != want
