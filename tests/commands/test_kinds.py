"""What commands say to adapters of tasks that other packages bring."""

from __future__ import annotations

from pathlib import Path

import pytest

from petiole.commands.kinds import known_kind
from petiole.errors import ConfigError


def test_a_known_kind_is_itself() -> None:
    assert known_kind(Path("a"), "text", ("classification", "text")) == "text"


def test_an_unknown_kind_names_the_way_in_python() -> None:
    with pytest.raises(
        ConfigError, match=r"runs/a is of the kind counting.*petiole\.Adapter\.load"
    ):
        known_kind(Path("runs/a"), "counting", ("classification", "text"))
