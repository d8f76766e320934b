"""Choice of images to label: on clear clusters one of each, in the middle, and none that is covered."""

from __future__ import annotations

import numpy as np
import pytest

from petiole.data.typiclust import typiclust
from petiole.errors import DataError

SIZES = (30, 20, 10, 6)


def clusters() -> tuple[np.ndarray, np.ndarray]:
    """Vectors around the axes of a space, by falling size; which cluster each is of."""
    rng = np.random.default_rng(0)
    of = np.repeat(np.arange(4), SIZES)
    return 10 * np.eye(4)[of] + rng.normal(0, 0.5, (len(of), 4)), of


def test_each_cluster_gives_its_most_typical_image_the_largest_first() -> None:
    x, of = clusters()
    found = typiclust(x, np.zeros(len(x), dtype=bool), 4)
    assert [one.size for one in found] == [30, 20, 10, 6]
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for one in found:
        inside = np.flatnonzero(of == of[one.row])
        assert len(inside) == one.size
        apart = np.linalg.norm(unit[inside][:, None] - unit[inside][None], axis=-1)
        near = min(20, len(inside) - 1)
        typical = 1 / np.sort(apart, axis=1)[:, 1 : near + 1].mean(axis=1)
        assert one.row == inside[typical.argmax()]
        assert one.typicality == pytest.approx(typical.max(), rel=1e-4)


def test_clusters_with_a_label_come_last() -> None:
    x, of = clusters()
    labelled = np.zeros(len(x), dtype=bool)
    labelled[[0, 31]] = True  # the two largest
    found = typiclust(x, labelled, 2)
    assert [of[one.row] for one in found] == [2, 3]
    assert not labelled[[one.row for one in found]].any()


def test_every_image_is_chosen_once_where_the_budget_is_all() -> None:
    x = np.repeat(np.eye(3), 2, axis=0)
    found = typiclust(x, np.zeros(6, dtype=bool), 6)
    assert sorted(one.row for one in found) == list(range(6))
    for budget in (0, 7):
        with pytest.raises(DataError, match="1 to 6"):
            typiclust(x, np.zeros(6, dtype=bool), budget)
