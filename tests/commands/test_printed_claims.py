"""What ``reproduce`` and ``params`` print, whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builders.printed import cells, printed
from petiole.commands.params import Params, _lines
from petiole.commands.reproduce import Reproduced, ReproducedShares, ReproducedTable
from petiole.metrics.intervals import t_interval
from petiole.protocols.reproduction import ClaimResult
from petiole.protocols.shares import Share


def test_a_share_that_is_reproduced_or_not() -> None:
    result = Reproduced(
        name="t", claimed=0.92, source="abstract", doubt="of what?", accounting="one", ours=0.91714,
        agrees=True, others={"other": 1.5}, pairs={},
    )  # fmt: skip
    lines = printed(result)
    assert lines[:2] == [
        "t: claimed 0.92 (abstract), ours 0.9171: reproduced",
        "note     of what?",
    ]
    assert [cells(line) for line in lines[2:]] == [["accounting", "%"], ["one", "0.9171"], ["other", "1.5000"]]  # fmt: skip
    assert printed(result.model_copy(update={"agrees": False}))[0].endswith(": not reproduced")


def share(**more: Any) -> Share:
    terms = {"row": "LoRA", "tags": ("a", "b"), "claimed": 4.18, "trainable": 41_800, "total": 1_000_000,
             "alone": 500_000, "verdict": "reproduced", "note": ""}  # fmt: skip
    return Share(**{**terms, **more})


def test_shares_of_language_models() -> None:
    rows = (
        share(),
        share(tags=(), claimed=None, verdict="no claim"),
        share(claimed=4.0, verdict="differs", note="a slip"),
    )
    result = ReproducedShares(
        name="t",
        title="T",
        source="s",
        doubt="d",
        rows=rows,
        missing=("m",),
        sources={"a": "means"},
    )
    lines = printed(result)
    assert lines[:3] == ["t: T", "claimed  s", "note     d"]
    assert [cells(line) for line in lines[3:7]] == [
        ["method", "claimed", "trained", "total", "% total", "% LM alone", "verdict"],
        ["LoRA (a, b)", "4.18", "41,800", "1,000,000", "4.180", "8.360", "reproduced"],
        ["LoRA", "–", "41,800", "1,000,000", "4.180", "8.360", "no claim"],
        ["LoRA (a, b)", "4.00", "41,800", "1,000,000", "4.180", "8.360", "differs +0.180"],
    ]
    assert lines[7:] == ["note     LoRA: a slip", "source   a: means", "missing  m"]
    assert result.model_dump()["rows"][0]["percent_alone"] == pytest.approx(8.36)


def reproduced(claims: dict[str, dict[str, Any]], found: tuple[ClaimResult, ...] = ()) -> Any:
    return ReproducedTable(
        name="t", title="T", source="s", doubt="d", found=found, claims=claims, missing=("m",),
        folder=Path("f"), sources={},
    )  # fmt: skip


def test_a_table_beside_its_claims() -> None:
    one = ClaimResult("pets", "CoOp", "base", 0.8125, t_interval([0.5, 0.75]), "lower")
    claims = {"CoOp": {"pets": [1, 2, 3], "cars": {"mean": 5.0, "sd": 0.1}}, "Zero": {"cars": 7}}
    lines = [line for line in printed(reproduced(claims, (one,))) if line and "─" not in line]
    assert lines[:3] == ["t: T", "claimed  s", "note     d"]
    assert [cells(line) for line in lines[3:]] == [
        ["claimed", "pets", "cars"],
        ["CoOp", "1 / 2 / 3", "5.0 ± 0.1"],
        ["Zero", "–", "7"],
        ["data", "method", "claimed", "ours", "verdict"],
        ["pets", "CoOp", "base", "81.25", "62.50 ± 17.68", "lower"],
        ["runs", "f"],
        ["missing", "m"],
    ]
    empty = printed(reproduced(claims))
    assert not any("runs" in line for line in empty), "nothing was run"


def test_many_columns_give_way_to_the_average() -> None:
    def heads(places: int, average: bool = True, tags: tuple[str, str] = ("x", "x")) -> list[str]:
        row = {str(i): i for i in range(places)} | ({"average": 1} if average else {})
        claims = {f"row {tag}{i}": {**row, "seen in": tag} for i, tag in enumerate(tags)}
        found = [cells(line) for line in printed(reproduced(claims))]
        return next(row for row in found if row[:1] == ["claimed"] and row[1:2] != ["s"])

    assert heads(7) == ["claimed", *map(str, range(7)), "average"], (
        "the legend says where it is seen"
    )
    assert heads(8) == ["claimed", "average"]
    assert heads(9, average=False) == ["claimed", *map(str, range(9))]
    assert heads(6, tags=("x", "y")) == ["claimed", *map(str, range(6)), "average", "seen in"]


@pytest.mark.parametrize(
    ("words", "value", "lines"),
    [
        ("parts", {"a_b": 1234}, [("part: a b", "1,234")]),
        ("trained parts", {"a": 1}, [("trained part: a", "1")]),
        ("other", {"a": 1}, []),
        ("flops forward", 1_234_567_890, [("flops forward (G, one image)", "1.2346")]),
        ("flops classes", 0, [("flops classes (G, all class names)", "0.0000")]),
        ("flops backbone", None, []),
        ("trainable percent of total", 1.23456, [("trainable % of total", "1.235")]),
        ("head", 12_345, [("head", "12,345")]),
        ("cut", ["a", "b"], [("cut", "a, b")]),
        ("cut", [], []),
        ("none", None, []),
    ],
)
def test_rows_of_a_ledger(words: str, value: Any, lines: list[tuple[str, str]]) -> None:
    assert list(_lines(words, value, "one image")) == lines


def test_the_ledger_of_a_question() -> None:
    flops = dict.fromkeys(
        ("encoder", "quantiser", "projector", "prefill", "per_token", "decoding", "language"), 0
    )
    whole = {**flops, "total": 4_000_000_000, "image_tokens": 16, "text_tokens": 32, "answer_tokens": 8,
             "image_percent_of_language_flops": 33.33}  # fmt: skip
    pruned = {**whole, "total": 3_000_000_000, "image_tokens": 12, "keep": 0.75,
              "image_percent_of_language_flops": 25.0}  # fmt: skip
    counts = {"parts": {"codes": 3}, "unit": {"images": 2}, "flops_forward": 2_000_000_000,
              "flops_question": whole, "flops_pruned": pruned}  # fmt: skip
    result = Params(of_backbone="vlm", of_method="craft", of={"text_tokens": 32, "answer_tokens": 8}, counts=counts)  # fmt: skip
    lines = printed(result)
    text = "\n".join(lines)
    assert text.replace("\n", " ").startswith("craft on vlm, 32 text tokens, 8 answer tokens ")
    rows = [[c.strip() for c in line.strip("│┃").replace("┃", "│").split("│")] for line in lines]
    for row in (
        ["part: codes", "3"],
        ["unit: images", "2"],
        ["flops forward (G, one image)", "2.0000"],
        ["", "all tokens", "keep 0.75", "change in % of all"],
        ["image tokens", "16", "12", ""],
        ["answer tokens", "8", "8", ""],
        ["per token", "0.000000", "0.000000", ""],
        ["total", "4.000000", "3.000000", "-25.0"],
        ["image tokens, % of language", "33.3", "25.0", ""],
    ):
        assert row in rows, (row, text)
    assert "│ unit: images " in text
    assert "│      2 │" in text, "numbers end below each other"
    assert "VL-Adapter's tables" in text
    assert "An image is seen once" in text
    assert result.model_dump() == {"of_backbone": "vlm", "of_method": "craft", "text_tokens": 32, "answer_tokens": 8, **counts}  # fmt: skip
    plain = Params(of_backbone="vit", of_method="ridge", of={"classes": 7}, counts={
        "parts": {}, "unit": {"samples": 1}, "flops_forward": 1, "flops_question": None})  # fmt: skip
    text = "\n".join(printed(plain))
    assert "ridge on vit, 7 classes" in text
    assert "one sample" in text
    assert "VL-Adapter" not in text
    assert "An image is seen once" not in text
