"""Samples of vision-language tasks, drawn from the generated world: ``draw(task, part, index, seed)``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from PIL import Image

from petiole.data.readers.vqa import soft_targets
from petiole.data.synthetic.scenes.annotation import Annotation
from petiole.data.synthetic.scenes.clip import LENGTH, SceneClip, draw_clip, film
from petiole.data.synthetic.scenes.clip_questions import video_qa
from petiole.data.synthetic.scenes.descriptions import account, captions
from petiole.data.synthetic.scenes.layout import View, anything, places
from petiole.data.synthetic.scenes.pairs import nlvr
from petiole.data.synthetic.scenes.questions import gqa, vqa
from petiole.data.synthetic.scenes.render import render_things
from petiole.data.synthetic.scenes.scene import SEEN, STYLES
from petiole.data.text_sample import TextSample
from petiole.errors import ConfigError, unknown

PARTS = ("train", "val", "test")


class Questions(NamedTuple):
    """A task of questions, sentences or captions.

    Attributes:
        about: one line.
        scored: the name of the task by which it is learned and scored.
        draw: a generator -> samples that belong together, in a style that is chosen elsewhere.
        together: how many they are.
        pictures: of one sample.
        told: whether five captions are wanted in place of an answer.
    """

    about: str
    scored: str
    draw: Callable[[np.random.Generator], tuple[Annotation, ...]]
    together: int = 1
    pictures: int = 1
    told: bool = False

    @property
    def film(self) -> bool:
        """Whether it is about clips."""
        return self.pictures == LENGTH


def _silent(rng: np.random.Generator) -> tuple[Annotation]:
    return (Annotation("", (), (anything(rng),)),)


def _silent_clip(rng: np.random.Generator) -> tuple[Annotation]:
    return (Annotation("", (), (draw_clip(rng),)),)


QUESTIONS = {
    "vqa": Questions("questions about a picture, ten human answers", "vqa", vqa),
    "gqa": Questions("questions of two steps, one answer", "gqa", gqa),
    "nlvr": Questions(
        "sentences about two pictures, true or false", "nlvr", nlvr, together=2, pictures=2
    ),
    "caption": Questions("five captions of a picture", "caption", _silent, told=True),
    "video-qa": Questions(
        "questions about clips, four choices", "how2qa", video_qa, pictures=LENGTH
    ),
    "video-caption": Questions(
        "five captions of a clip", "yc2c", _silent_clip, pictures=LENGTH, told=True
    ),
}
"""By name."""


@dataclass(frozen=True)
class SceneSample:
    """One sample and what it is about.

    Attributes:
        sample: as a reader of files would give it; captions are all in one, also in training.
        context: sentences that tell all there is, enough to answer without a picture.
        shown: what is in the pictures: a view, two, or a clip.
        style: how they look.
        seed: of their rendering.
    """

    sample: TextSample
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
    frames = film(shown, rng) if isinstance(shown, SceneClip) else [places(shown, rng)]
    return (render_things(things, style, seed) for things in frames)


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
    if part not in PARTS:
        raise unknown("part of a data set", part, PARTS)
    if index < 0 or seed < 0:
        raise ConfigError(f"Index {index} and seed {seed} of a drawn sample start at 0.")
    number, member = divmod(index, known.together)
    key = [seed, list(QUESTIONS).index(task), PARTS.index(part), number]
    asked = known.draw(np.random.default_rng(key))[member]
    rng = np.random.default_rng([*key, 1 + member])
    looks = style or str(rng.choice(SEEN))
    references = asked.references
    if known.told:
        references = captions(asked.shown[0], looks, rng)
    context = accounts(asked, rng)
    sample = TextSample(
        key=f"{part}-{index}",
        text=asked.text,
        images=_names(known, f"{part}-{index}", len(asked.shown)),
        targets=soft_targets(references) if task == "vqa" else dict.fromkeys(references, 1.0),
        references=references,
        group=f"{part}-{number}" if known.together > 1 else "",
    )
    return SceneSample(sample, context, asked.shown, looks, int(rng.integers(2**31)))


def accounts(asked: Annotation, rng: np.random.Generator) -> str:
    """All there is in what is asked about, in words."""
    told = [account(shown, rng) for shown in asked.shown]
    if len(told) == 1:
        return told[0]
    return "left picture: {} right picture: {}".format(*told)


def _names(task: Questions, key: str, count: int) -> tuple[str, ...]:
    """Of the files in a written folder."""
    if task.film:
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
        raise unknown("style of the generated world", style, STYLES)
    return QUESTIONS[task]
