"""Parts of verbs that need no run: what they read from their options, refuse, and find."""

from __future__ import annotations

import json
import os
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
import torch
from cyclopts import Parameter

from petiole.commands import compare as comparing
from petiole.commands import defaults, doctor, features, generalise, predict, transfer
from petiole.commands import test_time as at_test_time
from petiole.commands.config_file import _plain, _text, read_config, write_config
from petiole.commands.diff import _common, _shared, _titles
from petiole.commands.inspect import _backbone, _weights
from petiole.commands.options import ImageOptions, ModelOptions
from petiole.commands.places import Places, _addresses, _is_image
from petiole.commands.reproduce import _claimed, _methods, _tagged, _text_task
from petiole.commands.reproduce_comparison import on_own_images
from petiole.commands.serve import (
    AccessOptions,
    BoundOptions,
    PageOptions,
    _engine,
    bound,
    named,
)
from petiole.commands.sign import sealed_files
from petiole.commands.simulate import _check, _units
from petiole.commands.verb import _alternatives, _equal, differing, gathered, keywords, verb
from petiole.commands.verify import _covered
from petiole.errors import BackboneError, ConfigError, SignatureError
from petiole.files import sha256
from petiole.serving.limits import Limits

# --- verbs and their keywords -------------------------------------------------------------------


@dataclass(frozen=True)
class Box:
    """A group of options."""

    width: int = 3
    name: str = "box"


def packed(data: str, *, seed: int = 0, box: Box | None = None, tags: tuple[str, ...] = ()) -> Any:
    """Not yet a verb."""
    return data, seed, box, tags


def test_keywords_go_into_their_groups() -> None:
    assert keywords(packed) == ("data", "seed", "tags", "width", "name")
    assert gathered(packed, {"width": 5, "seed": 1}) == {"seed": 1, "box": Box(5)}
    assert gathered(packed, {"box": Box(4)}) == {"box": Box(4)}
    assert gathered(packed, {"box": None, "name": "x"}) == {"box": Box(3, "x")}
    with pytest.raises(ConfigError, match=r"^Give box=\.\.\., or name, width, not both\.$"):
        gathered(packed, {"box": Box(4), "width": 5, "name": "x"})
    with pytest.raises(ConfigError, match=r"Unknown option of packed 'widthx'.*width"):
        gathered(packed, {"widthx": 5})
    assert verb(packed)("d", width=7) == ("d", 0, Box(7), ())


def test_only_what_differs_from_the_defaults_is_kept() -> None:
    given = {"tags": ("a",), "seed": 0, "box": Box(5), "data": "d"}
    assert differing(packed, given) == {"data": "d", "tags": ("a",), "width": 5}
    assert list(differing(packed, given)) == ["data", "tags", "width"], "in the verb's order"
    assert differing(packed, {"data": "d", "box": None}) == {"data": "d"}
    assert differing(packed, {"seed": False, "tags": []}) == {"seed": False, "tags": []}
    tensor = torch.zeros(1)
    assert differing(packed, {"seed": tensor}) == {"seed": tensor}
    assert _equal(2, 2)
    assert not _equal(2, 2.0)
    assert not _equal(tensor, tensor)
    assert not _equal([1], [1])


def test_hints_are_seen_through() -> None:
    assert _alternatives(Annotated[int | None, Parameter()]) == (int, type(None))
    assert _alternatives(Annotated[Box, Parameter()] | None) == (Box, type(None))
    assert _alternatives(str) == (str,)


def test_a_configuration_file_has_what_toml_can_say(tmp_path: Path) -> None:
    value = {"a": Path("x/y"), "b": (1, [2.5, True]), 3: {"c": "d"}, "e": Path("s3:/bucket/x")}
    assert _plain(value) == {
        "a": "x/y",
        "b": [1, [2.5, True]],
        "3": {"c": "d"},
        "e": "s3://bucket/x",
    }
    with pytest.raises(TypeError, match=r"object"):
        _plain([object()])
    assert [_text(one) for one in (True, 1.5, "x", [1, 2])] == ["True", "1.5", "x", "(1,2)"]
    write_config(tmp_path, "fit", {"resume": True, "out": "o", "seed": 2, "data": ["a", "b"]})
    text = (tmp_path / "config.toml").read_text()
    assert text.splitlines()[0].startswith("# petiole fit --config config.toml --out FOLDER")
    assert read_config(tmp_path / "config.toml") == {"seed": 2, "data": ["a", "b"]}
    assert text.index("seed") < text.index("data"), "in the order of the call"


# --- addresses among the keywords ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "has"),
    [
        ("s3://b/x", True), (Path("s3://b/x"), True), ("vqa=s3://b/x", True), ("photos", False),
        (["photos", "s3://b/x"], True), (("photos",), False), ([3, None], False), (None, False),
        (b"s3://b/x", False), (ModelOptions(cache_dir=Path("s3://b/x")), True), (ModelOptions(), False),
        (ModelOptions, False), (["a"] * 999 + ["s3://b/x"], True), (["a"] * 1000 + ["s3://b/x"], False),
        ([["s3://b/x"]], False), ({"a": "s3://b/x"}, False),
    ],
)  # fmt: skip
def test_addresses_are_found_where_they_may_stand(value: Any, has: bool) -> None:
    assert _addresses(value) is has


def test_texts_about_local_places_speak_of_addresses(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    asked: list[Any] = []

    def path(_: Places, name: str, address: Any, resume: bool) -> Path:
        asked.append((name, str(address), resume))
        return Path("here") / address.key

    monkeypatch.setattr(Places, "_path", path)
    group = ModelOptions(cache_dir=Path("s3://b/c"), weights=Path("w"))
    given = {
        "data": ["vqa=s3://b/x", "photos"], "tasks": ("t=gs://b/y",), "settings": ["a=s3://b/z"],
        "out": "s3://b/out", "model": group, "resume": 1, "images": Path("az://b/i"), "kind": ModelOptions,
    }  # fmt: skip
    local = Places("fit", given).local()
    assert local == {
        "data": ["vqa=here/x", "photos"],
        "tasks": ("t=here/y",),
        "settings": ["a=s3://b/z"],
        "out": "here/out",
        "model": ModelOptions(cache_dir=Path("here/c"), weights=Path("w")),
        "resume": 1,
        "images": Path("here/i"),
        "kind": ModelOptions,
    }
    assert asked == [
        ("data", "s3://b/x", True),
        ("tasks", "gs://b/y", True),
        ("out", "s3://b/out", True),
        ("cache_dir", "s3://b/c", True),
        ("images", "az://b/i", True),
    ]
    assert Places("fit", {"model": ModelOptions()}).local()["model"] == ModelOptions()
    assert [_is_image(name) for name in ("a.png", "b/C.JPG", "png", "a.csv")] == [True, True, False, False]  # fmt: skip


# --- serve --------------------------------------------------------------------------------------


def test_bounds_reach_the_server() -> None:
    given = BoundOptions(1.5, 20.0, 2.5, 7, 8, 9, 10, 11, 1.5)
    assert given.limits() == Limits(
        wait=1.5, seconds=20.0, body=2_621_440, images=7, pixels=8, batch=9, loaded=10, adapters=11,
        memory=1_572_864,
    )  # fmt: skip
    assert BoundOptions().limits() == Limits(), "both state the defaults"
    for name in vars(BoundOptions()):
        if name != "max_memory_mb":
            with pytest.raises(ConfigError, match=rf"^--{name.replace('_', '-')} is 0; it must be"):
                BoundOptions(**{name: 0}).limits()
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match=r"--max-memory-mb is"):
            BoundOptions(max_memory_mb=wrong).limits()


def test_a_page_teaches_where_there_is_a_folder(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("PETIOLE_CACHE", "/cache")
    assert PageOptions().lessons(["b"], "cpu") is None
    for out, state in ((None, "runs/new-teach"), (Path("labels"), "labels")):
        lessons = PageOptions(teach=Path("x/new"), teach_out=out).lessons(["b", "c"], "cpu")
        assert lessons is not None
        assert lessons.process.setup() == {
            "images": "x/new", "name": "new", "state": state, "backbone": "b", "device": "cpu",
            "cache": "/cache", "skip_bad": True,
        }  # fmt: skip


def test_graphs_have_no_signature() -> None:
    key = Path("key.pem")
    assert [_engine(engine, None) for engine in ("auto", "torch", "onnx")] == ["auto", "torch", "onnx"]  # type: ignore[arg-type]  # fmt: skip
    assert _engine("auto", key) == _engine("torch", key) == "torch"
    with pytest.raises(ConfigError, match=r"no signature covers"):
        _engine("onnx", key)


def adapter(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter.json").write_text("{}")
    return folder


def test_adapters_are_called_by_their_folders(tmp_path: Path) -> None:
    run, own = adapter(tmp_path / "runs/birds/adapter"), adapter(tmp_path / "trees")
    assert named([run.parent, own], False) == ({"birds": run.parent, "trees": own}, None)
    assert named([run, own], False) == ({"birds": run, "trees": own}, None)
    assert named([own], False) == ({"trees": own}, None), "one adapter is no pool"
    pool = tmp_path / "runs"
    assert named([pool], False) == ({"birds": run}, pool)
    (tmp_path / "empty").mkdir()
    assert named([tmp_path / "empty"], True) == ({}, tmp_path / "empty")
    assert named([], True) == ({}, None)
    for given, said in (
        ([], "^Nothing to serve: name adapters"),
        ([tmp_path / "empty"], f"^Nothing to serve in {tmp_path / 'empty'}: name"),
        ([tmp_path / "none"], "no such folder. Name adapters"),
        ([own, adapter(tmp_path / "x/trees")], f"^{own} and .*x/trees have one name, trees"),
    ):
        with pytest.raises(ConfigError, match=said):
            named(given, False)


def test_a_socket_sends_at_once() -> None:
    import socket

    with bound("127.0.0.1", 0) as listening:
        assert listening.family == socket.AF_INET
        assert listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert listening.getsockname()[1] > 0
    assert AccessOptions().host == "127.0.0.1"


# --- compare, generalise, transfer, reproduce ---------------------------------------------------


def test_rows_of_a_comparison() -> None:
    def chosen(methods: list[str], kind: str = "classification", **images: Any) -> Any:
        found = comparing._chosen(methods, kind, ImageOptions(**images))
        names = [row.name for row in found["rows"]]
        assert found["title"] == f"{found['reference']} and its rivals"
        assert found["headline"] == found["reference"] == names[0]
        return names, found["baseline"]

    usual = ["averaged-ridge", "cls-residual-lora", "linear-probe", "cosine"]
    assert chosen([]) == ([*usual, "class-means"], "class-means")
    assert chosen(["ridge", "class-means"]) == (["ridge", "class-means"], "class-means")
    assert chosen(["ridge"], source=Path("s")) == (["ridge", "source-only"], "source-only")
    assert chosen(["ridge", "source-only"]) == (["ridge", "source-only"], "source-only")
    assert chosen(["ridge", "cosine"], "regression") == (["ridge", "cosine"], "ridge")
    every, _ = chosen(["all"])
    assert {"linear-probe", "lora-qkv"} < set(every)
    assert not {"knn", "ridge", "vl-lora", "craft"} & set(every)
    assert comparing._named(["all"]) == ["linear-probe"]
    assert comparing._named(["all", "knn"]) == ["all", "knn"]


def test_data_sets_elsewhere_have_names_of_their_own() -> None:
    paths = [Path("a/x"), Path("b/y.csv")]
    assert [generalise._name(one, paths) for one in paths] == ["x", "y"]
    with pytest.raises(ConfigError, match=r"Two data sets are called x"):
        generalise._name(paths[0], [*paths, Path("c/x")])


def test_data_sets_of_a_transfer(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "leaves.v2").mkdir()
    (tmp_path / "t.csv").write_text("")
    found, known = transfer._images(["cifar10", "leaves.v2", "t.csv", "mine=leaves.v2"], Path("o"))
    assert found == {
        "cifar10": Path("o/cifar10/images.csv"),
        "leaves.v2": Path("leaves.v2"),
        "t": Path("t.csv"),
        "mine": Path("leaves.v2"),
    }
    assert known == {"cifar10"}
    (tmp_path / "a=b").mkdir()
    assert transfer._own("a=b", {}) == ("a=b", Path("a=b")), "it is there"
    for items, said in (
        (["t.csv", "t=leaves.v2"], "Two data sets are called t"),
        (["nowhere"], "Unknown data set or folder 'nowhere'"),
        (["cifar10=leaves.v2"], "leaves.v2: cifar10 is the name of a published data set"),
        ([".x=leaves.v2"], "'.x' cannot name a folder"),
        (["=leaves.v2"], "'' cannot name a folder"),
        (["a/b=leaves.v2"], "'a/b' cannot name a folder"),
    ):
        with pytest.raises(ConfigError, match=said):
            transfer._images(items, Path("o"))


def test_backbones_of_a_transfer(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(transfer, "backbone_for", lambda methods: f"for/{methods[0]}")
    model = ModelOptions(quiet=True)
    found = transfer._backbones(["timm/a", "b=w/x.safetensors"], model, ["m"])
    assert found == {
        "a": ModelOptions(backbone="timm/a", quiet=True),
        "b+x": ModelOptions(backbone="b", weights=Path("w/x.safetensors"), quiet=True),
    }
    assert list(transfer._backbones([], model, ["m"])) == ["m"]
    weights = ModelOptions(backbone="c", weights=Path("y.safetensors"))
    assert transfer._backbones([], weights, ["m"]) == {"c+y": weights}
    with pytest.raises(ConfigError, match=r"--weights fits one backbone"):
        transfer._backbones(["a"], weights, ["m"])
    with pytest.raises(ConfigError, match=r"Two backbones are called a"):
        transfer._backbones(["timm/a", "hf/a"], model, ["m"])
    tasks = transfer._tasks({"x": Path("i"), "y": Path("j")}, found, 0.25)
    assert list(tasks) == [("x", "a"), ("x", "b+x"), ("y", "a"), ("y", "b+x")]
    one = tasks["y", "b+x"]
    assert (one.images, one.backbone, one.test_fraction) == (Path("j"), "b", 0.25)


def test_what_was_published_of_a_row() -> None:
    row = {"claimed": {"pets": 1.0, "cars": 2.0}, "sd": {"cars": 0.5}, "tags": ["a", "b"],
           "percent": 4.18, "gflops": 7}  # fmt: skip
    assert _claimed(row) == {
        "seen in": "a, b",
        "% trained": 4.18,
        "GFLOPs": 7,
        "pets": 1.0,
        "cars": {"mean": 2.0, "sd": 0.5},
    }
    assert _claimed({"claimed": 5.0}) == {"accuracy": 5.0}
    assert _claimed({}) == {}
    assert _tagged(["a", "b"]) == ("(a, b)",)
    assert _tagged([]) == ()
    assert _methods({"rows": [{"method": "a"}, {}, {"method": "b"}, {"method": "a"}]}) == ["a", "b"]
    task = _text_task({"backbone": "t"}, ModelOptions(device="cpu", precision="bf16", cache_dir=Path("c"), skip_bad=True, quiet=True))  # fmt: skip
    assert (task.model, task.tasks, task.precision, task.cache, task.skip_bad, task.quiet) == ("t", (), "bf16", Path("c"), True, True)  # fmt: skip
    assert _text_task({"backbone": "t"}, ModelOptions(backbone="own")).model == "own"


def test_a_table_of_photos_on_ones_own(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    table = {"rows": [{"name": "a", "claimed": 50.0}, {"name": "b"}], "missing": ["m"]}
    asked: dict[str, Any] = {}

    def compare(data: Path, **given: Any) -> Any:
        asked.update(given, data=data)
        rows = [SimpleNamespace(name=n, label=n.upper(), over_splits=n) for n in ("a", "b", "c")]
        return SimpleNamespace(summary=SimpleNamespace(rows=rows))

    monkeypatch.setattr("petiole.commands.compare.compare", compare)
    terms = (Path("o"), 4, True, None, ModelOptions())
    with pytest.raises(ConfigError, match=r"t/1 is run as a whole"):
        on_own_images("t/1", table, ["a"], Path("x/d"), *terms)
    nothing = on_own_images("t/1", table, [], None, *terms)
    assert nothing.found == ()
    assert nothing.missing[0] == "m"
    assert "petiole compare DATA --table t/1" in nothing.missing[1]
    done = on_own_images("t/1", table, [], Path("x/d"), *terms)
    (one,) = done.found
    assert (one.place, one.row, one.what, one.claimed, one.ours, one.verdict) == (
        "d", "A", "accuracy", 0.5, "a", "other data",
    )  # fmt: skip
    assert done.missing == ("m",)
    assert asked == {"data": Path("x/d"), "table": "t/1", "split_seeds": 4, "out": Path("o"), "resume": True, "placement": None, "model": ModelOptions()}  # fmt: skip


# --- diff, sign and verify, inspect -------------------------------------------------------------


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


# --- predict ------------------------------------------------------------------------------------


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


# --- features, simulate, doctor, defaults -------------------------------------------------------


def test_images_and_videos_below_a_folder(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/1.JPG", "a/3.png", "a/notes.txt", "pack.tar", "rows.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert features._names(tmp_path, False) == ["a/3.png", "b/1.JPG", "b/2.png"]
    assert features._names(tmp_path, True) == ["a", "b"]
    assert features._names(tmp_path, True, packed=True) == ["a", "b"]
    assert features._names(tmp_path, False, packed=True)[-2:] == ["pack.tar", "rows.parquet"]
    for vector, said in (({"videos": True}, "--videos, whose frames"), ({"visual_tokens": 4}, "Leave out --visual-tokens")):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            features.features(tmp_path, vectors=True, **vector)


def test_parts_whose_costs_are_stated() -> None:
    assert _units(["write=7", "decode=0"]) == {"write": 7.0, "decode": 0.0}
    for text, said in (
        ("write", "--unit is NAME=SECONDS, and not 'write'"),
        ("write=x", "--unit is NAME=SECONDS, and not 'write=x'"),
        ("write=-1", "write=-1: seconds are 0 or more"),
        ("write=inf", "write=inf: seconds are 0 or more"),
        ("write=nan", "write=nan: seconds are 0 or more"),
        ("writes=1", "write"),
    ):
        with pytest.raises(ConfigError, match=said):
            _units([text])


def test_a_simulation_takes_what_it_has_a_use_for() -> None:
    known = {
        "features": {"images": 3, "gpu": None, "cores": None, "price": None},
        "runs": {"runs": None, "images": 3, "price": None},
        "requests": {"requests": None, "adapters": None},
    }
    _check("features", known, {"backbone": None})
    for work, said in (("runs", "How many runs. Add --runs N"), ("requests", "How many requests")):
        with pytest.raises(ConfigError, match=said):
            _check(work, known, {})
    with pytest.raises(ConfigError, match=r"--device is of the measurement of images: add --like"):
        _check("features", known, {"backbone": None, "device": "cpu"})
    more = {**known, "requests": {"requests": None, "adapters": 0}}
    with pytest.raises(ConfigError, match=r"simulate features has no use for --adapters; requests"):
        _check("features", more, {})


def test_threads_are_pointed_out_on_a_busy_machine(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for count, policy, level in ((1, "", "ok"), (2, "", "note"), (2, "passive", "ok"), (4, "ACTIVE", "note")):  # fmt: skip
        monkeypatch.setattr(torch, "get_num_threads", lambda n=count: n)
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
        found = doctor._threads()
        assert found[0] == level
        assert found[1].startswith(f"{count} threads on 8 cores")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert doctor._threads()[1].startswith("4 threads on 1 cores")


def test_room_in_the_cache_s_folder(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    disk = namedtuple("disk", ("total", "used", "free"))
    asked: list[Path] = []
    for free, level in ((2_000_000_000, "note"), (2_000_000_001, "ok"), (1_234_567_890_123, "ok")):
        monkeypatch.setattr("shutil.disk_usage", lambda p, n=free: asked.append(p) or disk(0, 0, n))
        assert doctor._room(tmp_path / "new/cache") == (
            level,
            f"{tmp_path / 'new/cache'}, {free / 1e9:,.1f} GB free",
        )
    assert set(asked) == {tmp_path}, "the folder above that is there"
    monkeypatch.setattr(os, "access", lambda *_: False)
    level, said = doctor._room(tmp_path / "new")
    assert level == "bad"
    assert said.startswith(f"{tmp_path} cannot be written; choose another with --cache-dir")


def test_what_this_machine_has(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for unit, level, said in (("amx_bf16", "ok", "CPU with amx_bf16: --prec"), (None, "note", "CPU without bf16")):  # fmt: skip
        monkeypatch.setattr(doctor, "bf16_unit", lambda _, u=unit: u)
        found = doctor._processor()
        assert (found[0], found[1][: len(said)]) == (level, said)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda n: f"card {n}")
    assert doctor._processor() == ("ok", "CUDA: card 0; use --device cuda")
    for spec, level in ((object(), "ok"), (None, "note")):
        monkeypatch.setattr(doctor, "find_spec", lambda _, s=spec: s)
        assert doctor._parquet()[0] == level
    assert doctor._libraries()[1].startswith("python ")

    def gone(_: str) -> None:
        raise BackboneError("no weights")

    monkeypatch.setattr("petiole.backbones.registry.load_backbone", gone)
    assert doctor._backbone("x") == ("note", "no weights")


def test_a_packaged_backbone_that_all_methods_fit(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    fits = {("one", "a"), ("two", "a"), ("two", "b")}
    monkeypatch.setattr("petiole.backbones.at_hand.packaged", lambda: ["one", "two"])
    monkeypatch.setattr(defaults, "_fits", lambda backbone, method: (backbone, method) in fits)
    assert defaults.backbone_for(["a"]) == defaults.backbone_for([]) == "one"
    assert defaults.backbone_for(["a", "b"]) == "two"
    with pytest.raises(ConfigError, match=r"No packaged backbone fits a, c. Name one"):
        defaults.backbone_for(["a", "c"])


@pytest.mark.parametrize(
    ("error", "fits"),
    [
        (ConfigError, False),
        (BackboneError, False),
        (RuntimeError, True),
        (NotImplementedError, True),
    ],
)
def test_what_a_shape_cannot_tell_is_tried(error: type, fits: bool, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def create(_: str) -> None:
        raise error("x")

    monkeypatch.setattr("petiole.methods.registry.create", create)
    monkeypatch.setattr("petiole.backbones.registry.load_backbone", lambda *_, **__: None)
    assert defaults._fits.__wrapped__("b", "m") is fits


def test_methods_of_one_kind_are_compared() -> None:
    assert defaults.kind_of_methods(["ridge", "lora-qkv"]) == "classification"
    assert defaults.kind_of_methods(["vl-lora"]) == "text"
    assert defaults.kind_of_methods(["craft"]) == "codebook"
    with pytest.raises(
        ConfigError, match=r"kinds of task: ridge \(classification\), craft \(codeb"
    ):
        defaults.kind_of_methods(["ridge", "craft"])


def test_a_list_of_labels_is_written(tmp_path: Path) -> None:
    from petiole.commands.label import ToLabel, _write

    rows = [
        ToLabel(path="=a.png", cluster=3, size=7, typicality=0.5),
        ToLabel(path="b.png", cluster=1, size=2, typicality=1.25),
    ]
    assert _write(tmp_path / "x/label.csv", rows).read_text() == (
        "path,cluster,size,typicality\n./=a.png,3,7,0.5\nb.png,1,2,1.25\n"
    )
    assert json.loads(rows[1].model_dump_json())["typicality"] == 1.25
