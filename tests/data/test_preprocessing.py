"""The evaluation transform against timm's; views as a pure function of image, number and settings."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from builders.known import digits
from petiole.data.preprocessing import (
    AUGMENTATIONS,
    Augmentation,
    Preprocessing,
    _crop_box,
    _jittered,
    _resized,
    augmentation,
    evaluate_transform,
    framed,
    placed,
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


@pytest.mark.parametrize(
    ("index", "known"), [(2, [-0.21437, 0.481676, -20.9717]), (3, [0.105236, 0.798825, 34.7256])]
)
def test_views_are_the_same_numbers_in_every_process(index: int, known: list[float]) -> None:
    """Those that a process had which is gone: mean, spread, and a sum that depends on the order."""
    found = digits(view(picture(), preprocessing(), Augmentation(), "id", index))
    assert found == pytest.approx(known, rel=1e-3)


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


def test_what_one_image_looks_like_to_several_backbones() -> None:
    """Their pixels behind one another, each normalised as its own backbone says; a crop is the same for all."""
    small, large = preprocessing(size=(3, 5)), preprocessing(size=(8, 4), mean=(0.1, 0.2, 0.3))
    both = Preprocessing.joined([small, large])
    assert (both.size, both.parts) == ((1, 3 * 5 + 8 * 4), (small, large))
    image = picture()
    whole = evaluate_transform(both)(image)
    assert whole.shape == (3, 1, 47)
    for index, a in ((0, Augmentation()), (2, Augmentation())):
        seen = view(image, both, a, "id", index)
        assert torch.equal(seen[:, 0, :15], view(image, small, a, "id", index).flatten(1))
        assert torch.equal(seen[:, 0, 15:], view(image, large, a, "id", index).flatten(1))
    mean, std = both.statistics()
    assert mean.shape == std.shape == (3, 1, 47)
    for values, name in ((mean, "mean"), (std, "std")):
        for part, columns in ((small, slice(0, 15)), (large, slice(15, 47))):
            want = torch.tensor(getattr(part, name))[:, None].expand(3, part.size[0] * part.size[1])
            assert torch.equal(values[:, 0, columns], want)
    assert str(both) == "5 × 3 pixels, bicubic, crop 0.875 and 4 × 8 pixels, bicubic, crop 0.875"


def test_a_setting_is_said_in_words() -> None:
    assert str(preprocessing(size=(8, 4), crop=0.9)) == "4 × 8 pixels, bicubic, crop 0.9"
    assert str(preprocessing(crop_mode="squash")).endswith("crop 0.875, squashed")
    assert str(preprocessing(crop_mode="border")).endswith("crop 0.875, with a border")
    whole = Preprocessing.symmetric(5)
    assert (whole.size, whole.crop, whole.mean, whole.std) == ((5, 5), 1.0, (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    ("mode", "shape", "want", "corner"),
    [
        ("squash", (50, 20), (48, 24), (4, 2)),
        ("center", (50, 20), (60, 24), (10, 2)),
        ("center", (20, 50), (48, 120), (4, 50)),
        ("border", (50, 20), (48, 19), (4, 0)),
        ("border", (20, 50), (10, 24), (-15, 2)),
        ("border", (2000, 1), (48, 1), (4, -9)),
        ("border", (1, 2000), (1, 24), (-19, 2)),
    ],
)
def test_the_sides_of_the_resized_image(
    mode: str, shape: tuple[int, int], want: tuple[int, int], corner: tuple[int, int]
) -> None:
    """An input of 40 x 20 pixels, five sixths of the resized image."""
    p = preprocessing(size=(20, 40), crop=20 / 24, crop_mode=mode)
    assert _resized(shape, p) == want
    assert placed(shape, p) == (want, corner)


def test_a_square_input_truncates_the_longer_side() -> None:
    p = preprocessing(size=(32, 32), crop=1.0)
    assert _resized((50, 33), p) == (int(32 * 50 / 33), 32) == (48, 32)
    assert _resized((33, 50), p) == (32, 48)
    assert _resized((41, 41), p) == (32, 32)


@pytest.mark.parametrize(("corner", "left"), [("round", 2), ("floor", 1)])
def test_an_odd_number_of_pixels_is_left_by_a_crop(corner: str, left: int) -> None:
    """Of three too many: half to even behind the mode's name, or one before; of three too few the larger part stands behind."""
    p = preprocessing(size=(4, 4), crop=1.0, corner=corner, fill=(9, 8, 7))
    assert placed((7, 4), p) == ((7, 4), (left, 0))
    assert placed((4, 7), p) == ((4, 7), (0, left))
    few = p.model_copy(update={"crop_mode": "border"})
    line = Image.new("RGB", (8, 1), (200, 100, 50))
    assert placed((8, 1), few) == ((4, 1), (0, -1))
    seen = np.asarray(framed(line, few, "nearest"))
    assert seen[:, 0].tolist() == [[9, 8, 7], [200, 100, 50], [9, 8, 7], [9, 8, 7]]
    dark = np.asarray(framed(Image.new("F", (8, 1), 3.5), few, "nearest"))
    assert dark[:, 0].tolist() == [0, 3.5, 0, 0]


def test_floats_are_resized_without_being_rounded() -> None:
    rounded, exact = (
        evaluate_transform(preprocessing(resized=kind))(picture()) for kind in ("pixels", "floats")
    )
    away = (rounded - exact).abs() * torch.tensor([0.2, 0.3, 0.4])[:, None, None] * 255
    assert 0.2 < float(away.max()) < 30  # half a level, and what was cut beyond 0 and 255
    assert float(away.median()) < 0.5


class Draws:
    """Draws that are known: what was asked for is kept, and every number is the middle of its range."""

    def __init__(self, *, share: float = 0.5) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.share = share

    def uniform(self, low: float, high: float) -> float:
        self.asked.append(("uniform", low, high))
        return low + self.share * (high - low)

    def integers(self, count: int) -> int:
        self.asked.append(("integers", count))
        return count - 1

    def permutation(self, count: int) -> list[int]:
        self.asked.append(("permutation", count))
        return list(range(count))[::-1]


def test_a_crop_is_drawn_by_area_and_shape() -> None:
    draws: Any = Draws()
    a = Augmentation(scale=(0.2, 0.4), ratio=(0.5, 4.5))
    box = _crop_box((40, 30), a, draws)
    area, ratio = 40 * 30 * 0.3, 1.5  # the middle of the logarithms of 1/2 and 9/2
    w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
    assert box == (40 - w, 30 - h, 40, 30)
    assert [one[0] for one in draws.asked] == ["uniform", "uniform", "integers", "integers"]
    assert draws.asked[2:] == [("integers", 40 - w + 1), ("integers", 30 - h + 1)]
    whole = Augmentation(scale=(1, 1), ratio=(4 / 3, 4 / 3))
    assert _crop_box((40, 30), whole, Draws()) == (0, 0, 40, 30)  # type: ignore[arg-type]
    none: Any = Draws()
    assert _crop_box((40, 30), Augmentation(scale=(1, 1), ratio=(9, 9)), none) == (0, 13, 40, 17)
    assert none.asked.count(("uniform", 1, 1)) == 10
    assert _crop_box((1, 300), AUGMENTATIONS["crops"], Draws(share=1)) == (0, 149, 1, 150)  # type: ignore[arg-type]
    assert _crop_box((300, 1), AUGMENTATIONS["crops"], Draws(share=1)) == (149, 0, 150, 1)  # type: ignore[arg-type]


def test_jitter_draws_an_order_and_a_factor_each() -> None:
    draws: Any = Draws(share=1.0)
    image = Image.new("RGB", (2, 1), (100, 50, 0))
    found = _jittered(image, 0.25, draws)
    assert draws.asked == [("permutation", 3)] + [("uniform", 0.75, 1.25)] * 3
    from PIL import ImageEnhance as Enhance

    want = image
    for kind in (Enhance.Color, Enhance.Contrast, Enhance.Brightness):
        want = kind(want).enhance(1.25)
    assert found == want != image
    assert _jittered(image, 0, SimpleNamespace()) is image  # type: ignore[arg-type]


def test_the_bounds_of_settings_are_inside() -> None:
    assert preprocessing(crop=2.0, size=(1, 1)).crop == 2
    assert Augmentation(scale=(1, 1), ratio=(2, 2), jitter=0).jitter == 0
    for bad, words in (
        ({"scale": (0, 1)}, r"scale \(0, 1\) must be positive and increasing"),
        ({"ratio": (2, 1)}, r"ratio \(2, 1\) must be positive and increasing"),
        ({"scale": (0.5, 1.1)}, "must not exceed 1, the whole image"),
        ({"jitter": -0.1}, r"jitter -0.1 must lie in \[0, 1\)"),
    ):
        with pytest.raises(ConfigError, match=words):
            Augmentation(**bad)
    for field, words in (
        ({"size": (3, 0)}, r"size \(3, 0\) must be positive"),
        ({"crop": 0}, r"crop 0.0 must lie in \(0, 2\]"),
        ({"std": (1, 1, 0)}, r"std \(1.0, 1.0, 0.0\) must be positive"),
    ):
        with pytest.raises(ValidationError, match=words):
            preprocessing(**field)
    assert AUGMENTATIONS["none"].identity
    assert not AUGMENTATIONS["digits"].identity
