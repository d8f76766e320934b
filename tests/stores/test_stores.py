"""Stores, and the boundary where an address becomes a local path: in memory and in a folder, which behave as buckets do."""

from __future__ import annotations

import io
import itertools
import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from petiole.data.image import read_bytes
from petiole.data.readers.folder import open_folder
from petiole.engine.feature_store import FeatureCache, Key, clean, entries
from petiole.errors import ConfigError, DataError, RunError, StoreError
from petiole.stores import local_cache
from petiole.stores.address import Address
from petiole.stores.base import Missing, Store, open_store
from petiole.stores.local_cache import content_of, make_room
from petiole.stores.mirror import mirror_place
from petiole.stores.mount import PARTS, PUBLISHED, materialise, tree
from petiole.stores.pointer import named, pointer_at
from petiole.stores.publish import begin, publish

pytest.importorskip("obstore", reason="object stores need petiole[stores]")
NAMES = itertools.count()


@pytest.fixture(params=["memory", "file"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Address:
    """A folder in a fresh store."""
    if request.param == "file":
        return Address("file", "", str(tmp_path / "bucket").strip("/"))
    return Address("memory", f"bucket-{next(NAMES)}", "folder")


def store_of(address: Address) -> Store:
    return open_store(address.store)


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 40, 90)).save(file, "PNG")
    return file.getvalue()


def is_image(name: str) -> bool:
    return name.endswith(".png")


def put_photos(address: Address, classes: tuple[str, ...] = ("ash", "birch"), each: int = 3) -> int:
    """Images in class folders; how many."""
    for i, (name, n) in enumerate(itertools.product(classes, range(each))):
        store_of(address).put((address / f"{name}/{n}.png").key, png(i))
    return len(classes) * each


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("s3://bucket/a/b/", Address("s3", "bucket", "a/b")),
        ("s3://bucket", Address("s3", "bucket")),
        (Path("s3://bucket/a"), Address("s3", "bucket", "a")),
        ("file:///tmp/x", Address("file", "", "tmp/x")),
        (Path("file:///tmp/x"), Address("file", "", "tmp/x")),
        ("hf://datasets/me/cats@v2/train", Address("hf", "datasets/me/cats@v2", "train")),
        ("hf://me/model", Address("hf", "me/model")),
        ("hf:me/model", None),
        ("hf/me/model", None),
        ("C:/photos", None),
        ("photos/s3://x", None),
        (["s3://bucket"], None),
    ],
)
def test_an_address_is_told_from_a_path(text: object, address: Address | None) -> None:
    assert Address.parse(text) == address
    if address:
        assert Address.parse(str(address)) == address
        if address.scheme != "hf":
            assert Address.of_local(address.local.parts) == address


@pytest.mark.parametrize("text", ["s3://", "s3:///", "hf://cats", "gs://bucket/../other"])
def test_half_an_address_is_explained(text: str) -> None:
    with pytest.raises(ConfigError, match=r"Write"):
        Address.parse(text)


def test_the_face_of_a_store(bucket: Address) -> None:
    store, key = store_of(bucket), (bucket / "a/b").key
    assert store.get(key) is None
    assert store.head(key) is None
    assert store.create(key, b"first")
    assert not store.create(key, b"second")
    assert store.get(key) == b"first"
    found = store.head(key)
    assert found is not None
    assert found.size == 5
    assert b"".join(store.read(key, found.version)) == b"first"
    store.put(key, b"another")
    with pytest.raises(Missing, match="was replaced since it was listed"):
        b"".join(store.read(key, found.version))
    store.put((bucket / "ab").key, b"")
    assert {one.name: one.size for one in store.list((bucket / "a").key)} == {"b": 7}
    store.delete(key)
    store.delete(key)
    with pytest.raises(Missing, match=f"{bucket}/a/b: no such object"):
        b"".join(store.read(key))


def test_images_are_fetched_when_they_are_read_and_once(bucket: Address) -> None:
    n = put_photos(bucket)
    store_of(bucket).put((bucket / "notes.txt").key, b"fetched at once")
    before = store_of(bucket).requests["get"]
    place = materialise(bucket, is_image)
    assert (place / "notes.txt").read_text() == "fetched at once"
    assert store_of(bucket).requests["get"] - before == 1
    one = place / "ash/0.png"
    assert read_bytes(one) == png(0)
    assert named(one) == f"{bucket}/ash/0.png"
    data = open_folder(place)
    assert store_of(bucket).requests["get"] - before == 1 + n
    assert open_folder(materialise(bucket, is_image)).ids == data.ids
    assert store_of(bucket).requests["get"] - before == 1 + n, "checked before, under this version"


def test_what_changed_in_the_store_is_seen(bucket: Address) -> None:
    put_photos(bucket)
    place = materialise(bucket, is_image)
    first = open_folder(place)
    store = store_of(bucket)
    store.put((bucket / "ash/0.png").key, png(77))
    store.delete((bucket / "ash/1.png").key)
    with pytest.raises(DataError, match="was replaced since it was listed"):
        _forgotten(place / "ash/0.png")
    second = open_folder(materialise(bucket, is_image))
    assert len(second) == len(first) - 1
    assert not (place / "ash/1.png").exists()
    assert read_bytes(place / "ash/0.png") == png(77)


def _forgotten(path: Path) -> bytes:
    """Read an image whose content is no longer on this machine."""
    pointer = pointer_at(path)
    assert pointer is not None
    content_of(open_store(pointer.bucket), pointer.entry).unlink()
    return read_bytes(path)


def test_a_pointer_is_obeyed_only_where_it_was_laid(bucket: Address, tmp_path: Path) -> None:
    put_photos(bucket)
    laid = materialise(bucket, is_image) / "ash/0.png"
    foreign = tmp_path / "0.png"
    foreign.write_bytes(laid.read_bytes())
    assert read_bytes(foreign) == laid.read_bytes()
    laid.write_bytes(laid.read_bytes().replace(b'"size": ', b'"size": 1'))
    assert read_bytes(laid).startswith(b"{"), "its seal is broken"
    materialise(bucket, is_image)
    assert read_bytes(laid) == png(0)


@pytest.mark.parametrize("damage", ["truncated", "changed"])
def test_a_damaged_image_is_refused(
    bucket: Address, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_photos(bucket)
    place = materialise(bucket, is_image)
    open_folder(place)
    store, read = store_of(bucket), type(store_of(bucket)).read
    short = damage == "truncated"

    def other(self: Store, key: str, version: str = ""):
        content = b"".join(read(self, key, version))
        yield content[:-9] if short else content[:-1] + b"!"

    monkeypatch.setattr(type(store), "read", other)
    said = "is truncated: [0-9]+ bytes of [0-9]+" if short else "is damaged: SHA-256"
    with pytest.raises(DataError, match=said):
        _forgotten(place / "ash/0.png")


def test_what_is_damaged_on_this_machine_is_fetched_again(bucket: Address) -> None:
    put_photos(bucket)
    place = materialise(bucket, is_image)
    open_folder(place)
    pointer = pointer_at(place / "ash/0.png")
    assert pointer is not None
    kept = content_of(store_of(bucket), pointer.entry)
    kept.write_bytes(b"?" * pointer.entry.size)
    assert read_bytes(place / "ash/0.png") == png(0)


def test_the_least_recently_used_goes_first(
    bucket: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_photos(bucket)
    place = materialise(bucket, is_image)
    paths = sorted(place.rglob("*.png"))
    for path in paths:
        read_bytes(path)
    kept = [content_of(store_of(bucket), pointer_at(path).entry) for path in paths]  # type: ignore[union-attr]
    for age, path in enumerate(kept):
        os.utime(path, (1e9 - age, 1e9 - age))
    read_bytes(paths[-1])  # used now
    total = sum(path.stat().st_size for path in kept)
    monkeypatch.setenv("PETIOLE_STORES_SIZE", str(total // 2))
    make_room()
    left = [path.exists() for path in kept]
    assert left[-1]
    assert left[:-1] == sorted(left[:-1], reverse=True), "the oldest went"
    assert sum(path.stat().st_size for path in kept if path.exists()) <= 0.9 * (total // 2)
    assert [read_bytes(path) for path in paths] == [png(i) for i in range(len(paths))]
    monkeypatch.setenv("PETIOLE_STORES_SIZE", "plenty")
    with pytest.raises(ConfigError, match="500M or 20G"):
        local_cache.limit()


def test_nothing_there_and_strange_keys_are_explained(bucket: Address) -> None:
    with pytest.raises(DataError, match=f"{bucket}/no: nothing lies there"):
        materialise(bucket / "no")
    store = store_of(bucket)
    store.put((bucket / "a").key, b"file")
    if bucket.scheme == "memory":
        store.put((bucket / "a/b").key, b"and folder")
        with pytest.raises(DataError, match="cannot be laid out"):
            materialise(bucket)


def test_a_table_brings_the_images_beside_it(bucket: Address) -> None:
    put_photos(bucket)
    store_of(bucket).put((bucket / "list.csv").key, b"path,label\nash/0.png,ash\n")
    table = materialise(bucket / "list.csv", is_image)
    assert read_bytes(table.parent / "ash/0.png") == png(0)


def write(address: Address, content: str = "weights", *, resume: bool = False) -> Path:
    place = begin(address, resume=resume)
    (place / "adapter").mkdir(parents=True, exist_ok=True)
    (place / "record.json").write_text("{}")
    (place / "adapter" / "adapter.safetensors").write_text(content)
    (place / ".lock").write_text("not published")
    return place


def test_a_folder_is_published_whole_and_once(
    bucket: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = bucket / "run"
    write(run)
    with monkeypatch.context() as patched:
        patched.setenv("PETIOLE_STORES", str(tmp_path / "second machine"))
        write(run, "others")
    assert publish(run, finished=True) == 2
    assert (materialise(run) / "adapter/adapter.safetensors").read_text() == "weights"
    assert not (tree(run) / ".lock").exists()
    assert (materialise(run / "adapter") / "adapter.safetensors").read_text() == "weights"
    assert (materialise(bucket) / "run/adapter/adapter.safetensors").read_text() == "weights"
    with pytest.raises(RunError, match="Add --resume"):
        begin(run, resume=False)
    (begin(run, resume=True) / "report.html").write_text("written again")
    assert publish(run, finished=True) == 0, "it is finished"
    with monkeypatch.context() as patched:
        patched.setenv("PETIOLE_STORES", str(tmp_path / "second machine"))
        with pytest.raises(RunError, match="another process published there in the meantime"):
            publish(run, finished=True)
    assert (materialise(run) / "adapter/adapter.safetensors").read_text() == "weights"


def test_what_dies_before_the_manifest_is_not_seen(
    bucket: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = bucket / "run"
    write(run)

    def die(*_: object) -> bool:
        raise StoreError("the process dies here")

    with monkeypatch.context() as patched:
        patched.setattr(type(store_of(run)), "create", die)
        with pytest.raises(StoreError, match="dies"):
            publish(run, finished=True)
    with pytest.raises(DataError, match="nothing lies there"):
        materialise(run)
    publish(run, finished=True)
    assert (materialise(run) / "record.json").read_text() == "{}"


def test_an_interrupted_run_goes_on_on_another_machine(
    bucket: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = bucket / "run"
    write(run, "half")
    publish(run, finished=False)
    monkeypatch.setenv("PETIOLE_STORES", str(tmp_path / "second machine"))
    place = begin(run, resume=True)
    assert (place / "adapter/adapter.safetensors").read_text() == "half"
    (place / "adapter/adapter.safetensors").write_text("whole")
    publish(run, finished=True)
    kept = {one.name for one in store_of(run).list((run / PARTS).key)}
    assert len(kept) == 2, "what only the unfinished state had is gone"
    monkeypatch.setenv("PETIOLE_STORES", str(tmp_path / "machine"))
    place = begin(run, resume=True)
    assert (place / "adapter/adapter.safetensors").read_text() == "whole"


@pytest.mark.parametrize("part", ["manifest", "part", "short part"])
def test_a_damaged_published_folder_is_refused(bucket: Address, part: str) -> None:
    run = bucket / "run"
    write(run)
    publish(run, finished=True)
    store, manifest = store_of(run), (run / PUBLISHED).key
    listed = json.loads(store.get(manifest) or b"")
    assert listed["format"] == 1, (
        "what is published stays readable: another number is another format"
    )
    files = listed["files"]
    key = (run / f"{PARTS}/{files['adapter/adapter.safetensors'][0]}").key
    if part == "manifest":
        store.put(manifest, (store.get(manifest) or b"").replace(b"adapter.s", b"another.s"))
    else:
        store.put(key, b"weight?" if part == "part" else b"weigh")
    with pytest.raises(DataError, match=rf"{bucket}/run/.*is (damaged|truncated)"):
        materialise(run)


KEY = Key("f" * 64, "p" * 64, ("final",))


def features(address: Address) -> FeatureCache:
    return FeatureCache(mirror_place(address))


def test_features_are_shared_through_a_store(
    bucket: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"final": torch.arange(6.0).reshape(2, 3)}
    features(bucket).write(KEY, ["x", "y"], values)
    monkeypatch.setenv("PETIOLE_STORES", str(tmp_path / "second machine"))
    second = features(bucket)
    assert second.missing(KEY, ["x", "y", "z"]) == ["z"]
    assert torch.equal(second.read(KEY, ["y"])["y"]["final"], values["final"][1])
    assert [entry.images for entry in entries(mirror_place(bucket))] == [2]
    assert clean(mirror_place(bucket), everything=True) == 2
    monkeypatch.setenv("PETIOLE_STORES", str(tmp_path / "third machine"))
    assert features(bucket).missing(KEY, ["x", "y"]) == ["x", "y"]


@pytest.mark.parametrize("damage", [b"short", None])
def test_a_damaged_shard_is_taken_away_and_written_again(
    bucket: Address, damage: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"final": torch.arange(6.0).reshape(2, 3)}
    features(bucket).write(KEY, ["x", "y"], values)
    store = store_of(bucket)
    (shard,) = (one for one in store.list(bucket.key) if one.name.endswith(".safetensors"))
    content = store.get(shard.key) or b""
    store.put(shard.key, damage or content[:-1] + bytes([content[-1] ^ 1]))
    monkeypatch.setenv("PETIOLE_STORES", str(tmp_path / "second machine"))
    with pytest.warns(UserWarning, match="Set aside the damaged cache shard"):
        assert features(bucket).missing(KEY, ["x"]) == ["x"]
    assert store.head(shard.key) is None
    features(bucket).write(KEY, ["x", "y"], values)
    assert store.get(shard.key) == content
