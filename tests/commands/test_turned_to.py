"""What ``doctor`` examines and which protocol ``reproduce`` turns to, with those exchanged."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from builders.asked import Asked
from petiole.commands import doctor, reproduce
from petiole.errors import ConfigError
from petiole.protocols import reproduction, reproduction_tasks


def test_every_part_is_examined_and_a_failure_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    for part in ("_libraries", "_processor", "_threads", "_speed", "_parquet"):
        monkeypatch.setattr(doctor, part, lambda p=part: ("ok", p))
    monkeypatch.setattr(doctor, "_backbone", lambda name: ("note", name))

    def room(folder: Path) -> Any:
        raise ValueError(f"no {folder}")

    monkeypatch.setattr(doctor, "_room", room)
    found = doctor.doctor(cache_dir=Path("c"))
    assert [(check.name, check.level, check.finding) for check in found.checks] == [
        ("libraries", "ok", "_libraries"), ("processor", "ok", "_processor"), ("threads", "ok", "_threads"),
        ("speed", "ok", "_speed"), ("tiny-vit", "note", "petiole/tiny-vit"),
        ("efficientnet-lite0", "note", "petiole/efficientnet-lite0"), ("parquet", "ok", "_parquet"),
        ("cache", "bad", "ValueError: no c"),
    ]  # fmt: skip


def frozen(vector: torch.Tensor, shapes: list[Any]) -> Any:
    """A backbone of a given answer that notes what it was asked."""

    def lower(images: torch.Tensor, cut: Any) -> Any:
        shapes.append(tuple(images.shape))
        return dict.fromkeys(cut, vector)

    return SimpleNamespace(preprocessing=SimpleNamespace(size=(4, 6)), vector="v", lower=lower, parameter_count=1234)  # fmt: skip


def test_speed_is_a_share_of_what_a_product_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[Any] = []
    net = frozen(torch.ones(1), shapes)
    rates = {torch.float32: 2e9, torch.bfloat16: 4e9, torch.float16: 8e9}

    def seconds(work: Any, _: str) -> float:
        work()
        return 0.5

    monkeypatch.setattr("petiole.engine.utilisation.product_rate", lambda _, dtype: rates[dtype])
    monkeypatch.setattr("petiole.engine.utilisation.best_seconds", seconds)
    monkeypatch.setattr("petiole.backbones.registry.load_backbone", lambda *_, **__: net)
    counter = SimpleNamespace(get_total_flops=lambda: 3e8)
    monkeypatch.setattr("petiole.ledger.counting.flop_counter", lambda: nullcontext(counter))
    monkeypatch.setattr(doctor, "device", lambda _: "cpu")
    monkeypatch.setattr(doctor, "narrow_unit", lambda _: None)
    said = "tiny-vit 32 images/s, 30% of it (MFU)"
    assert doctor._speed() == ("ok", f"matrix product 2.00 GFLOP/s; {said}")
    assert shapes == [(16, 3, 4, 6)] * 2
    for precision, rate in (("bf16", 4), ("fp16", 8)):
        monkeypatch.setattr(doctor, "narrow_unit", lambda _, p=precision: (p, "unit"))
        reached = f"matrix product 2.00 GFLOP/s, in {precision} {rate}.00 GFLOP/s"
        assert doctor._speed() == ("ok", f"{reached}; {said}")
    shapes.clear()
    assert doctor._backbone("x") == ("ok", "loads, 1,234 parameters")
    assert shapes == [(1, 3, 4, 6)]
    net = frozen(torch.tensor([1.0, float("nan")]), shapes)
    assert doctor._backbone("x") == ("bad", "loads, 1,234 parameters")


@pytest.fixture
def claims(asked: Asked) -> Asked:
    """Tables called by their kinds, and every way to measure them exchanged."""
    table = {"title": "T", "rows": [{"label": "a", "method": "m", "claimed": 5.0}], "claims": [{"says": "s"}], "doubt": "d", "backbone": "net"}  # fmt: skip
    asked.of("petiole.claims.names", lambda kind: [f"t/{kind}"])
    asked.of("petiole.claims.table", table)
    done = SimpleNamespace(found=(), missing=("m",))
    asked.of("petiole.protocols.reproduction.unmeasured", done)
    asked.of("petiole.protocols.reproduction.reproduce", done)
    asked.of("petiole.protocols.reproduction_tasks.reproduce", done)
    asked.of("petiole.commands.reproduce.on_own_images", done)
    asked.of("petiole.commands.reproduce._share", "share")
    asked.of("petiole.commands.reproduce._shares", "shares")
    return asked


def test_each_kind_of_table_is_measured_its_own_way(claims: Asked) -> None:
    def turned(kind: str, **given: Any) -> Any:
        claims.clear()
        done = reproduce.reproduce(f"t/{kind}", **given)
        assert claims.one("table")[0] == (f"t/{kind}", kind)
        return done, [call for call in claims if call[0] not in ("names", "table")]

    done, ((name, given, _),) = turned("params")
    assert (done, name, given[0]) == ("share", "_share", "t/params")
    assert turned("shares")[0] == "shares"
    done, ((name, given, _),) = turned(reproduction.PUBLISHED, methods=["m"])
    assert (name, given[1]) == ("unmeasured", ["m"])
    assert (done.name, done.title, done.doubt, done.claims) == ("t/published", "T", "d; s", {"a": {"accuracy": 5.0}})  # fmt: skip
    assert (done.source, done.folder, done.missing) == ("not published: an experiment of our own", Path("runs/t-published"), ("m",))  # fmt: skip
    _, ((name, given, _),) = turned("comparison", data=Path("d"), seeds=2, resume=True, out=Path("o"))  # fmt: skip
    assert (name, given[0], given[3:7]) == ("on_own_images", "t/comparison", (Path("d"), Path("o"), 2, True))  # fmt: skip
    _, ((_, given, more),) = turned(reproduction_tasks.KIND, data=Path("d"), seeds=2, resume=True)
    assert (given[1].model, given[2], given[3]) == ("net", Path("d"), Path("runs/t-multitask"))
    assert (more["methods"], more["seeds"], more["resume"]) == ((), 2, True)
    for kind in ("base-to-novel", "elsewhere"):
        _, ((_, given, more),) = turned(kind, data=Path("d"), teacher=Path("t"))
        assert (given[2], given[3]) == (Path("d"), Path(f"runs/t-{kind}"))
        assert (more["teacher"], more["quiet"], more["seeds"]) == (Path("t"), False, 3)
    with pytest.raises(ConfigError, match=r"^No row of t/comparison learns from a teacher"):
        reproduce.reproduce("t/comparison", teacher=Path("t"))
    with pytest.raises(ConfigError, match=r"Unknown table 't/none'"):
        reproduce.reproduce("t/none")
