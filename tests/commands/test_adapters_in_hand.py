"""What ``diff``, ``sign``, ``verify``, ``inspect`` and ``predict`` find out about adapters before anything runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from petiole.commands import predict
from petiole.commands import test_time as at_test_time
from petiole.commands.diff import _common, _shared, _titles
from petiole.commands.inspect import _backbone, _weights
from petiole.commands.sign import sealed_files
from petiole.commands.verify import _covered
from petiole.errors import ConfigError, SignatureError
from petiole.files import sha256


def test_adapters_are_compared_on_what_both_know() -> None:
    a, b = Path("a"), Path("b")
    assert _common(a, b, ["x", "y"], ["y", "x"]) == (["x", "y"], [])
    classes, notes = _common(a, b, ["x", "w", "y"], ["y", "z"])
    assert classes == ["y"]
    assert notes == [
        "2 of the classes are of a alone, and nothing is compared or predicted as one: w, x.",
        "1 of the classes are of b alone, and nothing is compared or predicted as one: z.",
    ]
    with pytest.raises(ConfigError, match=r"a and b have no class in common \(x; y\)"):
        _common(a, b, ["x"], ["y"])
    assert _titles(Path("r/one/adapter"), Path("r/two")) == ("one", "two")
    assert _titles(Path("r/one"), Path("s/one")) == ("A", "B")


def test_a_backbone_is_shared_where_it_is_the_same(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    card = SimpleNamespace(fingerprint="f", preprocessing="p")
    monkeypatch.setattr("petiole.engine.adapter.find", lambda path: path)
    monkeypatch.setattr("petiole.engine.adapter.read_manifest", lambda _: SimpleNamespace(backbone=card))  # fmt: skip
    same = SimpleNamespace(fingerprint="f", preprocessing="p")
    assert _shared(Path("x"), same, "cpu") == {"backbone": same}  # type: ignore[arg-type]
    for other in ({"fingerprint": "g"}, {"preprocessing": "q"}):
        backbone = SimpleNamespace(**{**vars(same), **other})
        assert _shared(Path("x"), backbone, "cuda") == {"device": "cuda"}  # type: ignore[arg-type]


def test_what_of_a_folder_is_sealed(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    for name in ("record.json", "adapter/adapter.json", "other.json"):
        (tmp_path / name).write_text("{}")
    assert sealed_files(tmp_path) == [tmp_path / "record.json", tmp_path / "adapter/adapter.json"]
    assert sealed_files(tmp_path / "other.json") == [tmp_path / "other.json"]
    with pytest.raises(
        ConfigError, match=r"is no sealed file and holds none of adapter.json, record"
    ):
        sealed_files(tmp_path / "none")


def test_files_beside_a_signed_one_are_covered(tmp_path: Path) -> None:
    beside = tmp_path / "adapter.safetensors"
    beside.write_bytes(b"weights")
    record, manifest = tmp_path / "record.json", tmp_path / "adapter.json"
    digest = sha256(beside)
    assert _covered(record, {"files": {beside.name: digest}}) == [beside]
    assert _covered(manifest, {"tensors_sha256": digest}) == [beside]
    assert _covered(tmp_path / "comparison.json", {"files": {"x": "y"}}) == []
    for file, content in ((manifest, {"tensors_sha256": "0"}), (record, {"files": {"gone": digest}})):  # fmt: skip
        with pytest.raises(
            SignatureError, match=rf"is missing or not the one that {file.name} des"
        ):
            _covered(file, content)


def test_an_inspected_backbone() -> None:
    facts = _backbone("petiole/tiny-vit", None).facts
    assert facts["blocks"] == 4
    assert facts["roles of a block"][0].startswith("block.0.")
    assert all(role.startswith("block.0.") for role in facts["roles of a block"])
    assert facts["cuts"][0] == "images"
    assert set(facts["final roles"]) < set(facts["cuts"])
    language = _backbone("petiole/tiny-vl", None).facts
    assert all(r.startswith("encoder.block.0.") for r in language["roles of an encoder block"])
    assert all(r.startswith("decoder.block.0.") for r in language["roles of a decoder block"])
    assert not any(".block." in role for role in language["roles of the input"])
    assert _weights(SimpleNamespace(quantize="int8")) == {"quantize": "int8"}  # type: ignore[arg-type]
    assert _weights(SimpleNamespace(quantize=None)) == {}  # type: ignore[arg-type]


def request(**more: Any) -> Any:
    return predict._Request(Path("a"), more.pop("data", ()), more.pop("question", None), "", None, "cpu", more.pop("inference", None), **more)  # fmt: skip


def test_a_question_and_its_images() -> None:
    asked = request(data=["x.png", Path("y.png")], question="")
    assert (asked.text, asked.paths) == ("", [Path("x.png"), Path("y.png")])
    assert request(data="x.png").paths == [Path("x.png")]
    (row,) = asked.answered("m", "two").predictions
    assert (row.path, row.label, row.question) == ("x.png y.png", "two", "")
    with pytest.raises(ConfigError, match=r"a is an adapter of a language model, .*--question"):
        _ = request().text
    with pytest.raises(ConfigError, match=r"give their paths"):
        _ = request(data=[3]).paths


def test_what_a_kind_of_adapter_has_no_use_for() -> None:
    asked = request()
    asked.refuse("text", weights=None, keep=False)
    asked.refuse_doubt("text")
    assert not asked.prunes
    assert request(inference=predict.InferenceOptions(route=True)).prunes
    assert not request(inference=predict.InferenceOptions()).prunes
    with pytest.raises(
        ConfigError, match=r"^--abstain-below means nothing to an adapter of the kin"
    ):
        request(abstain_below=0.5).refuse_doubt("text")
    for test_time in (
        at_test_time.TestTimeOptions(adapt="mta"),
        at_test_time.TestTimeOptions(adapt_set=["a=1"]),
    ):
        with pytest.raises(ConfigError, match=r"^--adapt means nothing"):
            request(test_time=test_time).refuse_doubt("text")
    with pytest.raises(
        ConfigError, match=r"^--coverage means nothing to an adapter of the kind text"
    ):
        request(coverage=0.9).refuse_doubt("text")


def test_a_tuned_encoder_is_asked_about_one_image_by_one_model() -> None:
    for given, said in (
        (request(data=["a", "b"], question="?"), "is about one image, not 2"),
        (request(question="?"), "is about one image, not 0"),
        (request(data="a", question="?", inference=predict.InferenceOptions(["x", "y"])), "One language model answers"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            predict._codebook(given)
