"""Folders, tables and laid-out roots, as people really have them."""

import csv
import hashlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from petiole.data.checks import images
from petiole.data.sources import DomainShift, open_data, open_folder, open_shift, open_table
from petiole.errors import DataError

MakeFolder = Callable[..., Path]


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(
            file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ","
        )
        writer.writeheader()
        writer.writerows(rows)
    return path


# --- folders ---------------------------------------------------------------------------------


def test_folder(make_folder: MakeFolder) -> None:
    root = make_folder("set", "ba", 3)
    (root / "a" / "deep" / "er").mkdir(parents=True)
    (root / "a" / "0.png").rename(root / "a" / "deep" / "er" / "X.PNG")
    (root / ".cache").mkdir()
    (root / "a" / ".hidden.png").touch()
    (root / "a" / "notes.txt").touch()
    (root / "list.csv").touch()
    d = open_folder(root, domain="source")
    assert d.name == "set"
    assert d.classes == ("a", "b")
    assert d.counts() == {"a": 3, "b": 3}
    assert set(d.domains) == {"source"}
    assert d.notes == (f"1 files in {root} are no images by name (1 x .txt): a/notes.txt.",)
    for s in d.samples:
        assert s.id == hashlib.sha256(s.path.read_bytes()).hexdigest()
        assert d.classes[s.label] in s.path.relative_to(root).parts


def test_renaming_and_moving_changes_nothing(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder("set")
    before = open_folder(root)
    for i, path in enumerate(sorted(root.rglob("*.png"), reverse=True)):
        path.rename(path.with_name(f"{i:03d}.png"))
    after = open_folder(shutil.move(root, tmp_path / "other"))
    assert after.digest() == before.digest()
    assert after.ids == before.ids


def test_given_classes_fix_the_labels(make_folder: MakeFolder) -> None:
    root = make_folder("set")
    assert open_folder(root, classes=("b", "a")).classes == ("b", "a")
    with pytest.raises(DataError, match=r"no images of class c"):
        open_folder(root, classes=("a", "b", "c"))
    (root / "b").rename(root / "giraffes")
    with pytest.raises(DataError, match=r"'giraffes'\. Did you mean giraffe"):
        open_folder(root, classes=("a", "giraffe"))


def test_folders_that_are_none(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder("set")
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        open_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"4 images lie directly in it.*subfolder"):
        open_folder(root / "a")
    with pytest.raises(DataError, match=r"is a file"):
        open_folder(root / "a" / "0.png")
    (root / "c").mkdir()
    (root / "c" / "x.raw").touch()
    with pytest.raises(DataError, match=r"c: the class folder holds no images \(1 x \.raw\)"):
        open_folder(root)


def test_bad_images_are_listed_or_left_out(make_folder: MakeFolder) -> None:
    root = make_folder("set", count=14)
    for i in range(12):
        (root / "a" / f"{i}.png").write_bytes(b"rubbish" * (i % 2))
    with pytest.raises(DataError) as caught:
        open_folder(root)
    message = str(caught.value)
    assert message.startswith("12 of 28 images cannot be used")
    assert message.count(".png") == 10
    assert "and 2 more" in message
    assert "--skip-bad" in message
    d = open_folder(root, skip_bad=True)
    assert d.counts() == {"a": 2, "b": 14}
    assert d.notes[0].startswith("12 unreadable images left out: ")
    for i in (12, 13):
        (root / "a" / f"{i}.png").write_bytes(b"")
    left = open_folder(root, skip_bad=True)
    assert left.classes == ("b",)
    assert left.notes[-1] == "1 classes left out, of which no usable image is left: a."
    with pytest.raises(DataError, match="no usable image is left in class a"):
        open_folder(root, classes=("a", "b"), skip_bad=True)


def test_duplicates_across_files(make_folder: MakeFolder) -> None:
    root = make_folder("set")
    shutil.copy(root / "a" / "0.png", root / "a" / "copy.png")
    d = open_folder(root)
    assert d.counts() == {"a": 4, "b": 4}
    assert d.notes == ("1 files left out: byte-equal to another of the same class.",)
    shutil.copy(root / "a" / "0.png", root / "b" / "copy.png")
    with pytest.raises(DataError, match=r"two labels.*\n.*0\.png \(a\).*b/copy\.png \(b\)"):
        open_folder(root)
    assert open_folder(root, skip_bad=True).counts() == {"a": 3, "b": 4}


def test_a_long_check_shows_progress_and_the_same_result(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder("set")
    quiet = open_folder(root)
    monkeypatch.setattr(images, "_WORTH_A_BAR", 2)
    assert open_folder(root).digest() == quiet.digest()


# --- tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_table_equals_the_folder(make_folder: MakeFolder, suffix: str) -> None:
    root = make_folder("set")
    folder = open_folder(root)
    rows = [
        {"path": str(p.relative_to(root.parent)), "label": p.parent.name, "size": "8"}
        for p in sorted(root.rglob("*.png"), reverse=True)
    ]
    table = open_table(write_table(root.parent / f"list{suffix}", rows))
    assert table.digest() == folder.digest()
    assert table.name == "list"


def test_table_columns_and_domains(make_folder: MakeFolder) -> None:
    root = make_folder("set", count=2)
    rows = [
        {
            "path": f"{c}/{i}.png",
            "label": c,
            "domain": "source" if i else "",
            "split": "Train" if i else "test",
        }
        for c in "ab"
        for i in range(2)
    ]
    table = write_table(root / "list.csv", rows)
    assert sorted(open_table(table).domains) == ["source", "source", "target", "target"]
    assert set(open_table(table, split="train").domains) == {"source"}
    with pytest.raises(DataError, match=r"no row with split 'dev'; it has \['test', 'train'\]"):
        open_table(table, split="dev")


def test_excel_csv_and_integer_labels(make_folder: MakeFolder) -> None:
    root = make_folder("set", "12")
    (root / "list.csv").write_bytes(b"\xef\xbb\xbfpath,label\r\n1/0.png, 1 \r\n2/0.png,2\r\n")
    assert open_table(root / "list.csv").classes == ("1", "2")
    rows = pyarrow.table({"path": ["1/0.png", "2/0.png"], "label": [1, 2]})
    parquet.write_table(rows, root / "list.parquet")
    assert open_table(root / "list.parquet").digest() == open_table(root / "list.csv").digest()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,label\nx.png,a\n", r"column path is missing; it has file, label"),
        ("", r"column path and label is missing; it has none"),
        ("path,label\n", r"no rows"),
        (
            "path,label\nx.png,\n,b\n",
            r"2 row\(s\).*\n.*row 2: label is empty\n.*row 3: path is empty",
        ),
        ("path,label\nx.png\n", r"row 2: label is empty"),
        ("path,label,label \nx.png,a,b\n", r"several columns are called label\."),
        ("path,label\nx.png,dog, brown\n", r"row 2 has more cells than there are columns"),
        ("path,label,domain\nx.png,a,moon\n", r"row 2: domain 'moon' must be source or target"),
        ("path,label\nx.png,a\ny.png,b\n", r"(?s)2 of 2 images.*x\.png: no such file.*y\.png"),
    ],
)
def test_wrong_tables(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        open_table(tmp_path / "list.csv")


def test_unreadable_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no such table"):
        open_table(tmp_path / "x.csv")
    (tmp_path / "x.jsonl").write_text('{"path": "a.png", "label": "a", "label": "b"}\n')
    with pytest.raises(DataError, match=r"line 1: not JSON.*the field 'label' stands twice"):
        open_table(tmp_path / "x.jsonl")
    (tmp_path / "x.csv").write_bytes(b"path,label\n\xff\xfe,a\n")
    with pytest.raises(DataError, match="UTF-8"):
        open_table(tmp_path / "x.csv")
    (tmp_path / "x.parquet").write_bytes(b"rubbish")
    with pytest.raises(DataError, match="not a readable Parquet"):
        open_table(tmp_path / "x.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'petiole\[parquet\]'.*CSV"):
        open_table(tmp_path / "x.parquet")


# --- what lies there, and shifts ---------------------------------------------------------------


def pair(make_folder: MakeFolder) -> Path:
    make_folder("root/synthetic", start=100)
    make_folder("root/real_train", start=200)
    return make_folder("root/real_eval", start=300).parent


def test_pair_layout(make_folder: MakeFolder) -> None:
    root = pair(make_folder)
    shift = open_shift(root)
    assert shift.source is not None
    assert set(shift.source.domains) == {"source"}
    assert shift.classes == ("a", "b")
    assert shift.train.digest() == open_folder(root / "real_train").digest()
    assert shift.test.digest() == open_folder(root / "real_eval").digest()
    everything = open_data(root)
    assert sorted(everything.domains) == ["source"] * 8 + ["target"] * 16
    shutil.rmtree(root / "synthetic")
    assert open_shift(root).source is None


def test_parts_given_elsewhere_stand_in(make_folder: MakeFolder) -> None:
    root = pair(make_folder)
    other = make_folder("other", start=500)
    shift = open_shift(root, other, test=other)
    assert shift.source is not None
    assert shift.source.ids == shift.test.ids == open_folder(other).ids
    plain = open_shift(other, test=root / "real_eval")
    assert plain.train.digest() == open_folder(other).digest()
    shutil.rmtree(root / "real_eval")
    with pytest.raises(DataError, match="no real_eval/"):
        open_shift(root)
    assert len(open_shift(root, test=other).train) == 8


def test_train_test_layout(make_folder: MakeFolder) -> None:
    make_folder("root/train", start=100)
    make_folder("root/validation", start=400)
    root = make_folder("root/test", start=200).parent
    shift = open_shift(root)
    assert shift.source is None
    assert shift.train.digest() == open_folder(root / "train").digest()
    assert shift.test.digest() == open_folder(root / "test").digest()


def test_a_class_may_be_called_train(make_folder: MakeFolder) -> None:
    root = make_folder("vehicles")
    (root / "a").rename(root / "train")
    (root / "b").rename(root / "test")
    assert open_data(root).classes == ("test", "train")


def test_plain_folder_is_split_by_content(make_folder: MakeFolder) -> None:
    root = make_folder("set", count=10)
    shift = open_shift(root, test_fraction=0.3, seed=1)
    assert shift.train.counts() == {"a": 7, "b": 7}
    assert shift.test.counts() == {"a": 3, "b": 3}
    assert not set(shift.train.ids) & set(shift.test.ids)
    assert open_shift(root, test_fraction=0.3, seed=2).test.ids != shift.test.ids


def test_table_shift(make_folder: MakeFolder) -> None:
    root = make_folder("set", count=6)
    splits = ["train", "", "eval", "val", "train", "test"]
    rows = [
        {
            "path": f"{c}/{i}.png",
            "label": c,
            "split": splits[i],
            "domain": "source" if i > 3 else "",
        }
        for c in "ab"
        for i in range(6)
    ]
    shift = open_shift(write_table(root / "list.csv", rows))
    assert shift.source is not None
    assert [len(d) for d in (shift.source, shift.train, shift.test)] == [2, 4, 2]
    assert shift.train.notes[0].startswith("4 rows of list.csv are not used")
    rows[0]["split"] = "dev"
    with pytest.raises(DataError, match="split 'dev' is unknown"):
        open_shift(write_table(root / "list.csv", rows))


def test_differing_classes_are_named(make_folder: MakeFolder) -> None:
    with pytest.raises(DataError, match=r"Only in set: b\. Only in other: c"):
        open_shift(make_folder("set", "ab"), make_folder("other", "ac"))


def test_train_and_test_of_other_classes_are_refused(make_folder: MakeFolder) -> None:
    """Their labels are numbers: the same ones would mean other things."""
    train, other = open_folder(make_folder("set", "ab")), open_folder(make_folder("other", "ac"))
    with pytest.raises(DataError, match=r"Only in set: b\. Only in other: c"):
        DomainShift(None, train, other)
    turned = train.of_classes(("b", "a"))
    with pytest.raises(DataError, match="in another order"):
        DomainShift(None, train, turned)
    shift = open_shift(train, test=other)  # which scores what both have
    assert shift.test.classes == train.classes
    assert [shift.test.classes[label] for label in set(shift.test.labels)] == ["a"]
    with pytest.raises(DataError, match="giraffe"):
        train.of_classes(("a", "giraffe"))
