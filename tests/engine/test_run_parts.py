"""Parts of a run: what did not survive saving, and which share of the images a process has."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from petiole.engine import run, together
from petiole.engine.share import Share
from petiole.errors import RunError


def adapter(weight: float, opened: Any = None) -> Any:
    """Of one matrix; opening its file gives another."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, weight)
    return SimpleNamespace(
        contents=lambda: module, save=lambda _: None, frozen={"backbone": 1}, load=opened
    )


@pytest.mark.parametrize("found", [2.0, 2.5])
def test_what_did_not_survive_saving_is_told(found: float, tmp_path: Path) -> None:
    def load(folder: Path, **frozen: Any) -> Any:
        assert (folder, frozen) == (tmp_path, {"backbone": 1})
        return adapter(found)

    saved = adapter(2.0, load)
    if found == 2.0:
        assert run._save(saved, tmp_path) is saved
    else:
        with pytest.raises(RunError, match=r"weight did not survive saving\. Please report this"):
            run._save(saved, tmp_path)


def test_a_share_is_said_in_words_and_decided_by_the_image_alone() -> None:
    """By the first eight bytes of its hash: shares of an earlier version are those of this one."""
    assert Share.parse("3/8") == Share(3, 8)
    assert str(Share.parse("1/1")) == str(Share()) == "1/1"
    assert Share.parse("8/8").of == 8
    for image in ("a", "b", "c", "d"):
        number = int(hashlib.sha256(image.encode()).hexdigest()[:16], 16)
        assert [n for n in range(1, 8) if Share(n, 7).takes(image)] == [number % 7 + 1]


@pytest.mark.parametrize(("rank", "own"), [("0", Share(1, 3)), ("2", Share(3, 3))])
def test_a_process_has_its_own_share(
    rank: str, own: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert Share.own() == own


@pytest.mark.parametrize(("size", "kind"), [("2", "cpu"), ("2", "cuda"), ("1", "cpu")])
def test_a_group_is_opened_where_there_are_several(
    size: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    monkeypatch.setattr("accelerate.PartialState", lambda **how: opened.append(how))
    monkeypatch.setenv("WORLD_SIZE", size)
    together.open_group(kind)
    assert opened == ([{"cpu": kind == "cpu"}] if size == "2" else [])
