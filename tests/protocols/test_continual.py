"""Tasks in sequence: the matrices against the runs' own predictions, forgetting by hand, and what replay keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import petiole
from builders.images import write_images
from petiole.data.dataset import Dataset, Sample
from petiole.data.splits import read_split
from petiole.errors import ConfigError
from petiole.protocols.continual import Continual, forgetting, joined, matrices
from petiole.tasks.classification.predictions import read_predictions

TASKS = {"trees": ("ash", "birch"), "birds": ("crane", "dove"), "fish": ("eel", "gar")}


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, feature_cache: Path) -> tuple[Path, object]:
    root = tmp_path_factory.mktemp("sequence")
    folders = [
        write_images(root / name, 8, seed, classes=classes)
        for seed, (name, classes) in enumerate(TASKS.items())
    ]
    found = petiole.continual(
        folders,
        method="class-means",
        shots=3,
        memory=1,
        seeds=1,
        out=root / "runs",
        backbone="petiole/efficientnet-lite0",
        image_size=32,
        cache_dir=feature_cache,
        quiet=True,
    )
    return root, found


def test_forgetting_is_the_fall_from_the_best_to_the_last() -> None:
    matrix = [[0.9], [0.95, 0.8], [0.5, 0.9, 0.7]]
    assert forgetting(matrix) == pytest.approx(((0.95 - 0.5) + (0.8 - 0.9)) / 2)


def test_matrices_are_those_of_the_predictions(learned: tuple[Path, object]) -> None:
    root, _ = learned
    found = matrices(root / "runs")
    for seed in range(1):
        for j, task in enumerate(TASKS):
            own = read_predictions(root / f"runs/runs/adapters/{task}/seed-{seed}")
            right = own.probabilities.argmax(1) == own.labels
            assert found["told"][seed][2][j] == pytest.approx(right.double().mean())
        last = read_predictions(root / f"runs/runs/replay/fish/seed-{seed}")
        right = last.probabilities.argmax(1) == last.labels
        for j in range(3):
            rows = torch.isin(last.labels, torch.tensor([2 * j, 2 * j + 1]))
            assert found["replay"][seed][2][j] == pytest.approx(right[rows].double().mean())
        assert [len(row) for row in found["routed"][seed]] == [1, 2, 3]


def test_an_image_goes_to_the_task_of_the_nearest_class_mean(learned: tuple[Path, object]) -> None:
    """Routed by hand, with vectors that are computed anew; by class means the label follows too."""
    root, _ = learned
    backbone = petiole.load("petiole/efficientnet-lite0", image_size=32)

    def vectors(paths: list[Path]) -> torch.Tensor:
        from petiole.data.image import read_image

        images = torch.stack([backbone.preprocess(read_image(path)) for path in paths])
        with torch.no_grad():
            return normalize(backbone(images), dim=-1)

    folders = [root / f"runs/runs/adapters/{task}/seed-0" for task in TASKS]
    means, tests = [], []
    for folder in folders:
        split = read_split(folder / "split.csv")
        drawn = split.parts["train"]
        own = vectors(list(drawn.paths))
        labels = torch.tensor(drawn.labels.copy())
        means.append([normalize(own[labels == k].mean(0), dim=0) for k in range(2)])
        tests.append(read_predictions(folder))
    for j, test in enumerate(tests):
        seen = vectors([Path(path) for path in test.paths])
        near = torch.stack([torch.stack([seen @ m for m in task]).amax(0) for task in means], 1)
        right = (near.argmax(1) == j) & (test.probabilities.argmax(1) == test.labels)
        assert matrices(root / "runs")["routed"][0][2][j] == pytest.approx(right.double().mean())


def test_replay_trains_on_the_new_task_and_what_was_kept(learned: tuple[Path, object]) -> None:
    root, _ = learned
    kept = read_split(root / "runs/runs/replay/birds/seed-0/split.csv").parts["train"]
    assert kept.counts() == {"ash": 1, "birch": 1, "crane": 3, "dove": 3}
    drawn = read_split(root / "runs/runs/adapters/trees/seed-0/split.csv")
    assert set(kept.ids[:2]) < set(drawn.parts["train"].ids)


def test_the_table_says_it_in_words_and_numbers(learned: tuple[Path, object]) -> None:
    root, found = learned
    numbers = found.model_dump(mode="json")
    assert numbers["matrices"] == matrices(root / "runs")
    protocol = Continual.read(root / "runs")
    sizes = [record.ledger.trainable for record in protocol.adapters(root / "runs", 0)]
    assert [row["trainable"] for row in numbers["rows"]][:2] == [sum(sizes)] * 2
    last = np.mean([m[-1] for m in numbers["matrices"]["routed"]])
    assert numbers["rows"][0]["headline"]["mean"] == pytest.approx(last)
    assert any("average forgetting" in note for note in numbers["notes"])


def test_classes_are_of_one_task_each(tmp_path: Path) -> None:
    folders = [write_images(tmp_path / name, 4, 0) for name in ("one", "two")]
    with pytest.raises(ConfigError, match="one and two both have the class 'ash'"):
        petiole.continual(folders, method="class-means", out=tmp_path / "out", quiet=True)
    with pytest.raises(ConfigError, match="Two tasks bear one name"):
        petiole.continual([folders[0]] * 2, method="class-means", out=tmp_path / "out", quiet=True)


def test_data_sets_are_joined_class_after_class() -> None:
    def made(names: tuple[str, ...]) -> Dataset:
        rows = tuple(Sample(Path(f"{n}.png"), i, n, "target") for i, n in enumerate(names))
        return Dataset("made up", names, rows)

    both = joined([made(("b", "a")), made(("c",))])
    assert both.classes == ("b", "a", "c")
    assert [both.classes[s.label] for s in both.samples] == [s.id for s in both.samples]
