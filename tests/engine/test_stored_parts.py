"""What is stored: evaluations of a test set, shards and their mirror, tables that read ahead, reasons that are told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from petiole.engine import feature_store, feature_table, record
from petiole.engine.adapter_limits import _Allowance
from petiole.engine.feature_store import FeatureCache, Key, clean
from petiole.engine.feature_table import JoinedTable, SideBySide, Table
from petiole.engine.loggers import logger
from petiole.engine.model_card import FrozenModel, reason
from petiole.engine.record import RECORD, count_test_evaluation, evaluations_of
from petiole.engine.run_lock import locked
from petiole.errors import CacheError, RunError

CPU = torch.device("cpu")
CUDA: Any = SimpleNamespace(type="cuda")
"""As much of a device as is asked for its kind."""


def test_fewer_evaluations_than_the_record_knows_of_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / RECORD).touch()
    known = SimpleNamespace(test_evaluations=1)
    monkeypatch.setattr(record, "read_record", lambda _: known)
    assert count_test_evaluation(tmp_path, "d", 3, "a") == 1
    known.test_evaluations = 2
    with pytest.raises(RunError, match=r"notes 1 evaluation.*knows of 2"):
        evaluations_of(tmp_path, "d")


KEY = Key("f" * 64, "p" * 64, ("final",))


def test_ids_are_listed_by_headers_alone_and_damaged_shards_are_passed_over(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    assert cache.listed(KEY) == frozenset()
    for ids in (["a", "b"], ["c"]):
        cache.write(KEY, ids, {"final": torch.ones(len(ids), 2)})
    assert cache.listed(KEY) == {"a", "b", "c"}
    (tmp_path / KEY.digest / "0.safetensors").write_bytes(b"damaged")
    assert FeatureCache(tmp_path).listed(KEY) == {"a", "b", "c"}
    assert (tmp_path / KEY.digest / "0.safetensors").exists()


def test_a_cache_that_cannot_be_cleaned_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FeatureCache(tmp_path).write(KEY, ["a"], {"final": torch.ones(1, 2)})

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(CacheError, match=rf"{KEY.digest} cannot be cleaned: Permission denied"):
        clean(tmp_path, everything=True)


def test_a_cache_in_a_store_is_kept_equal_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []
    mirror = SimpleNamespace(
        push=lambda path: asked.append(("push", path.name)),
        pull=lambda folder="": asked.append(("pull", folder)),
        drop=lambda path: asked.append(("drop", path.name)),
    )
    monkeypatch.setattr(feature_store.Mirror, "of", lambda _: mirror)
    cache = FeatureCache(tmp_path)
    cache.write(KEY, ["a"], {"final": torch.ones(1, 2)})
    [shard] = (tmp_path / KEY.digest).glob("*.safetensors")
    assert asked == [("push", "key.json"), ("push", shard.name)]
    asked.clear()
    assert FeatureCache(tmp_path).missing(KEY, ["a"]) == []
    assert asked == [("pull", KEY.digest)]
    asked.clear()
    assert next(feature_store.entries(tmp_path)).images == 1
    assert asked == [("pull", "")]
    asked.clear()
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.warns(UserWarning, match="Set aside"):
        assert FeatureCache(tmp_path).missing(KEY, ["a"]) == ["a"]
    assert asked == [("pull", KEY.digest), ("drop", shard.name)]
    asked.clear()
    assert clean(tmp_path) == 1
    assert asked == [("pull", ""), ("drop", shard.with_suffix(".corrupt").name)]


class Fixed(Table):
    """Rows that are there; notes what it is told to expect."""

    def __init__(self, value: float, size: int) -> None:
        self.value, self.size, self.expected = value, size, list[Any]()

    def fetch(self, rows: torch.Tensor, views: torch.Tensor) -> dict[str, torch.Tensor]:  # noqa: ARG002
        return {"vector": torch.full((len(rows), 2), self.value)}

    def expect(self, drawn: Any) -> None:
        self.expected.append(drawn)


@pytest.mark.parametrize("joined", [True, False])
def test_all_parts_of_a_table_read_ahead(joined: bool) -> None:
    parts = [Fixed(1.0, 8), Fixed(2.0, 4)]
    if joined:
        table: Table = JoinedTable([("", parts[0]), ("anchor ", parts[1])])
        assert table.size == 4
    else:
        of: Any = SimpleNamespace(parts=[SimpleNamespace(vector="vector")] * 2, vector="all", join=torch.cat)  # fmt: skip
        table = SideBySide(of, parts)
    rows = torch.arange(3)
    table.expect(drawn := lambda: (rows, rows))
    assert [part.expected for part in parts] == [[drawn], [drawn]]
    found = table.fetch(rows, rows)
    if joined:
        assert {name: value[0, 0].item() for name, value in found.items()} == {"vector": 1, "anchor vector": 2}  # fmt: skip
    else:
        assert found["all"][:, 0].tolist() == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(("free", "moved"), [(800, True), (799, False)])
def test_vectors_go_to_the_gpu_where_they_take_a_quarter_of_what_is_free(
    free: int, moved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 10_000))
    value: Any = SimpleNamespace(nbytes=100, to=lambda device: ("on", device))
    found = feature_table._near({"a": value, "b": value}, CUDA)
    wanted = ("on", CUDA) if moved else value
    assert found == {"a": wanted, "b": wanted}


def test_four_of_the_reasons_are_told() -> None:
    class Five(FrozenModel):
        a: int
        b: int
        c: int
        d: int
        e: int

    with pytest.raises(ValueError, match="5 validation errors") as caught:
        Five.model_validate({})
    assert reason(caught.value) == "; ".join(f"{name}: Field required" for name in "abcd")
    assert reason(OSError("gone")) == "gone"


def test_building_an_adapter_does_not_begin_the_compiler() -> None:
    assert _Allowance._should_skip_dynamo() is False


def test_folders_are_made_with_those_above_them(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path / "a" / "b"):
            assert (tmp_path / "a" / "b").is_dir()
        logger("jsonl", tmp_path / "c" / "d").start({})
    assert len((tmp_path / "c" / "d" / "log.jsonl").read_text().splitlines()) == 2
