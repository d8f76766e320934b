"""é typed as one character and as two is one name: in folders, lists, adapters, contracts and texts."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from petiole.data.dataset import Dataset, Sample
from petiole.data.inputs import as_dataset
from petiole.data.sources import open_data, open_shift, open_table
from petiole.data.text_dataset import TextDataset
from petiole.data.text_sample import TextSample
from petiole.errors import DataError

C, D = "\u00e9t\u00e9", "e\u0301te\u0301"
MakeFolder = Callable[..., Path]


def test_folders_of_both_forms_are_one_class(make_folder: MakeFolder) -> None:
    root = make_folder("set", "bc")
    (root / "c").rename(root / D)
    test = make_folder("test", "bc", start=50)
    (test / "c").rename(test / C)
    shift = open_shift(root, test=test)
    assert shift.classes == ("b", C)
    assert shift.train.counts() == shift.test.counts() == {"b": 4, C: 4}
    digest = open_data(root).digest()
    (root / D).rename(root / C)
    assert open_data(root).digest() == digest
    assert open_data(root, classes=("b", D)).of_classes([D]).counts() == {C: 4}


def test_both_forms_in_one_folder_are_joined_and_named(make_folder: MakeFolder) -> None:
    root = make_folder("set", "bcd")
    (root / "c").rename(root / C)
    (root / "d").rename(root / D)
    data = open_data(root)
    assert data.counts() == {"b": 4, C: 8}
    assert any("are one class" in note and C in note for note in data.notes)


def test_labels_of_a_list_and_of_arrays(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder("set")
    rows = [(f"{n}/{i}.png", label) for n, label in zip("ab", (C, D), strict=True) for i in (0, 1)]
    table = tmp_path / "set" / "list.csv"
    table.write_text("path,label\n" + "".join(f"{p},{label}\n" for p, label in rows), "utf-8")
    assert open_table(table).counts() == {C: 4}
    given = as_dataset([(root / p, label) for p, label in rows], classes=[D])
    assert given.counts() == {C: 4}
    with pytest.raises(DataError, match="occurs twice"):
        Dataset("made", (C, D), (Sample(Path("x"), 0, "0"),))


def test_an_adapter_scores_both_forms(make_folder: MakeFolder, tmp_path: Path) -> None:
    import petiole

    root = make_folder("set", "bc", 6)
    (root / "c").rename(root / D)
    run = petiole.fit(
        root,
        method="class-means",
        backbone="petiole/tiny-vit",
        shots=2,
        out=tmp_path / "run",
        quiet=True,
        cache_dir=tmp_path / "cache",
    )
    assert petiole.Adapter.load(run.adapter).classes == ["b", C]
    other = shutil.move(root, tmp_path / "other")
    (other / D).rename(other / C)
    assert petiole.evaluate(run.adapter, other).classes == ["b", C]
    contract = tmp_path / "contract.toml"
    contract.write_text(f'[[recall]]\nclass = "{D}"\nmin = 0.0\n', "utf-8")
    assert petiole.check(run.adapter, contract, data=other).ok


def test_texts_have_one_digest() -> None:
    made = [
        TextDataset("vqa", Path(), {"train": (TextSample("1", f, ("i.png",), {f: 1.0}, (f,)),)})
        for f in (C, D)
    ]
    assert made[0].digest() == made[1].digest()
    assert made[1]["train"][0].targets == {C: 1.0}
    # The name of a file is a matter of bytes, and stays what it is.
    assert TextSample("1", "", (D,)).images == (D,)
