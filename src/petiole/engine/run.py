"""One run, from request to record: the same for every kind of task."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from petiole.engine.adapter import MANIFEST, TENSORS, Adapter
from petiole.engine.loggers import Logger, logger
from petiole.engine.memory import peak_memory
from petiole.engine.precision import check_precision
from petiole.engine.record import (
    LOG,
    Costs,
    Record,
    RunRequest,
    appender,
    evaluations_of,
    read_record,
    write_record,
)
from petiole.engine.run_lock import claim_folder, locked
from petiole.engine.share import Share
from petiole.engine.task import Task, TaskRun, Workspace, open_workspace
from petiole.engine.together import all_do, main_does, open_group
from petiole.engine.trainer import Callbacks
from petiole.engine.utilisation import utilisation
from petiole.errors import RunError
from petiole.files import sweep
from petiole.methods.registry import settings_of
from petiole.processes import is_main, world

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class RunSpec:
    """One run to do; small and plain, so that it can be sent to another process.

    Attributes:
        task: data and backbone.
        method: registered name.
        folder: where the record goes.
        settings: what differs from the method's defaults.
        options: of the task: which of its data are used, how they are scored; ``None`` for the defaults.
        seed: of initialisation, batches and dropout.
        resume: go on where an interrupted run stopped; a finished one is returned as it is.
        checkpoint_seconds: between two checkpoints.
        loggers: names of those that hear how the run goes; see ``petiole.engine.loggers``.
    """

    task: Task[Any]
    method: str
    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Any = None
    seed: int = 0
    resume: bool = False
    checkpoint_seconds: float = 20.0
    loggers: tuple[str, ...] = ()


def run(spec: RunSpec, workspace: Workspace | None = None) -> Record:
    """Train, score once, write record and adapter; alone, or as one of several processes (see ``engine.together``).

    Args:
        spec: what to do.
        workspace: the task, already opened; else it is opened once a process.

    Raises:
        RunError: the folder is in use, complete, or holds a run with another request.
        DataError: nothing to learn, or to score.
        ConfigError: the method or an option is not for this task.
    """
    opened = workspace or open_workspace(spec.task)
    if world() > 1:
        return _together(spec, opened)
    prepared = _prepared(spec, opened)
    with locked(spec.folder):
        request = request_of(spec, prepared)
        if _claimed(spec, prepared, request):
            return read_record(spec.folder)
        return _record(spec, prepared, request, _train(spec, prepared, request))


def _together(spec: RunSpec, opened: Workspace) -> Record:
    """The same by several processes; those that are not the main one work in a folder that goes afterwards."""
    with ExitStack() as stack:
        own = spec
        if not is_main():
            place = stack.enter_context(TemporaryDirectory(prefix="petiole-"))
            own = replace(spec, folder=Path(place), loggers=())
        prepared = all_do(lambda: _prepared(own, opened))
        open_group(prepared.device.type)  # the command opened it before it read anything
        request = request_together(spec, opened, prepared)

        def claim() -> bool:
            stack.enter_context(locked(spec.folder))
            return _claimed(spec, prepared, request)

        if not main_does(claim):
            if not is_main():
                prepared.begin(own.folder)
            trained = _train(own, prepared, request, checkpoint=spec.folder / CHECKPOINT)

            def record() -> str:
                return _record(spec, prepared, request, trained).id

            def part() -> None:
                """What the others compute while the main process scores."""
                _check_finite(trained.adapted)
                prepared.evaluate(trained.adapted, own.folder)

            if prepared.scores_together:
                all_do(lambda: record() if is_main() else part())
            else:
                main_does(record)
        return read_record(spec.folder)


def _prepared(spec: RunSpec, opened: Workspace) -> TaskRun:
    """The run, its terms checked before any feature is computed."""
    prepared = opened.prepare(spec)
    check_precision(prepared.method.recipe, prepared.options().get("precision", "fp32"))
    return prepared


def _claimed(spec: RunSpec, prepared: TaskRun, request: RunRequest) -> bool:
    """Take the folder; whether the run is complete already."""
    complete = claim_folder(spec.folder, request, resume=spec.resume)
    sweep(
        spec.folder
    )  # of a complete run too: what is written after the record may have been killed
    if complete:
        (spec.folder / CHECKPOINT).unlink(missing_ok=True)  # killed before it was done
    else:
        prepared.begin(spec.folder)
    return complete


def request_of(spec: RunSpec, prepared: TaskRun) -> RunRequest:
    """What a run is asked for; to say it, data and backbone are opened."""
    return RunRequest(
        kind=spec.task.kind,
        method=spec.method,
        settings=settings_of(prepared.method),
        backbone=prepared.backbone(),
        data=prepared.data(),
        options=dict(prepared.options()),
        seed=spec.seed,
    )


def request_together(
    spec: RunSpec, opened: Workspace, prepared: TaskRun | None = None
) -> RunRequest:
    """The same in every process, after each has kept its share of the features: what the leak check reads is part of a request.

    Raises:
        PetioleError: what the first of them met that failed, in every process.
    """
    all_do(lambda: opened.store([spec], Share.own()))
    return all_do(lambda: request_of(spec, prepared or opened.prepare(spec)))


class _Trained(NamedTuple):
    """The adapted model at the end of its training, and what that took."""

    adapted: Any
    seconds: float
    megabytes: float
    callbacks: Callbacks
    loggers: list[Logger]


def _train(
    spec: RunSpec, prepared: TaskRun, request: RunRequest, checkpoint: Path | None = None
) -> _Trained:
    checkpoint = checkpoint or spec.folder / CHECKPOINT
    log = appender(spec.folder / LOG, fresh=not checkpoint.exists())
    loggers = [logger(name, spec.folder) for name in spec.loggers]

    def hear(step: int, loss: float, lr: float) -> None:
        for one in (log, *(other.log for other in loggers)):
            one(step, {"loss": loss, "lr": lr})

    callbacks = Callbacks(
        checkpoint=checkpoint,
        request=request.digest,
        every=spec.checkpoint_seconds,
        log=hear,
        quiet=spec.task.quiet,
    )
    for one in loggers:
        one.start(request.model_dump(mode="json"))
    with peak_memory(prepared.device) as peak, torch.random.fork_rng():
        torch.manual_seed(spec.seed)
        adapted = prepared.build()
        seconds = prepared.train(adapted, callbacks)
        megabytes = peak()  # what scoring takes is no part of it
    return _Trained(adapted, seconds, megabytes, callbacks, loggers)


def _check_finite(adapted: torch.nn.Module) -> None:
    """The loss of the last step was that before it, so what came of it may still not be finite."""
    for name, value in adapted.named_parameters():
        if not value.isfinite().all():
            raise RunError(
                f"{name} holds NaN or infinity after training: the run diverged. Lower lr, or set clip=1."
            )


def _record(spec: RunSpec, prepared: TaskRun, request: RunRequest, trained: _Trained) -> Record:
    """Score once; write adapter and record."""
    adapted = trained.adapted
    _check_finite(adapted)
    start = time.perf_counter()
    scores = prepared.evaluate(adapted, spec.folder)
    test_seconds = time.perf_counter() - start
    diagnosis = dict(prepared.finish(adapted, spec.folder))
    saved = _save(prepared.adapter(adapted), spec.folder / "adapter")
    record = write_record(
        spec.folder,
        (*prepared.files, f"adapter/{MANIFEST}", f"adapter/{TENSORS}"),
        request=request,
        selection=prepared.selection,
        test_evaluations=evaluations_of(spec.folder),
        scores=scores,
        ledger=saved.manifest.ledger,
        costs=_costs(spec.folder, prepared, request, trained, test_seconds, saved),
        diagnosis=diagnosis,
    )
    (spec.folder / CHECKPOINT).unlink(missing_ok=True)
    for one in trained.loggers:
        one.finish(record.model_dump(mode="json"))
    return record


def _costs(
    folder: Path,
    prepared: TaskRun,
    request: RunRequest,
    trained: _Trained,
    test_seconds: float,
    saved: Adapter,
) -> Costs:
    rate, share = utilisation(
        lambda: prepared.training_flops(trained.adapted, saved.manifest.ledger, trained.callbacks),
        trained.seconds,
        prepared.device,
        request.options.get("precision", "fp32"),
    )
    return Costs(
        feature_seconds=prepared.feature_seconds,
        train_seconds=trained.seconds,
        test_seconds=test_seconds,
        peak_memory_mb=trained.megabytes,
        adapter_bytes=(folder / "adapter" / TENSORS).stat().st_size,
        flops_per_second=rate,
        utilisation=share,
    )


def _save(adapter: Adapter, folder: Path) -> Adapter:
    """Write the adapter file, open it again and compare, before anything is called done."""
    adapter.save(folder)
    again = adapter.load(folder, **adapter.frozen).contents().state_dict()
    for name, tensor in adapter.contents().state_dict().items():
        if not torch.equal(tensor, again[name]):
            raise RunError(f"{folder}: {name} did not survive saving. Please report this as a bug.")
    return adapter
