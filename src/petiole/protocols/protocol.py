"""What every protocol is: terms that are stated before anything runs, runs on these terms, and scores read back.

A protocol lies as one JSON file in its folder and holds no result: every number is computed from the runs' records.
Another protocol in the same folder is refused, and so is the same one unless it is to be finished.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, ValidationError, model_validator

from petiole.engine.executor import Executor, Local
from petiole.engine.model_card import FrozenModel, read_kept, reason
from petiole.engine.record import RECORD, Record, read_record
from petiole.engine.run import RunSpec
from petiole.engine.task import Task, adapter_class
from petiole.errors import ConfigError, RunError
from petiole.files import sweep, write_sealed
from petiole.methods.base import Method
from petiole.methods.registry import check_read, create, create_stated, find, settable
from petiole.metrics.paired import MARGIN
from petiole.protocols.jobs import run_jobs
from petiole.protocols.search_space import SearchRange

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


class ComparisonRow(FrozenModel):
    """One row of a table: a method with its settings.

    Attributes:
        name: identifies the row and names its folder: letters, digits, ``. _ + -``.
        label: for people.
        method: registered name.
        settings: what differs from the method's defaults.
        grid: setting -> values, of which the best on validation is taken.
        ranges: setting -> range that is searched on validation instead.
    """

    name: str
    label: str
    method: str
    settings: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    ranges: dict[str, SearchRange] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _folder_safe(self) -> Self:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"row name {self.name!r} cannot name a folder; use letters, digits, '.', '_', '+', '-'"
            )
        return self


def rows_of(names: Sequence[str]) -> list[ComparisonRow]:
    """One row for each registered method.

    Raises:
        ConfigError: an unknown name.
    """
    for name in names:
        find(name)
    return [
        ComparisonRow(name=name.replace(":", "-"), label=LABELS.get(name, name), method=name)
        for name in names
    ]


BASELINES = {
    "knn": "kNN (target shots)",
    "class-means": "Class means (target shots)",
    "logistic-regression": "Logistic regression (target shots)",
    "ridge": "Ridge (target shots)",
    "averaged-ridge": "Averaged ridge",
}
"""The cheap rows that stand in every table of photos, and what they are called there."""
JOINT_BASELINES = {
    "logistic-regression-joint": "Logistic regression (both domains)",
    "ridge-joint": "Ridge (both domains)",
}
"""Those that stand beside them where there is a source domain: what is trained on both has them as its rivals."""
LABELS = {**BASELINES, **JOINT_BASELINES}


def with_baselines(rows: Sequence[ComparisonRow], *, source: bool) -> list[ComparisonRow]:
    """The rows and, below, whichever cheap ones are not among them; ``source``: there is a source domain."""
    present = {row.name for row in rows}
    return [*rows, *rows_of([n for n in (LABELS if source else BASELINES) if n not in present])]


class Protocol(FrozenModel):
    """Terms in a file.

    Attributes:
        STATE: name of the file.
        NOUN: what messages call it.
        LOOSE: fields in which two equal protocols may differ.
    """

    STATE: ClassVar[str]
    NOUN: ClassVar[str] = "measurement"
    LOOSE: ClassVar[frozenset[str]] = frozenset()

    format: int = 2

    @classmethod
    def checked(cls, **terms: Any) -> Self:
        """Check and state what is to be done.

        Raises:
            ConfigError: a value out of range, or values that do not fit together.
        """
        try:
            return cls(**terms)
        except ValidationError as error:
            raise ConfigError(f"This {cls.NOUN} cannot be: {reason(error)}.") from error

    @classmethod
    def read(cls, root: Path) -> Self:
        """Read what lies in a folder.

        Raises:
            RunError: there is none, or it is damaged.
        """
        file = root / cls.STATE
        try:
            return read_kept(file, cls, "Repeat the command that wrote it.")
        except FileNotFoundError as error:
            raise RunError(
                f"{root} holds no {cls.NOUN} ({cls.STATE} is missing). Give the folder that the command wrote."
            ) from error

    def write(self, root: Path) -> Path:
        """Write the file atomically and return its path."""
        write_sealed(root / self.STATE, self.model_dump(mode="json"))
        return root / self.STATE

    def check_free(self, root: Path, *, resume: bool = False) -> None:
        """Check, before anything is computed, that a folder can be taken.

        Raises:
            RunError: it holds a protocol, and ``resume`` is not set.
        """
        if (root / self.STATE).exists() and not resume:
            raise RunError(
                f"{root} already holds a {self.NOUN}. Add --resume to finish it, or choose another --out."
            )

    def claim(self, root: Path, *, resume: bool = False) -> None:
        """Take a folder for this protocol.

        Raises:
            RunError: it holds another one, or this one without ``resume``.
        """
        self.check_free(root, resume=resume)
        taken = (root / self.STATE).exists()
        if taken and (changed := type(self).read(root).differences(self)):
            raise RunError(
                f"{root} holds another {self.NOUN} ({changed}). Repeat the command as it was, or choose "
                "another --out."
            )
        sweep(root)
        self.write(root)

    def differences(self, new: Self) -> str:
        """Which terms differ; empty for none. Rows are told by their names."""
        changed = {
            name: (getattr(self, name), getattr(new, name))
            for name in type(self).model_fields
            if name not in self.LOOSE and getattr(self, name) != getattr(new, name)
        }
        if "rows" in changed:
            old, other = ([row.name for row in rows] for rows in changed.pop("rows"))
            if old == other:
                return "; ".join(["settings of a row", *_changes(changed)])
            changed = {"rows": (old, other), **changed}
        return "; ".join(_changes(changed))


def _changes(changed: Mapping[str, tuple[Any, Any]]) -> list[str]:
    return [f"{name}: {old!r} -> {new!r}" for name, (old, new) in changed.items()]


class RowsProtocol(Protocol):
    """Several methods on equal terms.

    Attributes:
        rows: methods, in the order of the table.
        reference: name of the row that all others are tested against; the first, unless stated.
        seeds: runs of each row.
        margin: differences up to this, a fraction, do not matter: a tie lies within (see ``metrics.paired.verdict``).
    """

    LOOSE: ClassVar[frozenset[str]] = frozenset({"margin"})

    rows: list[ComparisonRow] = Field(min_length=1)
    reference: str
    seeds: int = Field(ge=1)
    margin: float = Field(default=MARGIN, ge=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _first_is_reference(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("rows") and not values.get("reference"):
            first = values["rows"][0]
            name = first["name"] if isinstance(first, dict) else first.name
            return {**values, "reference": name}
        return values

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [row.name for row in self.rows]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"a row is named twice: {', '.join(twice)}")
        self.row(self.reference, "reference")
        return self

    def row(self, name: str, part: str = "row") -> ComparisonRow:
        """Return the row called ``name``; ``part`` is what a message calls it.

        Raises:
            ValueError: there is none.
        """
        names = [row.name for row in self.rows]
        if name not in names:
            raise ValueError(f"{part} names no row: {name!r} is not among {', '.join(names)}")
        return self.rows[names.index(name)]

    def folder(self, root: Path, row: ComparisonRow, seed: int) -> Path:
        """Where a run lies."""
        return root / "runs" / row.name / f"seed-{seed}"

    def runs(self, root: Path, row: ComparisonRow | str) -> list[Path]:
        """The run folders of a row, in the order in which results pair them."""
        one = self.row(row) if isinstance(row, str) else row
        return [self.folder(root, one, seed) for seed in range(self.seeds)]

    def finished(self, root: Path) -> bool:
        """Whether all runs have their records."""
        return all((run / RECORD).is_file() for row in self.rows for run in self.runs(root, row))

    def records(self, root: Path, row: ComparisonRow) -> list[Record]:
        """Of all runs of a row.

        Raises:
            RunError: one is missing or damaged.
        """
        return [read_record(run) for run in self.runs(root, row)]

    def row_settings(self, given: Mapping[str, Any], kind: str) -> dict[str, dict[str, Any]]:
        """Settings by row: those of ``given`` that its method has, and then its own.

        Raises:
            ConfigError: an unknown method or one for another kind of task, a setting that no row has, or a value
                out of range.
        """
        make = method_maker(kind)
        found = {}
        for row in self.rows:
            check_read(row.method, row.settings)
            found[row.name] = {**applicable(row.method, given), **row.settings}
            make(row.method, found[row.name])
        self.check_used(given)
        return found

    def check_used(self, given: Mapping[str, Any]) -> None:
        """Refuse a setting that no row's method has.

        Raises:
            ConfigError: with the nearest setting of the reference.
        """
        used = {key for row in self.rows for key in applicable(row.method, given)}
        for key, value in given.items():
            if key not in used:
                create_stated(self.row(self.reference).method, {key: value})

    def jobs_of(
        self,
        task: Task[Any],
        root: Path,
        settings: Mapping[str, Any],
        options: Callable[[ComparisonRow, int], Any],
        seed: Callable[[int], int] = lambda index: index,
        *,
        resume: bool = False,
    ) -> list[RunSpec]:
        """All runs, row by row, of whatever kind of task.

        Args:
            task: data and backbone.
            root: of the protocol.
            settings: for every row whose method has such a field.
            options: of the task, by row and index of the run.
            seed: by index of the run.
            resume: finish interrupted runs.

        Raises:
            ConfigError: as ``row_settings``.
        """
        own = self.row_settings(settings, task.kind)
        return [
            RunSpec(
                task=task,
                method=row.method,
                settings=own[row.name],
                folder=folder,
                options=options(row, index),
                seed=seed(index),
                resume=resume,
            )
            for row in self.rows
            for index, folder in enumerate(self.runs(root, row))
        ]

    def run_all(
        self,
        jobs: Sequence[RunSpec],
        root: Path,
        *,
        executor: Executor | None = None,
        resume: bool = False,
        quiet: bool = False,
    ) -> list[Record]:
        """Take the folder and do all jobs, of whatever kind.

        Raises:
            RunError: the folder holds another protocol, or this one without ``resume``.
        """
        self.claim(root, resume=resume)
        return run_jobs(jobs, executor=executor or Local(), quiet=quiet)


def method_maker(kind: str) -> Callable[[str, dict[str, Any]], Method]:
    """What makes a method of a kind of task by name and settings, and refuses one for another kind.

    It is the kind's own ``method_of`` where its module has one.
    """
    module = import_module(adapter_class(kind).__module__)
    make: Callable[[str, dict[str, Any]], Method] = getattr(module, "method_of", create)
    return make


def applicable(method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a method has, or its training reads of the recipe."""
    known = settable(method)
    return {key: value for key, value in settings.items() if key in known}
