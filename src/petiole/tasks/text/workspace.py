"""An encoder-decoder and its tasks: what is opened, and all of it opened for any number of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from petiole.backbones.base import Backbone
from petiole.backbones.encoder_decoder import Seq2Seq
from petiole.backbones.registry import LoadRequest, load_any, load_backbone
from petiole.data.readers.registry import is_video, open_features, open_questions, open_task
from petiole.data.text_dataset import TextDataset
from petiole.device import Precision
from petiole.engine.model_card import ModelCard
from petiole.engine.share import WHOLE, Share
from petiole.engine.task import Task, TaskRun, Workspace
from petiole.errors import ConfigError
from petiole.files import text_digest
from petiole.methods.text import encoder_decoder_of
from petiole.tasks.text.collator import BATCH, TaskData
from petiole.tasks.text.model import VisionTower
from petiole.tasks.text.registry import find
from petiole.tasks.text.text_task import TextTask
from petiole.tasks.text.visual import (
    BackboneVisuals,
    PixelSource,
    StoredVisuals,
    Trained,
    VisualSource,
    open_vision_tower,
)

if TYPE_CHECKING:
    from petiole.engine.run import RunSpec

FRAMES = 64
"""Rows of a video (VALUE's features as VL-Adapter takes them; Sung et al., 2022)."""


@dataclass(frozen=True)
class TextGeneration(Task["TextWorkspace"]):
    """Tasks of texts about images, and an encoder-decoder.

    Attributes:
        model: name of an encoder-decoder.
        tasks: folders in the plain format, or ``NAME=FOLDER`` for a public layout.
        vision_backbone: makes the features; empty for the model's own.
        features: stored features instead, a file or folder.
        visual_tokens: features of an image after pooling.
        options: of the V->L block, (name, value) each.
        device, precision: where and how it runs.
        cache: folder of the feature cache; ``None`` for none.
        skip_bad: leave samples of unreadable images out and say so.
    """

    kind: ClassVar[str] = "text"

    model: str
    tasks: tuple[str, ...]
    vision_backbone: str = ""
    features: Path | None = None
    visual_tokens: int = 36
    options: tuple[tuple[str, Any], ...] = ()
    device: str = "cpu"
    precision: Precision = "fp32"
    cache: Path | None = None
    skip_bad: bool = False

    def open(self) -> TextWorkspace:
        return open_text(self)

    def data_digest(self) -> str:
        return text_digest("".join(opened_data(folder).digest() for folder in self.tasks))


@dataclass(frozen=True)
class TextWorkspace(Workspace):
    """Model and tasks.

    Attributes:
        task: what was opened.
        model: frozen.
        tasks: in the order of their numbers.
        card: facts for the model's card: how its images are seen.
        roots: folders of the tasks' images.
        vision_backbone: makes the features; ``None`` where they are given.
    """

    task: TextGeneration
    model: Seq2Seq
    tasks: tuple[TaskData, ...]
    card: Mapping[str, Any] = field(default_factory=dict)
    roots: tuple[Path, ...] = ()
    vision_backbone: Backbone | None = None

    def prepare(self, spec: RunSpec) -> TaskRun:
        from petiole.tasks.text.task import TextRun

        return TextRun(self, spec)

    def describe(self, specs: Sequence[RunSpec]) -> list[str]:
        from petiole.tasks.text.adapter import method_of

        recipe = method_of(specs[0].method, specs[0].settings).recipe
        length = f"{recipe.epochs:g} passes" if recipe.epochs else f"{recipe.steps} steps"
        return [
            *(f"task     {data.name}: {counts(data.parts)}" for data in self.tasks),
            *(f"note     {data.name}: {note}" for data in self.tasks for note in data.notes),
            f"training {len(specs)} x {self.model.name}, {length} of {recipe.batch_size or BATCH} samples, "
            f"{self.task.precision} on {self.task.device}",
            *self._time(specs),
        ]

    def _time(self, specs: Sequence[RunSpec]) -> list[str]:
        """A line on how long training takes here, from three steps of each method."""
        from petiole.engine.timing import in_words, step_seconds
        from petiole.engine.trainer import Callbacks

        speeds: dict[str, float] = {}
        total = 0.0
        for spec in specs:
            name = f"{spec.method} {sorted(spec.settings.items())}"
            if name not in speeds:

                def train(steps: int, spec: RunSpec = spec) -> float:
                    short = replace(spec, settings={**spec.settings, "steps": steps})
                    run = self.prepare(short)
                    return run.train(run.build(), Callbacks(quiet=True))

                speeds[name] = step_seconds(train)
            recipe = self.prepare(spec).method.recipe
            samples = sum(len(data.parts["train"]) for data in self.tasks)
            total += speeds[name] * recipe.length(samples / (recipe.batch_size or BATCH))
        words = f"time     {in_words(total)} of training, by three steps timed here; scoring not counted"
        return [words] if total else []

    def with_vision_tower(
        self, train: Trained | Literal["frozen"]
    ) -> tuple[VisionTower | None, tuple[TaskData, ...]]:
        """A fresh image tower that is trained too, and tasks that show it pictures.

        Raises:
            ConfigError: no image backbone was named.
        """
        if train == "frozen":
            return None, self.tasks
        if self.vision_backbone is None:
            raise ConfigError(
                f"vision={train} trains an image backbone, and none was named (--vision-backbone)."
            )
        count = self.task.visual_tokens
        shown = tuple(
            replace(data, visuals=PixelSource(root, self.vision_backbone, count))
            if data.visuals
            else data
            for root, data in zip(self.roots, self.tasks, strict=True)
        )
        return open_vision_tower(self.vision_backbone, count, train), shown


def counts(parts: Mapping[str, Sequence[object]]) -> str:
    """``120 train, 40 test``."""
    return ", ".join(f"{len(samples):,} {part}" for part, samples in parts.items())


def open_text(task: TextGeneration) -> TextWorkspace:
    """Open model and tasks, and compute what features are missing.

    Raises:
        BackboneError, DataError, ConfigError: what cannot be opened, by name.
    """
    data = [opened_data(folder) for folder in task.tasks]
    formats = [_format(one) for one in data]
    shape = encoder_decoder_of(load_any(LoadRequest(task.model, meta=True), device="meta"))
    name = task.vision_backbone or shape.vision_backbone
    backbone = load_backbone(name, device=task.device) if name and not task.features else None
    seen = [_seen(one, task, backbone) for one in data]
    widths = {visuals.width for _, visuals, _ in seen if visuals}
    if len(widths) > 1:
        raise ConfigError(f"The tasks' features have different widths: {sorted(widths)}.")
    request = LoadRequest(
        task.model, vision_width=max(widths, default=0), options=dict(task.options)
    )
    model = encoder_decoder_of(load_any(request, device=task.device))
    taken: set[str] = set()
    tasks = tuple(
        TaskData(kind, one.parts, visuals, digest, one.notes, _called(one, taken))
        for kind, (one, visuals, digest) in zip(formats, seen, strict=True)
    )
    card = {
        "vision_backbone": ModelCard.of(backbone) if backbone else None,
        "visual_tokens": task.visual_tokens,
        "options": dict(task.options),
    }
    return TextWorkspace(task, model, tasks, card, tuple(one.root for one in data), backbone)


def opened_data(task: str) -> TextDataset:
    """Samples of a folder of questions in a layout that is known, or of ``NAME=FOLDER`` in a public layout.

    Raises:
        DataError: no such folder, or one that says no task.
    """
    name, sign, folder = task.partition("=")
    if sign:
        return open_task(name, Path(folder))
    return open_questions(Path(task))


def _seen(
    data: TextDataset, task: TextGeneration, backbone: Backbone | None
) -> tuple[TextDataset, VisualSource | None, str]:
    """Samples whose images can be seen, how they are, and the digest of both."""
    if not data.images:
        return data, None, data.digest()
    if task.features:
        video = is_video(data.task)
        stored = StoredVisuals(
            open_features(data.task, task.features),
            visual_tokens=None if video else task.visual_tokens,
            rows=FRAMES if video else None,
            cache=task.cache,
        )
        stored.prepare(data.images, quiet=task.quiet)
        return data, stored, f"{data.digest()}:{stored.digest}"
    if backbone is None:
        raise ConfigError(
            f"{task.model} has no image backbone of its own, and {data.root} has images. Name an image backbone "
            "(--vision-backbone petiole/efficientnet-lite0), or stored features (--features FOLDER)."
        )
    visuals = BackboneVisuals(
        data.root,
        backbone,
        task.cache,
        task.visual_tokens,
        precision=task.precision,
    )
    prepared = visuals.prepare(
        data.images,
        skip_bad=task.skip_bad,
        quiet=task.quiet,
        share=Share.own() if task.cache else WHOLE,
    )
    if prepared.left_out:
        gone = set(prepared.left_out)
        parts = {
            part: tuple(s for s in samples if gone.isdisjoint(s.images))
            for part, samples in data.parts.items()
        }
        data = replace(data, parts=parts, notes=(*data.notes, *prepared.notes))
    return data, visuals, f"{data.digest()}:{prepared.digest}"


def _format(data: TextDataset) -> TextTask:
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
