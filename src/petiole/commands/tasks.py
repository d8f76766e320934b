"""From the options of a command to a task: each kind takes its own, and another's option is an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from petiole.commands.defaults import OTHERS
from petiole.commands.options import (
    CodebookTaskOptions,
    ImageOptions,
    ModelOptions,
    TextTaskOptions,
    device,
    pairs,
    pruning,
    unwrapped,
)
from petiole.engine.task import Task
from petiole.errors import ConfigError

_SHARED = frozenset({"backbone", "device", "precision", "skip_bad", "quiet"})
COLUMNS = {"labels": "multilabel", "value": "regression", "mask": "segmentation"}
"""Column of a table of images -> the kind of task that it is for."""
TARGET_METHOD = "ridge"
"""Of these kinds, where none is named: solved in closed form."""
_TARGETS = {f.name for kind in (ModelOptions, ImageOptions) for f in fields(kind)}
_OWN = {
    "classification": {f.name for kind in (ModelOptions, ImageOptions) for f in fields(kind)},
    "text": {f.name for f in fields(TextTaskOptions)} | {"cache_dir"},
    "codebook": {f.name for f in fields(CodebookTaskOptions)},
    **dict.fromkeys(COLUMNS.values(), _TARGETS),
}
USES = {kind: own | _SHARED for kind, own in _OWN.items()}
"""Kind of task -> the options that it has a use for."""
DATA = {
    "classification": "labelled images",
    "multilabel": "images with several labels",
    "regression": "images with a number each",
    "segmentation": "images with masks",
    "text": "texts about images",
    "codebook": "questions over a codebook",
}


def check_used(kind: str, method: str, *groups: Any) -> None:
    """Raise ConfigError for an option that was given and that this kind of task has no use for."""
    for group in groups:
        for f in fields(group):
            if f.name in USES[kind] or getattr(group, f.name) == f.default:
                continue
            takers = [DATA[other] for other, uses in USES.items() if f.name in uses]
            option = f.name.replace("_", "-")
            raise ConfigError(
                f"--{option} is for {' and '.join(takers)}, and {method} is trained on {DATA[kind]}. Leave it out."
            )


def kind_of(method_kind: str, data: Any, images: ImageOptions) -> str:
    """The kind of task: of images what ``--task`` or the table's columns say, else what the methods are for."""
    if method_kind != "classification":
        return method_kind
    if images.task:
        return images.task
    from petiole.data.targets import column_of

    return COLUMNS.get(column_of(unwrapped(data)), method_kind)


def open_task(
    kind: str,
    data: Any,
    methods: Sequence[str],
    model: ModelOptions,
    images: ImageOptions,
    text: TextTaskOptions,
    codebook: CodebookTaskOptions,
) -> tuple[Task[Any], Any]:
    """The task of a kind, and its options.

    Raises:
        ConfigError: an option of another kind, or more data than one of a kind that takes one.
    """
    check_used(kind, methods[0], model, images, text, codebook)
    if images.shots is not None and images.all_images:
        raise ConfigError("--shots and --all-images say different things. Leave one out.")
    if kind == "classification":
        return _classification(data, methods, model, images)
    if kind in COLUMNS.values():
        return _targets(kind, data, methods, model, images)
    data = list(data) if isinstance(data, list | tuple) else [data]
    if kind == "text":
        return _text(data, model, text)
    if len(data) != 1:
        raise ConfigError(f"{methods[0]} is trained on one set of {DATA[kind]}, not {len(data)}.")
    return _codebook(data[0], model, codebook)


def _classification(
    data: Any, methods: Sequence[str], model: ModelOptions, images: ImageOptions
) -> tuple[Task[Any], Any]:
    from petiole.tasks.classification.workspace import Subset

    shots = None if images.all_images else 10 if images.shots is None else images.shots
    task = model.classification(
        data, images.source, images.test, images.test_fraction, methods=methods
    )
    return task, Subset(shots, images.split_seed or 0)


def _targets(
    kind: str, data: Any, methods: Sequence[str], model: ModelOptions, images: ImageOptions
) -> tuple[Task[Any], Any]:
    from petiole.engine.task import adapter_class
    from petiole.tasks.classification.workspace import Subset
    from petiole.tasks.image_targets import TargetAdapter
    from petiole.tasks.target_workspace import Pairs

    adapter = adapter_class(kind)
    assert issubclass(adapter, TargetAdapter)
    given: Any
    test: Any
    source: Any
    given, test, source = (
        Path(one) if isinstance(one, str | Path) else one and Pairs(one)
        for one in (unwrapped(data), images.test, images.source)
    )
    shots = None if images.all_images else images.shots
    if images.split_seed is not None and shots is None:
        raise ConfigError(
            f"--split-seed draws images, and all are trained on for {DATA[kind]} unless --shots says how many. Add it, or leave "
            "--split-seed out."
        )
    fraction = 0.5 if images.test_fraction is None else images.test_fraction
    terms = model.image_terms(methods)
    task = adapter.task(images=given, source=source, test=test, test_fraction=fraction, **terms)
    return task, Subset(shots, images.split_seed or 0)


def _text(data: Sequence[Any], model: ModelOptions, text: TextTaskOptions) -> tuple[Task[Any], Any]:
    from petiole.tasks.text.training import TextOptions
    from petiole.tasks.text.workspace import TextGeneration

    visual: Mapping[str, Any] = pairs(text.visual)
    task = TextGeneration(
        model=model.one_backbone or OTHERS["text"],
        tasks=tuple(map(str, data)),
        vision_backbone=text.vision_backbone or "",
        features=Path(text.features) if text.features else None,
        visual_tokens=36 if text.visual_tokens is None else text.visual_tokens,
        options=tuple(visual.items()),
        device=device(model.device),
        precision=model.precision,
        cache=model.cache,
        skip_bad=model.skip_bad,
        quiet=model.quiet,
    )
    options = TextOptions(
        mode=text.mode or "proportional",
        prefixes=not text.no_prefixes,
        fraction=1.0 if text.fraction is None else text.fraction,
        scored="val" if text.validation_part else "test",
    )
    return task, options


def _codebook(
    data: Any, model: ModelOptions, codebook: CodebookTaskOptions
) -> tuple[Task[Any], Any]:
    from petiole.tasks.codebook.training import CodebookOptions
    from petiole.tasks.codebook.workspace import CodebookQuestions

    task = CodebookQuestions(
        model=model.one_backbone or OTHERS["codebook"],
        questions=Path(data),
        language_models=tuple(codebook.language_models),
        general=Path(codebook.general) if codebook.general else None,
        device=device(model.device),
        precision=model.precision,
        skip_bad=model.skip_bad,
        quiet=model.quiet,
        fsdp=codebook.fsdp,
    )
    return task, CodebookOptions(pruning(codebook.keep, codebook.prune, codebook.positions))
