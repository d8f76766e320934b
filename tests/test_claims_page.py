"""docs/claims.md: in step with the tables that it reads, and verdicts by the words of every comparison."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from petiole import claims

ROOT = Path(__file__).parents[1]
TABLE = """# Page

## Measured

| Method | Difference, points | Verdict |
|---|---:|---|
| a | +2.0 [0.5, 3.5] | undecided |
| b | −0.2 [−0.9, 0.5] | tie |
| d | +0.3 [0.1, 0.5] | better |

| Method | gain |
|---|---:|
| c | −3.0 [−4.0, −2.0] |

In the mean (+1.5 [−1.2, 4.2]); 12.25 GFLOPs.

## After
"""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("claims_page", ROOT / "benchmarks" / "claims.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "claims_page", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def small(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "page.md").write_text(TABLE, encoding="utf-8")
    monkeypatch.setattr(script, "DOCS", tmp_path)
    return script


def test_the_page_is_what_its_sources_say(script: ModuleType) -> None:
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), (
        "run python benchmarks/claims.py"
    )


def test_what_proves_a_claim_is_a_test() -> None:
    rows = [
        r for name in claims.names("statements") for r in claims.table(name, "statements")["rows"]
    ]
    assert {name.partition("/")[2] for name in claims.names("statements")} == {
        "cls-residual-lora", "adaptertune", "textrefiner", "vl-adapter", "craft", "follow-ups",
    }  # fmt: skip
    for test in (row["test"] for row in rows if "test" in row):
        file, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("bed", "expects", "verdict", "shown"),
    [
        ({"row": "a"}, "better", "undecided", "+2.0 [0.5, 3.5]"),  # the table's own word counts
        ({"row": "b"}, "better", "does not hold", "−0.2 [−0.9, 0.5]"),
        ({"row": "b", "flip": True}, "as good", "holds", "+0.2 [−0.5, 0.9]"),
        ({"row": "d"}, "tie", "holds", "+0.3 [0.1, 0.5]"),
        ({"row": "d", "flip": True}, "better", "does not hold", "−0.3 [−0.5, −0.1]"),
        ({"row": "b", "earlier": True}, "as good", "undecided", "−0.2 [−0.9, 0.5]"),
        ({"row": "c", "column": "gain"}, "better", "does not hold", "−3.0 [−4.0, −2.0]"),
        ({"row": "c", "column": "gain", "flip": True}, "better", "holds", "+3.0 [2.0, 4.0]"),
        ({"interval": r"mean \(\S+ \[\S+ \S+\]"}, "tie", "undecided", "+1.5 [−1.2, 4.2]"),
        ({"figure": r"([\d.]+) GFLOPs", "claimed": 12.3}, "", "does not hold", "12.25"),
        ({"figure": r"([\d.]+) GFLOPs", "claimed": 12.25}, "", "holds", "12.25"),
        ({}, "better", "measured without an interval", ""),
    ],
)
def test_a_verdict_follows_from_what_the_page_prints(
    small: ModuleType, bed: dict[str, object], expects: str, verdict: str, shown: str
) -> None:
    found = small.measured({"on": "it", "page": "page.md", "under": "Measured", **bed}, expects, {})
    assert (found.verdict, found.shown) == (verdict, shown)
    assert found.link == "[it](page.md#measured)"


def test_measurements_that_disagree_are_counted(script: ModuleType) -> None:
    assert script.overall(["holds", "holds"]) == "**holds**"
    assert script.overall(["undecided", "holds", "undecided"]) == "**holds** 1×, **undecided** 2×"


def test_what_is_not_there_is_an_error_that_names_it(small: ModuleType) -> None:
    place = {"on": "it", "page": "page.md", "under": "Measured"}
    for bed in ({**place, "under": "Gone"}, {**place, "row": "z"}, {**place, "interval": "gone"}):
        with pytest.raises(ValueError, match=r"docs/page\.md"):
            small.measured(bed, "better", {})
