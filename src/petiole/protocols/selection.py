"""What was left open for a run: a method or a backbone, chosen on left-out target images, or settings, on validation images.

selection.json      what was compared, and what was chosen
tuning/             the runs by which settings were chosen
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from pydantic import Field

from petiole.engine.executor import Executor, Local
from petiole.engine.model_card import FrozenModel, read_kept
from petiole.engine.run import RunSpec
from petiole.engine.task import reopened
from petiole.files import write_sealed
from petiole.protocols.backbone_selection import RankedBackbone, rank_backbones
from petiole.protocols.model_selection import Choice, select_method
from petiole.protocols.settled import Tuning, settled, tried
from petiole.tasks.classification.workspace import Classification

SELECTION = "selection.json"


class Selection(FrozenModel):
    """What was chosen for a run.

    Attributes:
        backbone: chosen; empty where it was named.
        backbones: those compared, from the best on.
        unusable: backbone -> why it could not be judged.
        method: how the method was chosen; ``None`` where it was named.
        settings: of the run, with those that were chosen.
        notes: a sentence on each of them.
    """

    backbone: str = ""
    backbones: list[RankedBackbone] = Field(default_factory=list)
    unusable: dict[str, str] = Field(default_factory=dict)
    method: Choice | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)

    def lines(self) -> list[str]:
        """For people, a line each."""
        found = [one.line() for one in self.backbones]
        found += [f"{name}: not judged. {why}" for name, why in self.unusable.items()]
        return [*found, *(self.method.lines() if self.method else ()), *self.notes]


@dataclass(frozen=True)
class Open:
    """What the caller left open.

    Attributes:
        backbones: names to choose from; empty where one was named.
        method: whether it shall be chosen.
        budget: minutes for methods that are trained.
        tuning: how settings are chosen; ``None`` where they are not.
        executor: where whatever is tried is trained.
    """

    backbones: Sequence[str]
    method: bool
    budget: float
    tuning: Tuning | None = None
    executor: Executor = field(default_factory=Local)

    def __bool__(self) -> bool:
        return bool(self.backbones) or self.method or self.tuning is not None

    def trials(self, spec: RunSpec) -> list[RunSpec]:
        """Runs by which settings will be chosen, to be counted."""
        if not self.tuning:
            return []
        comparison, job = self.tuning.of_run(spec)
        return tried(comparison, [job], spec.folder)

    def notes(self) -> list[str]:
        """What choosing will do, for the announcement."""
        found = []
        if self.backbones:
            found.append(f"these backbones are compared first: {', '.join(self.backbones)}")
        if self.method and self.budget:
            found.append(f"methods that are trained may be tried for {self.budget:g} min")
        return found


def select(spec: RunSpec, left: Open) -> tuple[RunSpec, Selection]:
    """The run with what was chosen, and the choice, which an interrupted run takes up again.

    Raises:
        RunError: what the folder holds is no selection.
    """
    file = spec.folder / SELECTION
    if spec.resume and file.is_file():
        selection = read_selection(spec.folder)
        return chosen(spec, selection), selection
    task = cast(Classification, spec.task)
    fields: dict[str, Any] = {}
    if left.backbones:
        ranked, unusable = rank_backbones(task, left.backbones, spec.options, left.executor)
        fields = {"backbone": ranked[0].name, "backbones": ranked, "unusable": unusable}
        task = replace(task, backbone=ranked[0].name)
    if left.method:
        opened = reopened(task)
        fields["method"] = select_method(
            opened, replace(spec, task=task), budget=left.budget, executor=left.executor
        )
    if left.tuning:
        comparison, job = left.tuning.of_run(spec)
        (job,), notes = settled(
            comparison,
            [job],
            spec.folder,
            left.tuning.storage,
            executor=left.executor,
            resume=spec.resume,
            quiet=spec.task.quiet,
        )
        fields |= {"settings": dict(job.settings), "notes": notes}
    selection = Selection(**fields)
    write_sealed(file, selection.model_dump(mode="json"))
    return chosen(spec, selection), selection


def chosen(spec: RunSpec, selection: Selection) -> RunSpec:
    """A run with what a selection says."""
    if selection.backbone:
        task = cast(Classification, spec.task)
        spec = replace(spec, task=replace(task, backbone=selection.backbone))
    if selection.method:
        spec = replace(spec, method=selection.method.method, settings=selection.method.settings)
    if selection.settings:
        spec = replace(spec, settings=selection.settings)
    return spec


def read_selection(folder: Path) -> Selection:
    """What was chosen for a run.

    Raises:
        RunError: the file is damaged.
    """
    remedy = "Delete the run folder, or choose another --out."
    return read_kept(folder / SELECTION, Selection, remedy)


def selection_lines(folder: Path) -> list[str]:
    """How method and backbone of a run were chosen; none where they were named."""
    return read_selection(folder).lines() if (folder / SELECTION).is_file() else []
