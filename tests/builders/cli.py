"""The command line, run in this process."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, NamedTuple

import pytest

from petiole.cli import main


class Said(NamedTuple):
    """What a command left: its exit code, standard output, and standard error on one line."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What was printed, which must be JSON as the standard has it: no NaN, no Infinity."""
        return json.loads(self.out, parse_constant=pytest.fail)


def run(*arguments: object) -> int:
    """Run the command line; its exit code."""
    with pytest.raises(SystemExit) as done:
        main([str(a) for a in arguments])
    return int(done.value.code or 0)


def say(*arguments: object) -> Said:
    """Run the command line; all that it leaves."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run(*arguments)
    return Said(code, out.getvalue(), " ".join(err.getvalue().split()))
