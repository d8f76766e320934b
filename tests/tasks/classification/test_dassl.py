"""Checkpoints of the prompt-learning family, written as Dassl writes them."""

from __future__ import annotations

import json
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from builders.cli import run
from methods.test_prompts import NAMES, adapted, shaken
from petiole.backbones.frozen_network import IMAGES
from petiole.errors import AdapterError, BackboneError
from petiole.tasks.classification import dassl
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.dassl import import_dassl
from petiole.testing import backbones as tiny
from petiole.testing import dual_encoder as clips


def save(path: Path, state: dict[str, Tensor], *, extra: object = None) -> Path:
    """As ``dassl.utils.save_checkpoint``: half-precision values, optimiser, a scheduler object, a numpy score."""
    weight = torch.nn.Parameter(torch.zeros(3))
    optimiser = torch.optim.SGD([weight], lr=0.002, momentum=0.9)
    weight.grad = torch.ones(3)
    optimiser.step()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 50)
    content = {
        "state_dict": OrderedDict((k, v.half()) for k, v in state.items()),
        "epoch": 50,
        "optimizer": optimiser.state_dict(),
        "scheduler": {"successor": scheduler, "last_epoch": 50},
        "val_result": np.float64(0.9),
        "extra": extra,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, path)
    return path


def theirs(name: str, **settings: Any) -> tuple[Any, dict[str, Tensor]]:
    """Our model with values that half precision holds, and what the family calls them."""
    built = shaken(adapted(name, **settings))
    with torch.no_grad():
        for p in built.parameters():
            p.copy_(p.half().float())
    own = built.state_dict()
    table = {
        "coop": {"ctx": "text/embed.value"},
        "cocoop": {"ctx": "text/embed.value"},
        "maple": {
            "prompt_learner.ctx": "text/embed.value",
            "prompt_learner.proj.weight": "embed.rows.map.weight",
            "prompt_learner.proj.bias": "embed.rows.map.bias",
            "prompt_learner.compound_prompts_text.0": "text/block/1/in.rows.value",
            "prompt_learner.compound_prompts_text.1": "text/block/2/in.rows.value",
            **{
                f"prompt_learner.compound_prompt_projections.{i}.{p}": f"block/{i + 1}/in.rows.map.{p}"
                for i in (0, 1)
                for p in ("weight", "bias")
            },
        },
        "ivlp": {
            "prompt_learner.ctx": "text/embed.value",
            "image_encoder.VPT": "embed.rows.value",
            **{
                f"{tower}_encoder.transformer.resblocks.{i}.VPT_shallow": f"{at}block/{i}/in.rows.value"
                for i in (1, 2)
                for tower, at in (("image", ""), ("text", "text/"))
            },
        },
    }[name]
    state = {key: own[f"attach.{ours}"] for key, ours in table.items()}
    if name == "cocoop":
        for i, ours in ((1, 0), (2, 2)):
            for p in ("weight", "bias"):
                state[f"meta_net.linear{i}.{p}"] = own[f"head.meta.{ours}.{p}"]
    state |= {  # what must be left out
        "token_prefix": torch.ones(3, 1, 20),
        "token_suffix": torch.ones(3, 9, 20),
        "image_encoder.proj": torch.ones(24, 18),
        "text_encoder.transformer.resblocks.1.ln_1.weight": torch.ones(20),
        "logit_scale": torch.ones(()),
    }
    return built, state


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("coop", {}),
        ("coop", {"context": 5, "phrase": ""}),
        ("coop", {"phrase": "", "class_specific": True}),
        ("cocoop", {}),
        ("maple", {}),
        ("ivlp", {}),
    ],
)
def test_an_imported_checkpoint_answers_as_the_model_it_came_from(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    built, state = theirs(name, **settings)
    file = save(tmp_path / "model.pth.tar-50", state)
    adapter = import_dassl(file, clips.towers(), NAMES)
    assert adapter.manifest.method == name
    assert not any(part.training for part in adapter.adapted.modules())
    adapter.save(tmp_path / "adapter")
    again = ClassificationAdapter.load(tmp_path / "adapter", backbone=clips.towers())
    images = tiny.images(built.backbone)
    with torch.no_grad():
        want = built({IMAGES: images}).logits
        assert torch.equal(again.adapted({IMAGES: images}).logits, want)


def test_nothing_in_a_checkpoint_runs(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> object:
            return Path.touch, (tmp_path / "ran",)

    _, state = theirs("coop")
    adapter = import_dassl(save(tmp_path / "m.tar", state, extra=Evil()), clips.towers(), NAMES)
    assert adapter.manifest.method == "coop"
    assert not (tmp_path / "ran").exists()


def test_what_does_not_fit_or_cannot_be_read_says_why(tmp_path: Path) -> None:
    towers = clips.towers()
    _, state = theirs("coop")
    wide = {**state, "ctx": torch.zeros(4, 512)}
    with pytest.raises(AdapterError, match=r"4 x 512 in the file, 4 x 20 here"):
        import_dassl(save(tmp_path / "a", wide), towers, NAMES)
    _, own = theirs("coop", phrase="", class_specific=True)
    with pytest.raises(AdapterError, match=r"3 x 4 x 20 in the file, 2 x 4 x 20 here"):
        import_dassl(save(tmp_path / "b", own), towers, NAMES[:2])
    kd = {**state, "VPT_image_trans.conv1.0.weight": torch.zeros(2, 2)}
    with pytest.raises(AdapterError, match="lacks the teacher or the cache"):
        import_dassl(save(tmp_path / "c", kd), towers, NAMES)
    with pytest.raises(AdapterError, match="no learned context"):
        import_dassl(save(tmp_path / "d", {"logit_scale": torch.ones(())}), towers, NAMES)
    torch.save({"model": {}}, tmp_path / "e")
    with pytest.raises(AdapterError, match="has no state_dict"):
        import_dassl(tmp_path / "e", towers, NAMES)
    (tmp_path / "f").write_bytes(b"not a zip file")
    with pytest.raises(BackboneError, match="not a readable archive"):
        import_dassl(tmp_path / "f", towers, NAMES)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backbone = clips.folder(tmp_path / "model", tokenizer=True)
    file = save(tmp_path / "model.pth.tar-50", theirs("maple")[1])
    command = ["import-dassl", file, "--backbone", backbone, "--out", tmp_path / "adapter"]
    assert run(*command, "--classes", *NAMES, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["method"], result["classes"]) == ("maple", len(NAMES))
    assert run("inspect", tmp_path / "adapter", "--json") == 0
    assert json.loads(capsys.readouterr().out)["facts"]["classes"] == list(NAMES)
    assert run(*command, "--classes", *NAMES) == 1
    assert "exists already" in capsys.readouterr().err
    assert run(*command) == 1
    assert "either --classes NAME... or --images" in " ".join(capsys.readouterr().err.split())


def test_names_and_shapes_of_a_checkpoint_say_what_it_is() -> None:
    def made(**shapes: tuple[int, ...]) -> tuple[list[str], Any]:
        state = {key.replace("__", "."): torch.zeros(shape) for key, shape in shapes.items()}
        tensors = dict(dassl._renamed({**state, "prompt_learner.token_prefix": 1}))
        return sorted(tensors), dassl._settings(tensors, 32)

    assert made(prompt_learner__ctx=(4, 32)) == (["attach.text/embed.value"], ("coop", {"context": 4, "phrase": "", "class_specific": False}))  # fmt: skip
    own = made(ctx=(3, 5, 32))[1]
    assert own == ("coop", {"context": 5, "phrase": "", "class_specific": True})
    hidden = made(ctx=(5, 32), meta_net__linear1__weight=(4, 32), meta_net__linear2__bias=(32,))
    assert hidden[0] == ["attach.text/embed.value", "head.meta.0.weight", "head.meta.2.bias"]
    assert hidden[1] == ("cocoop", {"context": 5, "phrase": "a " * 5, "squeeze": 8})
    names, (method, settings) = made(
        ctx=(2, 32), proj__weight=(8, 32), compound_prompts_text__0=(2, 32), compound_prompts_text__1=(2, 32),
        compound_prompt_projections__1__bias=(8,),
    )  # fmt: skip
    assert names == [
        "attach.block/2/in.rows.map.bias", "attach.embed.rows.map.weight", "attach.text/block/1/in.rows.value",
        "attach.text/block/2/in.rows.value", "attach.text/embed.value",
    ]  # fmt: skip
    deep = {"text_prompts": 2, "phrase": "a photo of a"}
    assert (method, settings) == ("maple", {**deep, "image_prompts": 2, "depth": 3})
    names, (method, settings) = made(
        ctx=(2, 32), image_encoder__VPT=(6, 32), module__text_encoder__transformer__resblocks__4__VPT_shallow=(2, 32),
        image_encoder__transformer__resblocks__3__VPT_shallow=(6, 32),
    )  # fmt: skip
    assert names[0] == "attach.block/3/in.rows.value"
    assert names[2] == "attach.text/block/4/in.rows.value"
    assert (method, settings) == ("ivlp", {**deep, "image_prompts": 6, "depth": 2})
