"""The demo's folders: what a user would have, the same bytes for the same seed."""

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from petiole.data.sources import open_shift
from petiole.data.synthetic import digits as digits_module
from petiole.data.synthetic.digits import FONTS, _thinned, render_digit, write_digits


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"), per_class=5)


def contents(root: Path) -> dict[str, str]:
    files = sorted(root.rglob("*.png"))
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_layout_and_counts(root: Path) -> None:
    shift = open_shift(root)
    assert shift.source is not None
    assert set(shift.source.counts().values()) == {5}
    assert (len(shift.train), len(shift.test)) == (901, 896)
    assert shift.classes == tuple("0123456789")
    assert shift.source.notes == shift.train.notes == shift.test.notes == ()
    ids = [*shift.source.ids, *shift.train.ids, *shift.test.ids]
    assert len(set(ids)) == len(ids)


def test_same_seed_same_bytes_and_no_stale_files(root: Path, tmp_path: Path) -> None:
    stale = tmp_path / "synthetic" / "3" / "0005.png"
    stale.parent.mkdir(parents=True)
    stale.touch()
    assert contents(write_digits(tmp_path, per_class=5)) == contents(root)


def test_another_seed_another_rendering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[tuple[int, Path], list[bytes]] = {}
    for seed in (0, 1):
        keep = partial(lambda s, f, x: written.update({(s, f): [d.tobytes() for d in x]}), seed)
        monkeypatch.setattr(digits_module, "_write", keep)
        write_digits(tmp_path, per_class=3, seed=seed)
    for folder in {f for _, f in written}:
        equal = written[0, folder] == written[1, folder]
        assert equal is (folder.parent.name != "synthetic")


def test_real_digits_survive_the_enlargement(root: Path) -> None:
    """Reducing the stored picture gives the 8 x 8 counts back, to a grey level."""
    digits = load_digits()
    stored = Image.open(root / "real_train" / "3" / "0000.png")
    assert stored.size == (64, 64)
    small = stored.crop((4, 4, 60, 60)).resize((8, 8), Image.Resampling.BOX)
    original = digits.images[digits.target == 3][0]
    assert np.corrcoef(np.asarray(small).ravel(), original.ravel())[0, 1] > 0.98


def test_rendered_digits_have_the_originals_format_and_sense() -> None:
    """Seventeen grey levels, similar ink, and pixels from which real digits can be told."""
    digits = load_digits()
    pool = np.concatenate([np.flatnonzero(digits.target == c)[:60] for c in range(10)])
    labels = np.repeat(np.arange(10), 40)
    rng = np.random.default_rng(0)
    rendered = np.array([render_digit(int(c), rng) for c in labels])
    assert rendered.shape == (400, 8, 8)
    assert rendered.dtype == np.uint8
    assert rendered.max() == 16
    assert abs(rendered.mean() - digits.images[pool].mean()) < 1
    classifier = LogisticRegression(max_iter=500).fit(rendered.reshape(400, -1), labels)
    accuracy = classifier.score(digits.images[pool].reshape(len(pool), -1), digits.target[pool])
    assert 0.45 < accuracy < 0.9  # a source worth something, and a gap left to close


def test_every_font_is_shipped_and_thin_lines_stay_connected() -> None:
    assert len(set(FONTS)) == len(FONTS)
    bar = np.zeros((20, 40), bool)
    bar[6:13, 4:36] = True
    thin = _thinned(bar)
    assert thin.sum(axis=0).max() <= 2
    assert thin[:, 10:30].any(axis=0).all()
    assert not (thin & ~bar).any()
