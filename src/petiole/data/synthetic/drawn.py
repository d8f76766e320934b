"""Samples that are drawn, and folders of them: JSON Lines with pictures, the package's plain format."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from petiole.data.readers.jsonl import write_jsonl
from petiole.data.text_dataset import PARTS
from petiole.data.text_sample import TextSample
from petiole.errors import ConfigError, DataError, unknown
from petiole.files import write_json

Advance = Callable[[int], object]
"""Called with the number of samples or pictures written since."""

TOGETHER = 100
"""Samples drawn at once."""


@dataclass(frozen=True, eq=False)
class DrawnSample:
    """A sample and its pictures.

    Attributes:
        sample: as a reader of files would give it; several captions are all in one, also in training.
    """

    sample: TextSample

    @property
    def pictures(self) -> tuple[Image.Image, ...]:
        """One, two for a pair, or the frames of a clip."""
        raise NotImplementedError


def stream(
    seed: int, names: Sequence[str], name: str, part: str, indices: Sequence[int]
) -> list[int]:
    """The numbers that with an index seed a sample's generator.

    Args:
        seed: of the data set, from 0.
        names: of all tasks or domains.
        name: one of them.
        part: one of ``PARTS``; they share nothing but chance.
        indices: that are to be drawn, from 0, without end.

    Raises:
        ConfigError: an unknown part, or a negative index or seed.
    """
    if part not in PARTS:
        raise unknown("part of a data set", part, PARTS)
    if seed < 0 or any(index < 0 for index in indices):
        raise ConfigError(f"Indices {list(indices)} and seed {seed} of drawn samples start at 0.")
    return [seed, list(names).index(name), PARTS.index(part)]


def write_samples(
    folder: Path,
    task: str,
    counts: Mapping[str, int],
    draw: Callable[[str, Sequence[int]], Iterable[DrawnSample]],
    *,
    video: bool = False,
    captions: bool = False,
    advance: Advance,
) -> Path:
    """Write ``folder``/train.jsonl, val.jsonl, test.jsonl and task.json, with the pictures beside them.

    Args:
        folder: must not exist yet.
        task: by which the samples are learned and scored.
        counts: part -> samples.
        draw: (part, indices) -> the samples.
        video: the pictures of a sample are the frames of one video, a folder.
        captions: the references are captions of an image.

    Returns:
        The folder, which appears only when it is complete.

    Raises:
        DataError: the folder exists.
    """
    with appearing(folder) as staging:
        write_json(staging / "task.json", {"task": task})
        for part, count in counts.items():
            samples = []
            for start in range(0, count, TOGETHER):
                indices = range(start, min(start + TOGETHER, count))
                for drawn in draw(part, indices):
                    _save(staging, drawn, video)
                    samples.append(drawn.sample)
                    advance(1)
            write_jsonl(staging / f"{part}.jsonl", samples, video=video, captions=captions)
    return folder


def _save(root: Path, drawn: DrawnSample, video: bool) -> None:
    pictures, files = drawn.pictures, [root / name for name in drawn.sample.images]
    if video:
        files = [files[0] / f"{frame:03d}.png" for frame in range(len(pictures))]
    for file, picture in zip(files, pictures, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file)


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside ``folder``; it becomes ``folder`` if nothing fails, else it vanishes.

    Raises:
        DataError: the folder exists.
    """
    if folder.exists():
        raise DataError(f"{folder} exists already. Move it away, or choose another folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=".tmp-") as temporary:
        staging = Path(temporary) / "staging"
        staging.mkdir()
        yield staging
        os.replace(staging, folder)
