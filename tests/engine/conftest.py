"""What tests of workers share."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from petiole.engine import executor, ray_executor


@pytest.fixture
def set_up(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a worker sets up, in its order."""
    done: list[Any] = []
    for module in (executor, ray_executor):
        monkeypatch.setattr(module, "tune_allocator", lambda: done.append("allocator"))
    monkeypatch.setattr(torch, "set_num_threads", lambda n: done.append(("threads", n)))
    monkeypatch.setattr(os, "chdir", lambda place: done.append(("in", place)))
    return done


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray is installed, or so it seems."""
    monkeypatch.setattr(ray_executor, "find_spec", lambda name: name if name == "ray" else None)
