"""What commands make of adapters of tasks that other packages bring."""

from __future__ import annotations

from pathlib import Path

import pytest

from petiole.commands.kinds import served_as
from petiole.engine import task
from petiole.errors import ConfigError
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.text.adapter import TextAdapter

KNOWN = ("classification", "text")


class CountingAdapter(ClassificationAdapter):
    kind = "counting"


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind of another package."""
    monkeypatch.setitem(task._ADAPTERS, "counting", CountingAdapter)


def test_a_known_kind_is_itself() -> None:
    assert served_as(Path("a"), "text", KNOWN) == "text"


@pytest.mark.usefixtures("counting")
def test_a_kind_is_served_as_the_one_that_it_descends_from() -> None:
    assert served_as(Path("a"), "counting", KNOWN) == "classification"
    assert not issubclass(CountingAdapter, TextAdapter)
    with pytest.raises(
        ConfigError, match=r"runs/a is of the kind counting.*petiole\.Adapter\.load"
    ):
        served_as(Path("runs/a"), "counting", ("text", "codebook"))


def test_a_kind_whose_package_is_gone_is_named() -> None:
    with pytest.raises(ConfigError, match="Unknown kind of task 'counting'"):
        served_as(Path("runs/a"), "counting", KNOWN)
