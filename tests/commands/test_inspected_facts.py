"""Facts that ``inspect`` reads of runs, adapters and models."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import petiole
from builders.asked import Asked
from petiole.commands import inspect as inspecting
from petiole.errors import ConfigError


def test_facts_of_a_run_an_adapter_and_a_model(asked: Asked, tmp_path: Path) -> None:
    card = SimpleNamespace(name="net", quantize="int8", fingerprint="f", preprocessing="p", vision_backbone=None, vision_width=0)  # fmt: skip
    ledger = SimpleNamespace(inference=1234, trainable=5678)
    manifest = SimpleNamespace(method="m", classes=["a"], backbone=card, ledger=ledger, settings={"s": 1}, details={}, tasks=[SimpleNamespace(name="vqa")])  # fmt: skip
    data = SimpleNamespace(samples={"train": 3}, shots=4, split_seed=5, scored="test")
    request = SimpleNamespace(
        method="m", backbone=card, data=data, seed=6, settings={"cache": "none"}
    )
    record = SimpleNamespace(request=request, selection="last", test_evaluations=2, main={"accuracy": 0.81239, "n": 7.0},
                             created="now", scores={"vqa": {"acc": 41.239}})  # fmt: skip
    asked.of("petiole.engine.adapter.find", lambda path: path)
    asked.of("petiole.engine.adapter.read_manifest", manifest)
    asked.of("petiole.engine.record.read_record", record)
    asked.of("petiole.engine.record.changed_files", [])
    asked.of("petiole.engine.adapter.kind_of", "classification")
    found = inspecting._folder(tmp_path, None)
    assert found.what == f"adapter {tmp_path}"
    assert found.facts == {
        "method": "m", "classes": ["a"], "backbone": "net", "quantize": "int8", "fingerprint": "f", "preprocessing": "p",
        "parameters kept": "1,234", "settings": {"s": 1},
    }  # fmt: skip
    (tmp_path / "record.json").write_text("")
    found = inspecting._folder(tmp_path, None)
    assert found.what == f"run {tmp_path}"
    assert found.facts == {
        "method": "m", "backbone": "net", "quantize": "int8", "images": {"train": 3}, "shots": 4, "split seed": 5, "seed": 6,
        "selection": "last", "test set opened": "2x", "accuracy": "0.8124", "n": "7", "created": "now", "files": "as they were written",
    }  # fmt: skip
    asked.of("petiole.engine.record.changed_files", ["a", "b"])
    assert inspecting._folder(tmp_path, None).facts["files"] == "changed or missing: a, b"
    asked.of("petiole.engine.adapter.kind_of", "text")
    details = SimpleNamespace(folded=True, answers=list(range(3129)))
    asked.of("petiole.tasks.text.adapter.TextDetails.model_validate", details)
    found = inspecting._folder(tmp_path, None)
    assert found.what == f"run {tmp_path}"
    assert found.facts == {
        "method": "m", "folded": "yes", "tasks": ["vqa"], "language model": "net", "fingerprint": "f", "images seen by": "none",
        "answers": "3,129, chosen", "parameters trained": "5,678", "settings": {"s": 1}, "seed": 6, "scored": "test",
        "vqa acc": "41.24 %", "created": "now", "files": "changed or missing: a, b",
    }  # fmt: skip
    (tmp_path / "record.json").unlink()
    card.vision_width, details.answers, details.folded = 9, [], False
    found = inspecting._folder(tmp_path, None)
    assert (found.what, found.facts["images seen by"], found.facts["answers"], found.facts["folded"]) == (f"adapter {tmp_path}", "given features", "written", "no")  # fmt: skip
    card.vision_backbone = SimpleNamespace(name="clip")
    assert inspecting._folder(tmp_path, None).facts["images seen by"] == "clip"


@pytest.mark.parametrize(
    ("what", "given", "said"),
    [
        ("methods", {"images": Path("x")}, "Nothing of methods depends on --images."),
        ("coop", {"image_size": 7}, "Nothing of coop depends on --image-size."),
        ("petiole/tiny-vit", {"images": Path("x")}, "Nothing of petiole/tiny-vit depends on --images."),
        ("tables", {"images": Path("x"), "image_size": 7}, "Nothing of tables depends on --image-size or --images."),
    ],
)  # fmt: skip
def test_options_that_nothing_depends_on(what: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        petiole.inspect(what, **given)
    assert str(error.value) == f"{said} Leave it out."


@pytest.mark.parametrize("kind", ["classification", "text", "codebook"])
def test_images_are_for_adapters_with_a_cache(asked: Asked, tmp_path: Path, kind: str) -> None:
    asked.of("petiole.engine.adapter.kind_of", kind)
    asked.of("petiole.engine.adapter.find", lambda path: path)
    manifest = SimpleNamespace(method="m", classes=["a"], settings={"cache": "none"}, ledger=SimpleNamespace(inference=1),
                               backbone=SimpleNamespace(name="net", quantize="", fingerprint="f", preprocessing="p"))  # fmt: skip
    asked.of("petiole.engine.adapter.read_manifest", manifest)
    with pytest.raises(ConfigError) as error:
        petiole.inspect(str(tmp_path), images=tmp_path)
    assert str(error.value) == f"Nothing of {tmp_path} depends on --images. Leave it out."


def test_facts_of_a_tuned_encoder(asked: Asked, tmp_path: Path) -> None:
    spec = SimpleNamespace(
        depth=2, entries=16, width=8, sha256="0123456789abcdef", grid=(3, 5), tap=1
    )
    manifest = SimpleNamespace(method="craft", backbone=SimpleNamespace(name="lm"), ledger=SimpleNamespace(trainable=7), settings={}, details={})  # fmt: skip
    details = SimpleNamespace(codebook=spec, language="")
    asked.of("petiole.engine.adapter.find", lambda path: path)
    asked.of("petiole.engine.adapter.read_manifest", manifest)
    asked.of("petiole.tasks.codebook.adapter.CodebookDetails.model_validate", details)
    asked.of(
        "petiole.engine.record.read_record",
        SimpleNamespace(scores={"l": {"exact_match": 62.549}, "m": {"f1": 1.0}}),
    )
    asked.of("petiole.engine.record.changed_files", [])
    found = inspecting._encoder(tmp_path)
    assert found.facts == {
        "method": "craft", "trained before": "lm", "language models": "every one over this codebook",
        "codebook": "2 x 16 entries of width 8, 0123456789ab", "image tokens": "3 x 5, after block 1", "trained parameters": 7,
        "settings": {},
    }  # fmt: skip
    (tmp_path / "record.json").write_text("")
    details.language = "x"
    found = inspecting._encoder(tmp_path)
    assert found.facts["exact match, l"] == "62.55"
    assert "exact match, m" not in found.facts
    assert (found.facts["language models"], found.facts["files"]) == (
        "lm only",
        "as they were written",
    )


def test_how_a_cache_of_a_refiner_is_read(asked: Asked, tmp_path: Path) -> None:
    assert inspecting._cache(tmp_path, {"entries": 3}, None) == {}
    assert inspecting._cache(tmp_path, {"cache": "none", "entries": 3}, None) == {}
    assert inspecting._cache(tmp_path, {"cache": "mean"}, None) == {}
    asked.of("petiole.tasks.classification.adapter.ClassificationAdapter.load", "adapter")
    found = SimpleNamespace(
        entries=3,
        effective_rank=2.25,
        cosine=0.12345,
        read_entropy=None,
        changed=None,
        usage=[],
        nearest=[],
    )
    asked.of("petiole.tasks.classification.refiner_cache.describe", found)
    settings = {"cache": "mean", "entries": 3}
    facts = inspecting._cache(tmp_path, settings, None)
    assert facts == {"entries": 3, "effective rank": "2.2", "mean cosine of entries": "0.123", "entropy of reads": "differs by image: give --images"}  # fmt: skip
    found.read_entropy, found.changed = 0.98765, (3, 7)
    facts = inspecting._cache(tmp_path, settings, None)
    assert facts["entropy of reads"] == "0.9877 of 1 (all classes read alike)"
    assert facts["with the mean read"] == "3 of 7 answers change"
    assert facts["patches"].startswith("not compared")
    found.usage, found.nearest = (
        [0.25],
        [[(Path("x/y/z.png"), 3, 4, 0.987), (Path("a/b.png"), 0, 1, 0.5)]],
    )
    facts = inspecting._cache(tmp_path, settings, None)
    assert facts["entry 0"] == "25.0 % of tokens; y/z.png (3, 4) 0.99; a/b.png (0, 1) 0.50"
    assert "patches" not in facts
