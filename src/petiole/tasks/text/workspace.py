"""A language model and its tasks, opened once for any number of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from petiole.backbones.base import Backbone
from petiole.backbones.encoder_decoder import Seq2Seq
from petiole.backbones.registry import LoadRequest, load, load_any
from petiole.data.readers.questions import open_questions
from petiole.data.readers.registry import VIDEO_TASKS, open_features, open_task
from petiole.data.task_batches import Mode
from petiole.data.text_dataset import TextDataset
from petiole.engine.feature_extractor import Precision
from petiole.errors import ConfigError
from petiole.methods.text import encoder_decoder_of
from petiole.tasks.text import training
from petiole.tasks.text.adapter import method_of
from petiole.tasks.text.collator import TaskData
from petiole.tasks.text.model import VisionTower
from petiole.tasks.text.registry import find
from petiole.tasks.text.text_task import TextTask
from petiole.tasks.text.training import TextRecord, TextRun
from petiole.tasks.text.visual import (
    BackboneVisuals,
    PixelSource,
    StoredVisuals,
    VisualSource,
    open_vision_tower,
)

FRAMES = 64
"""Rows of a video (spec vladapter.md, 1.1)."""


@dataclass(frozen=True)
class TextSpec:
    """What runs share; small and plain, so that it can be sent to another process.

    Attributes:
        model: name of an encoder-decoder.
        tasks: folders in the plain format, or ``NAME=FOLDER`` for a public layout.
        eyes: image backbone that makes the features; empty for the model's own.
        features: stored features instead, a file or folder.
        places: features of an image after pooling.
        options: of the V->L block, (name, value) each.
        device, precision: where and how it runs.
        cache: folder of the feature cache; ``None`` for none.
        skip_bad: leave samples of unreadable images out and say so.
        quiet: no progress.
    """

    model: str
    tasks: tuple[str, ...]
    eyes: str = ""
    features: Path | None = None
    places: int = 36
    options: tuple[tuple[str, Any], ...] = ()
    device: str = "cpu"
    precision: Precision = "fp32"
    cache: Path | None = None
    skip_bad: bool = False
    quiet: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class TextWorkspace:
    """Model and tasks, and what the adapter file says of them."""

    model: Seq2Seq
    tasks: tuple[TaskData, ...]
    facts: Mapping[str, Any]
    roots: tuple[Path, ...]
    eyes: Backbone | None


@dataclass(frozen=True)
class TextRunSpec:
    """One run to do.

    Attributes:
        school: model and tasks.
        method, settings, folder, seed, mode, prefixes, fraction, scored, resume: see ``TextRun``.
    """

    school: TextSpec
    method: str
    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    mode: Mode = "proportional"
    prefixes: bool = True
    fraction: float = 1.0
    scored: str = "test"
    resume: bool = False


def run(lesson: TextRunSpec) -> TextRecord:
    """Do one run; see ``training.run``."""
    opened = open_workspace(lesson.school)
    own = {name: value for name, value in vars(lesson).items() if name != "school"}
    eyes, tasks = _trained_eyes(lesson, opened)
    return training.run(
        TextRun(
            model=opened.model,
            tasks=tasks,
            facts=opened.facts,
            eyes=eyes,
            precision=lesson.school.precision,
            quiet=lesson.school.quiet,
            **own,
        )
    )


def _trained_eyes(
    lesson: TextRunSpec, opened: TextWorkspace
) -> tuple[VisionTower | None, Sequence[TaskData]]:
    """Fresh eyes where the method trains them too, and tasks that show them pictures."""
    trained = method_of(lesson.method, lesson.settings).vision
    if trained == "frozen":
        return None, opened.tasks
    if opened.eyes is None:
        raise ConfigError(
            f"vision={trained} trains an image backbone, and none was named (--eyes)."
        )
    places = lesson.school.places
    shown = tuple(
        replace(data, sight=PixelSource(root, opened.eyes, places)) if data.sight else data
        for root, data in zip(opened.roots, opened.tasks, strict=True)
    )
    return open_vision_tower(opened.eyes, places, trained), shown


@lru_cache(maxsize=2)
def open_workspace(school: TextSpec) -> TextWorkspace:
    """Open model and tasks, and compute what features are missing.

    Raises:
        BackboneError, DataError, ConfigError: what cannot be opened, by name.
    """
    data = [opened_data(task) for task in school.tasks]
    kinds = [_kind(one) for one in data]
    shape = encoder_decoder_of(load_any(LoadRequest(school.model, meta=True), device="meta"))
    eyes = school.eyes or shape.eyes
    backbone = load(eyes, device=school.device) if eyes and not school.features else None
    sighted = [_sighted(one, school, backbone) for one in data]
    widths = {sight.width for _, sight, _ in sighted if sight}
    if len(widths) > 1:
        raise ConfigError(f"The tasks' features have different widths: {sorted(widths)}.")
    request = LoadRequest(
        school.model, vision_width=max(widths, default=0), options=dict(school.options)
    )
    model = encoder_decoder_of(load_any(request, device=school.device))
    taken: set[str] = set()
    tasks = tuple(
        TaskData(kind, one.parts, sight, digest, one.notes, _called(one, taken))
        for kind, (one, sight, digest) in zip(kinds, sighted, strict=True)
    )
    facts = {
        "eyes": eyes if backbone else "",
        "eyes_fingerprint": backbone.fingerprint if backbone else "",
        "places": school.places,
        "options": dict(school.options),
    }
    return TextWorkspace(model, tasks, facts, tuple(one.root for one in data), backbone)


def reopened(school: TextSpec) -> TextWorkspace:
    """Open anew: files may have changed since an earlier call in this process."""
    open_workspace.cache_clear()
    return open_workspace(school)


def opened_data(task: str) -> TextDataset:
    """Samples of a folder of questions in a layout that is known, or of ``NAME=FOLDER`` in a public layout.

    Raises:
        DataError: no such folder, or one that says no task.
    """
    name, sign, folder = task.partition("=")
    if sign:
        return open_task(name, Path(folder))
    return open_questions(Path(task))


def _sighted(
    data: TextDataset, school: TextSpec, eyes: Backbone | None
) -> tuple[TextDataset, VisualSource | None, str]:
    """Samples whose images can be seen, how they are, and the digest of both."""
    if not data.images:
        return data, None, data.digest()
    if school.features:
        video = data.task in VIDEO_TASKS
        stored = StoredVisuals(
            open_features(data.task, school.features),
            places=None if video else school.places,
            rows=FRAMES if video else None,
            cache=school.cache,
        )
        stored.prepare(data.images, quiet=school.quiet)
        return data, stored, f"{data.digest()}:{stored.digest}"
    if eyes is None:
        raise ConfigError(
            f"{school.model} has no eyes of its own, and {data.root} has images. Name an image backbone "
            "(--eyes petiole/efficientnet-lite0), or stored features (--features FOLDER)."
        )
    sight = BackboneVisuals(
        data.root,
        eyes,
        school.cache,
        school.places,
        precision=school.precision,
    )
    prepared = sight.prepare(data.images, skip_bad=school.skip_bad, quiet=school.quiet)
    if prepared.left_out:
        gone = set(prepared.left_out)
        parts = {
            part: tuple(s for s in samples if gone.isdisjoint(s.images))
            for part, samples in data.parts.items()
        }
        data = replace(data, parts=parts, notes=(*data.notes, *prepared.notes))
    return data, sight, f"{data.digest()}:{prepared.digest}"


def _kind(data: TextDataset) -> TextTask:
    try:
        return find(data.task)
    except ConfigError as error:
        raise ConfigError(f"{data.root}: {error}") from error


def _called(data: TextDataset, taken: set[str]) -> str:
    """The task's name, or its folder's where another task has that already."""
    name = data.root.resolve().name if data.task in taken else data.task
    if name in taken:
        raise ConfigError(f"Two tasks are called {name}. Rename one of the folders.")
    taken.add(name)
    return name


def tasks_named(tasks: Sequence[TaskData]) -> list[str]:
    """Their names."""
    return [data.name for data in tasks]
