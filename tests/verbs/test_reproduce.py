"""A published share counted again, through the command line."""

import json

import pytest

from petiole.cli import main


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
    # What does not reproduce it (spec A4).
    assert {round(v, 3) for v in found["others"].values()} >= {0.811, 0.891, 0.908, 0.533, 0.768}


def test_it_is_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "adaptertune/params")
    assert code == 0
    assert "0.9171: reproduced" in out


def test_a_table_of_accuracy_is_no_count(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capsys, "adaptertune/parms")
    assert code != 0
    assert "adaptertune/params" in err
