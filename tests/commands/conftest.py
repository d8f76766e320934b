"""What the tests of verbs share."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders.asked import Asked


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Asked:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PETIOLE_CACHE", str(tmp_path / "cache"))
    return Asked(monkeypatch)
