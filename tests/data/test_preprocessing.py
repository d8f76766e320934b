"""The evaluation transform against timm's; views as a pure function of image, number and settings."""

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import timm.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from petiole.data.preprocessing import (
    AUGMENTATIONS,
    Augmentation,
    Preprocessing,
    _crop_box,
    augmentation,
    evaluate_transform,
    view,
)
from petiole.errors import ConfigError


def preprocessing(**changes: object) -> Preprocessing:
    fields = {"size": (32, 32), "crop": 0.875, "interpolation": "bicubic"}
    return Preprocessing(**{**fields, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4), **changes})


def picture(width: int = 60, height: int = 45, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.mark.parametrize("shape", [(60, 45), (45, 60), (50, 50), (7, 5), (37, 200), (33, 33)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
@pytest.mark.parametrize(("side", "crop"), [(32, 0.875), (32, 1.0), (30, 0.9), (33, 0.95)])
def test_equals_timm_to_the_bit(
    shape: tuple[int, int], interpolation: str, side: int, crop: float
) -> None:
    p = preprocessing(size=(side, side), crop=crop, interpolation=interpolation)
    theirs = timm.data.create_transform(
        (3, side, side), crop_pct=crop, interpolation=interpolation, mean=p.mean, std=p.std
    )
    image = picture(*shape)
    assert torch.equal(evaluate_transform(p)(image), theirs(image))


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_any_image_gives_the_input_size(width: int, height: int, out_h: int, out_w: int) -> None:
    p = preprocessing(size=(out_h, out_w))
    for index in (0, 1):
        out = view(picture(width, height), p, Augmentation(), "a", index)
        assert out.shape == (3, out_h, out_w)
        assert out.dtype == torch.float32
        # within the range that normalised pixels can have: the crop never leaves the image
        low = [(0 - m) / s for m, s in zip(p.mean, p.std, strict=True)]
        assert (out.amin(dim=(1, 2)) >= torch.tensor(low) - 1e-5).all()


def test_a_wide_input_keeps_the_aspect_ratio() -> None:
    """A vertical white bar of 1/4 of the width stays one, in a 16 x 32 input of a square image."""
    x = np.zeros((64, 64, 3), np.uint8)
    x[:, 24:40] = 255
    p = preprocessing(size=(16, 32), crop=1.0, mean=(0, 0, 0), std=(1, 1, 1))
    out = evaluate_transform(p)(Image.fromarray(x))
    assert abs(out.mean().item() - 0.25) < 0.02


def test_view_zero_is_the_evaluation_transform_and_others_differ() -> None:
    p, image = preprocessing(), picture()
    plain = evaluate_transform(p)(image)
    for a in AUGMENTATIONS.values():
        assert torch.equal(view(image, p, a, "id", 0), plain)
    assert torch.equal(view(image, p, augmentation("none"), "id", 3), plain)
    views = [view(image, p, augmentation("default"), "id", k) for k in range(1, 5)]
    views.append(view(image, p, augmentation("default"), "other id", 1))
    views.append(view(image, p, augmentation("digits"), "id", 1))
    assert len({v.numpy().tobytes() for v in [plain, *views]}) == 1 + len(views)


def test_views_do_not_depend_on_order_threads_or_global_seeds() -> None:
    p, image, a = preprocessing(), picture(), Augmentation()
    jobs = [(f"id{i}", k) for i in range(6) for k in range(4)]
    expected = {job: view(image, p, a, *job) for job in jobs}
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    with ThreadPoolExecutor(4) as pool:
        again = dict(
            zip(jobs[::-1], pool.map(lambda j: view(image, p, a, *j), jobs[::-1]), strict=True)
        )
    assert all(torch.equal(expected[j], again[j]) for j in jobs)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


def test_views_are_equal_in_another_process() -> None:
    code = (
        "import numpy as np, hashlib; from PIL import Image;"
        "from petiole.data.preprocessing import *;"
        "x = Image.fromarray(np.random.default_rng(0).integers(0, 256, (45, 60, 3), dtype=np.uint8));"
        "p = Preprocessing(size=(32, 32), crop=0.875, interpolation='bicubic',"
        " mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4));"
        "print(hashlib.sha256(view(x, p, Augmentation(), 'id', 2).numpy().tobytes()).hexdigest())"
    )
    mine = view(picture(), preprocessing(), Augmentation(), "id", 2).numpy().tobytes()
    theirs = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert theirs.stdout.strip() == hashlib.sha256(mine).hexdigest()


def test_flip_mirrors_half_of_the_views_and_scale_is_obeyed() -> None:
    """With the whole image as the crop, a view is the resized image or its mirror."""
    p = preprocessing(crop=1.0)
    image = picture(40, 40)
    a = Augmentation(scale=(1, 1), ratio=(1, 1), flip=True, jitter=0)
    plain = evaluate_transform(p)(image)
    flipped = [torch.allclose(view(image, p, a, "x", k), plain.flip(2)) for k in range(1, 101)]
    kept = [torch.allclose(view(image, p, a, "x", k), plain) for k in range(1, 101)]
    assert all(f != k for f, k in zip(flipped, kept, strict=True))
    assert 30 <= sum(flipped) <= 70


@pytest.mark.parametrize(
    ("size", "box"), [((400, 4), (197, 0, 202, 4)), ((4, 401), (0, 198, 4, 203))]
)
def test_where_no_crop_fits_it_is_the_largest_in_the_middle(
    size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    """As torchvision's: 4 / 3 is the widest, 3 / 4 the tallest."""
    assert _crop_box(size, AUGMENTATIONS["crops"], np.random.default_rng(0)) == box


def test_jitter_zero_keeps_and_jitter_changes_brightness() -> None:
    p = preprocessing(mean=(0, 0, 0), std=(1, 1, 1))
    grey = Image.new("RGB", (40, 40), (128, 128, 128))
    still = [view(grey, p, Augmentation(jitter=0), "x", k).mean().item() for k in range(1, 30)]
    moved = [view(grey, p, Augmentation(jitter=0.2), "x", k).mean().item() for k in range(1, 30)]
    assert np.allclose(still, 128 / 255)
    assert np.std(moved) > 0.02
    assert 0.8 * 0.5 - 0.01 < min(moved) < max(moved) < 1.2 * 0.5 + 0.02


def test_digests_tell_settings_apart_and_are_stable() -> None:
    assert preprocessing().digest() == preprocessing().digest()
    assert len({preprocessing(crop=c).digest() for c in (0.8, 0.875, 0.9)}) == 3
    assert len({a.digest() for a in AUGMENTATIONS.values()}) == len(AUGMENTATIONS)


@pytest.mark.parametrize(
    "bad", [{"crop": 0.0}, {"crop": 2.1}, {"size": (0, 3)}, {"std": (0, 1, 1)}, {"resize": 3}]
)
def test_impossible_preprocessing_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        preprocessing(**bad)


def test_impossible_augmentation_is_refused() -> None:
    for bad in ({"scale": (0.5, 0.4)}, {"scale": (0.5, 1.5)}, {"ratio": (0, 1)}, {"jitter": 1.0}):
        with pytest.raises(ConfigError):
            Augmentation(**bad)
    with pytest.raises(ConfigError, match="digits"):
        augmentation("digit")
    with pytest.raises(ConfigError, match="View -1"):
        view(picture(), preprocessing(), Augmentation(), "x", -1)
