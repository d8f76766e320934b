"""How another run's settings are told from those of a folder; what a trainer refuses; what identifies weights."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from petiole.backbones.weights import fingerprint
from petiole.engine import run_lock
from petiole.engine.run_lock import _differences, locked
from petiole.engine.trainer import Trainer
from petiole.errors import ConfigError


class Request(SimpleNamespace):
    """As much of a request as is compared."""

    def model_dump_json(self) -> str:
        import json

        return json.dumps(vars(self))


def test_differences_are_named_one_level_deep_cut_and_counted() -> None:
    old: Any = Request(method="a", seed=0, settings={"lr": 1, "rank": 2}, data={"x": 0}, same=1)
    new: Any = Request(method="b", seed=1, settings={"lr": 3, "steps": 4}, data={"x": 9}, same=1)
    assert _differences(old, new) == (
        "method: 'a' -> 'b'; seed: 0 -> 1; settings.lr: 1 -> 3; settings.rank: 2 -> None"
    )
    for length, wanted in ((119, False), (120, True), (300, True)):
        fill = "y" * (length - len("m: '' -> ''"))
        said = _differences(Request(m=""), Request(m=fill))  # type: ignore[arg-type]
        whole = f"m: '' -> '{fill}'"
        assert len(whole) == length
        assert said == (f"{whole[:117]}..." if wanted else whole)


def test_a_lock_is_taken_at_once_or_not_at_all_and_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []

    class Lock:
        def __init__(self, file: Path) -> None:
            heard.append(file)

        def acquire(self, timeout: float) -> None:
            heard.append(timeout)

        def release(self) -> None:
            heard.append("released")

    monkeypatch.setattr(run_lock, "FileLock", Lock)
    with suppress(KeyError), locked(tmp_path):
        assert heard == [tmp_path / ".lock", 0]
        raise KeyError
    assert heard[2:] == ["released"]


def test_the_best_step_needs_images_that_judge() -> None:
    recipe: Any = SimpleNamespace(select="best")
    with pytest.raises(ConfigError, match=r"^select=best is for methods on labelled images; this"):
        Trainer(*(None,) * 5, recipe, 1.0, 0)  # type: ignore[arg-type]


def test_weights_are_identified_whether_they_are_trained_or_not() -> None:
    values = torch.arange(6.0).reshape(2, 3)
    known = fingerprint({"b": values, "a": values[0]})
    assert (
        fingerprint({"a": torch.nn.Parameter(values[0]), "b": torch.nn.Parameter(values)}) == known
    )
    for other in ({"b": values}, {"b": values.reshape(3, 2), "a": values[0]}, {"b": values.double(), "a": values[0]}):  # fmt: skip
        assert fingerprint(other) != known
