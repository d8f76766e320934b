"""Which images to label next, from their vectors alone: typical ones, each of another kind.

TypiClust (Hacohen, Dekel and Weinshall, "Active learning on a budget: opposite strategies suit high and low budgets",
ICML 2022): with few labels, images in the middle of a cluster teach more than those near a boundary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from petiole.errors import DataError

NEIGHBOURS = 20
"""At most; typicality is the inverse of the mean distance to them."""
SMALLEST = 5
"""Images of a cluster that is worth a label; smaller ones are taken when no other is left."""

STARTS = 1
"""Of k-means, of which the best clusters are kept."""


@dataclass(frozen=True)
class Choice:
    """One image to label.

    Attributes:
        row: of the vectors.
        cluster: its number.
        size: images of its cluster.
        typicality: inverse mean distance of unit vectors to the nearest neighbours in the cluster.
    """

    row: int
    cluster: int
    size: int
    typicality: float


def typiclust(
    vectors: NDArray[Any], labelled: NDArray[np.bool_], budget: int, seed: int = 0
) -> list[Choice]:
    """Return ``budget`` unlabelled images, the most useful first.

    Unit vectors are divided into |labelled| + budget clusters by k-means; the clusters with the fewest labelled images
    come first, the largest of equals, and each gives its most typical unlabelled image:

        typicality(x) = 1 / mean_{x' in NN_20(x)} |x − x'|

    Args:
        vectors: (n, d), of all images.
        labelled: (n,), those that have a label.
        budget: images to choose.
        seed: of k-means.

    Raises:
        DataError: a budget below 1 or above the number of unlabelled images.
    """
    from sklearn.cluster import KMeans

    free = int((~labelled).sum())
    if not 1 <= budget <= free:
        raise DataError(
            f"{budget} images cannot be chosen of {free} without a label. Ask for 1 to {free}."
        )
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.asarray(vectors / np.maximum(length, 1e-12), dtype=np.float32)
    count = min(int(labelled.sum()) + budget, len(np.unique(unit, axis=0)))
    cluster = KMeans(count, n_init=STARTS, random_state=seed).fit_predict(unit)
    size = np.bincount(cluster, minlength=count)
    covered = np.bincount(cluster[labelled], minlength=count)
    typical = np.zeros(len(unit))
    for c in range(count):
        rows = np.flatnonzero(cluster == c)
        typical[rows] = _typicality(unit[rows])
    open_to = ~labelled
    chosen: list[Choice] = []
    while len(chosen) < budget:
        left = np.bincount(cluster[open_to], minlength=count)
        # Keys of lexsort from the last to the first: anything left, few labels, not tiny, large.
        best = int(np.lexsort((-size, size < SMALLEST, covered, left == 0))[0])
        rows = np.flatnonzero((cluster == best) & open_to)
        row = int(rows[typical[rows].argmax()])
        chosen.append(Choice(row, best, int(size[best]), float(typical[row])))
        open_to[row], covered[best] = False, covered[best] + 1
    return chosen


def _typicality(unit: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of each image of one cluster; a single image is as typical as can be of it, and counts 0."""
    from sklearn.neighbors import NearestNeighbors

    if len(unit) == 1:
        return np.zeros(1)
    near = min(NEIGHBOURS, len(unit) - 1)
    distances = NearestNeighbors(n_neighbors=near).fit(unit).kneighbors()[0]
    return np.asarray(1 / np.maximum(distances.mean(axis=1), 1e-6), dtype=np.float64)
