"""One adaptation of a vision-language model over a codebook, from request to record.

request.json              everything that decides the result, and its digest
metrics.jsonl             step, loss, learning rate
diagnostics.jsonl         step, and of the same images each time: flip rate, perplexity of codes, mean residual
predictions/<model>.jsonl key, text, prediction, references and score of every scored sample, by language model
adapter/                  the encoder's file
record.json               scores by language model, costs, environment, checksums: written last
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any

import torch

from petiole.backbones.codebook_lvlm import LVLM
from petiole.data.task_batches import TaskBatches
from petiole.data.text_dataset import TextDataset
from petiole.engine.adapter import MANIFEST, TENSORS
from petiole.engine.feature_extractor import Precision
from petiole.engine.memory import peak_memory
from petiole.engine.optimizer import make_optimizer
from petiole.engine.record import (
    LOG,
    RECORD,
    REQUEST,
    Costs,
    FrozenModel,
    environment,
    now,
    read_complete,
)
from petiole.engine.run_lock import appender, claim_folder, locked
from petiole.engine.trainer import Callbacks, Trainer, accelerate
from petiole.errors import ConfigError, DataError, RunError
from petiole.files import sha256, write_json, write_text
from petiole.layers.token_pruning import Pruning
from petiole.methods.codebook.base import CodebookMethod
from petiole.methods.registry import settings_of
from petiole.tasks.codebook.adapter import (
    CodebookModelCard,
    EncoderAdapter,
    Frequencies,
    build_model,
    describe,
    method_of,
)
from petiole.tasks.codebook.answers import answers, count_test_evaluation, plain, prediction_lines
from petiole.tasks.codebook.batches import BatchLoader
from petiole.tasks.codebook.code_usage import CodeProbe, counts
from petiole.tasks.codebook.images import ImageFolder
from petiole.tasks.codebook.model import AdaptedCodebookModel, CodebookLoss
from petiole.tasks.text.registry import find

DIAGNOSTICS, PREDICTIONS = "diagnostics.jsonl", "predictions"
EVERY = 50
"""Steps between two diagnoses."""


class CodebookRequest(FrozenModel):
    """Everything that decides a result on one machine.

    Attributes:
        others: language models that are scored beside the surrogate.
        data, general: digests.
        samples: by part.
        pruning: at scoring; ``None`` for none.
    """

    method: str
    settings: dict[str, Any]
    model: CodebookModelCard
    others: list[CodebookModelCard]
    data: str
    general: str
    samples: dict[str, int]
    scored: str
    pruning: dict[str, Any] | None
    seed: int
    precision: str

    @property
    def digest(self) -> str:
        """SHA-256 of all of it but the models' names, for which their fingerprints stand."""
        value = self.model_dump(mode="json")
        for card in (value["model"], *value["others"]):
            card.pop("name")
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class CodebookRecord(FrozenModel):
    """What a run was and gave.

    Attributes:
        scores: language model -> metric -> per cent, the headline first; the surrogate is the first model.
        diagnosis: at the start and at the end: flip_rate, perplexity, residual.
        trainable: parameters trained.
        notes: of the data.
    """

    format: int = 1
    id: str
    created: str
    request: CodebookRequest
    scores: dict[str, dict[str, float]]
    diagnosis: dict[str, dict[str, float]]
    trainable: int
    costs: Costs
    notes: list[str]
    environment: dict[str, str]
    files: dict[str, str]


@dataclass(frozen=True)
class CodebookRun:
    """A model with its questions, and how it is adapted to them.

    Attributes:
        model: the surrogate; frozen.
        data: train, and the part that is scored.
        method: registered name.
        folder: where the record goes.
        settings: what differs from its defaults.
        seed: of start, batches and dropout.
        others: further language models over the same codebook that the encoder is scored with.
        general: images of no domain, for terms that hold against forgetting.
        pruning: of image tokens at scoring.
        scored: the part that is scored, once, at the end.
        resume: go on where an interrupted run stopped; a finished one is returned as it is.
    """

    model: LVLM
    data: TextDataset
    method: str
    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    others: Sequence[LVLM] = ()
    general: TextDataset | None = None
    pruning: Pruning | None = None
    scored: str = "test"
    precision: Precision = "fp32"
    resume: bool = False
    quiet: bool = False
    checkpoint_seconds: float = 20.0


def run(inquiry: CodebookRun) -> CodebookRecord:
    """Train, score once, write record and encoder.

    Raises:
        RunError: the folder is in use, complete, or holds a run with another request.
        DataError: nothing to learn or to score.
        ConfigError: the method is for other models.
        BackboneError: a language model has another codebook.
    """
    method = method_of(inquiry.method, inquiry.settings)
    method.check(inquiry.model)
    for other in inquiry.others:
        inquiry.model.spec.check(other.spec, inquiry.model.name, other.name)
        if other.discrete is not inquiry.model.discrete:
            raise ConfigError(
                f"{inquiry.model.name} and {other.name} do not both see codes. Score them in runs of their own."
            )
    if inquiry.others and method.adapts_language:
        raise ConfigError(
            f"{inquiry.method} changes {inquiry.model.name} alone, so no other language model gains by it. Leave --lm out."
        )
    for part in ("train", inquiry.scored):
        samples = inquiry.data[part]
        if any(len(sample.images) != 1 for sample in samples):
            raise DataError(f"{inquiry.data.root}: {part} has a sample without one image.")
    with locked(inquiry.folder):
        request = _request(inquiry, method)
        if claim_folder(inquiry.folder, request, resume=inquiry.resume):
            return read_record(inquiry.folder)
        return _work(inquiry, method, request)


def _work(inquiry: CodebookRun, method: CodebookMethod, request: CodebookRequest) -> CodebookRecord:
    model, folder = inquiry.model, inquiry.folder
    image_folder = ImageFolder(inquiry.data.root, model.tower)
    with peak_memory(model.device) as peak, torch.random.fork_rng():
        torch.manual_seed(inquiry.seed)
        adapted = build_model(method, model)
        checkpoint = folder / "checkpoint.safetensors"
        fresh = not checkpoint.exists()
        log = appender(folder / LOG, fresh=fresh)
        callbacks = Callbacks(
            checkpoint=checkpoint,
            request=request.digest,
            every=inquiry.checkpoint_seconds,
            log=lambda step, loss, lr: log(step, {"loss": loss, "lr": lr}),
            quiet=inquiry.quiet,
        )
        probe = CodeProbe(adapted, image_folder, inquiry.data["train"])
        first = probe.diagnosis()
        note = appender(folder / DIAGNOSTICS, fresh=fresh)

        def measure(step: int) -> None:
            if step % EVERY == 0:
                note(step, probe.diagnosis())

        seconds = train(inquiry, adapted, method, image_folder, callbacks, measure)
    counted = counts(adapted, image_folder, inquiry.data["train"], quiet=inquiry.quiet)
    start = time.perf_counter()
    scores = _score(inquiry, adapted, image_folder, counted)
    test_seconds = time.perf_counter() - start
    saved = _save(inquiry, method, adapted, counted)
    names = [REQUEST, LOG, DIAGNOSTICS, *(f"{PREDICTIONS}/{plain(n)}.jsonl" for n in scores)]
    names += [f"adapter/{MANIFEST}", f"adapter/{TENSORS}"]
    record = CodebookRecord(
        id=request.digest[:16],
        created=now(),
        request=request,
        scores=scores,
        diagnosis={"start": first, "end": probe.diagnosis()},
        trainable=saved.manifest.trainable,
        costs=Costs(
            feature_seconds=0.0,
            train_seconds=seconds,
            test_seconds=test_seconds,
            peak_memory_mb=peak(),
            adapter_bytes=(folder / "adapter" / TENSORS).stat().st_size,
        ),
        notes=list(inquiry.data.notes),
        environment=environment(),
        files={name: sha256(folder / name) for name in names if (folder / name).is_file()},
    )
    write_json(folder / RECORD, record.model_dump(mode="json"))
    checkpoint.unlink(missing_ok=True)
    return record


def train(
    inquiry: CodebookRun,
    adapted: AdaptedCodebookModel,
    method: CodebookMethod,
    image_folder: ImageFolder,
    callbacks: Callbacks,
    measure: Callable[[int], None] = lambda _: None,
) -> float:
    """Train a viewer in place; returns the seconds that it took.

    Under several processes each takes a run of every batch's rows; the step averages their losses, and contrasts see
    their own process's rows.

    Raises:
        RunError: the loss became NaN or infinite, or the checkpoint cannot be used.
    """
    start = time.perf_counter()
    samples, recipe = inquiry.data["train"], method.recipe
    batches = TaskBatches({"all": len(samples)}, {"all": recipe.batch_size or 64}, inquiry.seed)
    steps = max(1, ceil(recipe.epochs * len(batches))) if recipe.epochs else recipe.steps
    recipe = replace(recipe, steps=steps)
    accelerator = accelerate(inquiry.model.module, inquiry.precision)
    feed = BatchLoader(adapted, method, image_folder, samples, inquiry.seed, inquiry.general)
    mine = (accelerator.process_index, accelerator.num_processes)
    loss_module = CodebookLoss(adapted, method.losses(inquiry.model))
    if recipe.steps and any(p.requires_grad for p in loss_module.parameters()):
        Trainer(
            accelerator,
            loss_module,
            adapted,
            lambda step: (feed(step, [int(i) for i in batches(step)[0][1]], *mine),),
            make_optimizer(loss_module, recipe),
            recipe,
            float(len(batches)),
            inquiry.seed,
        ).run(callbacks, measure=measure)
    adapted.eval()
    return time.perf_counter() - start


def _score(
    inquiry: CodebookRun,
    adapted: AdaptedCodebookModel,
    image_folder: ImageFolder,
    counted: Frequencies,
) -> dict[str, dict[str, float]]:
    """Open the scored part once, for all language models."""
    samples = inquiry.data[inquiry.scored]
    if inquiry.scored == "test":
        count_test_evaluation(inquiry.folder, inquiry.data, len(samples))
    task = find(inquiry.data.task)
    adapted_models = [adapted, *(adapted.on(other) for other in inquiry.others)]
    vision_outputs = image_folder.vision_outputs(
        adapted, [s.images[0] for s in samples], quiet=inquiry.quiet
    )
    scores = {}
    for one in adapted_models:
        said = answers(
            one, vision_outputs, samples, inquiry.pruning, counted.tuned, quiet=inquiry.quiet
        )
        name = one.model.name
        write_text(
            inquiry.folder / PREDICTIONS / f"{plain(name)}.jsonl",
            prediction_lines(task, samples, said),
        )
        scores[name] = task.score(samples, said)
    return scores


def _save(
    inquiry: CodebookRun,
    method: CodebookMethod,
    adapted: AdaptedCodebookModel,
    counted: Frequencies,
) -> EncoderAdapter:
    """Write the file, open it again and compare, before anything is called done."""
    saved = describe(adapted, inquiry.method, settings_of(method), counted)
    folder = inquiry.folder / "adapter"
    saved.save(folder)
    again = EncoderAdapter.load(folder, model=inquiry.model).adapted.state_dict()
    for name, tensor in adapted.state_dict().items():
        if not torch.equal(tensor, again[name]):
            raise RunError(f"{folder}: {name} did not survive saving. Please report this as a bug.")
    return saved


def _request(inquiry: CodebookRun, method: CodebookMethod) -> CodebookRequest:
    cards = [
        CodebookModelCard(name=model.name, fingerprint=model.fingerprint)
        for model in (inquiry.model, *inquiry.others)
    ]
    data, general, pruning = inquiry.data, inquiry.general, inquiry.pruning
    return CodebookRequest(
        method=inquiry.method,
        settings=settings_of(method),
        model=cards[0],
        others=cards[1:],
        data=data.digest(),
        general=general.digest() if general else "",
        samples={part: len(samples) for part, samples in data.parts.items()},
        scored=inquiry.scored,
        pruning=asdict(pruning) if pruning else None,
        seed=inquiry.seed,
        precision=inquiry.precision,
    )


def read_record(folder: Path) -> CodebookRecord:
    """Read a run's record; see ``read_complete``."""
    return read_complete(folder, CodebookRecord)
