"""One run, from request to record."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from petiole.data.dataset import Dataset
from petiole.data.splits import write_split
from petiole.engine.adapter import (
    TENSORS,
    Adapter,
    BackboneCard,
    create_adapter,
    find,
    read_manifest,
)
from petiole.engine.memory import peak_memory
from petiole.engine.record import (
    DRIFT,
    LOG,
    REQUEST,
    Costs,
    DataCard,
    Record,
    RunRequest,
    count_test_evaluation,
    read_record,
    write_predictions,
    write_record,
)
from petiole.engine.run_lock import appender, claim_folder, locked
from petiole.engine.trainer import Callbacks
from petiole.errors import RunError
from petiole.files import write_tensors
from petiole.layers.solved import SolvedHead
from petiole.methods.base import Method
from petiole.methods.registry import create, settings_of
from petiole.metrics.classification import score
from petiole.tasks.classification import training
from petiole.tasks.classification.model import AdaptedClassifier, predict
from petiole.tasks.classification.workspace import (
    ClassificationSpec,
    Subset,
    Workspace,
    open_workspace,
)

VECTORS = "vectors.safetensors"
MOST_VECTORS = 2000


@dataclass(frozen=True)
class RunSpec:
    """One run to do; small and plain, so that it can be sent to another process.

    Attributes:
        bench: backbone and data.
        method: registered name.
        settings: what differs from its defaults.
        folder: where the record goes.
        shots: target images drawn from each class; ``None`` for all.
        draw: seed of that draw.
        fraction, validation: see ``Subset``.
        seed: of initialisation, batches and dropout.
        resume: go on where an interrupted run stopped; a finished one is returned as it is.
        vectors: keep image vectors before and after, for the diagnosis.
        checkpoint_seconds: between two checkpoints.
    """

    bench: ClassificationSpec
    method: str
    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    shots: int | None = 10
    draw: int = 0
    fraction: float = 1.0
    validation: float = 0.0
    seed: int = 0
    resume: bool = False
    vectors: bool = False
    checkpoint_seconds: float = 20.0

    @property
    def images(self) -> Subset:
        """Which images the run gets."""
        return Subset(self.shots, self.draw, self.fraction, self.validation)


def run(job: RunSpec) -> Record:
    """Do a job: train, score the test set once, write record and adapter.

    A run is one process: a launcher that starts several is refused.

    Raises:
        RunError: the folder is in use, complete, or holds a run with another request.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RunError(
            "A run is one process, but this one was started as one of "
            f"{os.environ['WORLD_SIZE']} (WORLD_SIZE). Start petiole without torchrun or accelerate "
            "launch; petiole compare --processes N does several runs at a time."
        )
    workspace = open_workspace(job.bench)
    workspace.feature_seconds = 0.0
    with locked(job.folder):
        method = create(job.method, job.settings)
        data, scored = workspace.parts(job.images)
        request = _request(job, workspace, method, data, scored)
        finished = _claim(job, data, scored, request)
        if finished is not None:
            return finished
        return _work(job, workspace, method, data, scored, request)


def _work(
    job: RunSpec,
    workspace: Workspace,
    method: Method,
    data: Dataset,
    scored: Dataset,
    request: RunRequest,
) -> Record:
    backbone = workspace.backbone
    with peak_memory(workspace.features.device) as peak, torch.random.fork_rng():
        torch.manual_seed(job.seed)
        plan = method.plan(backbone, len(data.classes))
        bench = job.bench
        adapted = AdaptedClassifier(
            backbone, plan, checkpoint=bench.checkpointing, compiled=bench.compiled
        )
        adapted.to(workspace.features.device)
        adapted.name(data.classes)
        table = workspace.training_table(adapted, data, method.recipe)
        checkpoint = job.folder / "checkpoint.safetensors"
        fresh = not checkpoint.exists()
        log, drift = (appender(job.folder / name, fresh=fresh) for name in (LOG, DRIFT))
        callbacks = Callbacks(
            checkpoint=checkpoint,
            request=request.digest,
            every=job.checkpoint_seconds,
            log=lambda step, loss, lr: log(step, {"loss": loss, "lr": lr}),
            drift=drift,
            quiet=job.bench.quiet,
        )
        precision = job.bench.precision
        seconds = training.train(
            adapted,
            data,
            table,
            method.recipe,
            seed=job.seed,
            precision=precision,
            callbacks=callbacks,
        )
    test_evaluations = (
        0 if job.validation else count_test_evaluation(job.folder, scored, "end of training")
    )
    start = time.perf_counter()
    output = predict(adapted, workspace.table(scored, adapted.cut).batches(len(scored)))
    test_seconds = time.perf_counter() - start
    adapter = _save(job, method, adapted, request)
    write_predictions(job.folder, scored, output.logits)
    if job.vectors:
        _write_vectors(job.folder, workspace, adapted, scored)
    record = write_record(
        job.folder,
        request=request,
        selection=_selection(adapted, method),
        test_evaluations=test_evaluations,
        scores=score(output.logits.double().numpy(), scored.labels).to_dict(),
        ledger=adapter.manifest.ledger,
        costs=Costs(
            feature_seconds=workspace.feature_seconds,
            train_seconds=seconds,
            test_seconds=test_seconds,
            peak_memory_mb=peak(),
            adapter_bytes=(job.folder / "adapter" / TENSORS).stat().st_size,
        ),
    )
    checkpoint.unlink(missing_ok=True)
    return record


def _selection(adapted: AdaptedClassifier, method: Method) -> str:
    """Which of the models that training passes through is kept."""
    if isinstance(adapted.head, SolvedHead):
        return "solved"
    return "last step" if method.recipe.steps else "as initialised"


def _request(
    job: RunSpec, workspace: Workspace, method: Method, data: Dataset, scored: Dataset
) -> RunRequest:
    backbone, shift = workspace.backbone, workspace.shift
    parts = {"source": shift.source, "train": data, scored_part(job): scored}
    return RunRequest(
        method=job.method,
        settings=settings_of(method),
        backbone=BackboneCard(
            name=backbone.name,
            weights=str(job.bench.weights) if job.bench.weights else None,
            image_size=job.bench.image_size,
            fingerprint=backbone.fingerprint,
            preprocessing=backbone.preprocessing,
        ),
        data=DataCard(
            source=shift.source.digest() if shift.source else "",
            train=data.digest(),
            test=scored.digest(),
            images={name: len(part) for name, part in parts.items() if part},
            shots=job.shots,
            draw=job.draw,
            fraction=job.fraction,
            validation=job.validation,
            classes=list(data.classes),
            notes=[*workspace.notes, workspace.leaks(data, scored).summary()],
        ),
        seed=job.seed,
        precision=job.bench.precision,
        compiled=job.bench.compiled,
        dtype=job.bench.dtype,
        teacher=_teacher(settings_of(method).get("teacher", "")),
    )


def _teacher(folder: str) -> str:
    """The digest of a teacher's adapter."""
    return read_manifest(find(Path(folder))).tensors_sha256 if folder else ""


def scored_part(job: RunSpec) -> str:
    """What the images are called that the run is scored on."""
    return "validation" if job.validation else "test"


def _claim(job: RunSpec, data: Dataset, scored: Dataset, request: RunRequest) -> Record | None:
    """Check what the folder holds; returns its record if the run is already done."""
    fresh = not (job.folder / REQUEST).exists()
    if claim_folder(job.folder, request, resume=job.resume):
        return read_record(job.folder)
    if fresh:
        meta = asdict(job.images)
        write_split(job.folder / "split.csv", {"train": data, scored_part(job): scored}, meta=meta)
    return None


def _save(job: RunSpec, method: Method, adapted: AdaptedClassifier, request: RunRequest) -> Adapter:
    """Write the adapter file, open it again and compare, before anything is called done."""
    adapter = create_adapter(
        adapted,
        method=job.method,
        settings=settings_of(method),
        classes=request.data.classes,
        weights=job.bench.weights,
        image_size=job.bench.image_size,
    )
    folder = job.folder / "adapter"
    adapter.save(folder)
    again = Adapter.load(folder, backbone=adapted.backbone).adapted.state_dict()
    for name, tensor in adapted.state_dict().items():
        if not torch.equal(tensor, again[name]):
            raise RunError(f"{folder}: {name} did not survive saving. Please report this as a bug.")
    return adapter


def _write_vectors(
    folder: Path, workspace: Workspace, adapted: AdaptedClassifier, scored: Dataset
) -> None:
    """Keep vectors before and after of source and test images, at most 2,000 of each, as fp16."""
    with torch.random.fork_rng():
        frozen = AdaptedClassifier(
            workspace.backbone, create("linear-probe").plan(workspace.backbone, 2)
        )
    frozen.to(workspace.features.device)
    parts: list[dict[str, Tensor]] = []
    for part, is_target in ((workspace.shift.source, False), (scored, True)):
        if part is None:
            continue
        keep = torch.linspace(0, len(part) - 1, min(len(part), MOST_VECTORS)).round().long()
        chosen = part.select(keep.tolist())
        vectors = {
            name: predict(
                model, workspace.table(chosen, model.cut).batches(len(chosen))
            ).vector.half()
            for name, model in (("before", frozen), ("after", adapted))
        }
        labels = torch.tensor(chosen.labels.copy())
        domain = torch.full_like(labels, is_target, dtype=torch.bool)
        parts.append({**vectors, "labels": labels, "is_target": domain})
    joined = {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
    write_tensors(folder / VECTORS, joined)
