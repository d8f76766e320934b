"""How a bucket is laid out in a folder: what is seen of it, what is not, and what goes."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import pytest
from PIL import Image

from petiole.errors import DataError, StoreError
from petiole.files import sealed
from petiole.stores import known, pointer
from petiole.stores.address import Address
from petiole.stores.base import Entry, Missing, Store, open_store, requests
from petiole.stores.mirror import Mirror, mirror_place
from petiole.stores.mount import PARTS, PUBLISHED, UNFINISHED, materialise, parts_of, tree, walk
from petiole.stores.pointer import Pointer, image_bytes, pointer_at
from petiole.stores.publish import begin, outgoing, publish

pytest.importorskip("obstore", reason="object stores need petiole[stores]")
NAMES = itertools.count()


@pytest.fixture
def bucket() -> Address:
    """A fresh bucket in memory."""
    return Address("memory", f"layout-{next(NAMES)}")


def put(address: Address, content: bytes = b"x") -> None:
    open_store(address.store).put(address.key, content)


def seen(place: Path) -> list[str]:
    return sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())


def is_image(name: str) -> bool:
    return name.endswith(".png")


def test_hidden_objects_are_not_seen_at_any_depth(bucket: Address) -> None:
    for name in ("a/b/c.txt", "a/.hidden", ".git/config", "a/.b/d.txt", "top.txt"):
        put(bucket / name)
    assert seen(materialise(bucket)) == ["a/b/c.txt", "top.txt"]


def test_what_is_gone_goes_with_its_empty_folders(bucket: Address) -> None:
    for name in ("a/b/c.txt", "a/d.txt"):
        put(bucket / name)
    place = materialise(bucket)
    open_store(bucket).delete("a/b/c.txt")
    assert materialise(bucket) == place
    assert seen(place) == ["a/d.txt"]
    assert not (place / "a/b").exists()
    assert (place / "a").is_dir()


def test_a_link_is_laid_anew_only_where_the_object_is_another(bucket: Address) -> None:
    put(bucket / "f/a.txt", b"one")
    link = materialise(bucket / "f") / "a.txt"
    first = link.readlink()
    made = link.lstat().st_ino
    materialise(bucket / "f")
    assert link.lstat().st_ino == made
    put(bucket / "f/a.txt", b"two!")
    materialise(bucket / "f")
    assert (link.read_bytes(), link.readlink() == first) == (b"two!", False)


def test_one_object_comes_alone_and_a_table_with_images_beside_it(bucket: Address) -> None:
    for name in ("f/a.txt", "f/b.PNG", "f/c.png", "f/.d.png", "f/g/e.png"):
        put(bucket / name)
    place = materialise(bucket / "f/a.txt", is_image)
    assert place == tree(bucket / "f/a.txt")
    assert seen(place.parent) == ["a.txt"]
    for table in ("list.csv", "list.TSV", "list.parquet", "list.json", "list.jsonl"):
        put(bucket / "f" / table, b"path\n")
        place = materialise(bucket / "f" / table, is_image).parent
        assert seen(place) == ["a.txt", "c.png", "g/e.png", table], "other files stay away"
        (place / table).unlink()
        open_store(bucket).delete(f"f/{table}")
    put(bucket / "list.csv", b"path\n")
    assert materialise(bucket / "list.csv").read_bytes() == b"path\n", "at the top"


def test_keys_that_are_no_paths_are_counted_and_named(bucket: Address, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    store = open_store(bucket)
    names = ("a//b", "c/../d", "e\0f", "fine")
    entries = [Entry(name, name, 1) for name in names]
    monkeypatch.setattr(store, "list", lambda _: iter(entries))
    with pytest.raises(
        DataError, match=rf"^memory://{bucket.bucket}/a//b: its key is no path of a file, as of 2 "
    ):
        materialise(bucket)


def test_very_long_keys_have_a_lock(bucket: Address) -> None:
    key = "/".join(["a" * 60] * 5)
    put(bucket / f"{key}/x.txt")
    assert seen(materialise(bucket / key)) == ["x.txt"]


def test_nothing_there_is_said_of_a_bucket_too(bucket: Address) -> None:
    with pytest.raises(
        DataError, match=rf"^memory://{bucket.bucket}: nothing lies there\. Check bucket and key;"
    ):
        materialise(bucket)


def published(address: Address, finished: bool, **files: str) -> None:
    """What a run left there."""
    place = begin(address, resume=True)
    for name, text in files.items():
        path = place / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert publish(address, finished=finished) == len(list(walk(place)))


def test_a_finished_folder_is_seen_before_an_unfinished_one(bucket: Address) -> None:
    published(bucket / "run", False, a="half")
    assert (materialise(bucket / "run") / "a").read_text() == "half"
    content = open_store(bucket).get(f"run/{UNFINISHED}")
    published(bucket / "run", True, a="whole", deep__b="b")
    place = materialise(bucket)
    assert seen(place) == ["run/a", "run/deep/b"]
    assert (place / "run/a").read_text() == "whole"
    assert open_store(bucket).head(f"run/{UNFINISHED}") is None
    for unfinished in (content, b"damaged"):  # whatever its order in the listing
        put(bucket / "run" / UNFINISHED, unfinished or b"")
        assert (materialise(bucket) / "run/a").read_text() == "whole"
    assert [one.name for one in parts_of(open_store(bucket), "run", f"run/{PUBLISHED}")] == [
        "a",
        "deep/b",
    ]


@pytest.mark.parametrize("finished", [True, False])
def test_a_part_of_a_published_folder_has_an_address(bucket: Address, finished: bool) -> None:
    published(bucket, finished, a__b__c__d__e="deep", ab="beside", a__x="x")
    assert seen(materialise(bucket / "a")) == ["b/c/d/e", "x"]
    assert seen(materialise(bucket / "a/b/c/d")) == ["e"]
    with pytest.raises(DataError, match=r"nothing lies there"):
        materialise(bucket / "a/b/none")


def test_of_a_part_what_is_published_no_more_goes(bucket: Address) -> None:
    published(bucket, False, a__x="x", a__y="y", b="b")
    assert seen(materialise(bucket / "a")) == ["x", "y"]
    place = begin(bucket, resume=True)
    (place / "a/y").unlink()
    publish(bucket, finished=False)
    assert seen(materialise(bucket / "a")) == ["x"]


def test_it_is_looked_for_in_four_folders_above(bucket: Address) -> None:
    published(bucket / "run", True, a__b__c__d__e="deep", a__b__c__f="f")
    assert seen(materialise(bucket / "run/a/b/c")) == ["d/e", "f"]
    assert seen(materialise(bucket / "run/a/b/c/d")) == ["e"]
    with pytest.raises(DataError, match=r"nothing lies there"):
        materialise(bucket / "run/a/b/c/d/e")


def test_a_manifest_that_is_damaged_or_goes_meanwhile_is_named(bucket: Address) -> None:
    store = open_store(bucket)
    where = rf"^memory://{bucket.bucket}/m: "
    assert parts_of(store, "", "m", missing_ok=True) == []
    with pytest.raises(StoreError, match=where + "was taken away since it was listed. Repeat"):
        parts_of(store, "", "m")
    for content in (
        b"{",
        json.dumps(sealed({"format": 1})).encode(),
        json.dumps(sealed({"files": {"a": ["d"]}})).encode(),
        json.dumps(sealed({"files": ["a"]})).encode(),
        json.dumps(sealed({"files": {"a": ["d", "many"]}})).encode(),
    ):
        put(bucket / "m", content)
        with pytest.raises(DataError, match=where + r"is damaged \(.*\)\. Publish the folder aga"):
            parts_of(store, "", "m")
    put(bucket / "m", json.dumps(sealed({"files": {"n": ["d" * 64, "7"]}})).encode())
    (one,) = parts_of(store, "", "m")
    assert one == Entry(f"{PARTS}/{'d' * 64}", "n", 7, "", "d" * 64)
    (one,) = parts_of(store, "base", "m")
    assert one.key == f"base/{PARTS}/{'d' * 64}"


def test_files_are_walked_by_name_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a/3", ".c/4", "d", ".e", "b/.f"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert [p.relative_to(tmp_path).as_posix() for p in walk(tmp_path)] == [
        "d",
        "a/3",
        "b/1",
        "b/2",
    ]


def test_one_file_is_published_as_it_is(bucket: Address) -> None:
    place = begin(bucket / "t/labels.csv", resume=False)
    assert publish(bucket / "t/labels.csv", finished=True) == 0, "nothing was written"
    place.write_text("path,label\n")
    assert publish(bucket / "t/labels.csv", finished=True) == 1
    assert open_store(bucket).get("t/labels.csv") == b"path,label\n"
    assert not begin(bucket / "t/labels.csv", resume=False).exists(), "of an earlier command"


def test_what_was_deleted_there_is_begun_anew(bucket: Address) -> None:
    published(bucket / "run", True, a="old")
    store = open_store(bucket)
    for entry in list(store.list("run")):
        store.delete(entry.key)
    assert not begin(bucket / "run", resume=False).exists()
    place = outgoing(bucket / "other")
    (place / "kept").mkdir(parents=True)
    assert (begin(bucket / "other", resume=False) / "kept").is_dir(), "it was never published"


def test_parts_that_are_there_are_not_sent_again(bucket: Address) -> None:
    store = open_store(bucket)
    published(bucket / "run", False, a="same", b="other")
    before = store.requests["put"]
    published(bucket / "run", False, a="same", b="another")
    assert store.requests["put"] == before + 2, "one part and the manifest"
    (part,) = [one for one in store.list(f"run/{PARTS}") if one.size == len("same")]
    store.put(part.key, b"sam")
    published(bucket / "run", True, a="same")
    assert store.get(part.key) == b"same", "it was cut"


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 40, 90)).save(file, "PNG")
    return file.getvalue()


def test_an_image_that_is_too_large_is_not_fetched(bucket: Address, machine: Path) -> None:
    put(bucket / "f/a.png", png(1))
    path = materialise(bucket / "f", is_image) / "a.png"
    size, content = len(png(1)), path.read_bytes()
    assert image_bytes(path, content, size) == png(1)
    laid = pointer_at(path)
    assert laid is not None
    Pointer(laid.bucket, Entry("f/a.png", "a.png", 3_210_000_000)).write(path)
    with pytest.raises(
        DataError, match=rf"memory://{bucket.bucket}/f/a.png: has 3.2 GB; more than 1.5 are refused"
    ):
        image_bytes(path, path.read_bytes(), 1_500_000_000)
    assert image_bytes(machine / "a.png", content, 1) == content, "no pointer lies there"


@pytest.mark.parametrize("tries", [1, 2, 3])
def test_what_another_process_takes_away_is_fetched_again(
    bucket: Address, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(bucket / "f/a.png", png(1))
    path = materialise(bucket / "f", is_image) / "a.png"
    asked: list[Entry] = []

    def taken(store: Store, entry: Entry) -> Path:
        asked.append(entry)
        found = pointer_content(store, entry)
        if len(asked) <= tries:
            found.unlink()
        return found

    pointer_content = pointer.content_of
    monkeypatch.setattr(pointer, "content_of", taken)
    if tries < 3:
        assert image_bytes(path, path.read_bytes(), 10**6) == png(1)
    else:
        with pytest.raises(
            DataError, match=r"is taken away while it is read. Raise PETIOLE_STORES"
        ):
            image_bytes(path, path.read_bytes(), 10**6)
    assert len(asked) == min(tries + 1, 3)


def test_what_is_known_of_images_is_shared_and_learned(
    bucket: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, cache = bucket / "photos", bucket / "cache"
    for name in ("a.png", "b/c.png"):
        put(images / name, png(len(name)))
    put(images / "notes.txt")
    place = materialise(images, is_image)
    store = open_store(bucket)
    known.share(images, cache)
    assert list(store.list("cache")) == [], "nothing is known yet"
    pointer.remember_checked(place / "a.png", "d" * 64)
    known.share(images, cache)
    (file,) = store.list("cache/images")
    before = store.requests["put"]
    known.share(images, cache)
    assert store.requests["put"] == before, "there is nothing new to say"
    monkeypatch.setenv("PETIOLE_STORES", str(tmp_path / "second machine"))
    place = materialise(images, is_image)
    known.learn(images, cache)
    assert [pointer.checked_before(place / name) for name in ("a.png", "b/c.png")] == ["d" * 64, ""]
    assert pointer.checked_before(place / "notes.txt") == ""
    put(images / "a.png", png(99))
    place = materialise(images, is_image)
    known.learn(images, cache)
    assert pointer.checked_before(place / "a.png") == "", "it has another version now"
    for damaged in (b"{", json.dumps(sealed({"images": {"a.png": 3}})).encode()):
        store.put(file.key, damaged)
        known.learn(images, cache)


def test_a_mirror_is_known_by_its_folder(bucket: Address, machine: Path) -> None:
    for address in (bucket / "cache", Address("file", "", "tmp/cache"), Address("s3", "b")):
        mirror = Mirror.of(mirror_place(address))
        assert mirror is not None
        assert (mirror.address, mirror.place) == (address, machine / "features" / address.local)
    assert Mirror.of(machine / "objects") is None
    assert Mirror.of(Path("features")) is None


@pytest.mark.parametrize("here_only", [True, False])
def test_what_fails_on_the_way_is_told_by_whoever_asked(
    bucket: Address, monkeypatch: pytest.MonkeyPatch, here_only: bool
) -> None:
    mirror = Mirror.of(mirror_place(bucket / "cache"))
    assert mirror is not None
    if here_only:
        (mirror.place / "k").mkdir(parents=True)
        (mirror.place / "k/a.safetensors").write_bytes(b"here")
    else:
        put(bucket / "cache/k/a.safetensors")
    outgoing(bucket / "run").mkdir(parents=True)
    (outgoing(bucket / "run") / "a").write_text("a")

    def broken(*_: object) -> None:
        raise StoreError("refused")

    monkeypatch.setattr(Mirror, "push" if here_only else "_fetch", broken)
    with pytest.raises(StoreError, match="refused"):
        mirror.pull("k")
    monkeypatch.setattr("petiole.stores.publish._send", broken)
    with pytest.raises(StoreError, match="refused"):
        publish(bucket / "run", finished=True)
    assert open_store(bucket).head(f"run/{PUBLISHED}") is None


def test_both_sides_of_a_mirror_get_what_only_the_other_has(bucket: Address) -> None:
    mirror = Mirror.of(mirror_place(bucket / "cache"))
    assert mirror is not None
    for name in ("k/there", "k/both", "k/.hidden", "other/far"):
        put(bucket / "cache" / name, b"there")
    for name in ("both", "here", ".tmp-1-x", "x.corrupt"):
        (mirror.place / "k").mkdir(parents=True, exist_ok=True)
        (mirror.place / "k" / name).write_bytes(b"here")
    mirror.pull("k")
    assert {p.name: p.read_bytes() for p in (mirror.place / "k").iterdir()} == {
        **dict.fromkeys(("both", "here", ".tmp-1-x", "x.corrupt"), b"here"),
        "there": b"there",
    }
    assert not (mirror.place / "other").exists()
    store = open_store(bucket)
    assert {e.name: store.get(e.key) for e in store.list("cache/k")} == {
        "there": b"there",
        "both": b"there",
        ".hidden": b"there",
        "here": b"here",
    }
    mirror.push(mirror.place / "k" / "gone meanwhile")
    mirror.drop(mirror.place / "k" / "there")
    assert store.get("cache/k/there") is None
    mirror.pull()
    assert (mirror.place / "other/far").read_bytes() == b"there"
    assert store.get("cache/k/there") == b"there", "it was sound here"


def test_a_shard_that_is_cut_in_the_store_is_deleted_there(
    bucket: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Mirror.of(mirror_place(bucket))
    assert mirror is not None
    put(bucket / "a", b"whole")
    store = open_store(bucket)
    monkeypatch.setattr(store, "list", lambda _: iter([Entry("a", "a", 9), Entry("b", "b", 1)]))
    mirror.pull()
    assert not (mirror.place / "a").exists()
    assert store.get("a") is None


def test_listing_counts_a_request_for_each_thousand(bucket: Address, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    import obstore

    def pages(_client: object, folder: str | None, chunk_size: int):  # type: ignore[no-untyped-def]
        assert (folder, chunk_size) == (None, 1000)
        found = [{"path": str(i), "size": i, "e_tag": None} for i in range(many)]
        yield from (found[i : i + 1000] for i in range(0, many, 1000))

    monkeypatch.setattr(obstore, "list", pages)
    store = open_store(bucket)
    for many, asked in ((0, 1), (1, 1), (1000, 1), (1001, 2), (2000, 2), (2001, 3)):
        before = store.requests["list"]
        assert [entry.size for entry in store.list("")] == list(range(many))
        assert store.requests["list"] - before == asked
    assert requests()[str(bucket)] == store.requests


def test_every_request_is_counted(bucket: Address) -> None:
    store = open_store(bucket)
    before = dict(store.requests)
    store.put("a", b"1")
    store.create("b", b"2")
    store.create("b", b"3")
    assert store.get("a") == b"1"
    assert store.get("none") is None
    store.head("a")
    store.head("none")
    list(store.list(""))
    store.delete("a")
    store.delete("none")
    made = {kind: n - before.get(kind, 0) for kind, n in store.requests.items()}
    assert made == {"put": 3, "get": 2, "head": 2, "list": 1, "delete": 2}
    store.count("get", 5)
    assert store.requests["get"] - before.get("get", 0) == 7
    assert open_store(bucket.at("other").store) is store


class PermissionDeniedError(Exception):
    pass


class GenericError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (GenericError("NoSuchBucket: no"), StoreError, "there is no bucket '{}'. Check its name"),
        (FileNotFoundError("gone"), Missing, "no such object. Check the address."),
        (PermissionDeniedError("403"), StoreError, "access is denied. "),
        (
            GenericError("no Credential found\n\nDebug source: secret"),
            StoreError,
            "there are no credentials for it (GenericError: no Credential found). ",
        ),
        (
            GenericError(f"{'x' * 400}\n\nDebug source: secret"),
            StoreError,
            f"cannot be had from the store (GenericError: {'x' * 300}). Check the connection",
        ),
    ],
)
def test_refusals_of_a_store_say_what_to_do(
    error: Exception, kind: type, said: str, bucket: Address
) -> None:
    store = open_store(bucket)
    with pytest.raises(StoreError) as caught, store._told("k"):  # type: ignore[attr-defined]
        raise error
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"{bucket}/k: {said.format(bucket.bucket)}")
    assert "secret" not in str(caught.value)
    with pytest.raises(Missing, match=r"again"), store._told("k"):  # type: ignore[attr-defined]
        raise Missing("again")
