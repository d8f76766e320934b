"""What is stored: evaluations of a test set, shards and their mirror, tables that read ahead, reasons that are told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from petiole.engine import feature_store, feature_table, record
from petiole.engine.adapter_limits import _Allowance
from petiole.engine.feature_extractor import Features
from petiole.engine.feature_store import FeatureCache, Key, clean
from petiole.engine.feature_table import JoinedTable, SideBySide, Table
from petiole.engine.loggers import logger
from petiole.engine.model_card import FrozenModel, reason
from petiole.engine.record import LOG, RECORD, count_test_evaluation, evaluations_of
from petiole.engine.run_lock import locked
from petiole.errors import CacheError, RunError
from petiole.files import TEMPORARY

CPU = torch.device("cpu")
CUDA: Any = SimpleNamespace(type="cuda")
"""As much of a device as is asked for its kind."""


def test_fewer_evaluations_than_the_record_knows_of_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluations_of(tmp_path) == evaluations_of(tmp_path, "d") == 0
    (tmp_path / RECORD).touch()
    known = SimpleNamespace(test_evaluations=1)
    monkeypatch.setattr(record, "read_record", lambda _: known)
    with pytest.raises(RunError, match=r"notes 0 evaluation.*knows of 1"):
        evaluations_of(tmp_path)
    assert count_test_evaluation(tmp_path, "d", 3, "a") == 1
    known.test_evaluations = 2
    with pytest.raises(RunError, match=r"notes 1 evaluation.*knows of 2"):
        evaluations_of(tmp_path, "d")


def test_a_step_that_was_done_twice_is_left_once_in_the_log(tmp_path: Path) -> None:
    log = record.appender(tmp_path / LOG, fresh=True)
    for step, loss in ((0, 3.0), (10, 2.0), (10, 2.5), (20, 1.0)):
        log(step, {"loss": loss})
    record._settle(tmp_path / LOG)
    rows = record.lines(tmp_path / LOG)
    assert [(row["step"], row["loss"]) for row in rows] == [(0, 3.0), (10, 2.5), (20, 1.0)]
    record.appender(tmp_path / LOG, fresh=False)
    assert record.lines(tmp_path / LOG) == rows
    record.appender(tmp_path / LOG, fresh=True)
    assert record.lines(tmp_path / LOG) == []


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


def test_a_key_keeps_its_digest() -> None:
    """Else all that was ever stored would be computed again."""
    key = Key("f", "p", ("a", "b"), "float16", "bf16", 2, "x")
    assert key.digest.startswith("4a1c0dfad3226683fd4044efec5486f9")


def test_what_this_process_wrote_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, checked = FeatureCache(tmp_path), list[str]()
    verified = feature_store.verified

    def counted(path: Path, cut: Any = None) -> Any:
        checked.append(path.stem)
        return verified(path, cut)

    monkeypatch.setattr(feature_store, "verified", counted)
    FeatureCache(tmp_path).write(KEY, ["a"], {"final": torch.ones(1, 2)})
    for _ in range(2):
        assert cache.missing(KEY, ["a", "b"]) == ["b"]
    cache.write(KEY, ["b"], {"final": torch.zeros(1, 2)})
    assert cache.missing(KEY, ["a", "b", "c"]) == ["c"]
    assert cache.read(KEY, ["b"])["b"]["final"].tolist() == [0.0, 0.0]
    assert len(checked) == 1


def test_a_damaged_shard_is_told_to_who_asked_for_it(tmp_path: Path) -> None:
    """The warning names the line that asked."""
    (tmp_path / KEY.digest).mkdir()
    (tmp_path / KEY.digest / "0.safetensors").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="Set aside") as caught:
        FeatureCache(tmp_path).missing(KEY, ["a"])
    assert caught[0].filename == __file__
    assert next(feature_store.entries(tmp_path)).leftovers == 1


@pytest.mark.parametrize(("age", "spared"), [(3600, True), (3601, False)])
def test_what_a_living_writer_may_own_is_an_hour_old_at_most(
    age: int, spared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / KEY.digest).mkdir()
    left = tmp_path / KEY.digest / f"{TEMPORARY}1-shard"
    left.write_bytes(b"x")
    [entry] = feature_store.entries(tmp_path)
    assert (entry.leftovers, entry.images) == (1, 0)
    now = left.stat().st_mtime + age
    monkeypatch.setattr(feature_store, "time", SimpleNamespace(time=lambda: now))
    assert clean(tmp_path) == (not spared)
    assert left.exists() == spared


def test_what_another_process_took_away_meanwhile_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / KEY.digest).mkdir()
    gone = tmp_path / KEY.digest / f"{TEMPORARY}1-shard"
    gone.symlink_to(tmp_path / "absent")
    assert clean(tmp_path) == 0
    gone.unlink()
    cache = FeatureCache(tmp_path)
    cache.write(KEY, ["a"], {"final": torch.ones(1, 2)})
    [shard] = (tmp_path / KEY.digest).glob("*.safetensors")
    monkeypatch.setattr(feature_store, "_shards", lambda _: [shard, shard.with_name("1")])
    assert FeatureCache(tmp_path).missing(KEY, ["a", "b"]) == ["b"]
    [found] = feature_store.entries(tmp_path)
    assert (found.images, found.damaged) == (1, 0)
    assert (found.bytes, found.leftovers) == (shard.stat().st_size, 0)
    monkeypatch.setattr(feature_store, "_useless", lambda path: path.unlink() is None)
    assert clean(tmp_path) == 2
    assert not (tmp_path / KEY.digest).exists()


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


@pytest.mark.parametrize(("shape", "gathered"), [((2,), True), ((3, 2), False)])
def test_vectors_are_gathered_and_token_maps_stay_where_they_are(
    shape: tuple[int, ...], gathered: bool
) -> None:
    values = torch.arange(6 * torch.Size(shape).numel()).reshape(6, *shape)
    rows = feature_store.Rows([{"a": values[:4]}, {"a": values[4:]}], [5, 0, 3, 4, 1, 2])
    table = feature_table.StoredTable(rows, 3, CPU)
    assert (table._dense is not None) == gathered
    assert table.size == (Table.size if gathered else feature_table.chunk_size(CPU))
    found = table.fetch(torch.tensor([1, 2]), torch.tensor([0, 1]))["a"]
    assert torch.equal(found, values[[0, 2]].float())


class Told:
    """A tensor that notes where it is sent."""

    device = "there"

    def __init__(self, sent: list[Any]) -> None:
        self.sent = sent

    def __mul__(self, _: Any) -> Told:
        return self

    __add__ = __getitem__ = __mul__

    def to(self, *of: Any, **how: Any) -> Told:
        self.sent.append((of, how))
        return self


def test_nothing_waits_for_what_goes_to_the_device() -> None:
    told = Told([])
    table = object.__new__(feature_table.StoredTable)
    table.device, table._images = CPU, 3
    values, rows = told, SimpleNamespace(take=lambda chosen: {"a": chosen})
    for dense in (None, {"a": values}):
        table._dense, table._rows = dense, rows  # type: ignore[assignment]
        table.fetch(told, told)  # type: ignore[arg-type]
    sent = ((CPU, torch.float32), {"non_blocking": True})
    assert told.sent == [sent, (("there",), {"non_blocking": True}), sent]
    told.sent.clear()
    network: Any = SimpleNamespace(module=torch.nn.Linear(1, 1))
    assert Features(network).run(told, ("images",)) == {"images": told}  # type: ignore[arg-type]
    assert told.sent == [((CPU,), {"non_blocking": True})]


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
