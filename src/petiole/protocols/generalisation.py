"""Train on some classes or images, test on others by their names: base to novel, other data, other domains.

    generalisation.json                what was asked
    runs/<method>/seed-<i>/            one run folder each; transfer/<place>.json holds the other scores
    headroom/<half>/<method>/seed-<i>/ of base to novel, see ``headroom``

Base to novel (Zhou et al., CoCoOp, CVPR 2022, sec. 4.1): train on the first half of the classes, test on the test
images of that half with its names, and on those of the other half with theirs; two label spaces. Cross-data-set and
domain generalisation (ibid., sec. 4.2 and 4.3): train on all classes of one set, test unchanged on other sets.
Few-shot (Zhou et al., CoOp, IJCV 2022): train and test on all classes, with 1, 2, 4, ... images of each.

A seed is a draw of the shots and a start. A transductive method trains on unlabelled images of all classes
that it is tested on, so its rows stand apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, Unpack

import torch
from pydantic import model_validator

from petiole.engine.progress import progress
from petiole.engine.record import read_record
from petiole.engine.run import RunSpec
from petiole.engine.task import open_workspace
from petiole.errors import ConfigError
from petiole.methods.registry import create, create_stated, find
from petiole.protocols import domain_shift, headroom, published
from petiole.protocols.jobs import Running, average, run_jobs
from petiole.protocols.protocol import ComparisonRow, RowsProtocol, applicable
from petiole.tasks.classification.model import ClassNameHead
from petiole.tasks.classification.transfer_eval import TRANSFER, read_transfer, score_transfer
from petiole.tasks.classification.workspace import Classification, ClassificationWorkspace, Subset

STATE = "generalisation.json"
NOVEL = "novel"


class Generalisation(RowsProtocol):
    """What is trained, and where it is tested.

    Attributes:
        kind: ``base-to-novel``, ``elsewhere`` or ``few-shot``.
        data: name of the training set.
        shots: images drawn from each class; ``None`` for all, or where ``places`` state them.
        places: names of the other test sets; of few-shot the numbers of shots.
        known: the published data set that the training set is, by the name of CoOp's list; empty for another.
        published: train as published for each number of shots, see ``published``.
    """

    STATE: ClassVar[str] = STATE

    kind: Literal["base-to-novel", "elsewhere", "few-shot"]
    data: str
    shots: int | None
    places: list[str]
    known: str = ""
    published: bool = False

    @model_validator(mode="after")
    def _was_published(self) -> Self:
        if self.published and not {row.method for row in self.rows} & set(published.FEW_SHOT):
            raise ValueError(
                f"few-shot training was published for {', '.join(published.FEW_SHOT)}, of which none is here"
            )
        return self

    def folder(self, root: Path, row: ComparisonRow, seed: int, shots: str = "") -> Path:
        """Where a run lies; with one of ``places`` for its shots, if it is few-shot."""
        home = root / "runs" / row.name
        return (home / f"shots-{shots}" if shots else home) / f"seed-{seed}"

    def runs(self, root: Path, row: ComparisonRow | str) -> list[Path]:
        """The run folders of a row, those of its largest number of shots last."""
        one = self.row(row) if isinstance(row, str) else row
        seeds = range(self.seeds)
        return [self.folder(root, one, seed, level) for level in self.levels for seed in seeds]

    @property
    def levels(self) -> tuple[str, ...]:
        """Numbers of shots that are runs of their own; one that is empty where there are none."""
        return tuple(self.places) if self.kind == "few-shot" else ("",)

    def settings(
        self, row: ComparisonRow, given: Mapping[str, Any], shots: str = ""
    ) -> dict[str, Any]:
        """Of a row's runs: what was published for the data set, then what the user states, then the row's own.

        Zero-shot rows read the data set's templates where they are tested on it alone.
        """
        stated = {**applicable(row.method, given), **row.settings}
        own: dict[str, Any] = {}
        if self.kind != "elsewhere":
            own |= published.sentences(row.method, self.known, stated)
        if self.published and shots and not {"steps", "epochs"} & stated.keys():
            own |= published.training(row.method, self.known, int(shots))
        return {**own, **stated}

    def notes(self, given: Mapping[str, Any]) -> list[str]:
        """What of the settings was published for the data set or the number of shots, a line each."""
        found: dict[str, None] = {}
        for row in self.rows:
            for level in self.levels:
                stated = {**applicable(row.method, given), **row.settings}
                own = self.settings(row, given, level)
                new = ", ".join(f"{k}={v!r}" for k, v in own.items() if k not in stated)
                by_shots = f", {level} shots" if row.method in published.FEW_SHOT else ""
                if new:
                    found[f"{row.name}{by_shots}: {new}, as published"] = None
        return list(found)


def transductive(method: str) -> bool:
    """Whether a method's protocol trains on unlabelled test classes; its host's counts too."""
    entry = find(method)
    host = entry.preset.get("host", "")
    return entry.cls.transductive or bool(host and transductive(str(host)))


def plan(
    data: str,
    rows: Sequence[ComparisonRow],
    *,
    places: Sequence[str] = (),
    **terms: Any,
) -> Generalisation:
    """Check and state what is to be done; without ``places`` base to novel.

    Raises:
        ConfigError: an unknown method, one named twice, or a value out of range.
    """
    return Generalisation.checked(
        kind="elsewhere" if places else "base-to-novel",
        data=data,
        rows=list(rows),
        places=list(places) or [NOVEL],
        **terms,
    )


def few_shot(
    data: str, rows: Sequence[ComparisonRow], shots: Sequence[int], **terms: Any
) -> Generalisation:
    """State a learning curve: all classes, with each of these numbers of shots.

    Raises:
        ConfigError: a number below 1 or twice, or as ``plan``.
    """
    if not shots or min(shots) < 1 or len(set(shots)) < len(shots):
        raise ConfigError(
            f"Shots are different numbers from 1 up, not {', '.join(map(str, shots))}."
        )
    places = [str(k) for k in sorted(shots)]
    return Generalisation.checked(
        kind="few-shot", data=data, rows=list(rows), places=places, shots=None, **terms
    )


def jobs_of(
    protocol: Generalisation,
    task: Classification,
    root: Path,
    settings: Mapping[str, Any],
    *,
    resume: bool = False,
) -> list[RunSpec]:
    """All runs, method by method; ``settings`` go to every method that has such a field."""
    jobs = []
    protocol.check_used(settings)
    for row in protocol.rows:
        whole = protocol.kind != "base-to-novel" or transductive(row.method)
        part = replace(task, part="all" if whole else "base", quiet=True)
        for level in protocol.levels:
            create_stated(row.method, protocol.settings(row, settings, level))
        jobs += [
            RunSpec(
                task=part,
                method=row.method,
                settings=protocol.settings(row, settings, level),
                folder=protocol.folder(root, row, seed, level),
                options=Subset(int(level) if level else protocol.shots, split_seed=seed),
                seed=seed,
                resume=resume,
            )
            for level in protocol.levels
            for seed in range(protocol.seeds)
        ]
    return jobs


def beside(
    protocol: Generalisation, task: Classification, root: Path, *, resume: bool = False
) -> list[RunSpec]:
    """Runs that say how much room the rows have; of base to novel only."""
    if protocol.kind != "base-to-novel":
        return []
    return headroom.jobs_of(
        task,
        root,
        shots=protocol.shots,
        seeds=protocol.seeds,
        known=protocol.known,
        resume=resume,
    )


def generalise(
    protocol: Generalisation,
    jobs: Sequence[RunSpec],
    places: Mapping[str, Classification],
    root: Path,
    *,
    others: Sequence[RunSpec] = (),
    **running: Unpack[Running],
) -> None:
    """Do all runs, then score each adapter once at every place.

    Args:
        places: where the test images of each place lie.
        others: runs that are scored where they were trained alone, see ``beside``.

    Raises:
        ConfigError: a method cannot name novel classes.
        RunError: the folder holds another measurement, or this one without ``resume``.
    """
    if protocol.kind == "base-to-novel":
        _check_names(jobs)
    protocol.claim(root, resume=running.get("resume", False))
    quiet = running.get("quiet", False)
    every = [*jobs, *others]
    for task in dict.fromkeys(job.task for job in every):
        domain_shift.prepare(
            open_workspace(task), [job for job in every if job.task == task], quiet=quiet
        )
    run_jobs(every, **running)
    data = {name: ClassificationWorkspace(task).shift.test for name, task in places.items()}
    with progress("elsewhere", len(jobs) * len(data), quiet=quiet) as advance:
        for job in jobs:
            for name, images in data.items():
                if name == getattr(job.task, "part", ""):  # the run itself was scored on these
                    advance(1)
                    continue
                found = score_transfer(job.folder, name, open_workspace(job.task), images)
                advance(1, f"{job.method} {name} {100 * found.scores['accuracy']:.1f} %")


def _check_names(jobs: Sequence[RunSpec]) -> None:
    """Refuse heads of fixed classes before anything is trained."""
    for job in {job.method: job for job in jobs}.values():
        with torch.random.fork_rng():
            plan = create(job.method, job.settings).plan(open_workspace(job.task).backbone, 2)
        if not isinstance(plan.head, ClassNameHead):
            raise ConfigError(
                f"{job.method} has a fixed set of classes and cannot name novel ones. Leave it out."
            )


def places_of(
    protocol: Generalisation, task: Classification, others: Mapping[str, Path]
) -> dict[str, Classification]:
    """The tasks of all places; a base-to-novel one has the halves of its own data."""
    if protocol.kind == "base-to-novel":
        return {"base": replace(task, part="base"), NOVEL: replace(task, part="novel")}
    if protocol.kind == "few-shot":
        return {}
    return {
        name: replace(task, images=path, source=None, test=None) for name, path in others.items()
    }


def scores(protocol: Generalisation, root: Path, row: ComparisonRow) -> dict[str, list[float]]:
    """Accuracy by place and seed; first that on the training classes, ``base`` or ``source``.

    Of few-shot by number of shots.
    """

    def accuracies(level: str) -> list[float]:
        folders = (protocol.folder(root, row, seed, level) for seed in range(protocol.seeds))
        return [average(read_record(folder)) for folder in folders]

    if protocol.kind == "few-shot":
        return {level: accuracies(level) for level in protocol.levels}
    own = "source" if protocol.kind == "elsewhere" else "base"
    untaught = own == "source" or not transductive(row.method)
    found: dict[str, list[float]] = {own: accuracies("") if untaught else []}
    for folder in protocol.runs(root, row):
        for file in sorted((folder / TRANSFER).glob("*.json")):
            place = read_transfer(file)
            found.setdefault(place.name, []).append(place.scores["accuracy"])
    return found
