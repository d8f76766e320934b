"""OpenAI's and open_clip's own files against open_clip's own forward."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from petiole.backbones.dual_encoder.towers import TwoTowers
from petiole.backbones.registry import load
from petiole.errors import BackboneError
from petiole.testing import backbones as tiny

open_clip = pytest.importorskip("open_clip", reason="needs open_clip_torch (petiole[clip])")

VISION = {"layers": 2, "width": 128, "patch_size": 14, "image_size": 28}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}


@pytest.fixture(scope="module")
def theirs() -> Any:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    with tiny.seeded():
        model = CLIP(32, CLIPVisionCfg(**VISION), CLIPTextCfg(**TEXT), quick_gelu=True)
        return tiny.shaken(model).eval()


def check(towers: Any, theirs: Any) -> None:
    assert isinstance(towers, TwoTowers)
    images = tiny.images(towers)
    texts = ["a photo of a cat.", "dog's toy"]
    tokenize = open_clip.tokenizer.SimpleTokenizer(context_length=16)
    ids = tokenize(texts)
    mark = towers.text.tokenizer
    assert mark is not None
    rows = [[mark.start, *mark(text), mark.end] for text in texts]
    longest = max(map(len, rows))
    ours = torch.tensor([[*row, *[mark.end] * (longest - len(row))] for row in rows])
    with torch.no_grad():
        torch.testing.assert_close(
            towers.lower(images, ("final.image",))["final.image"],
            theirs.encode_image(images),
            rtol=1e-4,
            atol=1e-5,
        )
        torch.testing.assert_close(
            towers.encode(ours), theirs.encode_text(ids), rtol=1e-4, atol=1e-5
        )
    torch.testing.assert_close(towers.scale, theirs.logit_scale.exp())


# OpenAI's files are traces, so the test must make one.
@pytest.mark.filterwarnings(
    "ignore:`torch.jit.trace:FutureWarning", "ignore::torch.jit.TracerWarning"
)
def test_a_torchscript_file_is_read_and_none_of_its_code_run(
    tmp_path: Path, theirs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ViT-tiny.pt"
    example = torch.zeros(1, 3, 28, 28), torch.zeros(1, 16, dtype=torch.long)
    torch.jit.trace(theirs, example, strict=False, check_trace=False).save(str(file))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("code of the archive must not run")

    monkeypatch.setattr(torch.jit, "load", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    check(load(str(file)), theirs)


def test_an_archive_that_calls_for_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> object:
            return print, ("run",)

    file = tmp_path / "evil.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps(Evil()))
        archive.writestr("evil/code/x.py", "")
    with pytest.raises(
        BackboneError, match=r"evil\.pt: is not a readable TorchScript archive.*print"
    ):
        load(str(file))


@pytest.mark.parametrize("content", [b"", b"no zip file at all"])
def test_another_file_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "ViT.pt"
    file.write_bytes(content)
    with pytest.raises(BackboneError, match=r"ViT\.pt: is not a readable TorchScript archive"):
        load(str(file))


def open_clip_folder(folder: Path, theirs: Any, **odd: object) -> Path:
    folder.mkdir()
    model = {"embed_dim": 32, "quick_gelu": True, "vision_cfg": {**VISION, **odd}, "text_cfg": TEXT}
    config = {"model_cfg": model, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(
        {k: v.clone() for k, v in theirs.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    return folder


def test_a_folder_of_open_clips_is_the_same_function(tmp_path: Path, theirs: Any) -> None:
    towers = load(str(open_clip_folder(tmp_path / "model", theirs)))
    assert towers.preprocessing.std == (0.25, 0.25, 0.25)
    check(towers, theirs)


def test_what_is_no_plain_clip_is_refused(tmp_path: Path, theirs: Any) -> None:
    folder = open_clip_folder(tmp_path / "model", theirs, attentional_pool=True)
    with pytest.raises(BackboneError, match=r"no plain CLIP.*vision_cfg\.attentional_pool"):
        load(str(folder))
