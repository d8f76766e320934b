"""Other distributions add methods, backbones, tasks, readers, executors and loggers, each loaded by name alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import petiole
from petiole.backbones.registry import FILES, FOLDERS, LOADERS
from petiole.backbones.vision import timm_families
from petiole.engine.executor import EXECUTORS, executor
from petiole.engine.loggers import LOGGERS, logger
from petiole.errors import BackboneError, ConfigError
from petiole.methods.registry import FAMILIES, METHODS, abouts, create, find
from petiole.tasks.text import registry as tasks
from plugins_for_tests import forgetting, install

METHOD = """
from dataclasses import dataclass
from petiole.methods.peft.cls_residual import ClsResidual
from petiole.methods.registry import MethodEntry, family, register

@register("acme-probe", "a probe of Acme's", lr=0.25)
@dataclass(frozen=True)
class Probe(ClsResidual): ...

@family("acme", "any probe of Acme's")
def probe(kind):
    return MethodEntry(Probe, {"rank": int(kind)}, "one of them")
"""
BACKBONE = """
import petiole
from dataclasses import replace
from petiole.backbones.registry import file_loader, folder_loader, loader, resolve

@loader("acme/", "acme-small")
def load(request):
    return resolve(replace(request, name="petiole/tiny-grid"))

@folder_loader("acme-net")
def from_folder(request, config, folder):
    return load(request)

@file_loader(".acme")
def from_file(request):
    return load(request)
"""
FAMILY = """
from petiole.backbones.vision import cnn
from petiole.backbones.vision.timm_families import timm_family

@timm_family("ResNet")
def wrap(name, module, preprocessing):
    backbone = cnn.wrap(name, module, preprocessing)
    backbone.acme = True
    return backbone
"""
OTHERS = """
from dataclasses import dataclass
from petiole.tasks.text import registry
from dataclasses import replace

TASK = replace(registry.TASKS["answers"], name="acme-task")

@dataclass(frozen=True)
class Backwards:
    times: int = 1
    places: int = 1
    def map(self, work, jobs):
        return [work(job) for job in reversed(jobs)][::-1]

class Quiet:
    def __init__(self, folder):
        self.folder = folder
"""


@pytest.fixture
def acme(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    points = {
        "petiole.methods": {"acme-probe": "acme_method"},
        "petiole.method_families": {"acme": "acme_method"},
        "petiole.backbones": {"acme/": "acme_backbone", "acme-small": "acme_backbone"},
        "petiole.backbone_folders": {"acme-net": "acme_backbone:from_folder"},
        "petiole.backbone_files": {".acme": "acme_backbone"},
        "petiole.timm_families": {"ResNet": "acme_family"},
        "petiole.text_tasks": {"acme-task": "acme_others:TASK"},
        "petiole.executors": {"acme": "acme_others:Backwards"},
        "petiole.loggers": {"acme": "acme_others:Quiet"},
    }
    modules = {
        "acme_method": METHOD,
        "acme_backbone": BACKBONE,
        "acme_family": FAMILY,
        "acme_others": OTHERS,
    }
    install(monkeypatch, tmp_path / "site", points, modules)
    registries = (METHODS, FAMILIES, LOADERS, FOLDERS, FILES, timm_families.FAMILIES)
    with forgetting(*registries, EXECUTORS, LOGGERS, tasks.PLUG_INS):
        yield tmp_path


@pytest.mark.usefixtures("acme")
def test_a_method_and_a_family_are_listed_unimported_and_loaded_by_name() -> None:
    assert abouts()["acme-probe"] == abouts()["acme:..."] == "from acme-petiole"
    assert "acme_method" not in sys.modules
    assert create("acme-probe").recipe.lr == 0.25
    assert create("acme:3").rank == 3
    assert abouts()["acme-probe"] == "a probe of Acme's"
    with pytest.raises(ConfigError, match="Did you mean acme-probe"):
        find("acme-prob")


@pytest.mark.usefixtures("acme")
def test_what_is_not_asked_for_is_not_imported() -> None:
    create("lora-qkv")
    petiole.load("petiole/tiny-grid", device="meta")
    executor("local", processes=2)
    assert not {name for name in sys.modules if name.startswith("acme_")}


def test_backbones_come_by_name_prefix_folder_and_file(acme: Path) -> None:
    folder, file = acme / "net", acme / "net.acme"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "acme-net"}')
    file.write_bytes(b"")
    for name in ("acme/one", "acme-small", str(folder), str(file)):
        assert petiole.load(name, device="meta").parameter_count == 563_120
    with pytest.raises(BackboneError, match="Did you mean acme-small"):
        petiole.load("acme-smal")


@pytest.mark.usefixtures("acme")
def test_a_family_of_timm_goes_before_less_special_ones() -> None:
    assert petiole.load("timm/test_resnet", device="meta").acme
    assert not hasattr(petiole.load("timm/test_vit", device="meta"), "acme")


def test_tasks_executors_and_loggers(acme: Path) -> None:
    assert tasks.find("acme-task").name == "acme-task"
    assert list(executor("acme", times=2).map(str, [1, 2])) == ["1", "2"]
    assert logger("acme", acme).folder == acme
    with pytest.raises(ConfigError, match="executor 'acme' cannot be made so"):
        executor("acme", speed=3)
    with pytest.raises(ConfigError, match=r"Unknown executor 'lokal'.*local"):
        executor("lokal")


@pytest.mark.parametrize(
    ("value", "text", "words"),
    [
        ("acme_bad", "import nothing_of_this_name", "cannot be imported.*nothing_of_this_name"),
        ("acme_bad", "", "registers no method of that name"),
        ("acme_bad:Missing", "", "cannot be imported.*Missing"),
    ],
)
def test_a_broken_plug_in_is_named_when_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str, text: str, words: str
) -> None:
    install(monkeypatch, tmp_path, {"petiole.methods": {"acme-bad": value}}, {"acme_bad": text})
    assert "acme-bad" in abouts()
    create("lora-qkv")
    with (
        forgetting(METHODS),
        pytest.raises(ConfigError, match=f"acme-petiole adds the method 'acme-bad'.*{words}"),
    ):
        create("acme-bad")


def test_two_distributions_with_one_name_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("acme", "apex"):
        points = {"petiole.executors": {"cluster": f"{name}_cluster"}}
        install(monkeypatch, tmp_path / name, points, {f"{name}_cluster": ""}, name=name)
    assert executor("local")
    with pytest.raises(ConfigError, match="apex and acme both add the executor 'cluster'"):
        executor("cluster")


def test_a_plug_in_does_not_replace_what_is_built_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    points = {"petiole.backbones": {"timm/": "acme_timm"}}
    install(monkeypatch, tmp_path, points, {"acme_timm": "raise SystemExit"})
    with torch.device("meta"):
        assert petiole.load("timm/test_resnet", device="meta").is_meta
