"""Every reader of somebody else's files against every broken content: one error of ours, in bounded time.

Each pair is read in a process of its own, which is killed when it does not end.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.faults import EACH, Fault, Outcome, counted, forked
from petiole import claims
from petiole.backbones.torchscript import read_checkpoint, read_torchscript
from petiole.backbones.weights import read_json, read_safetensors
from petiole.data.features.hdf5 import GridFiles
from petiole.data.features.npz import FrameFiles
from petiole.data.features.shards import Shards
from petiole.data.image import read_image
from petiole.data.label_safe import stated_augmentation
from petiole.data.readers import coop
from petiole.data.readers.daquar import open_daquar
from petiole.data.readers.json_rows import read_lines, read_list, read_object
from petiole.data.readers.jsonl import open_plain
from petiole.data.readers.pickles import read_pickle
from petiole.data.readers.public.registry import lines_of
from petiole.data.readers.table import read_rows
from petiole.data.sources import open_data
from petiole.data.splits import read_split
from petiole.engine.adapter import read_manifest
from petiole.engine.adapter_limits import read_header
from petiole.engine.record import read_record
from petiole.errors import PetioleError
from petiole.protocols.multitask import majorities
from petiole.protocols.selection import read_selection
from petiole.report.diagnosis import VECTORS, diagnose
from petiole.tasks.classification.contract import read_contract
from petiole.tasks.classification.predictions import TENSORS, read_predictions

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({"a": print}))
    return stream.getvalue()


CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "a byte": b"\0",
    "zeros": bytes(5_000),
    "random": np.random.default_rng(0).bytes(5_000),
    "UTF-16": '{"a": 1}\n'.encode("utf-16"),
    "Latin-1": "path,label\nä,b\n".encode("latin-1"),
    "nested list": b"[" * 200_000,
    "nested object": b'{"a":' * 100_000,
    "null": b"null",
    "a number": b"1e99999",
    "not a number": b'{"train": [NaN], "test": NaN, "accuracy": {"min": NaN}}',
    "list of lists": b"[[[]]]",
    "wrong types": b'{"train": 3, "test": {"a": []}, "classes": 7, "image": [], "augmentation": {}}',
    "a pickle": pickle.dumps(print),
    "an archive": zipped(),
    "half an archive": zipped()[:60],
    "a PNG's start": b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + b"\x7f" * 30,
    "a JPEG's start": b"\xff\xd8\xff\xe0" + bytes(30),
    "an HDF5's start": b"\x89HDF\r\n\x1a\n" + bytes(60),
    "a Parquet's ends": b"PAR1" + bytes(40) + b"PAR1",
    "a long header": struct.pack("<Q", 2**40) + b"{}",
    "a tensor of 2**60": struct.pack("<Q", 71)
    + b'{"a":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,4]}}'.ljust(71),
    "a quote": b'path,label\n"' + b"x" * 200_000,
    "zero bytes in a cell": b"path,label,split\na\0b,c\0,train\n",
    "half a surrogate pair": b'{"path": "1.png", "label": "\\ud800", "train": [["1.png", 0, "\\udfff"]], "test": []}',
    "TOML": b"accuracy = [[[[",
}


def within(name: str, read: Callable[[Path], Any]) -> Callable[[Path], Path | Any]:
    """A reader of a folder, in which the file lies."""
    return lambda file: read(_folder(file, name))


def _folder(file: Path, name: str) -> Path:
    folder = file.parent / "folder"
    (folder / name).parent.mkdir(parents=True)
    file.rename(folder / name)
    return folder


def text_folder(file: Path) -> Any:
    (folder := _folder(file, "train.jsonl")).joinpath("task.json").write_text('{"task": "answers"}')
    return open_plain(folder)


def photos(file: Path) -> Any:
    folder = _folder(file, "a/1.jpg")
    return open_data(folder)


def daquar(file: Path) -> Any:
    folder = _folder(file, "data.csv")
    for part in ("train", "test"):
        (folder / f"{part}_images_list.txt").write_text(part)
    return open_daquar(folder)


def found_coop(file: Path) -> Any:
    return coop.read(_folder(file, "split_zhou_Caltech101.json"))


READERS: dict[str, Callable[[Path], Any]] = {
    "a.jpg": read_image,
    "b.jpg": photos,
    "a.csv": read_rows,
    "a.tsv": read_rows,
    "b.jsonl": read_rows,
    "a.parquet": read_rows,
    "b.csv": read_split,
    "a.json": read_list,
    "b.json": read_object,
    "a.jsonl": lambda file: list(read_lines(file)),
    "train.jsonl": text_folder,
    "data.csv": daquar,
    "coop.json": found_coop,
    "a.pkl": read_pickle,
    "list.txt": lines_of,
    "x.h5": lambda file: GridFiles(file.parent)("x"),
    "x.npz": lambda file: FrameFiles(file.parent)("x"),
    "x.parquet": lambda file: Shards(file.parent).width,
    "views.json": lambda file: stated_augmentation(file.parent),
    "contract.toml": read_contract,
    "table.toml": lambda file: claims.table(str(file)),
    "w.safetensors": read_safetensors,
    "w.json": read_json,
    "w.pth": read_checkpoint,
    "w.pt": read_torchscript,
    "adapter.json": lambda file: read_manifest(file.parent),
    "adapter.safetensors": read_header,
    "record.json": lambda file: read_record(file.parent),
    "selection.json": lambda file: read_selection(file.parent),
    "majority.json": lambda file: majorities(file.parent),
    TENSORS: lambda file: read_predictions(file.parent),
    VECTORS: lambda file: diagnose(file.parent),
}
HARMLESS = {
    *(("list.txt", name) for name, content in CONTENTS.items() if content.isascii()),  # any text
    *(("b.json", name) for name in ("not a number", "wrong types")),  # any object
    *(("w.json", name) for name in ("not a number", "wrong types", "half a surrogate pair")),
    *(("a.jsonl", name) for name in ("empty", "not a number", "wrong types")),
    ("train.jsonl", "empty"),  # a part without samples, which training refuses
    *(
        (name, what) for name in ("views.json", VECTORS) for what in ("a pipe", "a folder")
    ),  # as if absent
}
"""Pairs that are no damage."""


def read(reader: Callable[[Path], Any], file: Path, *, apart: bool) -> Outcome:
    """How reading ends; ``apart``, in a process that is killed after 30 s."""
    if apart:
        return forked(lambda: str(reader(file))[:200], file.parent, Fault(seconds=30))
    try:
        return Outcome("done", str(reader(file))[:200])
    except PetioleError as error:
        return Outcome("refused", f"{type(error).__name__}: {error}")


@pytest.mark.parametrize("name", READERS)
def test_a_reader_refuses_every_broken_content(name: str, tmp_path: Path) -> None:
    counts = counted("hostile input")
    contents: dict[str, bytes | str] = {**CONTENTS, "a pipe": "fifo", "a folder": "folder"}
    said = {}
    for number, what in enumerate(contents):
        file = tmp_path / str(number) / name
        file.parent.mkdir()
        content = contents[what]
        if content == "fifo":
            os.mkfifo(file)
        elif content == "folder":
            file.mkdir()
        else:
            file.write_bytes(content)  # type: ignore[arg-type]
        outcome = read(READERS[name], file, apart=bool(EACH) or content == "fifo")
        ours = outcome.kind == "refused" and not outcome.value.startswith("OSError")
        counts["inputs"] += 1
        counts["refused"] += ours
        if not ours and (name, what) not in HARMLESS:
            said[what] = (outcome.kind, outcome.value)
        elif ours and name not in outcome.value and file.parent.name not in outcome.value:
            said[what] = ("names no file", outcome.value)
    assert said == {}
    counts["tracebacks"] += 0
