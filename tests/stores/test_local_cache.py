"""What was fetched: sizes as people write them, when room is made, and for how long."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from petiole.errors import ConfigError, DataError
from petiole.stores import local_cache
from petiole.stores.address import Address
from petiole.stores.base import Entry, Missing, Store
from petiole.stores.local_cache import content_of, fetch, limit, make_room

NOW = 1_700_000_000.0
DAY = 86_400


class Shelf(Store):
    """Objects in a dictionary, read two bytes at a time."""

    def __init__(self, **objects: bytes) -> None:
        super().__init__(Address("s3", "shelf"))
        self.objects = objects
        self.read_with: list[str] = []

    def read(self, key: str, version: str = "") -> Iterator[bytes]:
        self.read_with.append(version)
        if key not in self.objects:
            raise Missing(key)
        content = self.objects[key]
        yield from (content[i : i + 2] for i in range(0, len(content), 2))

    def list(self, folder: str) -> Iterator[Entry]:
        raise NotImplementedError

    def head(self, key: str) -> Entry | None:
        raise NotImplementedError

    def put(self, key: str, content: Path | bytes) -> None:
        raise NotImplementedError

    def create(self, key: str, content: bytes) -> bool:
        raise NotImplementedError

    def delete(self, key: str) -> None:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this machine."""
    monkeypatch.setenv("PETIOLE_STORES", str(tmp_path / "machine"))
    monkeypatch.delenv("PETIOLE_STORES_SIZE", raising=False)
    monkeypatch.setattr(local_cache, "_BUDGET", local_cache._Budget())
    return tmp_path / "machine"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("7", 7),
        ("7b", 7),
        ("1.5k", 1500),
        ("2KB", 2000),
        ("500M", 500_000_000),
        ("20G", 20_000_000_000),
        ("0.25TB", 250_000_000_000),
        ("1e3", 1000),
    ],
)
def test_sizes_are_read_as_they_are_written(
    text: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert limit() == 20_000_000_000, "the default"
    monkeypatch.setenv("PETIOLE_STORES_SIZE", text)
    assert limit() == size


@pytest.mark.parametrize("text", ["", "B", "G", "plenty", "5X", "nan", "inf", "-1G", "0"])
def test_what_is_no_size_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETIOLE_STORES_SIZE", text)
    with pytest.raises(ConfigError, match=r"is no size. Write 500M or 20G"):
        limit()


def test_it_lies_in_the_folder_of_the_feature_cache_or_where_it_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PETIOLE_STORES", "mine")
    assert local_cache.root() == tmp_path / "mine"
    monkeypatch.delenv("PETIOLE_STORES")
    monkeypatch.setenv("PETIOLE_CACHE", "usual")
    assert local_cache.root() == tmp_path / "usual" / "stores"


def test_an_object_is_fetched_once_and_again_when_it_is_another(here: Path) -> None:
    store = Shelf(a=b"abcde")
    first = content_of(store, Entry("a", "a", 5, "v1"))
    assert first.read_bytes() == b"abcde"
    assert first.relative_to(here).parts == ("objects", first.name[:2], first.name)
    os.utime(first, (NOW, NOW))
    assert content_of(store, Entry("a", "elsewhere", 5, "v1")) == first
    assert first.stat().st_mtime > NOW, "it was used now"
    assert store.read_with == ["v1"]
    for other in (Entry("a", "a", 5, "v2"), Entry("a", "a", 5, "", "0" * 63)):
        assert content_of_path(store, other) != first
    first.write_bytes(b"abc")
    assert content_of(store, Entry("a", "a", 5, "v1")).read_bytes() == b"abcde", "it was cut"


def content_of_path(store: Store, entry: Entry) -> Path:
    """Where the content of an object would lie, whatever it is."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(local_cache, "fetch", lambda *_: None)
        return content_of(store, entry)


def test_only_what_is_opened_later_is_compared_with_its_digest(here: Path) -> None:
    store, right = Shelf(a=b"abcd"), hashlib.sha256(b"abcd").hexdigest()
    for whole, left in ((False, b"wxyz"), (True, b"abcd")):
        path = content_of(store, Entry("a", "a", 4, "v", right), whole=whole)
        assert path.is_relative_to(here / ("whole" if whole else "objects"))
        path.write_bytes(b"wxyz")
        assert content_of(store, Entry("a", "a", 4, "v", right), whole=whole) == path
        assert path.read_bytes() == left
    unknown = Entry("a", "a", 4, "v")
    path = content_of(store, unknown, whole=True)
    path.write_bytes(b"wxyz")
    assert content_of(store, unknown, whole=True).read_bytes() == b"wxyz", "its digest is not known"


def test_what_is_cut_or_damaged_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    store, place = Shelf(a=b"x" * 1234), tmp_path / "deep" / "a"
    with pytest.raises(
        DataError, match=r"^s3://shelf/a: is truncated: 1,234 bytes of 2,000\. Upload it again\.$"
    ):
        fetch(store, Entry("a", "a", 2000), place)
    digest = hashlib.sha256(b"x" * 1234).hexdigest()
    with pytest.raises(
        DataError,
        match=rf"^s3://shelf/a: is damaged: SHA-256 {digest[:12]} instead of 000000000000\. Upload",
    ):
        fetch(store, Entry("a", "a", 1234, "", "0" * 64), place)
    assert list(place.parent.iterdir()) == []
    fetch(store, Entry("a", "a", 1234, "", digest), place)
    assert [file.name for file in place.parent.iterdir()] == ["a"]


def test_room_is_made_when_the_budget_is_spent_and_not_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured: list[int] = []
    monkeypatch.setattr(local_cache, "make_room", lambda: measured.append(1) or 10)
    budget = local_cache._Budget()
    budget.spend(1)
    assert len(measured) == 1, "nothing is known at first"
    budget.spend(4)
    budget.spend(6)
    assert len(measured) == 1, "exactly all of it"
    budget.spend(1)
    assert len(measured) == 2
    store = Shelf(a=b"abcde")
    monkeypatch.setattr(local_cache, "_BUDGET", budget)
    for n in (5, 10):
        content_of(store, Entry("a", "a", 5, str(n)))
        assert len(measured) == 2
    content_of(store, Entry("a", "a", 5, "more"))
    assert len(measured) == 3, "what is fetched counts"


def kept(here: Path, kind: str, name: str, size: int, age: float) -> Path:
    """A file that was used so many seconds before now."""
    path = here / kind / name[:2] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (NOW - age, NOW - age))
    return path


@pytest.mark.parametrize(
    ("sizes", "left", "budget"),
    [
        ((100,), 1, 100),  # a tenth of the limit, though nine are free
        ((500, 450), 2, 50),
        ((500, 500), 2, 0),  # exactly the limit
        ((101, 450, 450), 2, 100),  # 1,001: the oldest goes, and 900 are nine tenths
        ((99, 2, 450, 450), 2, 100),  # 1,001: 902 are too many, so the next goes too
        ((1, 2000), 0, 100),
    ],
)
def test_nine_tenths_are_left_of_what_is_too_much(
    sizes: tuple[int, ...], left: int, budget: int, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PETIOLE_STORES_SIZE", "1000")
    paths = [kept(here, "objects", f"{i:02d}", n, 900.0 - i) for i, n in enumerate(sizes)]
    assert make_room() == budget
    assert [path.exists() for path in paths] == [False] * (len(sizes) - left) + [True] * left


def test_what_a_command_may_have_open_stays_for_a_day(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PETIOLE_STORES_SIZE", "1000")
    monkeypatch.setattr(local_cache, "time", lambda: NOW)
    old = kept(here, "whole", "aa", 400, DAY)
    young = kept(here, "whole", "bb", 400, DAY - 1)
    features = kept(here, "features", "cc", 400, 10)
    other = kept(here, "outgoing", "dd", 5000, 3 * DAY)
    tree = kept(here, "tree", "ee", 5000, 3 * DAY)
    assert make_room() == 100
    assert not old.exists()
    assert all(path.exists() for path in (young, features, other, tree))
    monkeypatch.setenv("PETIOLE_STORES_SIZE", "100")
    assert make_room() == 0, "more is kept than is allowed"
    assert young.exists()
    assert not features.exists()


def test_one_process_makes_room_at_a_time(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETIOLE_STORES_SIZE", "1000")
    path = kept(here, "objects", "aa", 2000, 9)
    with FileLock(here / ".room"):
        assert make_room() == 50
    assert path.exists()


def test_nobody_waits_for_another_to_make_room(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []

    def lock(path: Path, **more: object) -> FileLock:
        given.append((path, more))
        return FileLock(path)

    monkeypatch.setattr(local_cache, "FileLock", lock)
    make_room()
    assert given == [(here / ".room", {"timeout": 0})]
