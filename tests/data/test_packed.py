"""WebDataset tars, Parquet with embedded images, and data sets saved by Hugging Face's library."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from petiole.data.inputs import as_images
from petiole.data.sources import open_data, open_shift
from petiole.errors import DataError

NAMES = ["ash", "birch", "cedar"]


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_tar(path: Path, seeds: range, label: str = "cls", names: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for seed in seeds:
            number = seed % 3
            said = NAMES[number] if names else str(number)
            texts = {"cls": said, "json": json.dumps({"label": number, "caption": "x"})}
            members = {"png": png(seed), label: texts.get(label, "").encode()}
            for kind, content in members.items():
                member = tarfile.TarInfo(f"{seed:06d}.{kind}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def arrow_table(seeds: range, *, plain: bool = False) -> pa.Table:
    """As Hugging Face's library keeps it: {bytes, path}, and the class names in the schema."""
    cells = [png(s) if plain else {"bytes": png(s), "path": f"{s}.png"} for s in seeds]
    table = pa.table({"image": cells, "label": [s % 3 for s in seeds]})
    features = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
    meta = {"huggingface": json.dumps({"info": {"features": features}})}
    return table if plain else table.replace_schema_metadata(meta)


def save_to_disk(folder: Path, seeds: range) -> Path:
    folder.mkdir(parents=True)
    table = arrow_table(seeds)
    with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as stream:
        stream.write_table(table)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def saved(root: Path) -> Path:
    for split, seeds in (
        ("train", range(9)),
        ("test", range(9, 15)),
        ("validation", range(15, 18)),
    ):
        save_to_disk(root / split, seeds)
    (root / "dataset_dict.json").write_text('{"splits": ["train", "test", "validation"]}')
    return root


def parquets(root: Path) -> Path:
    (root / "data").mkdir(parents=True)
    for split, seeds in (
        ("train", range(9)),
        ("test", range(9, 15)),
        ("validation", range(15, 18)),
    ):
        parquet.write_table(arrow_table(seeds), root / "data" / f"{split}-00000-of-00001.parquet")
    return root


def tars(root: Path) -> Path:
    write_tar(root / "train" / "0.tar", range(5))
    write_tar(root / "train" / "1.tar", range(5, 9), "json")
    write_tar(root / "test" / "0.tar", range(9, 15))
    (root / "classnames.txt").write_text("\n".join(NAMES))
    return root


@pytest.mark.parametrize("make", [saved, parquets, tars])
def test_parts_names_and_pixels(tmp_path: Path, make) -> None:
    root = make(tmp_path / "set")
    shift = open_shift(root)
    assert shift.classes == tuple(NAMES)
    assert shift.train.counts() == dict.fromkeys(NAMES, 3)
    assert shift.test.counts() == dict.fromkeys(NAMES, 2)
    # Images are known by their bytes, wherever they are packed.
    import hashlib

    wanted = {hashlib.sha256(png(s)).hexdigest(): NAMES[s % 3] for s in range(9)}
    assert {s.id: shift.classes[s.label] for s in shift.train.samples} == wanted
    first = shift.train.samples[0]
    assert first.image is not None
    assert first.image().size == (8, 8)
    assert len(as_images(root)) == 15
    assert shift.train.digest() == open_shift(make(tmp_path / "moved")).train.digest()


def test_single_files_and_labels_that_are_names(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "set.tar", range(9), names=True)
    assert open_data(tar).counts() == dict.fromkeys(NAMES, 3)
    plain = tmp_path / "plain.parquet"
    parquet.write_table(arrow_table(range(9), plain=True), plain)
    assert open_data(plain).classes == ("0", "1", "2")
    assert open_data(save_to_disk(tmp_path / "saved", range(9))).classes == tuple(NAMES)


def test_an_archive_beside_class_folders_is_not_taken_for_the_data(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(png(ord(name[0])))
    write_tar(tmp_path / "images.tar", range(3))
    assert open_data(tmp_path).counts() == dict.fromkeys(NAMES, 1)


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", range(3), "txt")
    with pytest.raises(DataError, match=r"a\.tar: 3 of 3 images have no label, e\.g\. 000000\.png"):
        open_data(tar)
    for extra, content, found in (
        ("000000.json", b'{"label": 99}', "has two labels"),
        ("000000.jpg", b"", "has two images, '000000.png' and '000000.jpg'"),
    ):
        tar = write_tar(tmp_path / "twice.tar", range(3))
        with tarfile.open(tar, "a") as archive:
            member = tarfile.TarInfo(extra)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        with pytest.raises(DataError, match=f"000000 {found}"):
            open_data(tar)
    (tmp_path / "b.tar").write_bytes(b"no tar at all")
    with pytest.raises(DataError, match=r"b\.tar: not a readable tar file"):
        open_data(tmp_path / "b.tar")
    nothing = tmp_path / "c.parquet"
    parquet.write_table(pa.table({"image": [png(0)], "kind": [1]}), nothing)
    with pytest.raises(DataError, match=r"c\.parquet: has no column of labels; it has image"):
        open_data(nothing)
    root = parquets(tmp_path / "orders")
    table = arrow_table(range(9, 18))
    meta = table.schema.metadata[b"huggingface"].replace(
        *(json.dumps(n).encode() for n in (NAMES, NAMES[::-1]))
    )
    table = table.replace_schema_metadata({"huggingface": meta})
    parquet.write_table(table, root / "data" / "train-00001-of-00002.parquet")
    with pytest.raises(DataError, match=r"train-00001-of-00002\.parquet: names its classes"):
        open_shift(root)
    broken = save_to_disk(tmp_path / "broken", range(3))
    (broken / "data-00000-of-00001.arrow").write_bytes(b"rubbish")
    with pytest.raises(DataError, match=r"not a readable Arrow file.*Save the data set again"):
        open_data(broken)


def test_a_set_that_the_library_saved(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=NAMES))
    rows = [{"image": {"bytes": png(s), "path": None}, "label": s % 3} for s in range(9)]
    whole = datasets.Dataset.from_list(rows, features=features)
    whole.train_test_split(3, seed=0).save_to_disk(tmp_path / "dict")
    whole.save_to_disk(tmp_path / "alone")
    whole.to_parquet(tmp_path / "set.parquet")
    assert open_data(tmp_path / "alone").digest() == open_data(tmp_path / "dict").digest()
    assert open_data(tmp_path / "alone").digest() == open_data(tmp_path / "set.parquet").digest()
    assert len(open_shift(tmp_path / "dict").test) == 3
