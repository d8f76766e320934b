"""What was published beside ours: shares counted again, tables measured or what they lack."""

from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from builders import seq2seq as tiny
from petiole.backbones.encoder_decoder import stored
from petiole.backbones.encoder_decoder.loading import load_language_model
from petiole.backbones.registry import load_backbone
from petiole.cli import main
from petiole.commands.options import ModelOptions
from petiole.commands.reproduce import ReproducedShares, ReproducedTable, reproduce
from petiole.engine.record import read_record
from petiole.protocols import reproduction
from petiole.protocols.protocol import ComparisonRow
from petiole.protocols.reproduction import compared, is_stated
from petiole.protocols.shares import language_shape


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as done:
        main(["reproduce", *arguments])
    out, err = capsys.readouterr()
    return int(done.value.code or 0), out, err


def test_the_papers_092_by_fifteen_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "adaptertune/params", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["ours"] == pytest.approx(0.9171, abs=5e-5)
    assert (found["claimed"], found["agrees"]) == (0.92, True)
    assert "over full fine-tuning" in found["accounting"]
    assert len(found["pairs"]) == 15
    # What does not reproduce it.
    assert {round(v, 3) for v in found["others"].values()} >= {0.811, 0.891, 0.908, 0.533, 0.768}


def test_a_table_of_accuracy_is_no_count(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capsys, "adaptertune/parms")
    assert code != 0
    assert "adaptertune/params" in err


# VL-Adapter: trained and total, and whether ours rounds to the claim (Sung et al., 2022, table 1).
PAIRS = {
    "Full fine-tuning": (141_156_864, 141_156_864, "reproduced"),
    "Multiple adapters": (19_430_400, 158_955_264, "reproduced"),
    "Half-shared adapters": (12_725_760, 152_250_624, "reproduced"),
    "Half-shared adapters, down shared": (12_786_240, 152_311_104, "no claim"),
    "Single adapter": (6_081_600, 145_606_464, "reproduced"),
    "Single adapter, supplement": (6_081_600, 145_606_464, "other denominator"),
    "Hyperformer": (8_579_088, 148_103_952, "reproduced"),
    "Multiple compacters": (10_584_960, 150_109_824, "reproduced"),
    "Single compacter": (3_870_240, 143_395_104, "reproduced"),
    "Multiple LoRA": (30_020_352, 169_468_416, "differs"),
    "Single LoRA": (8_786_688, 148_234_752, "reproduced"),
    "Single DoRA": (8_786_688 + 36 * 768, 148_234_752 + 36 * 768, "differs"),
    "Multiple prompts": (6_627_200, 146_201_216, "reproduced"),
    "Single prompt": (2_843_936, 142_417_952, "reproduced"),
    "BitFit": (1_708_800, 141_156_864, "reproduced"),
    "V->L only": (1_582_848, 141_156_864, "other denominator"),
    "V->L and LayerNorm": (1_632_000, 141_156_864, "differs"),
    "Video, single adapter": (4_901_952, 144_426_816, "reproduced"),
    "Video, single LoRA": (7_607_040, 147_055_104, "reproduced"),
    "Video, single DoRA": (7_607_040 + 36 * 768, 147_055_104 + 36 * 768, "reproduced"),
    "Video, single prompt": (1_664_288, 141_238_304, "no claim"),
    "T5, single adapter, norms frozen": (19_333_632, 242_292_480, "reproduced"),
    "T5, single adapter, norms trained": (19_381_248, 242_292_480, "no claim"),
    "T5, single LoRA": (18_170_880, 241_128_960, "reproduced"),
    "T5, single prompt": (2_842_400, 225_801_248, "reproduced"),
    "T5, BitFit": (1_581_312 + 768, 224_540_160, "differs"),
    "CLIP-ViL on VQA, adapters": (15_108_921, 124_115_769, "differs"),
    "CLIP-ViL on SNLI-VE, adapters": (10_304_259, 119_311_107, "differs"),
}


@pytest.fixture(scope="module")
def shares() -> ReproducedShares:
    counted = reproduce("vl-adapter/params")
    assert isinstance(counted, ReproducedShares)
    return counted


def test_every_pair_of_vl_adapter_is_counted_exactly(shares: ReproducedShares) -> None:
    got = {row.row: (row.trainable, row.total, row.verdict) for row in shares.rows}
    assert got == PAIRS


def test_the_older_denominator_explains_what_the_other_does_not(shares: ReproducedShares) -> None:
    by_name = {row["row"]: row for row in shares.model_dump(mode="json")["rows"]}
    alone = {name: row["alone"] for name, row in by_name.items()}
    assert set(alone.values()) == {139_420_416, 222_903_552, 108_891_648}
    eyes, norms = by_name["V->L only"], by_name["V->L and LayerNorm"]
    assert (eyes["percent"], eyes["percent_alone"]) == pytest.approx((1.1213, 1.1353), abs=5e-5)
    assert (norms["percent"], norms["percent_alone"]) == pytest.approx((1.1562, 1.1706), abs=5e-5)
    assert "1.14 + 0.04" in norms["note"]
    told = {name for name, row in by_name.items() if row["note"]}
    assert told >= {name for name, (*_, verdict) in PAIRS.items() if verdict == "differs"}


def test_shares_are_told_in_words_with_their_sources(shares: ReproducedShares) -> None:
    console = Console(width=100, record=True, file=StringIO())
    console.print(shares)
    told = " ".join(console.export_text().split())
    assert "17.72 30,020,352 169,468,416 17.714" in told
    assert "differs −0.006" in told
    assert "R: from memory, in no source that was read: unverified" in told


def test_without_data_a_table_of_tasks_says_what_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = said(capsys, "vl-adapter/table1", "--json")
    found = json.loads(out)
    assert (code, found["found"]) == (0, [])
    assert found["claims"]["Single adapter"] == {
        "seen in": "D, V, E",
        "% trained": 4.18,
        "VQA": 65.9,
        "GQA": 54.5,
        "NLVR2": 74.2,
        "COCO": 114.9,
        "average": 77.4,
    }
    for name in ("vqa/karpathy_{train,test}.json", "GQA/", "nlvr/", "COCO/dataset_coco.json"):
        assert any(name in line and "clip_features" in line for line in found["missing"]), name
    assert any("weights of clip-bart-base" in line for line in found["missing"])


def test_a_spread_stands_beside_its_mean(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = said(capsys, "vl-adapter/replication", "--json")
    assert json.loads(out)["claims"]["Single adapter"]["VQA"] == {"mean": 65.76, "sd": 0.28}


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Six images and three samples a part of all four tasks, as the released code has them."""
    h5py = pytest.importorskip("h5py")
    root, rng = tmp_path / "datasets", np.random.default_rng(0)
    grid = "clip_features/data_clip_RN101_att"

    def write(name: str, value: Any) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(value))

    for folder in ("COCO", "VG", "GQA", "nlvr"):
        (root / folder / grid).mkdir(parents=True)
        for name in range(6):
            with h5py.File(root / folder / grid / f"{name}.h5", "w") as file:
                file.create_group(str(name))["features"] = rng.random((49, 12), np.float32)
    ten = [{"answer": "red"}] * 10
    for number, part in enumerate(("train", "test")):
        own = range(3 * number, 3 * number + 3)
        asked = [{"question_id": i, "img_id": str(i), "sent": "what is red"} for i in own]
        right = {"label": {"red": 1.0}}
        write(f"vqa/karpathy_{part}.json", [{**row, **right, "answers": ten} for row in asked])
        name = {"train": "train", "test": "testdev"}[part]
        write(f"GQA/{name}.json", [{**row, "label": {"dog": 1.0}} for row in asked])
        pairs = [
            {"identifier": f"{part}-{i}-0-0", "img0": str(i), "img1": str(i), "label": i % 2}
            for i in own
        ]
        write(f"nlvr/{part}.json", [{**row, "sent": "a dog"} for row in pairs])
    write("GQA/valid.json", [])
    said = [{"raw": "a red dog"}]
    images = [
        {"filename": f"{i}.jpg", "split": ("train", "test")[i // 3], "sentences": said}
        for i in range(6)
    ]
    write("COCO/dataset_coco.json", {"images": images})
    return root


@pytest.fixture
def bart(tmp_path: Path) -> Path:
    folder = tmp_path / "bart"
    stored.write(tiny.model("bart", visual=False), folder)
    tiny.save_tokenizer(folder, "bart")
    return folder


def test_a_table_of_tasks_is_measured_where_everything_is_there(
    published: Path, bart: Path, tmp_path: Path
) -> None:
    done = reproduce(
        "vl-adapter/table1",
        data=published,
        methods=["full", "adapter"],
        seeds=1,
        out=tmp_path / "out",
        model=ModelOptions(backbone=str(bart), cache_dir=tmp_path / "cache", quiet=True),
    )
    assert isinstance(done, ReproducedTable)
    assert len(done.missing) == 1
    assert "weights of clip-bart-base" in done.missing[0]
    by_row = {(one.row, one.place): one for one in done.found}
    assert len(by_row) == 10
    assert {one.verdict for one in done.found} == {"another backbone"}
    best = by_row["Single adapter", "VQA"]
    assert (best.what, best.claimed, best.ours.n) == ("vqa_accuracy", pytest.approx(0.659), 1)
    # The adapter reads hard prompts and the other row does not, as published.
    for place, row, prompted in (("prompted", "adapter", True), ("plain", "full", False)):
        record = read_record(tmp_path / "out" / place / "runs" / row / "seed-0")
        assert record.request.options["prefixes"] == prompted
        assert list(record.scores) == ["vqa", "gqa", "nlvr", "caption"]
    mean = [by_row["Single adapter", name].ours.mean for name in ("VQA", "GQA", "NLVR2", "COCO")]
    assert by_row["Single adapter", "average"].ours.mean == pytest.approx(sum(mean) / 4)


def test_nothing_runs_until_all_tasks_are_there(
    published: Path, bart: Path, tmp_path: Path
) -> None:
    (published / "nlvr" / "test.json").unlink()
    shutil.rmtree(published / "GQA" / "clip_features")
    shutil.rmtree(published / "VG" / "clip_features")
    done = reproduce(
        "vl-adapter/table1",
        data=published,
        out=tmp_path / "out",
        model=ModelOptions(backbone=str(bart), quiet=True),
    )
    assert isinstance(done, ReproducedTable)
    assert done.found == ()
    assert not (tmp_path / "out").exists()
    first, second, weights = done.missing
    assert first.startswith("data set GQA: ")
    assert "no features of gqa" in first
    assert "NLVR2: no test part" in second
    assert str(bart) in weights


def test_weights_that_cannot_be_had_are_missing_too(published: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    model = ModelOptions(backbone=str(tmp_path / "empty"), quiet=True)
    done = reproduce("vl-adapter/table1", data=published, out=tmp_path / "out", model=model)
    assert isinstance(done, ReproducedTable)
    assert done.found == ()
    (why,) = done.missing
    assert why.startswith("weights of ")
    assert "has no config.json" in why


def test_an_unknown_row_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capsys, "vl-adapter/table1", "--methods", "adaptor")
    assert code != 0
    assert "adaptor" in err


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        ([0.6550, 0.6549], "agrees"),  # 2 sd of the claim: 0.0056
        ([0.6500, 0.6501], "lower"),
        ([0.6700, 0.6701], "higher"),
        ([0.6200, 0.6700], "undecided"),  # our interval holds it, and much else
        ([0.6600, 0.6650, 0.6580], "agrees"),  # an interval within a point of it
        ([0.6576], "unknown"),
    ],
)
def test_a_claim_with_a_spread_agrees_within_two_of_it(ours: list[float], verdict: str) -> None:
    row = ComparisonRow(name="adapter", label="Single adapter", method="vl-adapter")
    one = compared("VQA", row, "vqa_accuracy", 65.76, ours, same=True, tolerance=2 * 0.0028)
    assert one.verdict == verdict
    other = compared("VQA", row, "vqa_accuracy", 65.76, ours, same=False)
    assert other.verdict == "another backbone"


def test_the_shape_of_the_claims_model_is_known() -> None:
    model = load_language_model("clip-bart-base", device="meta")
    assert is_stated(model, language_shape("clip-bart-base"))
    assert not is_stated(model, language_shape("clip-bart-base-video"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cls-residual-lora/table1", ("78.87", "private", "--data")),
        ("cls-residual-lora/table3", ("18.42", "0.26")),
        ("adaptertune/transfer", ("better on 10 of 15 pairs", "--data")),
    ],
)
def test_a_comparison_is_told_with_what_it_needs(
    capsys: pytest.CaptureFixture[str], name: str, words: tuple[str, ...]
) -> None:
    code, out, err = said(capsys, name)
    assert code == 0, err
    flat = " ".join(out.split())
    assert all(word in flat for word in words)


def test_a_teacher_that_teaches_no_row_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capsys, "cls-residual-lora/table1", "--teacher", "adapter")
    assert code == 1
    assert "learns from a teacher" in err


def test_a_teacher_goes_to_the_rows_that_learn_from_one() -> None:
    rows = [ComparisonRow(name=n, label=n, method=n) for n in ("promptkd", "coop")]
    taught = reproduction._taught(rows, Path("adapter"))
    assert [row.settings.get("teacher") for row in taught] == ["adapter", None]


def test_a_row_that_does_not_fit_the_backbone_is_missing_with_its_reason() -> None:
    rows = [ComparisonRow(name=n, label=n, method=n) for n in ("coop", "linear-probe")]
    possible, missing = reproduction._possible(
        rows, load_backbone("petiole/tiny-vit", device="meta")
    )
    assert [row.name for row in possible] == ["linear-probe"]
    assert missing[0].startswith("coop: ")
