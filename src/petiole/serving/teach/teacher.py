"""A folder without labels on its way to a classifier: its map, what to label next, and what is known so far."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from petiole.backbones.base import Backbone
from petiole.data.dataset import Dataset
from petiole.data.image import load
from petiole.data.typiclust import typiclust
from petiole.errors import DataError
from petiole.methods.registry import create
from petiole.serving.teach.evidence import Evidence, curve, evidence
from petiole.serving.teach.label_log import Label, LabelLog
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.calibration import Calibration
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.tasks.classification.novelty import Novelty, left_out_similarity

METHOD = "averaged-ridge"
SUGGESTED, TYPICAL = 12, 60
"""Suggestions at a time; images that are chosen before there are labels."""
MOST_TSNE = 2000
THUMBNAIL, QUALITY = 128, 85
"""Pixels of the longer side of a small image, and quality of its JPEG."""


class Teacher:
    """One folder of images, its labels and the classifier that they make.

    Args:
        data: images.
        vectors: (N, d), of the frozen backbone.
        backbone: that saw them.
        log: of the labels.
    """

    def __init__(
        self, data: Dataset, vectors: NDArray[np.float32], backbone: Backbone, log: LabelLog
    ) -> None:
        self.data, self.backbone, self.log = data, backbone, log
        self.vectors = torch.from_numpy(vectors)
        self.row_of = {one: i for i, one in enumerate(data.ids)}
        nothing = np.zeros(len(data), dtype=bool)
        budget = min(TYPICAL, len(data))
        self.typical = [one.row for one in typiclust(vectors, nothing, budget)]
        self.map = projection(vectors)
        self._seen: tuple[int, Evidence] | None = None

    def images(self) -> dict[str, Any]:
        """What never changes: names and places on the map, in the order of the rows."""
        return {
            "name": self.data.name,
            "backbone": self.backbone.name,
            "names": [path.name for path in self.data.paths],
            "map": np.round(self.map, 4).tolist(),
            "projection": "t-SNE" if len(self.data) <= MOST_TSNE else "PCA",
            "notes": list(self.data.notes),
        }

    def state(self) -> dict[str, Any]:
        """All that the labels so far say.

        ``labels`` and ``guesses`` are numbers of ``classes``, −1 for none; ``sure`` are probabilities of the guesses.
        """
        start = perf_counter()
        names, rows, labels = self._labelled()
        found = self._evidence(rows, labels)
        given = np.full(len(self.data), -1)
        given[rows] = labels
        p = found.probabilities
        guesses = np.full(len(self.data), -1) if p is None else p.argmax(1)
        sure = np.zeros(len(self.data)) if p is None else p.max(1)
        return {
            "version": self.log.version,
            "classes": names,
            "labels": given.tolist(),
            "guesses": guesses.tolist(),
            "sure": np.round(sure.astype(np.float64), 2).tolist(),
            "accuracy": vars(found.accuracy) if found.accuracy else None,
            "errors": found.errors,
            "suggested": self.suggested(given < 0, p),
            "milliseconds": 1000 * (perf_counter() - start),
        }

    def suggested(
        self, free: NDArray[np.bool_], p: NDArray[np.float32] | None, most: int = SUGGESTED
    ) -> list[int]:
        """Images worth a label now: typical ones of other kinds first, then those that the head is least sure of.

        Of the latter each predicted class gives one in turn, so that a row of them is not all of one kind.
        """
        typical = [row for row in self.typical if free[row]]
        if typical or p is None:
            return typical[:most]
        best = np.sort(p, 1)
        margin = best[:, -1] - best[:, -2]
        rows = np.flatnonzero(free)
        rows = rows[np.argsort(margin[rows], kind="stable")]
        turn: dict[int, int] = {}
        keys = []
        for place, row in enumerate(rows):
            guess = int(p[row].argmax())
            turn[guess] = turn.get(guess, 0) + 1
            keys.append((turn[guess], place))
        return [int(rows[i]) for i in sorted(range(len(rows)), key=keys.__getitem__)[:most]]

    def give(self, rows: list[int], label: Label) -> None:
        """Label rows, all alike or each by itself, or take their labels away.

        Raises:
            DataError: no such row, or no such label.
        """
        self._check(rows)
        self.log.give([self.data.ids[row] for row in rows], label)

    def alike(self, row: int, most: int = SUGGESTED) -> list[int]:
        """Images most like one, itself first, by the cosine of their vectors.

        Raises:
            DataError: no such row.
        """
        self._check([row])
        unit = torch.nn.functional.normalize(self.vectors, dim=-1)
        found: list[int] = (unit @ unit[row]).argsort(descending=True)[:most].tolist()
        return found

    def curve(self) -> dict[str, list[list[float]]]:
        """Accuracy by number of labels; see ``evidence.curve``."""
        _, rows, labels = self._labelled()
        return curve(self.vectors[rows], labels)

    def rows(self) -> list[tuple[Path, str]]:
        """Labelled images and their labels."""
        names, rows, labels = self._labelled()
        pairs = zip(rows.tolist(), labels.tolist(), strict=True)
        return [(self.data.paths[row], names[label]) for row, label in pairs]

    def save(self, folder: Path) -> None:
        """Write the classifier as an adapter.

        Raises:
            DataError: fewer than two classes.
        """
        names, rows, labels = self._labelled()
        found = self._evidence(rows, labels)
        if found.head is None:
            raise DataError("An adapter needs images of at least two classes. Label some more.")
        plan = create(METHOD).plan(self.backbone, len(names))
        plan.head.load_state_dict(found.head.state_dict())
        adapted = AdaptedClassifier(self.backbone, plan).to(self.backbone.device)
        known = None
        if found.left_out is not None:
            vectors, y = self.vectors[rows], torch.from_numpy(labels)
            novelty = Novelty.fit(vectors, y, left_out_similarity(vectors, y))
            known = Calibration.fit(found.left_out, y, 5, novelty)
        ClassificationAdapter.of(
            adapted, method=METHOD, settings={}, classes=names, calibration=known
        ).save(folder)

    def thumbnail(self, row: int) -> bytes:
        """A JPEG of at most 128 pixels a side.

        Raises:
            DataError: no such row, or its file is gone.
        """
        self._check([row])
        return self._thumbnail(row)

    def _check(self, rows: list[int]) -> None:
        if any(not 0 <= row < len(self.data) for row in rows):
            raise DataError(f"There are {len(self.data)} images; a row beyond them was named.")

    @lru_cache(maxsize=20_000)  # noqa: B019 - one teacher a process
    def _thumbnail(self, row: int) -> bytes:
        image = load(self.data.samples[row])
        image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        content = io.BytesIO()
        image.save(content, "JPEG", quality=QUALITY)
        return content.getvalue()

    def _labelled(self) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
        """Names of the classes that have images, rows of labelled images, and their classes."""
        given = {self.row_of[i]: label for i, label in self.log.labels.items() if i in self.row_of}
        used = set(given.values())
        names = [name for name in self.log.classes if name in used]
        number = {name: k for k, name in enumerate(names)}
        rows = np.array(sorted(given), dtype=np.int64)
        return names, rows, np.array([number[given[row]] for row in rows.tolist()], dtype=np.int64)

    def _evidence(self, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> Evidence:
        """Of this version of the labels, computed once."""
        if self._seen is None or self._seen[0] != self.log.version:
            self._seen = (self.log.version, evidence(self.vectors, rows, labels))
        return self._seen[1]


def projection(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Two numbers an image in [0, 1]: neighbours stay neighbours (t-SNE), or, of many images, the two main directions (PCA)."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    n = len(vectors)
    if n < 3:
        return np.full((n, 2), 0.5)
    flat = PCA(min(50, *vectors.shape), random_state=0).fit_transform(vectors)
    if n <= MOST_TSNE:
        near = min(30.0, (n - 1) / 3)
        flat = TSNE(perplexity=near, init="pca", random_state=0, max_iter=500).fit_transform(flat)
    flat = flat[:, :2] if flat.shape[1] > 1 else np.repeat(flat, 2, axis=1)
    low, high = np.percentile(flat, [0.5, 99.5], axis=0)
    return np.asarray(np.clip((flat - low) / np.maximum(high - low, 1e-9), 0, 1), dtype=np.float64)
