"""Questions about the generated world as files: JSON Lines with pictures beside them, the package's plain format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from petiole.data.synthetic.atomic_folder import appearing
from petiole.data.synthetic.scenes.samples import PARTS, Questions, SceneSample, draw, find
from petiole.files import write_json, write_text


def write_questions(
    folder: Path,
    task: str,
    *,
    style: str = "",
    train: int = 2000,
    test: int = 500,
    seed: int = 0,
    advance: Callable[[int], object] = lambda _: None,
) -> Path:
    """Write ``folder``/train.jsonl, val.jsonl, test.jsonl and task.json, with images/ or clips/.

    Args:
        task: one of QUESTIONS.
        style: one of STYLES; without one, each sample in one that pre-training sees.
        train: samples of train.
        test: samples of val, and of test.
        seed: as of ``draw``, which gives the same samples.
        advance: called with the samples written since.

    Returns:
        The folder, which appears only when it is whole.

    Raises:
        ConfigError: an unknown task or style.
        DataError: the folder exists.
    """
    known = find(task, style)
    with appearing(folder) as whole:
        write_json(whole / "task.json", {"task": known.scored})
        for part, count in zip(PARTS, (train, test, test), strict=True):
            lines = []
            for index in range(count):
                drawn = draw(task, part, index, seed, style=style)
                _save(whole, drawn, known)
                lines.append(json.dumps(_line(drawn, known)) + "\n")
                advance(1)
            write_text(whole / f"{part}.jsonl", "".join(lines))
    return folder


def _save(root: Path, drawn: SceneSample, task: Questions) -> None:
    files = [root / name for name in drawn.sample.images]
    if task.film:
        files = [files[0] / f"{frame:03d}.png" for frame in range(len(drawn.pictures))]
    for file, picture in zip(files, drawn.pictures, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file)


def _line(drawn: SceneSample, task: Questions) -> dict[str, object]:
    sample = drawn.sample
    field = "video" if task.film else "image" if len(sample.images) == 1 else "images"
    line: dict[str, object] = {"id": sample.key}
    line[field] = list(sample.images) if field == "images" else sample.images[0]
    if task.told:
        return line | {"captions": list(sample.references)}
    line["question"] = sample.text
    if sample.group:
        line["group"] = sample.group
    if len(sample.references) > 1:
        return line | {"answers": list(sample.references)}
    return line | {"answer": sample.references[0]}
