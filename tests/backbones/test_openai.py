"""OpenAI's and open_clip's own files against open_clip's own forward."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from petiole.backbones.dual_encoder.open_clip import prepared
from petiole.backbones.dual_encoder.resnet_clip import is_resnet, resnet_config
from petiole.backbones.dual_encoder.towers import TwoTowers
from petiole.backbones.registry import load
from petiole.data.preprocessing import evaluate_transform
from petiole.errors import BackboneError
from petiole.testing import backbones as tiny
from petiole.testing import check_backbone

open_clip = pytest.importorskip("open_clip", reason="needs open_clip_torch (petiole[clip])")

VISION: dict[str, dict[str, Any]] = {
    "vit": {"layers": 2, "width": 128, "patch_size": 14, "image_size": 28},
    "resnet": {"layers": [1, 2, 1, 1], "width": 16, "image_size": 64},
}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}


@pytest.fixture(scope="module", params=VISION)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def theirs(kind: str) -> Any:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    with tiny.seeded():
        model = CLIP(32, CLIPVisionCfg(**VISION[kind]), CLIPTextCfg(**TEXT), quick_gelu=True)
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
    tmp_path: Path, theirs: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / f"{kind}.pt"
    size = VISION[kind]["image_size"]
    example = torch.zeros(1, 3, size, size), torch.zeros(1, 16, dtype=torch.long)
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


def open_clip_folder(folder: Path, kind: str, theirs: Any, **odd: object) -> Path:
    folder.mkdir()
    model = {
        "embed_dim": 32,
        "quick_gelu": True,
        "vision_cfg": {**VISION[kind], **odd},
        "text_cfg": TEXT,
    }
    config = {"model_cfg": model, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(
        {k: v.clone() for k, v in theirs.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    return folder


def test_a_folder_of_open_clips_is_the_same_function(
    tmp_path: Path, kind: str, theirs: Any
) -> None:
    folder = open_clip_folder(tmp_path / "model", kind, theirs)
    towers = load(str(folder))
    assert load(str(folder), device="meta").parameter_count == towers.parameter_count
    assert towers.preprocessing.std == (0.25, 0.25, 0.25)
    check(towers, theirs)


def test_a_resnets_shape_is_read_off_its_tensors() -> None:
    names = [f"visual.layer{s}.{b}.conv1.weight" for s in range(1, 5) for b in range(s + 1)]
    names += ["visual.layer4.4.bn1.weight", "visual.layer4.4.bn1.bias"]
    tensors = {name: torch.zeros(6, 3, 1, 1) for name in names}
    tensors["visual.attnpool.positional_embedding"] = torch.zeros(1 + 7**2, 12)
    assert is_resnet(tensors)
    assert resnet_config(tensors) == {"layers": [2, 3, 4, 5], "width": 6, "image_size": 7 * 32}
    assert not is_resnet({"visual.conv1.weight": torch.zeros(1)})


def test_a_resnets_local_tokens_are_what_its_pool_makes_of_a_lone_position(
    tmp_path: Path, kind: str, theirs: Any
) -> None:
    if kind != "resnet":
        pytest.skip("a vision transformer projects its tokens")
    towers = load(str(open_clip_folder(tmp_path / "model", kind, theirs)))
    check_backbone(towers)
    images = tiny.images(towers)
    patches = towers.lower(images, ("final.patches",))["final.patches"]
    assert patches.shape == (3, 4, 32)
    pool = theirs.visual.attnpool
    with torch.no_grad():
        maps = theirs.visual.forward_intermediates(images)["image_intermediates"][-1]
        want = pool.c_proj(pool.v_proj(maps[:, :, 1, 0]))
    torch.testing.assert_close(patches[:, 2], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
def test_images_are_prepared_as_open_clip_does(mode: str) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    stated = {"size": 32, "resize_mode": mode, "fill_color": 9, "interpolation": "bilinear"}
    theirs = image_transform_v2(PreprocessCfg(**stated), is_train=False)
    ours = evaluate_transform(prepared(stated, 32, "here"))
    for width, height in ((60, 30), (20, 60)):
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(noise)
        torch.testing.assert_close(ours(image), theirs(image), rtol=0, atol=1e-6)
    with pytest.raises(BackboneError, match="preprocess_cfg states sharpen"):
        prepared({"sharpen": 1}, 32, "here")


def test_what_is_no_plain_clip_is_refused(tmp_path: Path, kind: str, theirs: Any) -> None:
    folder = open_clip_folder(tmp_path / "model", kind, theirs, attentional_pool=True)
    with pytest.raises(BackboneError, match=r"no plain CLIP.*vision_cfg\.attentional_pool"):
        load(str(folder))
