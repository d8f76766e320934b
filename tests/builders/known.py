"""Numbers that a snapshot keeps, told from others by more than the order of additions can make of them; and all that a run leaves, as such numbers."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

from builders.snapshot import kept

VARIES = {"created", "id", "environment", "costs", "when", "notes", "petiole", "settings"}
"""Keys of what a run leaves whose values are dates, machines, places, or kept elsewhere (defaults)."""
PLACES = {"ids", "paths"}
"""Tensors of names."""
DIGEST = re.compile(r"[0-9a-f]{64}")
ALSO_IN_THE_RECORD = "request.json"


def short(value: float) -> float:
    """To six digits."""
    return float(f"{value:.6g}")


def digits(values: Tensor) -> list[float]:
    """Mean, spread and one sum that depends on the order."""
    flat = values.detach().double().flatten()
    waves = np.cos(np.arange(len(flat)))
    return [short(float(v)) for v in (flat.mean(), flat.std(correction=0), flat.numpy() @ waves)]


def differs(was: Any, now: Any) -> bool:
    """Whether two values are not the same, numbers within rounding."""
    if isinstance(now, Mapping):
        return not isinstance(was, Mapping) or was.keys() != now.keys() or any(differs(was[k], now[k]) for k in now)  # fmt: skip
    if isinstance(now, list | tuple):
        return not isinstance(was, list) or len(was) != len(now) or any(map(differs, was, now))
    if isinstance(now, float) and isinstance(was, int | float):
        return not np.isclose(now, was, rtol=2e-3, atol=1e-5, equal_nan=True)
    return bool(was != now)


def changed(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Which values differ, and how."""
    keys = [key for key in {**was, **now} if differs(was.get(key), now.get(key))]
    return [f"{key}: {was.get(key)} -> {now.get(key)}" for key in keys]


def check_run(file: Path, folder: Path) -> None:
    """That all a run leaves is what it left when the snapshot was made."""
    now = of_run(folder)
    assert changed(kept(file, now), now) == []


def of_run(folder: Path) -> dict[str, Any]:
    """Every file of a run's folder, without what varies; of pages and pictures their presence."""
    files = (f for f in sorted(folder.rglob("*")) if f.is_file())
    files = (f for f in files if f.name not in (".lock", ALSO_IN_THE_RECORD))
    return {file.relative_to(folder).as_posix(): _content(file) for file in files}


def _content(file: Path) -> Any:
    match file.suffix:
        case ".json":
            return _plain(json.loads(file.read_text("utf-8")))
        case ".jsonl":
            return [_plain(json.loads(line)) for line in file.read_text("utf-8").splitlines()]
        case ".csv":
            lines = (line for line in file.read_text("utf-8").splitlines() if line[0] != "#")
            return [" ".join(map(_cell, row)) for row in csv.reader(lines)]
        case ".safetensors":
            tensors = sorted(load_file(file).items())
            return {name: digits(value) for name, value in tensors if name not in PLACES}
    return "there"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items() if key not in VARIES}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, str):
        return "digest" if DIGEST.fullmatch(value) else value
    return short(value) if isinstance(value, float) else value


def _cell(text: str) -> str:
    """A path by its name, a number to three places."""
    try:
        return f"{float(text):.3g}"
    except ValueError:
        return "digest" if DIGEST.fullmatch(text) else text.rpartition("/")[2]
