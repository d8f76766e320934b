"""The comparison file: what it refuses, and where it says that runs lie."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from petiole.errors import RunError
from petiole.protocols.comparison import COMPARISON, Comparison, ComparisonRow


def comparison(**changes: object) -> Comparison:
    values: dict[str, object] = {
        "title": "Sketch to photo",
        "rows": [ComparisonRow(name=n, label=n.upper(), method="cosine") for n in ("a", "b")],
        "split_seeds": 2,
        "seeds": 3,
        "shots": 10,
        "reference": "b",
        "baseline": "a",
        "headline": "b",
        **changes,
    }
    return Comparison.model_validate(values)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    before = comparison(claims={"b": 78.87}, notes=["first", "second"])
    before.write(tmp_path)
    assert Comparison.read(tmp_path) == before


def test_runs_come_split_by_split(tmp_path: Path) -> None:
    c = comparison()
    names = [str(run.relative_to(tmp_path)) for run in c.runs(tmp_path, "a")]
    assert names == [f"runs/a/split-{d}-seed-{i}" for d in (0, 1) for i in (0, 1, 2)]
    assert c.runs(tmp_path, c.row("a")) == c.runs(tmp_path, "a")


@pytest.mark.parametrize("part", ["reference", "baseline", "headline"])
def test_parts_must_be_rows(part: str) -> None:
    with pytest.raises(ValidationError, match=rf"{part} names no row: 'c' is not among a, b"):
        comparison(**{part: "c"})


def test_claims_must_be_of_rows() -> None:
    with pytest.raises(ValidationError, match=r"claims\['c'\] names no row"):
        comparison(claims={"c": 1.0})


def test_what_only_photos_have_is_refused_for_other_kinds() -> None:
    for change in (
        {},
        {"split_seeds": 1},
        {"split_seeds": 2, "shots": None},
        {"split_seeds": 1, "shots": None, "validation": 0.2},
    ):
        with pytest.raises(ValidationError, match="are of classification, and this is codebook"):
            comparison(kind="codebook", **change)
    comparison(kind="codebook", split_seeds=1, shots=None)


def test_rows_must_differ() -> None:
    with pytest.raises(ValidationError, match="a row is named twice: a"):
        comparison(rows=[ComparisonRow(name="a", label="x", method="m")] * 2)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", "é"])
def test_row_names_must_name_a_folder(name: str) -> None:
    with pytest.raises(ValidationError, match="cannot name a folder"):
        ComparisonRow(name=name, label="x", method="m")


def test_a_folder_without_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=rf"{tmp_path.name} holds no comparison"):
        Comparison.read(tmp_path)


def test_what_a_killed_command_left_is_swept_when_it_goes_on(tmp_path: Path) -> None:
    comparison().claim(tmp_path)
    left = tmp_path / ".tmp-0-report.html"
    left.write_text("")
    comparison().claim(tmp_path, resume=True)
    assert not left.exists()


def test_a_damaged_one_is_named(tmp_path: Path) -> None:
    file = comparison().write(tmp_path)
    file.write_text(file.read_text()[:-20])
    with pytest.raises(RunError, match=rf"{COMPARISON} is damaged"):
        Comparison.read(tmp_path)
