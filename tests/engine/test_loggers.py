"""The log of a run as lines of JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from petiole.engine.loggers import LOG, LOGGERS, logger
from petiole.errors import ConfigError


def test_a_run_is_logged_line_by_line_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    first = logger("jsonl", tmp_path / "run")
    first.start({"method": "cosine", "steps": 3})
    first.log(0, {"loss": 2.5, "lr": 1e-3})
    file = tmp_path / "run" / LOG
    with file.open("a") as log:
        log.write('{"event": "st')  # killed in the middle of a line
    again = logger("jsonl", tmp_path / "run")
    again.start({"method": "cosine", "steps": 3})
    again.log(1, {"loss": float("nan"), "lr": float("inf")})
    again.finish({"id": "7", "scores": {"accuracy": 0.5}, "files": {"a": "b"}})
    lines = file.read_text().splitlines()
    assert lines.pop(2) == '{"event": "st'
    rows = [json.loads(line) for line in lines]
    assert [row.pop("event") for row in rows] == ["start", "step", "start", "step", "finish"]
    assert rows[0] == {"request": {"method": "cosine", "steps": 3}}
    assert rows[1] == {"step": 0, "loss": 2.5, "lr": 1e-3}
    assert rows[3] == {"step": 1, "loss": "nan", "lr": "inf"}
    assert rows[4] == {"id": "7", "scores": {"accuracy": 0.5}}


def test_loggers_are_known_by_name(tmp_path: Path) -> None:
    assert "log.jsonl" in LOGGERS.about("jsonl")
    with pytest.raises(ConfigError, match=r"Unknown logger 'json'. Did you mean jsonl"):
        logger("json", tmp_path)
