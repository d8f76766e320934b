"""Rows, data sets and backbones that verbs of a protocol choose from their options."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from petiole.commands import compare as comparing
from petiole.commands import generalise, transfer
from petiole.commands.options import ImageOptions, ModelOptions
from petiole.commands.reproduce import _claimed, _methods, _tagged, _text_task
from petiole.commands.reproduce_comparison import on_own_images
from petiole.errors import ConfigError


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
