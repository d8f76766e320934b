"""A folder in the reference's layout, with a few hand-made rows of every task."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).parents[3] / "../shared/data"

Write = Callable[[str, Any], Path]


def as_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def as_lines(path: Path, values: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a value below the folder, as JSON Lines where the name says so."""

    def write(name: str, value: Any) -> Path:
        return (as_lines if name.endswith("l") else as_json)(tmp_path / name, value)

    return write


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("../shared/data is absent")
    return SHARED
