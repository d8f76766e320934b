"""A domain of the board as files: JSON Lines with pictures beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from petiole.data.synthetic.boards.objects import DOMAINS
from petiole.data.synthetic.boards.samples import PARTS, BoardSample, batch
from petiole.errors import DataError, unknown
from petiole.files import write_json, write_text

TOGETHER = 100
"""Pictures drawn at once."""


def write(
    folder: Path,
    domain: str,
    train: int = 2000,
    val: int = 500,
    test: int = 1000,
    seed: int = 0,
    advance: Callable[[int], object] = lambda _: None,
) -> Path:
    """Write ``folder``/train.jsonl, val.jsonl, test.jsonl and task.json, with images/.

    A line has an id, image, question, answer, caption, label and facts. The answer is what is to be learned: in the
    base domain with its reason unless asked briefly, in the others short.

    Args:
        folder: must not exist yet.
        domain: one of DOMAINS.
        train, val, test: samples of each part.
        seed: as of ``draw``, which gives the same samples.
        advance: called with the samples written since.

    Returns:
        The folder, which appears only when it is whole.

    Raises:
        ConfigError: an unknown domain.
        DataError: the folder exists.
    """
    if domain not in DOMAINS:
        raise unknown("domain of the board", domain, DOMAINS)
    folder = Path(folder)
    if folder.exists():
        raise DataError(f"{folder} exists already. Move it away, or choose another folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=".tmp-") as staging:
        whole = Path(staging) / "whole"
        (whole / "images").mkdir(parents=True)
        write_json(whole / "task.json", {"task": "question"})
        for part, count in zip(PARTS, (train, val, test), strict=True):
            lines = []
            for start in range(0, count, TOGETHER):
                indices = range(start, min(start + TOGETHER, count))
                for index, drawn in zip(indices, batch(domain, part, indices, seed), strict=True):
                    lines.append(_saved(whole, f"{part}-{index}", drawn))
                advance(len(indices))
            write_text(whole / f"{part}.jsonl", "".join(lines))
        os.replace(whole, folder)
    return folder


def _saved(root: Path, key: str, drawn: BoardSample) -> str:
    """Save the picture; give the line."""
    name = f"images/{key}.png"
    Image.fromarray(drawn.image).save(root / name)
    line = {
        "id": key,
        "image": name,
        "question": drawn.asked.text,
        "answer": drawn.asked.target,
        "caption": drawn.caption,
        "label": drawn.label,
        "facts": list(drawn.facts),
    }
    return json.dumps(line) + "\n"
