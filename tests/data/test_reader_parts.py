"""Readers on files of a few bytes: what is told apart, what is refused and in which words."""

from __future__ import annotations

import json
import tarfile
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from builders.images import pixel
from petiole.data.features import hdf5
from petiole.data.features.base import InMemory, RawFeatures, absent, files_digest, too_large
from petiole.data.features.shards import Shards
from petiole.data.readers import coop, packed, public, video, webdataset
from petiole.data.readers.json_rows import JsonRow, read_lines, read_list, read_object
from petiole.data.readers.packed import Packed, PackedImage
from petiole.data.readers.public.folders import _annotated
from petiole.data.readers.public.registry import Place
from petiole.data.readers.table import cell_text, is_table, open_parts, open_table, read_records
from petiole.data.readers.vqa import soft_targets
from petiole.data.text_dataset import TextDataset, gather, hold_out
from petiole.data.text_sample import TextSample
from petiole.errors import ConfigError, DataError

# --- features -------------------------------------------------------------------------------------


def test_features_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No features in memory. Give at least one image"):
        _ = InMemory({}).width
    boxes = np.array([[0, 0, 1, 1]], np.float32)
    two = InMemory({"a": np.ones((1, 3)), "b": RawFeatures(np.ones((1, 3), np.float32), boxes)})
    assert two.width == 3
    with pytest.raises(DataError, match="Image 'c' has no features in 2 images in memory"):
        two("c")
    assert str(absent("x", "y")).endswith("Extract them, or leave its samples out.")
    assert "claims 3.0 GB; at most 0.27 are read" in str(too_large("x", 3 * 10**9))
    file = tmp_path / "a"
    file.write_bytes(b"abc")
    assert files_digest("k", [file]) != files_digest("l", [file])
    from pyarrow import Table, parquet

    parquet.write_table(Table.from_pydict({"id": [], "features": []}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=f"{tmp_path}: its shards hold no image"):
        _ = Shards(tmp_path).width
    one = Table.from_pydict({"id": ["x"], "features": [[[1.0, 2.0, 3.0]]]})
    parquet.write_table(one, tmp_path / "a.parquet")
    assert Shards(tmp_path).width == 3
    (empty := tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"no .parquet file. Check the path"):
        Shards(tmp_path, empty)


# --- tables ---------------------------------------------------------------------------------------


def table(folder: Path, text: str, name: str = "t.csv") -> Path:
    for i in range(4):
        pixel(i).save(folder / f"{i}.png")
    (folder / name).write_text(text)
    return folder / name


def test_rows_by_split_and_domain(tmp_path: Path) -> None:
    rows = ["path,label,split,domain", "0.png,a,TRAIN,", "1.png,a,eval,", "2.png,a,,source", "3.png,a,val,"]  # fmt: skip
    file = table(tmp_path, "\n".join(rows))
    parts = open_parts(file)
    assert parts.test is not None
    assert parts.source is not None
    assert [[p.name for p in one.paths] for one in (parts.train, parts.test, parts.source)] == [["0.png"], ["1.png"], ["2.png"]]  # type: ignore[union-attr]  # fmt: skip
    note = "1 rows of t.csv are not used: validation, or test rows of the source."
    assert [one.notes for one in (parts.train, parts.test)] == [(note,)] * 2  # type: ignore[union-attr]
    assert parts.train is not None
    assert parts.train.name == "t/train"
    given = open_parts(file, has_test=True)
    assert (given.test, given.source is not None) == (None, True)
    assert open_parts(table(tmp_path, "path,label\n0.png,a")).train.notes == ()  # type: ignore[union-attr]
    for text, words in (
        ("path,label,split\n0.png,a,test", "no rows of the target domain to train on"),
        ("path,label,split\n0.png,a,dev", "split 'dev' is unknown"),
        ("path,label\n0.png,", r"1 row\(s\) cannot be used:\n  row 2: label is empty"),
        ("path,label\n,", "row 2: path and label is empty"),
        ("path,label,domain\n0.png,a,x", "row 2: domain 'x' must be source or target"),
        ("path,label,label\n0.png,a,b", "several columns are called label"),
        ("path,label,value.a,value.a\n0.png,a,1,2", "several columns are called value.a"),
        ("path\n0.png", "column label is missing; it has path"),
        ("path,label", "the table has no rows"),
        ("path,label\n0.png,a,b", "row 2 has more cells than there are columns"),
    ):
        with pytest.raises(DataError, match=words):
            open_parts(table(tmp_path, text, "bad.csv"))
    with pytest.raises(DataError, match=r"no row with split 'Dev'; it has \['', 'eval', 'train', 'val'\]"):  # fmt: skip
        open_table(table(tmp_path, "\n".join(rows)), split="Dev")
    assert [p.name for p in open_table(file, split="Train").paths] == ["0.png"]


def test_columns_that_nothing_reads_may_stand_twice(tmp_path: Path) -> None:
    columns, records = read_records(table(tmp_path, "path,x,x,value.h,value.w\n0.png,1,2,3,4"))
    assert columns == ["path", "x", "x", "value.h", "value.w"]
    assert records[0][1]["value"] == "3|4"
    assert cell_text([" a", 3, None]) == "a|3|None"
    assert (cell_text(None), cell_text(" x ")) == ("", "x")
    assert is_table(Path("a.TSV"))
    (tmp_path / "d.csv").mkdir()
    assert not is_table(tmp_path / "d.csv")
    assert not is_table(Path("a.txt"))


# --- JSON -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "value", "words"),
    [
        ("text", 3, "must be a string; it is 3"),
        ("name", True, "must be a text that is not empty, or a whole number"),
        ("name", " ", "must be a text that is not empty"),
        ("texts", ["a", 3], "must be a list of strings"),
        ("scores", {"a": 0}, "a weight above 0"),
        ("scores", {"a": True}, "a weight above 0"),
        ("scores", {"a": 1e9}, "a weight above 0"),
        ("scores", [], "a weight above 0"),
        ("rows", [{}, 3], "must be a list of objects"),
    ],
)
def test_fields_of_another_kind_are_named(method: str, value: object, words: str) -> None:
    row = JsonRow("f, line 2", {"x": value})
    with pytest.raises(DataError, match=f"f, line 2: field 'x' .*{words}"):
        getattr(row, method)("x")
    with pytest.raises(DataError, match="field 'y' is missing; it has x"):
        getattr(row, method)("y")
    assert "y" not in JsonRow("", {"y": None})


def test_fields_of_the_right_kind() -> None:
    row = JsonRow("f", {"t": " a ", "n": 7, "l": [" a", "b "], "s": {"a": 1, "b": 0.5}, "r": [{"q": 1}]})  # fmt: skip
    assert (row.text("t"), row.name("n"), row.texts("l")) == ("a", "7", ("a", "b"))
    assert row.scores("s") == {"a": 1.0, "b": 0.5}
    assert row.rows("r") == [JsonRow("f, r[0]", {"q": 1})]
    assert row.value("n", {7: "seven"}) == "seven"
    with pytest.raises(DataError, match="must be one of 8, 'a'"):
        row.value("n", {8: "eight", "a": "b"})


def test_files_of_json(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"a": 1}\n\n{"a": 2}')
    assert [(r.where, r.number) for r in read_lines(file)] == [(f"{file}, line 1", 1), (f"{file}, line 3", 3)]  # fmt: skip
    for text, words in (
        ('{"a": 1, "a": 2}', "the field 'a' stands twice in one object"),
        ('{"a": "\\ud800"}', "not JSON"),
        ("[1]", "must be a JSON object"),
        ("{", "not JSON"),
    ):
        file.write_text(text)
        with pytest.raises(DataError, match=words):
            read_object(file)
    file.write_text('{"a": "\\u00e4"}')
    assert read_object(file).values == {"a": "ä"}
    file.write_text('{"q": [{"a": 1}]}')
    assert [r.where for r in read_list(file, "q")] == [f"{file}, q[0]"]
    with pytest.raises(DataError, match="must hold a JSON list of objects"):
        read_list(file)
    file.write_text('[{"a": 1}, 3]')
    with pytest.raises(DataError, match=r"a\.json, item 1: must be a JSON object"):
        read_list(file)


@pytest.mark.parametrize(("counts", "scores"), [((1, 2, 3, 4), (0.3, 0.6, 0.9, 1.0)), ((1, 3), (0.25, 0.75)), ((), ())])  # fmt: skip
def test_answers_weigh_by_how_many_gave_them(counts: Any, scores: Any) -> None:
    answers = tuple(name for name, n in zip("abcd", counts, strict=False) for _ in range(n))
    assert soft_targets(answers) == dict(zip("abcd", scores, strict=False))


# --- texts ----------------------------------------------------------------------------------------


def test_parts_of_texts(tmp_path: Path) -> None:
    sample = TextSample("k", "q", ("b", "a"), {}, ())
    with pytest.raises(DataError, match="train has id 'k' twice"):
        TextDataset("vqa", tmp_path, {"train": (sample, sample)})
    one = TextDataset("vqa", tmp_path, {"train": (sample,), "test": (sample,)})
    assert one.images == ("a", "b")
    (tmp_path / "a").mkdir()
    assert one.missing() == ("b",)
    with pytest.raises(DataError, match="vqa has no part 'val'; it has train, test"):
        _ = one["val"]
    (tmp_path / "x").write_text("")
    read = gather("vqa", tmp_path, {"train": [tmp_path / "x", tmp_path / "y"], "val": [tmp_path / "z"]}, lambda path, part: [TextSample(part, path.name)])  # fmt: skip
    assert {part: [s.text for s in samples] for part, samples in read.parts.items()} == {"train": ["x"]}  # fmt: skip
    with pytest.raises(DataError, match=r"no annotations of vqa. Expected at least one of .*z"):
        gather("vqa", tmp_path, {"val": [tmp_path / "z"]}, lambda *_: [])
    many = [TextSample(str(i), "", (f"i{i // 2}",)) for i in range(400)]
    kept, held = hold_out(many, 0.25)
    assert 60 < len(held) < 140
    assert not {s.images for s in kept} & {s.images for s in held}
    assert hold_out(many, 0) == (tuple(many), ())
    assert hold_out(many, 1) == ((), tuple(many))


def test_text_of_a_video() -> None:
    pieces = {"Q": "q?", "TS": "(1)", "Subs": "s"}
    for order in video.ORDERS:
        said = video.video_text(pieces, order)
        assert said == " ".join(f"[{tag}] {pieces[tag]}" for tag in video.ORDERS[order] if tag in pieces)  # fmt: skip
    with pytest.raises(ConfigError, match="order"):
        video.video_text(pieces, "other")  # type: ignore[arg-type]
    for span in ([1, "2"], [1], 3, None):
        with pytest.raises(DataError, match="must be \\[start, end\\] in seconds"):
            video._span(JsonRow("f", {"ts": span}))
    assert video._span(JsonRow("f", {"ts": [1, 2.5]})) == [1, 2.5]
    with pytest.raises(DataError, match="video 'v' has no subtitles"):
        video._spoken(JsonRow("f", {}), {}, "v")


# --- packed files ---------------------------------------------------------------------------------


def _packed(*labels: object, names: tuple[str, ...] | None = None, first: int = 0) -> Packed:
    images = [PackedImage(Path(f"{first + i}"), lambda i=i: pixel(first + i), label) for i, label in enumerate(labels)]  # type: ignore[misc]  # fmt: skip
    return Packed(images, names)


def test_parts_of_a_packed_file() -> None:
    parts = {"train": _packed(0, 1, names=("x", "y")), "test": _packed(1, names=("x", "y"), first=5), "": _packed(0, first=9)}  # fmt: skip
    read: Any = lambda _: parts  # noqa: E731
    opened = packed._open_parts(read, Path("f.tar"))
    assert opened.train is not None
    assert opened.test is not None
    assert (opened.train.name, opened.train.classes, len(opened.train)) == ("f/train", ("x", "y"), 2)  # fmt: skip
    assert (opened.test.classes, opened.test.labels.tolist()) == (("x", "y"), [1])
    assert packed._open_parts(read, Path("f.tar"), has_test=True).test is None
    only = packed._open_parts(lambda _: {"test": parts["test"]}, Path("f.tar"))
    assert (only.train.classes, only.test) == (("y",), None)  # type: ignore[union-attr]
    whole = packed._open_all(read, Path("f.tar"), domain="source")
    assert (len(whole), whole.domains, whole.name) == (3, ("source",) * 3, "f")
    turned = packed._open_all(read, Path("f.tar"), classes=("y", "x"))
    assert turned.classes == ("y", "x")
    with pytest.raises(DataError, match=r"f.tar: holds no labelled images to train on"):
        packed._used(lambda _: {"train": _packed(), "": _packed(1)}, Path("f.tar"))


def tar(file: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, BytesIO(content))
    return file


def test_members_of_a_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = {"d/a.jpg": b"A", "d/a.cls": b" 3 ", "b.PNG": b"BB", "b.json": b'{"label": "x"}', ".h.jpg": b"", "note.txt": b"?"}  # fmt: skip
    images = webdataset._images(tar(tmp_path / "a.tar", good))
    assert [(i.path.name, i.label, i.fetch()) for i in images] == [("a.jpg", 3, b"A"), ("b.PNG", "x", b"BB")]  # fmt: skip
    for members, words in (
        ({"a.jpg": b"A", "a.png": b"B"}, "a has two images, 'a.jpg' and 'a.png'"),
        ({"a.jpg": b"A", "a.cls": b"1", "a.json": b'{"label": 2}'}, "a has two labels, 1 and 2"),
        ({"a.jpg": b"A", "b.jpg": b"B", "b.cls": b"1"}, "1 of 2 images have no label, e.g. a.jpg"),
        ({"a.jpg": b"A", "a.json": b"[]"}, "1 of 1 images have no label"),
    ):
        with pytest.raises(DataError, match=words):
            webdataset._images(tar(tmp_path / "b.tar", members))
    monkeypatch.setattr(webdataset, "MAX_BYTES", 1)
    with pytest.raises(DataError, match=r"b.PNG: has 0.0 GB; scale it down"):
        webdataset._images(tmp_path / "a.tar")
    monkeypatch.setattr(webdataset, "MAX_BYTES", 2)
    assert len(webdataset._images(tmp_path / "a.tar")) == 2
    monkeypatch.setattr(webdataset, "_MOST_LABEL", 2)
    with pytest.raises(DataError, match="2 of 2 images have no label"):
        webdataset._images(tmp_path / "a.tar")


# --- published folders ----------------------------------------------------------------------------


def test_lists_of_coop(tmp_path: Path) -> None:
    for name in ("A", "B"):
        (tmp_path / f"{coop.SPLIT}{name}.json").write_text("{}")
    with pytest.raises(DataError, match=r"holds several splits: split_zhou_A\.json, split_zhou_B\.json"):  # fmt: skip
        coop.read(tmp_path)
    (tmp_path / f"{coop.SPLIT}B.json").unlink()
    assert coop.name_of(tmp_path) == "A"
    with pytest.raises(DataError, match="is no split file"):
        coop.read(tmp_path)
    stated: dict[str, Any] = {"train": [["a.jpg", 0, "x"]], "val": [], "test": []}
    for lacking in ("test", "train"):
        full = stated | {"test": [["b.jpg", 0, "x"]]} | {lacking: []}
        (tmp_path / f"{coop.SPLIT}A.json").write_text(json.dumps(full))
        with pytest.raises(DataError, match="lists no training or no test images"):
            coop.read(tmp_path)
    full = stated | {"test": [["b.jpg", 0, "x"]]}
    (tmp_path / f"{coop.SPLIT}A.json").write_text(json.dumps(full))
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "a.jpg").write_text("")
    lists = coop.read(tmp_path)
    assert (lists.train, lists.test) == ([(tmp_path / "z/a.jpg", 0, "x")], [(tmp_path / "z/b.jpg", 0, "x")])  # fmt: skip
    craft = tmp_path / "craft"
    craft.mkdir()
    (craft / "variants.txt").write_text("A\nB C\n")
    assert coop.name_of(craft) == "FGVCAircraft"
    (craft / "images_variant_train.txt").write_text("1 B C\n2 A\n")
    (craft / "images_variant_test.txt").write_text("3 A\n")
    assert coop.read(craft).train == [(craft / "images/1.jpg", 1, "B C"), (craft / "images/2.jpg", 0, "A")]  # fmt: skip
    (craft / "images_variant_test.txt").write_text("3 D\n")
    with pytest.raises(DataError, match=r"variants.txt lacks 'D'"):
        coop.read(craft)
    net = tmp_path / "net"
    net.mkdir()
    (net / "classnames.txt").write_text("n1 fish\n")
    assert coop.name_of(net) == "ImageNet"
    with pytest.raises(
        DataError, match=r"has classnames.txt but no folder with ImageNet's classes"
    ):
        coop.read(net)
    assert coop.name_of(tmp_path / "z") == ""


def test_annotations_with_two_columns_or_more(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("")
    listed = tmp_path / "val.txt"
    listed.write_text("a.jpg\tn1\t0\n")
    assert [(e.path.name, e.label) for e in _annotated(tmp_path, listed)] == [("a.jpg", "n1")]
    listed.write_text("a.jpg\tn1\na.jpg\n")
    with pytest.raises(DataError, match=r"'a.jpg' has no class"):
        _annotated(tmp_path, listed)


@pytest.mark.parametrize(("name", "published"), [("cub", True), ("nabirds", True), ("vpt-flowers", False)])  # fmt: skip
def test_lists_that_are_missing_are_named(name: str, published: bool, tmp_path: Path) -> None:
    known = public.names()[name]
    (tmp_path / known.needs[0]).mkdir(parents=True)
    with pytest.raises(DataError, match=r"has no lists\. Put train\.json") as refused:
        known.read(Place(known, tmp_path, tmp_path / "unpacked"))
    assert ("as published." in str(refused.value)) == published


def test_an_array_may_claim_as_much_as_one_image_has(monkeypatch: pytest.MonkeyPatch) -> None:
    stored: Any = np.zeros((2, 3), np.float32)
    field = SimpleNamespace(external=None, is_virtual=False, size=6, dtype=stored.dtype, shape=(2, 3), __getitem__=None)  # fmt: skip
    group: Any = type("Group", (dict,), {"get": lambda *_, **__: None})(f=type("Stored", (), {**vars(field), "__getitem__": lambda *_: stored})())  # fmt: skip
    monkeypatch.setattr(hdf5, "MOST_BYTES", 24)
    assert hdf5._array(group, "f", "a.h5") is stored
    monkeypatch.setattr(hdf5, "MOST_BYTES", 23)
    with pytest.raises(DataError, match=r"a\.h5: f of shape \(2, 3\) claims 0\.0 GB"):
        hdf5._array(group, "f", "a.h5")


def test_what_a_known_data_set_lacks(tmp_path: Path) -> None:
    fetched: list[Path] = []
    known: Any = SimpleNamespace(name="mini", needs=["a", "b"], remedy="Fetch it.", url="u", fetch=fetched.append)  # fmt: skip
    root = tmp_path / "deep" / "root"
    place = Place(known, root, tmp_path, download=True)
    with pytest.raises(DataError, match=r"the data set mini is not there. Missing:\n  a\n  b\nFetch it."):  # fmt: skip
        place.need()
    assert (fetched, root.is_dir()) == ([root], True)
    (root / "a").write_text("")
    with pytest.raises(DataError, match=r"mini is not complete. Missing:\n  b\n"):
        Place(known, root, tmp_path).need()
    assert len(fetched) == 1
    (root / "b").write_text("")
    place.need()
    assert len(fetched) == 1
    (root / "b").unlink()

    def fails(_: Path) -> None:
        raise RuntimeError("no net")

    known.fetch = fails
    with pytest.raises(DataError, match=r"mini could not be fetched into .* \(no net\)\. Fetch it by hand from u"):  # fmt: skip
        place.need()
