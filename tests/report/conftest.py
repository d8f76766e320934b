"""Small but valid run and comparison folders, written through the engine's own writers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from petiole.data.dataset import Dataset, Sample
from petiole.data.preprocessing import Preprocessing
from petiole.engine.model_card import ModelCard
from petiole.engine.record import (
    REQUEST,
    Costs,
    DataCard,
    Record,
    RunRequest,
    count_test_evaluation,
    write_record,
)
from petiole.files import sealed, write_sealed, write_tensors
from petiole.ledger import Ledger
from petiole.metrics.classification import score
from petiole.protocols.comparison import Comparison
from petiole.protocols.protocol import ComparisonRow
from petiole.tasks.classification.predictions import write_predictions

BACKBONE = 22_056_576
Correct = Callable[[str, int, int], NDArray[np.bool_]]


def ledger(trainable: int, training_only: int = 0, backbone: int = BACKBONE) -> Ledger:
    inference = trainable - training_only
    return Ledger(
        backbone=backbone,
        adapters=inference // 2,
        head=inference - inference // 2,
        training_only=training_only,
        trainable=trainable,
        inference=inference,
        total=backbone + trainable,
        trainable_percent_of_backbone=100 * trainable / backbone,
        trainable_percent_of_backbone_and_trainable=100 * trainable / (backbone + trainable),
        trainable_percent_of_full_fine_tuning=100 * trainable / (backbone + inference),
        trainable_percent_of_total=100 * trainable / (backbone + trainable),
        inference_percent_of_backbone=100 * inference / backbone,
        inference_percent_of_backbone_and_inference=100 * inference / (backbone + inference),
        inference_percent_of_total=100 * inference / (backbone + trainable),
        adapters_percent_of_backbone=50 * inference / backbone,
        stored_bytes=4 * inference,
        cut=("final.cls",),
        flops_backbone=12_250_000_000,
        flops_forward=12_250_500_000,
        flops_above_cut=500_000,
    )


def probabilities(
    labels: NDArray[np.int64], correct: NDArray[np.bool_], classes: int, seed: int
) -> torch.Tensor:
    """Rows whose largest entry is the label exactly where ``correct`` says so."""
    rng = np.random.default_rng(seed)
    wrong = (labels + 1 + rng.integers(0, classes - 1, len(labels))) % classes
    confidence = rng.uniform(0.6, 0.99, len(labels)) - 0.15 * ~correct
    guess = np.where(correct, labels, wrong)
    p = np.repeat((1 - confidence)[:, None] / (classes - 1), classes, axis=1)
    p[np.arange(len(labels)), guess] = confidence
    return torch.tensor(p, dtype=torch.float32)


@dataclass
class Build:
    """Writes folders under ``root``, all tested on the same images.

    Attributes:
        root: where images and folders go.
        classes: names.
        per_class: test images of each class.
        side: pixels.
    """

    root: Path
    classes: Sequence[str] = ("circle", "square", "cross")
    per_class: int = 20
    side: int = 24
    notes: list[str] = field(default_factory=list)

    def test(self) -> Dataset:
        rng = np.random.default_rng(7)
        samples = []
        for label in range(len(self.classes)):
            for i in range(self.per_class):
                path = self.root / "images" / f"{label}-{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 255, (self.side, self.side, 3), dtype=np.uint8)
                if not path.exists():
                    Image.fromarray(pixels).save(path)
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                samples.append(Sample(path, label, digest))
        return Dataset("test", tuple(self.classes), tuple(samples))

    def run(
        self,
        folder: Path,
        correct: NDArray[np.bool_],
        *,
        method: str = "cls-residual-lora",
        trainable: int = 255_233,
        training_only: int = 0,
        split_seed: int = 0,
        seed: int = 0,
        shots: int | None = 10,
        train_seconds: float = 2.0,
        vectors: bool = False,
        source: bool = True,
        test: Dataset | None = None,
    ) -> Path:
        """Write one run whose prediction is right exactly where ``correct`` says so."""
        test = test or self.test()
        folder.mkdir(parents=True, exist_ok=True)
        request = self.request(test, method, split_seed, seed, shots, source)
        write_sealed(folder / REQUEST, request.model_dump(mode="json"))
        steps = [
            {"step": s, "loss": 3 * 0.99**s + 0.1 * (split_seed + 1), "lr": 1e-3}
            for s in range(0, 300, 10)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(sealed(s)) + "\n" for s in steps))
        test_evaluations = count_test_evaluation(
            folder, test.digest(), len(test), "end of training"
        )
        p = probabilities(test.labels, correct, len(self.classes), seed=97 * split_seed + seed)
        write_predictions(folder, test, p)
        if vectors:
            self.vectors(folder, source)
        write_record(
            folder,
            ["predictions.*"],
            request=request,
            selection="last step",
            test_evaluations=test_evaluations,
            scores={"test": score(p.double().numpy(), test.labels).to_dict()},
            ledger=ledger(trainable, training_only),
            costs=Costs(
                feature_seconds=1.5,
                train_seconds=train_seconds,
                test_seconds=0.01,
                peak_memory_mb=800.0,
                adapter_bytes=4 * trainable,
            ),
        )
        return folder

    def request(
        self,
        test: Dataset,
        method: str,
        split_seed: int,
        seed: int,
        shots: int | None,
        source: bool,
    ) -> RunRequest:
        images = {"source": 300} if source else {}
        images |= {"train": 300 * source + 10 * len(self.classes), "test": len(test)}
        digests = {"source": "5" * 64} if source else {}
        return RunRequest(
            kind="classification",
            method=method,
            settings={"rank": 8, "train_on": "joint"},
            backbone=ModelCard(
                name="timm/vit_small_patch14_dinov2.lvd142m",
                weights=None,
                fingerprint="a" * 64,
                preprocessing=Preprocessing(
                    size=(224, 224),
                    crop=0.875,
                    interpolation="bicubic",
                    mean=(0.5,) * 3,
                    std=(0.5,) * 3,
                ),
            ),
            data=DataCard(
                digests={**digests, "train": f"{split_seed:064d}", "test": test.digest()},
                samples=images,
                shots=shots,
                split_seed=split_seed,
                classes=list(self.classes),
                notes=self.notes,
            ),
            seed=seed,
            options={"precision": "fp32", "dtype": "float32"},
        )

    def vectors(self, folder: Path, source: bool = True, d: int = 16) -> None:
        """Gaussian classes; the domains lie apart before, and together after."""
        rng = np.random.default_rng(3)
        k = len(self.classes)
        labels = np.tile(np.arange(k), 24)
        centres = 4 * rng.standard_normal((k, d))
        parts = []
        for is_target in ([False] if source else []) + [True]:
            noise = rng.standard_normal((2, len(labels), d))
            parts.append(
                (
                    centres[labels] + noise[0] + 6 * is_target,
                    centres[labels] + 0.5 * noise[1],
                    is_target,
                )
            )
        write_tensors(
            folder / "vectors.safetensors",
            {
                "before": torch.tensor(np.concatenate([p[0] for p in parts])).half(),
                "after": torch.tensor(np.concatenate([p[1] for p in parts]))[:, : d - 4].half(),
                "labels": torch.tensor(np.tile(labels, len(parts))),
                "is_target": torch.tensor(np.repeat([p[2] for p in parts], len(labels))),
            },
        )

    def comparison(
        self,
        name: str,
        correct: Correct,
        rows: Sequence[str] = ("baseline", "cosine", "ours"),
        *,
        split_seeds: int = 5,
        seeds: int = 1,
        reference: str = "ours",
        baseline: str = "baseline",
        labels: dict[str, str] | None = None,
        trainable: dict[str, int] | None = None,
        claims: dict[str, float] | None = None,
        vectors: bool = True,
        title: str = "Sketch to photo",
        notes: Sequence[str] = (),
    ) -> Path:
        """Write a comparison; ``correct(row, split_seed, seed)`` says which test images are right."""
        folder = self.root / name
        labels, sizes = labels or {}, trainable or {}
        card = Comparison(
            title=title,
            rows=[
                ComparisonRow(
                    name=r, label=labels.get(r, r.title()), method=r, settings={"rank": 8}
                )
                for r in rows
            ],
            split_seeds=split_seeds,
            seeds=seeds,
            shots=10,
            reference=reference,
            baseline=baseline,
            headline=reference,
            claims=claims or {},
            notes=list(notes),
        )
        test = self.test()
        for i, row in enumerate(rows):
            for j, run in enumerate(card.runs(folder, row)):
                split_seed, seed = divmod(j, seeds)
                self.run(
                    run,
                    correct(row, split_seed, seed),
                    method=row,
                    trainable=sizes.get(row, 18_095 * (i + 1)),
                    split_seed=split_seed,
                    seed=seed,
                    train_seconds=1.0 + i + 0.1 * split_seed,
                    vectors=vectors and row == reference and split_seed == seed == 0,
                    test=test,
                )
        card.write(folder)
        return folder


def write_scores(
    folder: Path,
    kind: str,
    scores: dict[str, dict[str, float]],
    *,
    method: str = "vl-adapter",
    seed: int = 0,
    trainable: int = 418,
    total: int = 10_000,
    memory: float = 100.0,
    diagnosis: dict[str, dict[str, float]] | None = None,
    options: dict[str, object] | None = None,
    notes: Sequence[str] = (),
) -> Record:
    """Write one run of texts or over a codebook, without predictions."""
    parts = {f"{task}/{part}": n for task in scores for part, n in (("train", 40), ("test", 12))}
    photos = {"train": 40, "test": 12}
    request = RunRequest(
        kind=kind,
        method=method,
        settings={"lr": 1e-3},
        backbone=ModelCard(name="petiole/tiny", fingerprint="b" * 64, vision_width=4),
        data=DataCard(
            digests={"data": "d" * 64} if kind == "codebook" else dict.fromkeys(scores, "d" * 64),
            samples=photos if kind == "codebook" else parts,
            tasks=["qa"] if kind == "codebook" else list(scores),
            notes=list(notes),
        ),
        options=options or {"precision": "fp32", "mode": "proportional", "prefixes": True},
        seed=seed,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_sealed(folder / REQUEST, request.model_dump(mode="json"))
    steps = [{"step": s, "loss": 2 * 0.98**s, "lr": 1e-3} for s in range(0, 100, 5)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(sealed(s)) + "\n" for s in steps))
    for name in scores:
        count_test_evaluation(folder, name, 12, "end of training")
    return write_record(
        folder,
        [],
        request=request,
        selection="last step",
        test_evaluations=1,
        scores=scores,
        ledger=ledger(trainable, backbone=total - trainable),
        costs=Costs(
            feature_seconds=0.0,
            train_seconds=10.0 + seed,
            test_seconds=1.0,
            peak_memory_mb=memory,
            adapter_bytes=4 * trainable,
        ),
        diagnosis=diagnosis or {},
    )


@pytest.fixture(scope="session")
def scored() -> Callable[..., Record]:
    return write_scores


@pytest.fixture
def build(tmp_path: Path) -> Build:
    return Build(tmp_path)


@pytest.fixture(scope="module")
def make_build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Build]:
    return lambda name: Build(tmp_path_factory.mktemp(name))


def correct_at(accuracy: dict[str, float], n: int, spread: float = 0.0) -> Correct:
    """About ``accuracy[row]`` right, images drawn anew for each split seed and seed."""

    def draw_correct(row: str, split_seed: int, seed: int) -> NDArray[np.bool_]:
        rng = np.random.default_rng([sorted(accuracy).index(row), split_seed, seed])
        return np.asarray(rng.random(n) < accuracy[row] + spread * rng.standard_normal())

    return draw_correct


@pytest.fixture(scope="session")
def at() -> Callable[..., Correct]:
    return correct_at
