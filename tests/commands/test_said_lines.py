"""Lines that verbs say while they work: as they are, without colours or markup of a name's own, and by whom."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from builders.asked import Asked, workspace
from petiole.commands import places, transfer
from petiole.commands.announce import announce, say
from petiole.commands.demo import demo

YELLOW = "\x1b[33m"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What comes to a terminal with colours."""
    stream = io.StringIO()
    coloured = Console(file=stream, force_terminal=True, color_system="standard", width=200)
    monkeypatch.setattr("petiole.engine.progress.console", coloured)
    return stream


def test_lines_are_said_as_they_are_and_notes_in_yellow(
    said: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(["data     [b]12[/b] images of 'x' in /a/b", "note     it is [i]12[/i]"])
    assert said.getvalue() == (
        f"data     [b]12[/b] images of 'x' in /a/b\n{YELLOW}note     it is [i]12[/i]\x1b[0m\n"
    )
    monkeypatch.setattr("petiole.processes.is_main", lambda: False)
    say(["from another process"])
    assert "another" not in said.getvalue()


def test_what_will_be_done_is_told_unless_it_is_to_be_quiet(said: io.StringIO) -> None:
    opened = workspace(describe=lambda specs: [f"does     {len(specs)}"])
    announce(opened, ["a", "b"], ["n"])  # type: ignore[list-item]
    assert said.getvalue() == ""
    opened.task.quiet = False
    announce(opened, ["a", "b"], ["n"])  # type: ignore[list-item]
    assert said.getvalue() == f"does     2\n{YELLOW}note     n\x1b[0m\n"


def test_cells_are_named_as_they_are(said: io.StringIO) -> None:
    cells = [SimpleNamespace(name="[i]7[/i]/v")]
    wanted: Any = SimpleNamespace(rows=[1], cells=cells, seeds=1)
    transfer._announce(wanted, {}, Path("o"))
    assert said.getvalue().splitlines()[1:] == ["", "\x1b[1m[i]7[/i]/v\x1b[0m", "finished"]


def test_a_demo_says_what_it_writes(asked: Asked, said: io.StringIO) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise InterruptedError

    asked.of("petiole.data.synthetic.digits.write_digits", stop)
    with pytest.raises(InterruptedError):
        demo(per_class=120, out=Path("[i]o[/i]"))
    assert said.getvalue() == (
        "Writing 1,200 rendered and 1,797 real handwritten digits to [i]o[/i]/images.\n"
    )


def test_addresses_are_said_whole_on_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    given: list[Any] = []

    def console(**more: Any) -> Console:
        given.append(more)
        return Console(file=stream, force_terminal=True, color_system="standard", width=20)

    monkeypatch.setattr(places, "Console", console)
    line = "fetched  s3://bucket/[i]a very long name of 12 parts[/i]"
    places._say(line)
    assert (stream.getvalue(), given) == (line + "\n", [{"stderr": True}])
