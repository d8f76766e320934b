"""Segmentation over three draws: this library's rows beside heads that others would put on the same patch tokens.

Each draw is 48 of 144 training pictures of shapes, scored on the same 64 others. The rivals are written with torch and scikit-learn: a logistic
regression of each patch's commonest class, and the linear head of DINOv2's evaluation (Oquab et al., 2023: batch norm and a 1 x 1 convolution on
frozen tokens, logits interpolated to the pixels, cross-entropy of every pixel, AdamW 1e-3, decay 1e-4).

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/followups/segmentation.py OUT --backbone petiole/tiny-vit
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import jaccard_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

import petiole
from petiole.data.masks import fineness, finer, shares
from petiole.data.splits import read_split
from petiole.engine.record import read_record
from petiole.layers.moment_ridge import Moments, solve
from petiole.layers.ridge import RidgeHead
from petiole.layers.solved import balanced_weights
from petiole.metrics.paired import judged
from petiole.tasks.segmentation.task import PARTS

NEAREST = Image.Resampling.NEAREST
SHOTS, SEEDS, STEPS, BATCH = 48, 3, 300, 8
METHODS = {
    "ridge": "ridge",
    "linear-probe": "linear probe",
    "lora-qkv": "LoRA on q, k, v",
    "adaptertune": "AdapterTune",
}
RIVALS = ("logistic regression of patches (scikit-learn)", "linear head of DINOv2's evaluation")


class Rival:
    """Pictures as tokens and pixels, beside the library.

    Args:
        backbone: name.
        root: holds images/ and masks/ of ``train`` and ``test``.
    """

    def __init__(self, backbone: str, root: Path) -> None:
        self.backbone, self.root = petiole.load(backbone), root
        self.grid = self.backbone.grid

    def read(self, files: list[Path]) -> tuple[Tensor, NDArray[np.uint8]]:
        """Patch tokens (n, N, d) and masks (n, h, w)."""
        images = [Image.open(file) for file in files]
        pixels = torch.stack([self.backbone.preprocess(image) for image in images])
        with torch.no_grad():
            tokens = self.backbone.features(pixels, (self.backbone.patches,))[self.backbone.patches]
        masks = [np.asarray(Image.open(f.parents[1] / "masks" / f.name)) for f in files]
        return tokens, np.stack(masks)

    def logistic(self, tokens: Tensor, masks: NDArray[np.uint8], test: Tensor) -> Tensor:
        """Scores (n, N, K) of patches."""
        (rows, columns), (height, width) = self.grid, self.backbone.preprocessing.size
        seen = [Image.fromarray(mask).resize((width, height), NEAREST) for mask in masks]
        blocks = np.stack([np.asarray(mask) for mask in seen]).reshape(
            len(masks), rows, height // rows, columns, width // columns
        )
        cells = blocks.transpose(0, 1, 3, 2, 4).reshape(len(masks) * rows * columns, -1)
        commonest = np.array([np.bincount(cell).argmax() for cell in cells])
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        model.fit(tokens.flatten(0, 1).numpy(), commonest)
        found = np.full((test.shape[0] * test.shape[1], int(masks.max()) + 1), -np.inf)
        found[:, model.classes_] = model.decision_function(test.flatten(0, 1).numpy())
        return torch.from_numpy(found).reshape(*test.shape[:2], -1).clamp_min(-1e4).float()

    def dinov2(
        self,
        tokens: Tensor,
        masks: NDArray[np.uint8],
        test: Tensor,
        seed: int,
        *,
        norm: bool = True,
        mode: str = "bilinear",
    ) -> Tensor:
        """Scores (n, N, K) of patches; without ``norm``, or with scores learned as ``nearest``, what either is worth."""
        torch.manual_seed(seed)
        width = tokens.shape[2]
        head = nn.Sequential(
            nn.BatchNorm2d(width) if norm else nn.Identity(),
            nn.Conv2d(width, int(masks.max()) + 1, 1),
        )
        truth, maps = torch.from_numpy(masks).long(), self._maps(tokens)
        optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, STEPS)
        for _ in range(STEPS):
            some = torch.randperm(len(maps))[:BATCH]
            logits = interpolate(head(maps[some]), masks.shape[1:], mode=mode)
            optimizer.zero_grad()
            cross_entropy(logits, truth[some]).backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            return head.eval()(self._maps(test)).flatten(2).transpose(1, 2)

    def ridge(
        self, tokens: Tensor, masks: NDArray[np.uint8], test: Tensor, *, alike: bool
    ) -> Tensor:
        """Scores (n, N, K) of patches by the library's ridge; ``alike``: classes weigh alike, else pixels do."""
        p, cells = self.backbone.preprocessing, fineness(self.backbone.preprocessing, self.grid)
        fine, k = (self.grid[0] * cells, self.grid[1] * cells), int(masks.max()) + 1
        wanted = torch.from_numpy(np.stack([shares(mask, k, p, fine) for mask in masks]))
        weigh = balanced_weights(wanted.sum((0, 1))) if alike else torch.ones(k)
        parts = [
            Moments.of(one, 2 * part / part.sum(1, keepdim=True) - 1, part @ weigh)
            for one, part in zip(finer(tokens, self.grid, cells), wanted, strict=True)
        ]
        fifths = [sum(parts[i + PARTS :: PARTS], parts[i]) for i in range(PARTS)]
        weight, bias, _ = solve(fifths, RidgeHead(tokens.shape[2], k).grid)
        return test @ weight.T + bias

    def _maps(self, tokens: Tensor) -> Tensor:
        return tokens.transpose(1, 2).reshape(len(tokens), -1, *self.grid)

    def miou(self, scores: Tensor, masks: NDArray[np.uint8]) -> float:
        """Mean over classes of intersection over union, of all pixels."""
        logits = interpolate(self._maps(scores), masks.shape[1:], mode="bilinear")
        found = logits.argmax(1).numpy()
        return float(jaccard_score(masks.ravel(), found.ravel(), average="macro"))


def place_of(folder: Path, row: str, seed: int) -> Path:
    """Where a run of the comparison lies."""
    return folder / "runs" / row / f"split-0-seed-{seed}"


def ablated(pictures: Path, backbone: str) -> None:
    """DINOv2's head without its parts, and ridge, on training pictures of another set: 48 to learn from, the others to judge by."""
    if not pictures.exists():
        petiole.synthesize(pictures, task="masks", train=3 * SHOTS, test=1, seed=0)
    rival, files = Rival(backbone, pictures), sorted((pictures / "train" / "images").iterdir())
    (tokens, masks), (others, truth) = rival.read(files[:SHOTS]), rival.read(files[SHOTS:])
    for norm in (False, True):
        for mode in ("nearest", "bilinear"):
            found = rival.dinov2(tokens, masks, others, 0, norm=norm, mode=mode)
            print(f"norm {norm}, {mode}: {100 * rival.miou(found, truth):.1f}")
    for alike in (False, True):
        found = rival.ridge(tokens, masks, others, alike=alike)
        print(f"ridge, classes alike {alike}: {100 * rival.miou(found, truth):.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--backbone", default="petiole/tiny-vit")
    parser.add_argument(
        "--ablate", action="store_true", help="what norm and interpolation are worth, instead"
    )
    given = parser.parse_args()
    if given.ablate:
        ablated(given.out / "others", given.backbone)
        return
    pictures, folder = given.out / "pictures", given.out / given.backbone.rpartition("/")[2]
    if not pictures.exists():
        petiole.synthesize(pictures, task="masks", train=3 * SHOTS, test=64, seed=1)
    petiole.compare(
        pictures,
        methods=list(METHODS),
        backbone=given.backbone,
        shots=SHOTS,
        seeds=SEEDS,
        settings={"steps": STEPS, "batch_size": BATCH},
        out=folder,
        resume=folder.exists(),
        quiet=True,
    )
    records = {
        name: [read_record(place_of(folder, name, seed)) for seed in range(SEEDS)]
        for name in METHODS
    }
    scores = {
        METHODS[name]: [record.scores["test"]["miou"] for record in found]
        for name, found in records.items()
    }
    rival = Rival(given.backbone, pictures)
    test, truth = rival.read(sorted((pictures / "test" / "images").iterdir()))
    for seed in range(SEEDS):
        split = read_split(place_of(folder, "ridge", seed) / "split.csv")
        drawn = [sample.path for sample in split.parts["train"].samples]
        tokens, masks = rival.read(drawn)
        for name, found in zip(
            RIVALS,
            (rival.logistic(tokens, masks, test), rival.dinov2(tokens, masks, test, seed)),
            strict=True,
        ):
            scores.setdefault(name, []).append(rival.miou(found, truth))
    against = judged(scores, RIVALS[-1])
    print("| Head | mIoU | difference from DINOv2's | Verdict |\n|---|---:|---:|---|")
    for name, values in scores.items():
        line = f"| {name} | {100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f} | "
        if name not in against:
            print(f"{line}– | reference |")
            continue
        pair, said = against[name]
        low, high = 100 * pair.low, 100 * pair.high
        print(f"{line}{100 * pair.difference:+.1f} [{low:.1f}, {high:.1f}] | {said} |")


if __name__ == "__main__":
    main()
