"""What is asked of the libraries behind stores, what of theirs is told, and files that others take away meanwhile."""

from __future__ import annotations

import itertools
import os
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from petiole.errors import StoreError
from petiole.stores import local_cache, mount
from petiole.stores.address import Address
from petiole.stores.base import Entry, Missing, open_store
from petiole.stores.hub import HubStore
from petiole.stores.mount import materialise
from petiole.stores.publish import begin, publish

NAMES = itertools.count()


# --- the Hub ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bucket", "repository"),
    [
        ("me/model", ("me/model", "model", "main")),
        ("models/me/model@v2", ("me/model", "model", "v2")),
        ("datasets/me/cats@v/1", ("me/cats", "dataset", "v/1")),
        ("datasets/me/cats", ("me/cats", "dataset", "main")),
    ],
)
def test_a_repository_has_a_kind_and_a_revision(
    bucket: str, repository: tuple[str, str, str]
) -> None:
    store = HubStore(Address("hf", bucket))
    assert tuple(store._repository.values()) == repository


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A Hub that answers what it is told."""
    api = pytest.importorskip("huggingface_hub.hf_api")
    lfs = SimpleNamespace(sha256="d" * 64)
    files = [
        api.RepoFile(path="a/b.png", size=3, oid="o1", blobId="o1"),
        api.RepoFolder(path="a", oid="t", tree_id="t"),
        api.RepoFile(path="a/c/d.bin", size=5_000_000, oid="o2", blobId="o2"),
    ]
    files[2].lfs = lfs  # type: ignore[union-attr]
    asked: list[Any] = []
    import huggingface_hub

    class Api:
        def list_repo_tree(self, **given: Any) -> Any:
            asked.append(given)
            return iter(files)

        def get_paths_info(self, **given: Any) -> Any:
            asked.append(given)
            return [one for one in files if one.path in given["paths"]]

    (tmp_path / "big").write_bytes(b"x" * (2**20 + 1))
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda **given: asked.append(given) or str(tmp_path / "big"))  # fmt: skip
    return SimpleNamespace(asked=asked)


TERMS = {"repo_id": "me/cats", "repo_type": "dataset", "revision": "main"}


def test_files_of_a_repository_are_entries(hub: Any) -> None:
    store = HubStore(Address("hf", "datasets/me/cats"))
    assert list(store.list("a")) == [
        Entry("a/b.png", "b.png", 3, "o1", ""),
        Entry("a/c/d.bin", "c/d.bin", 5_000_000, "o2", "d" * 64),
    ]
    assert [entry.name for entry in store.list("")] == ["a/b.png", "a/c/d.bin"]
    assert [one["path_in_repo"] for one in hub.asked] == ["a", None]
    assert all(one["recursive"] for one in hub.asked)
    assert store.head("a/c/d.bin") == Entry("a/c/d.bin", "d.bin", 5_000_000, "o2", "d" * 64)
    assert store.head("a/b.png") == Entry("a/b.png", "b.png", 3, "o1", "")
    assert store.head("a") is None, "a folder"
    assert store.head("none") is None
    pieces = list(store.read("a/b.png"))
    assert [len(piece) for piece in pieces] == [2**20, 1]
    assert hub.asked[-1] == {"filename": "a/b.png", **TERMS}
    assert store.requests == {"list": 2, "head": 4, "get": 1}


class EntryNotFoundError(Exception):
    pass


class RemoteEntryNotFoundError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (EntryNotFoundError("x"), Missing, "no such file. Check the address."),
        (RemoteEntryNotFoundError("x"), Missing, "no such file. Check the address."),
        (OSError("first\nsecond"), StoreError, "cannot be had from the Hub (OSError: first). Check owner"),
        (ValueError("y" * 300), StoreError, f"cannot be had from the Hub (ValueError: {'y' * 200}). Check"),
        (KeyError(), StoreError, "cannot be had from the Hub (KeyError: ). Check owner, name and revision"),
    ],
)  # fmt: skip
def test_errors_of_the_hub_say_what_to_do(error: Exception, kind: type, said: str) -> None:
    store = HubStore(Address("hf", "me/m"))
    with pytest.raises(StoreError) as told, store._told("k"):
        raise error
    assert type(told.value) is kind
    assert str(told.value).startswith(f"hf://me/m/k: {said}")


# --- obstore ------------------------------------------------------------------------------------


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What obstore is asked to make."""
    stores = pytest.importorskip("obstore.store", reason="object stores need petiole[stores]")
    made: list[Any] = []
    for name in ("S3Store", "GCSStore", "AzureStore", "LocalStore", "MemoryStore"):
        monkeypatch.setattr(stores, name, lambda *given, kind=name, **more: made.append((kind, given, more)))  # fmt: skip
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "PETIOLE_STORE_PATIENCE"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    return made


def opened(scheme: str) -> None:
    from petiole.stores.objects import open_bucket

    open_bucket(Address(scheme, "bucket"))


def test_buckets_are_opened_with_patience(clients: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    retry = {"max_retries": 1000, "retry_timeout": timedelta(seconds=120), "backoff": {"max_backoff": timedelta(seconds=4)}}  # fmt: skip
    for scheme in ("s3", "gs", "az", "file", "memory"):
        opened(scheme)
    assert clients == [
        ("S3Store", ("bucket",), {"region": "us-east-1", "retry_config": retry, "client_options": {"allow_http": False}}),
        ("GCSStore", ("bucket",), {"retry_config": retry}),
        ("AzureStore", ("bucket",), {"retry_config": retry}),
        ("LocalStore", ("/",), {}),
        ("MemoryStore", (), {}),
    ]  # fmt: skip
    monkeypatch.setenv("PETIOLE_STORE_PATIENCE", "2.5")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "there")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://here")
    opened("s3")
    more = clients[-1][2]
    assert more["retry_config"]["retry_timeout"] == timedelta(seconds=2.5)
    assert (more["region"], more["client_options"]) == ("there", {"allow_http": True})
    monkeypatch.setenv("AWS_REGION", "here")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://here")
    opened("s3")
    assert (clients[-1][2]["region"], clients[-1][2]["client_options"]) == ("here", {"allow_http": False})  # fmt: skip


def test_a_bucket_that_cannot_be_opened_names_its_settings(clients: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    import obstore.store as stores

    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("no account")

    monkeypatch.setattr(stores, "AzureStore", refuse)
    with pytest.raises(
        StoreError, match=r"^az://bucket: cannot be opened \(no account\)\. Set AZURE_ST"
    ):
        opened("az")
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(
        StoreError, match=r"^s3://bucket needs the library obstore\. Run `pip install"
    ):
        opened("s3")
    assert clients == []


# --- files that others take away ----------------------------------------------------------------


@pytest.fixture
def raced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Address:
    """A bucket on a machine where whatever is deleted was deleted by another process a moment before."""
    pytest.importorskip("obstore", reason="object stores need petiole[stores]")
    monkeypatch.setenv("PETIOLE_STORES", str(tmp_path / "machine"))
    unlink = Path.unlink

    def late(path: Path, missing_ok: bool = False) -> None:
        if path.is_relative_to(tmp_path / "machine") and os.path.lexists(path):
            os.unlink(path)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", late)
    return Address("memory", f"raced-{next(NAMES)}")


def test_what_is_gone_already_need_not_be_deleted(raced: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    store = open_store(raced)
    store.put("f/a.txt", b"one")
    store.put("f/b.txt", b"two")
    place = materialise(raced / "f")
    store.delete("f/b.txt")
    store.put("f/a.txt", b"three")
    materialise(raced / "f")
    assert sorted(file.name for file in place.iterdir()) == ["a.txt"]
    monkeypatch.setenv("PETIOLE_STORES_SIZE", "1")
    kept = tmp_path / "machine/objects/aa/aa"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"xx")
    assert local_cache.make_room() == 0
    assert not kept.exists()


def test_what_is_no_more_there_when_it_is_measured_is_passed_over(raced: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(local_cache.os, "walk", lambda _: iter([(str(tmp_path), [], ["gone"])]))
    assert list(local_cache._files(tmp_path)) == []
    assert raced.bucket


def test_links_are_laid_over_what_a_killed_process_left(raced: Address) -> None:
    store = open_store(raced)
    store.put("f/a.txt", b"one")
    place = materialise(raced / "f")
    link = place / "a.txt"
    left = place / f"{mount.TEMPORARY}-{Path(os.readlink(link)).name}"
    os.unlink(link)
    left.symlink_to("nowhere")
    materialise(raced / "f")
    assert link.read_bytes() == b"one"
    assert not os.path.lexists(left)


def test_folders_are_made_as_deep_as_their_addresses(raced: Address) -> None:
    deep = raced / "a/b/c/run"
    place = begin(deep, resume=False)
    assert place.parent.is_dir()
    place.mkdir()
    (place / "x").write_text("x")
    assert publish(deep, finished=True) == 1
    begin(deep, resume=True)
    assert materialise(deep).is_dir()
    assert materialise(deep).is_dir()
