"""What names and errors can do to a terminal and a spreadsheet: nothing."""

import csv
import io
from pathlib import Path

import pytest
from rich.text import Text

from petiole import cli
from petiole.commands.predict import Prediction, PredictResult
from petiole.printable import SafeConsole, cell, printable

HOSTILE = "\x1b]0;owned\x07cat\u202e"


def test_control_characters_are_escapes() -> None:
    assert printable(HOSTILE) == r"\x1b]0;owned\x07cat\u202e"
    assert printable("naïve 犬\n\t") == "naïve 犬\n\t"
    assert printable("\udcff") == r"\udcff"


def test_a_console_shows_no_control_character_of_a_name() -> None:
    out = io.StringIO()
    SafeConsole(file=out, force_terminal=True, width=80).print(Text(HOSTILE, style="bold"))
    assert "\x1b]0" not in out.getvalue()
    assert r"\x1b]0;owned" in out.getvalue()


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@a", "\ta"])
def test_a_cell_is_no_formula(text: str) -> None:
    assert cell(text) == "'" + text
    assert cell(Path(text)) == "./" + text
    assert Path(cell(Path(text))) == Path(text)


@pytest.mark.parametrize("value", [-0.5, -3, None, "a=b", Path("a-b")])
def test_other_cells_are_left_alone(value: object) -> None:
    assert cell(value) == value


def test_predictions_open_in_a_spreadsheet() -> None:
    row = Prediction(path="=a.png", label="=cmd|x", probability=0.5, probabilities={"=cmd|x": 0.5})
    made = PredictResult(adapter=Path("a"), model="m", predictions=[row]).to_csv()
    found = list(csv.DictReader(io.StringIO(made)))
    assert (found[0]["path"], found[0]["label"]) == ("./=a.png", "'=cmd|x")


@pytest.mark.parametrize("debug", ["", "1"])
def test_an_error_that_nobody_foresaw_is_one_sentence(
    debug: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError("\x1b[2Jhidden\nrest")

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setenv("PETIOLE_DEBUG", debug)
    with pytest.raises(SystemExit) as done:
        cli.main(["doctor"])
    said = capsys.readouterr().err
    assert done.value.code == 70
    assert r"ZeroDivisionError: \x1b[2Jhidden" in said
    assert ("Traceback" in said) == bool(debug)
