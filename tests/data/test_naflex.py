"""Images that keep their shape: grids, strips and what is read from them, by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image

from petiole.data.naflex import grid_for, grids_of, head, patches_of, places_of, strip_of
from petiole.data.preprocessing import Preprocessing, _strip, augmentation, evaluate_transform, view


@pytest.mark.parametrize("size", [(64, 64), (600, 300), (200, 600), (900, 100), (1, 50), (33, 7)])
@pytest.mark.parametrize(("patch", "budget"), [(8, 16), (7, 10)])
def test_a_grid_is_the_largest_of_its_shape_within_the_budget(
    size: tuple[int, int], patch: int, budget: int
) -> None:
    """Every scale at which a row or a column more begins is looked at."""
    width, height = size
    steps = sorted({k * patch / side for side in size for k in range(1, budget + 1)})
    fits = [
        (max(1, -(-height * s // patch)), max(1, -(-width * s // patch)))
        for s in (step - 1e-4 for step in steps)
    ]
    want = max((g for g in fits if g[0] * g[1] <= budget), default=(1, 1))
    assert grid_for(size, patch, budget) == want
    assert type(grid_for(size, patch, budget)[0]) is int


def test_a_small_image_is_enlarged_a_hundred_times_at_most() -> None:
    assert grid_for((1, 1), 8, 10_000) == (13, 13)
    assert grid_for((1, 1000), 8, 4) == (4, 1)


def test_a_strip_holds_patches_in_rows_zeros_and_its_grid() -> None:
    image = torch.arange(3 * 4 * 6, dtype=torch.float32).reshape(3, 4, 6)
    strip = strip_of(image, 2, 8)
    assert strip.shape == (3, 2, 18)
    for i, (row, column) in enumerate(product(range(2), range(3))):
        cell = image[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(strip[:, :, 2 * i : 2 * i + 2], cell)
        assert torch.equal(patches_of(strip[None])[0, i], cell.permute(1, 2, 0).flatten())
    assert not strip[:, :, 12:16].any()
    assert torch.equal(
        strip[:, :, 16:], torch.tensor([2.0, 3.0, 0.0])[:, None, None].expand(3, 2, 2)
    )
    assert patches_of(strip[None]).shape == (1, 8, 12)
    assert grids_of(strip[None]).tolist() == [[2, 3]]


def test_what_a_strip_says_is_believed_where_it_is_possible() -> None:
    """Otherwise the largest square: noise, or the empty input that counts a network's work."""
    said = [(1, 1), (1, 10), (2, 5), (10, 1), (0, 4), (4, 0), (-1, -1), (11, 1), (4, 3), (1.4, 2.6)]
    strips = head(torch.ones(len(said), 3, 2, 22), torch.tensor(said))
    assert torch.equal(strips[:, 2], torch.ones(len(said), 2, 22))
    assert torch.equal(strips[..., :20], torch.ones(len(said), 3, 2, 20))
    want = [[1, 1], [1, 10], [2, 5], [10, 1], [3, 3], [3, 3], [3, 3], [3, 3], [3, 3], [1, 3]]
    found = grids_of(strips)
    assert (found.tolist(), found.dtype) == (want, torch.int64)
    assert grids_of(torch.empty(2, 3, 2, 22, device="meta")).tolist() == [[3, 3]] * 2


def test_places_count_rows_and_columns_and_end_with_the_grid() -> None:
    places, valid = places_of(torch.tensor([[2, 3], [3, 1]]), 7)
    assert valid.sum(1).tolist() == [6, 3]
    assert places[0].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2], [0, 0]]
    assert places[1].tolist() == [[0, 0], [1, 0], [2, 0]] + [[0, 0]] * 4


def test_an_image_and_its_views_become_strips() -> None:
    p = Preprocessing.symmetric(32).naflex(4, 16)
    assert (p.size, p.patch, p.crop_mode, p.budget) == ((4, 68), 4, "squash", 16)
    assert (p.interpolation, p.mean, p.crop) == ("bicubic", (0.5, 0.5, 0.5), 1.0)
    assert str(p) == "the image's own shape, up to 16 patches of 4 × 4 pixels, bicubic"
    image = Image.new("RGB", (80, 20), (255, 0, 51))
    seen = evaluate_transform(p)(image)
    assert seen.shape == (3, 4, 68)
    assert grids_of(seen[None]).tolist() == [[2, 8]]
    colours = torch.tensor([1.0, -1.0, -0.6])
    assert torch.allclose(seen[:, :, :64], colours[:, None, None])
    left = Image.new("RGB", (80, 80))
    left.paste((255, 255, 255), (0, 0, 40, 80))
    halves = [
        evaluate_transform(p)(one)[0, 0, :64].reshape(4, 4, 4) for one in (left, left.rotate(90))
    ]
    assert halves[0][:, :2].mean() > 0.9 > -0.9 > halves[0][:, 2:].mean()  # rows of four patches
    assert halves[1][2:].mean() > 0.9 > -0.9 > halves[1][:2].mean()
    views = [view(left, p, augmentation("default"), "a", k) for k in range(1, 5)]
    assert all(v.shape == (3, 4, 68) and int(grids_of(v[None]).prod()) <= 16 for v in views)


def test_a_box_away_from_the_corner_has_its_own_grid() -> None:
    """Not that of its far corner."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))
    shaped = Preprocessing.symmetric(32).naflex(8, 16)
    assert grids_of(_strip(image, shaped, (20, 10, 60, 20))[None]).tolist() == [[2, 8]]
    assert grids_of(_strip(image, shaped, (20, 0, 60, 10))[None]).tolist() == [[2, 8]]
    assert grid_for((60 + 20, 20 - 10), 8, 16) == (1, 8)
