"""The lists of sentences in templates.toml, by name."""

from __future__ import annotations

import tomllib
from pathlib import Path


def _read() -> dict[str, tuple[str, ...]]:
    text = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    return {name: tuple(sentences) for name, sentences in tomllib.loads(text).items()}


TEMPLATES = _read()
SEVEN, SIXTY = TEMPLATES["seven"], TEMPLATES["sixty"]
