"""What the tests of stores share."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What was fetched lies in a folder of the test."""
    monkeypatch.setenv("PETIOLE_STORES", str(tmp_path / "machine"))
    return tmp_path / "machine"
