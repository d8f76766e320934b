"""What verbs print about files that they read or wrote, whole, and which verb comes next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builders.printed import RUN, cells, printed
from petiole.commands.cache import Cache
from petiole.commands.check import CheckResult
from petiole.commands.diff import DiffResult
from petiole.commands.export import Exported
from petiole.commands.features import Extracted
from petiole.commands.fold import FoldedAdapter, FoldedSpeaker
from petiole.commands.import_dassl import ImportedAdapter
from petiole.commands.inspect import Inspection
from petiole.commands.merge import Merged
from petiole.commands.options import CommandResult
from petiole.commands.pair import PairResult
from petiole.commands.push_to_hub import Pushed
from petiole.commands.report import ReportResult
from petiole.commands.sign import Signed
from petiole.commands.synthesize import SynthesizeResult
from petiole.commands.verify import Verified


def entry(**more: Any) -> dict[str, Any]:
    key = {"cut": ["block.1.out", "final.cls"], "view": 2, "dtype": "float16"}
    return {
        "digest": "0123456789abcdef",
        "key": key,
        "images": 1234,
        "bytes": 5_678_900,
        "damaged": 0,
        **more,
    }


def test_a_cache() -> None:
    result = Cache(folder=Path("c"), entries=[entry(), entry(key={}, damaged=1)], removed=1)
    assert [cells(line) for line in printed(result)] == [
        ["key", "cut", "view", "dtype", "images", "MB", "damaged"],
        ["0123456789", "block.1.out, final.cls", "2", "float16", "1,234", "5.7", "0"],
        ["0123456789", "key.json is damaged", "1,234", "5.7", "1"],
        ["c: 2 keys, 11.4 MB"],
        ["removed 1 file"],
    ]
    assert not result.ok
    sound = Cache(folder=Path("c"), entries=[entry()])
    assert sound.ok
    assert printed(sound)[-1] == "c: 1 key, 5.7 MB", "nothing was removed"


def test_a_contract() -> None:
    lines = [
        {"name": "accuracy", "value": 0.87654, "bound": 0.9, "at_least": True, "images": 1234, "ok": False},
        {"name": "ece", "value": 0.0123, "bound": 0.05, "at_least": False, "images": 7, "ok": True},
    ]  # fmt: skip
    result = CheckResult(
        adapter=RUN, contract=Path("c"), ok=False, test_evaluations=1, lines=lines, notes=["n"]
    )
    assert [cells(line) for line in printed(result)] == [
        ["value", "bound", "images"],
        ["accuracy", "0.877", ">= 0.9", "1,234", "FAIL"],
        ["ece", "0.012", "<= 0.05", "7", "pass"],
        ["note", "n"],
    ]


def test_a_difference() -> None:
    result = DiffResult(
        report=Path("d/report.html"), a=Path("one"), b=Path("two"), images=1, fixed=12, broken=3,
        accuracy=(0.5, 0.8125), classes=[], domains=[], layers={}, notes=["n"],
    )  # fmt: skip
    assert printed(result) == [
        "50.00 % -> 81.25 % correct on 1 image",
        "   12 fixed: wrong with one, right with two",
        "    3 broken: the other way round",
        "note     n",
        "page     d/report.html",
    ]


def exported(**more: Any) -> Exported:
    return Exported(
        folder=Path("o o"), format="onnx", files={"a": 2**20, "b": 2**19},
        largest_difference=0.000123, same_label=0.9876, images=34, approximate="", **more,
    )  # fmt: skip


def test_an_export() -> None:
    assert printed(exported()) == [
        "folder   o o (onnx, 1.5 MB)",
        "parity   logits differ by 0.00012 at most; 98.8% of 34 images get the same label",
    ]
    result = exported(accuracy=0.5, adapter_accuracy=0.75).model_copy(
        update={"approximate": "8 bits", "files": {"predict.py": 0}}
    )
    assert printed(result)[2:] == [
        "note     it is not exact: 8 bits",
        "accuracy 50.0%, and 75.0% of the adapter",
        "next     python 'o o/predict.py' IMAGE...",
    ]


def test_extracted_features() -> None:
    result = Extracted(
        cache=Path("c"), backbone="b", tokens=36, width=64, shard="1/1", images=1234, computed=1000,
        left_out=[], notes=["n"], megabytes=5678.91, seconds=12.34, digest="d1",
    )  # fmt: skip
    assert printed(result) == [
        "features 1,234 images, 1,000 of them new",
        "size     36 x 64 each, 5,678.9 MB in c",
        "digest   d1",
        "seconds  12.3",
        "note     n",
    ]
    part = result.model_copy(update={"shard": "2/3"})
    assert printed(part)[0] == "features 1,234 images, 1,000 of them new, shard 2/3"


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        (
            FoldedAdapter(adapter=RUN, classes=7, values=1234),
            ["adapter  runs/a b (7 classes, 1,234 numbers)", "next     petiole predict 'runs/a b' IMAGE..."],
        ),
        (
            FoldedSpeaker(adapter=RUN, tasks=["vqa"], values=1234, before=5678),
            [
                "adapter  runs/a b (1,234 numbers; before 5,678)",
                "next     petiole predict 'runs/a b' IMAGE --question \"...\"",
            ],
        ),
        (
            ImportedAdapter(adapter=RUN, method="coop", classes=7),
            ["adapter  runs/a b (coop, 7 classes)", "next     petiole predict 'runs/a b' IMAGE..."],
        ),
        (
            Merged(backbone="vit", weights=Path("w.safetensors"), adapter=RUN),
            [
                "backbone w.safetensors (vit)",
                "adapter  runs/a b",
                "next     petiole predict 'runs/a b' IMAGE...",
            ],
        ),
        (
            PairResult(folder=RUN, texts=1000, width=2048),
            [
                "folder   runs/a b (1,000 texts, 2,048 numbers)",
                "next     petiole generalise IMAGES --backbone 'runs/a b'",
            ],
        ),
        (
            Pushed(name="hf/me/a", url="https://x"),
            ["adapter  hf/me/a", "commit   https://x", "next     petiole predict hf/me/a IMAGE..."],
        ),
        (ReportResult(report=RUN), ["report   runs/a b"]),
        (
            Signed(path=RUN, signatures=[Path("a.sig"), Path("b.sig")]),
            [
                "signed   a.sig",
                "signed   b.sig",
                "next     petiole verify 'runs/a b' --trusted PUBLIC-KEY",
            ],
        ),
        (
            Verified(files=[Path("a")], covered=[Path("b"), Path("c")]),
            ["verified a", "covered  b", "covered  c"],
        ),
        (
            SynthesizeResult(folder=RUN, task="species", style="", classes=3, samples=6, images=1234),
            [
                "folder   runs/a b (3 classes, 1,234 pictures)",
                "drawn    species, in the styles of pre-training",
                "next     petiole generalise 'runs/a b' --backbone petiole/tiny-lit",
            ],
        ),
        (
            SynthesizeResult(folder=RUN, task="masks", style="dark", classes=3, samples=6, images=6),
            [
                "folder   runs/a b (3 classes, 6 pictures)",
                "drawn    masks, dark",
                "next     petiole fit 'runs/a b' --backbone petiole/tiny-vit",
            ],
        ),
        (
            SynthesizeResult(folder=RUN, task="shapes", style="dark", classes=3, samples=6, images=6),
            [
                "folder   runs/a b (3 classes, 6 pictures)",
                "drawn    shapes, dark",
                "next     petiole generalise 'runs/a b' --backbone petiole/tiny-clip",
            ],
        ),
        (
            SynthesizeResult(folder=RUN, task="vqa", style="", classes=0, samples=1234, images=6),
            [
                "folder   runs/a b (1,234 samples, 6 pictures)",
                "drawn    vqa, in the styles of pre-training",
            ],
        ),
        (
            Inspection(what="x", facts={"a": 1, "long name": ("b", 2)}),
            ["x", " a          1", " long name  b, 2"],
        ),
    ],
)  # fmt: skip
def test_what_was_written_and_what_comes_next(result: CommandResult, lines: list[str]) -> None:
    assert printed(result) == lines
