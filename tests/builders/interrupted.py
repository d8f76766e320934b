"""What is interrupted: runs of every kind, a comparison, feature extraction, a page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from builders.images import write_images
from petiole.commands.compare import compare
from petiole.commands.options import ImageOptions, ModelOptions
from petiole.data.readers.jsonl import open_plain
from petiole.data.sources import open_data
from petiole.engine.feature_extractor import Features
from petiole.engine.feature_store import FeatureCache, entries
from petiole.engine.run import RunSpec, run
from petiole.report.page import write_page
from petiole.tasks.classification.workspace import Classification, Subset
from petiole.tasks.codebook.training import CodebookOptions
from petiole.testing import backbones, codebook_lvlm, encoder_decoder

EFFICIENTNET = "petiole/efficientnet-lite0"


@dataclass(frozen=True)
class Job:
    """Work on a folder that can be repeated until it is done.

    Attributes:
        name: of it.
        do: begins it, or goes on with it.
        result: what it left, which is the same however often it was interrupted.
    """

    name: str
    do: Callable[[Path], object]
    result: Callable[[Path], Any]


def left(folder: Path) -> dict[str, Any]:
    """Every file of a folder by its path; times and costs are left out, and of pages and tables all but their presence."""
    found: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if not file.is_file() or file.name == ".lock":
            continue
        if file.name == "record.json":
            record = json.loads(file.read_text())
            found[name] = {
                k: v for k, v in record.items() if k not in ("created", "costs", "sha256")
            }
        elif file.name == "test_evaluations.jsonl":
            rows = map(json.loads, file.read_text().splitlines())
            found[name] = [(row["test"], row["samples"], row["why"]) for row in rows]
        elif file.suffix == ".html" or file.name.startswith("table."):
            found[name] = len(file.read_bytes()) > 0
        else:
            found[name] = file.read_bytes()
    return found


def image_task(home: Path) -> Classification:
    photos, renders = home / "photos", home / "renders"
    if not photos.exists():
        write_images(photos, 6, 0)
        write_images(renders, 4, 1)
    return Classification(
        EFFICIENTNET, photos, renders, image_size=32, cache=home / "cache", quiet=True
    )


def image_spec(home: Path, folder: Path, steps: int = 4, **changes: Any) -> RunSpec:
    options = Subset(3, calibration_folds=None, vectors=True)
    settings = {"steps": steps, "views": 0}
    return RunSpec(
        image_task(home), "cls-residual-lora", folder, settings, options,
        checkpoint_seconds=0.0, **changes,
    )  # fmt: skip


def image(home: Path) -> Job:
    return Job("image run", lambda folder: run(image_spec(home, folder, resume=True)), left)


def language(home: Path) -> Job:  # noqa: ARG001
    settings = {"steps": 3, "batch_size": 4, "lr": 3e-3, "dropout": True}

    def do(folder: Path) -> None:
        spec, workspace = encoder_decoder.text_run(folder, "vl-adapter", settings, resume=True)
        run(spec, workspace)

    return Job("language run", do, left)


def codebook(home: Path) -> Job:
    if not (home / "sketch").exists():
        codebook_lvlm.data(home / "sketch", train=6, test=4)
    model, data = codebook_lvlm.model(), open_plain(home / "sketch")

    def do(folder: Path) -> None:
        spec, workspace = codebook_lvlm.codebook_run(
            folder, model, data, "craft", {"steps": 3, "batch_size": 4, "lr": 3e-3},
            options=CodebookOptions(), resume=True,
        )  # fmt: skip
        run(spec, workspace)

    return Job("codebook run", do, left)


def features(home: Path) -> Job:
    images = open_data(image_task(home).images)
    backbone = backbones.build("resnet", home / "resnet")
    cut = (backbone.vector,)

    def do(folder: Path) -> None:
        Features(backbone, FeatureCache(folder), quiet=True).table(images, cut)

    def stored(folder: Path) -> Any:
        assert not any(entry.damaged for entry in entries(folder, verify=True))
        rows = Features(backbone, FeatureCache(folder), quiet=True).table(images, cut)
        return torch.cat([state[cut[0]] for state in rows.batches(4)]).tolist()

    return Job("feature extraction", do, stored)


def page(home: Path) -> Job:
    """The page of a finished run, written again."""
    done = home / "reported"
    if not done.exists():
        run(image_spec(home, done))

    def do(folder: Path) -> None:
        if not (folder / "record.json").exists():
            shutil.copytree(done, folder, dirs_exist_ok=True)
        write_page(folder)

    def written(folder: Path) -> str:
        text = (folder / "report.html").read_text()
        assert text.rstrip().endswith("</html>")
        return text

    return Job("page", do, written)


def comparison(home: Path, processes: int = 1) -> Job:
    task = image_task(home)
    model = ModelOptions(backbone=EFFICIENTNET, image_size=32, cache_dir=task.cache, quiet=True)

    def do(folder: Path) -> None:
        compare(
            task.images, methods=["cosine"], split_seeds=1, out=folder, resume=True,
            processes=processes, settings=["steps=2"], model=model, images=ImageOptions(source=task.source, shots=2),
        )  # fmt: skip

    return Job("comparison", do, left)


JOBS = (image, language, codebook, features, page, comparison)
