"""Samples of vision-language tasks about synthetic scenes: ``draw(task, part, index, seed)``, and folders of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from petiole.data.readers.vqa import soft_targets
from petiole.data.synthetic.drawn import Advance, DrawnSample, stream, write_samples
from petiole.data.synthetic.scenes.annotation import Annotation
from petiole.data.synthetic.scenes.clip import LENGTH, SceneClip, draw_clip, frames_of
from petiole.data.synthetic.scenes.clip_questions import video_qa
from petiole.data.synthetic.scenes.grammar import captions, description
from petiole.data.synthetic.scenes.layout import View, draw_any, placed_objects
from petiole.data.synthetic.scenes.pairs import nlvr
from petiole.data.synthetic.scenes.questions import gqa, vqa
from petiole.data.synthetic.scenes.render import render_objects
from petiole.data.synthetic.scenes.scene import SEEN, STYLES
from petiole.data.text_dataset import PARTS
from petiole.data.text_sample import TextSample
from petiole.errors import unknown


class Questions(NamedTuple):
    """A task of questions, sentences or captions.

    Attributes:
        about: one line.
        scored: the name of the task by which it is learned and scored.
        draw: a generator -> samples that belong together, in a style that is chosen elsewhere.
        together: how many they are.
        pictures: of one sample.
        captions: whether five captions are wanted in place of an answer.
    """

    about: str
    scored: str
    draw: Callable[[np.random.Generator], tuple[Annotation, ...]]
    together: int = 1
    pictures: int = 1
    captions: bool = False

    @property
    def video(self) -> bool:
        """Whether it is about clips."""
        return self.pictures == LENGTH


def _view_alone(rng: np.random.Generator) -> tuple[Annotation]:
    return (Annotation("", (), (draw_any(rng),)),)


def _clip_alone(rng: np.random.Generator) -> tuple[Annotation]:
    return (Annotation("", (), (draw_clip(rng),)),)


QUESTIONS = {
    "vqa": Questions("questions about a picture, ten human answers", "vqa", vqa),
    "gqa": Questions("questions of two steps, one answer", "gqa", gqa),
    "nlvr": Questions(
        "sentences about two pictures, true or false", "nlvr", nlvr, together=2, pictures=2
    ),
    "caption": Questions("five captions of a picture", "caption", _view_alone, captions=True),
    "video-qa": Questions(
        "questions about clips, four choices", "how2qa", video_qa, pictures=LENGTH
    ),
    "video-caption": Questions(
        "five captions of a clip", "yc2c", _clip_alone, pictures=LENGTH, captions=True
    ),
}
"""By name."""


@dataclass(frozen=True)
class SceneSample(DrawnSample):
    """One sample and what it is about.

    Attributes:
        context: sentences that describe everything, enough to answer without a picture.
        shown: what is in the pictures: a view, two, or a clip.
        style: how they look.
        seed: of their rendering.
    """

    context: str
    shown: tuple[View | SceneClip, ...]
    style: str
    seed: int

    @cached_property
    def pictures(self) -> tuple[Image.Image, ...]:
        """64 x 64 pixels each: one, two for a pair, eight frames for a clip."""
        return tuple(
            picture
            for i, shown in enumerate(self.shown)
            for picture in _pictures(shown, self.style, self.seed + i)
        )


def _pictures(shown: View | SceneClip, style: str, seed: int) -> Iterator[Image.Image]:
    rng = np.random.default_rng([seed, 9])
    frames = frames_of(shown, rng) if isinstance(shown, SceneClip) else [placed_objects(shown, rng)]
    return (render_objects(objects, style, seed) for objects in frames)


def draw(task: str, part: str, index: int, seed: int = 0, *, style: str = "") -> SceneSample:
    """One sample, a pure function of the arguments.

    Args:
        task: one of QUESTIONS.
        part: ``train``, ``val`` or ``test``; they share nothing but chance.
        index: from 0, without end.
        seed: of the data set.
        style: one of STYLES; without one, a style that pre-training sees, at random.

    Raises:
        ConfigError: an unknown task, part or style, or a negative index.
    """
    known = find(task, style)
    number, member = divmod(index, known.together)
    key = [*stream(seed, list(QUESTIONS), task, part, [index]), number]
    annotation = known.draw(np.random.default_rng(key))[member]
    rng = np.random.default_rng([*key, 1 + member])
    shown_style = style or str(rng.choice(SEEN))
    references = annotation.references
    if known.captions:
        references = captions(annotation.shown[0], shown_style, rng)
    context = descriptions(annotation, rng)
    sample = TextSample(
        key=f"{part}-{index}",
        text=annotation.text,
        images=_names(known, f"{part}-{index}", len(annotation.shown)),
        targets=soft_targets(references) if task == "vqa" else dict.fromkeys(references, 1.0),
        references=references,
        group=f"{part}-{number}" if known.together > 1 else "",
    )
    return SceneSample(sample, context, annotation.shown, shown_style, int(rng.integers(2**31)))


def descriptions(annotation: Annotation, rng: np.random.Generator) -> str:
    """Everything in the pictures or the clip of an annotation, in words."""
    texts = [description(shown, rng) for shown in annotation.shown]
    if len(texts) == 1:
        return texts[0]
    return "left picture: {} right picture: {}".format(*texts)


def _names(task: Questions, key: str, count: int) -> tuple[str, ...]:
    """Of the files in a written folder."""
    if task.video:
        return (f"clips/{key}",)
    return tuple(f"images/{key}{'ab'[i] if count > 1 else ''}.png" for i in range(count))


def find(task: str, style: str = "") -> Questions:
    """The task of this name.

    Raises:
        ConfigError: an unknown task or style.
    """
    if task not in QUESTIONS:
        raise unknown("task of questions", task, QUESTIONS)
    if style and style not in STYLES:
        raise unknown("style of synthetic scenes", style, STYLES)
    return QUESTIONS[task]


def write_questions(
    folder: Path,
    task: str,
    *,
    style: str = "",
    train: int = 2000,
    test: int = 500,
    seed: int = 0,
    advance: Advance = lambda _: None,
) -> Path:
    """Write a task as JSON Lines with images/ or clips/, see `petiole.data.synthetic.drawn.write_samples`.

    Args:
        folder: must not exist yet.
        task: one of QUESTIONS.
        style: one of STYLES; without one, each sample in one that pre-training sees.
        train: samples of train.
        test: samples of val, and of test.
        seed: as of ``draw``, which gives the same samples.
        advance: called with the samples written since.

    Returns:
        The folder, which appears only when it is complete.

    Raises:
        ConfigError: an unknown task or style.
        DataError: the folder exists.
    """
    known = find(task, style)

    def drawn(part: str, indices: Sequence[int]) -> Iterator[SceneSample]:
        return (draw(task, part, index, seed, style=style) for index in indices)

    counts = dict(zip(PARTS, (train, test, test), strict=True))
    return write_samples(
        folder,
        known.scored,
        counts,
        drawn,
        video=known.video,
        captions=known.captions,
        advance=advance,
    )
