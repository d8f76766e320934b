"""Flips against the predictions as CSV."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from builders.tables import rows_of
from petiole.errors import RunError
from petiole.report.flips import flips, mistakes
from petiole.report.runs import read_run


def pair(build, n: int = 60):
    rng = np.random.default_rng(0)
    before = build.run(build.root / "before", rng.random(n) < 0.5, split_seed=0)
    after = build.run(build.root / "after", rng.random(n) < 0.7, split_seed=1)
    return before, after


def rows(run):
    return rows_of(run / "predictions.csv")


def test_flips_are_those_of_the_predictions(build) -> None:
    before, after = pair(build)
    found = flips(read_run(before), read_run(after), most=100)
    both = list(zip(rows(before), rows(after), strict=True))
    right = lambda r: r["label"] == r["prediction"]  # noqa: E731
    for examples, was, now in ((found.fixed, False, True), (found.broken, True, False)):
        want = [(a, b) for a, b in both if right(a) == was and right(b) == now]
        want.sort(key=lambda ab: -float(ab[1]["confidence"]))
        got = [(e.label, e.before, e.after, round(e.confidence, 4)) for e in examples]
        assert got == [
            (b["label"], a["prediction"], b["prediction"], round(float(b["confidence"]), 4))
            for a, b in want
        ]
        assert [e.name for e in examples] == [b["path"].rsplit("/", 1)[1] for _, b in want]
    assert found.images == 60
    assert found.fixed_count == len(found.fixed) > 0


def test_only_the_surest_are_shown_but_all_are_counted(build) -> None:
    before, after = (read_run(r) for r in pair(build))
    few, all_ = flips(before, after, most=3), flips(before, after, most=100)
    assert few.fixed == all_.fixed[:3]
    assert few.fixed_count == all_.fixed_count > 3


@pytest.mark.parametrize(("side", "size", "kind"), [(24, 24, "PNG"), (200, 96, "JPEG")])
def test_thumbnails_are_small_images(build, side: int, size: int, kind: str) -> None:
    build.side = side
    example = mistakes(read_run(pair(build)[0]))[0]
    head, text = example.thumbnail.split(",")
    image = Image.open(io.BytesIO(base64.b64decode(text)))
    assert head == f"data:image/{kind.lower()};base64"
    assert (image.format, max(image.size)) == (kind, size)
    assert example.small == (kind == "PNG")


def test_a_missing_file_is_no_error(build) -> None:
    run = read_run(pair(build)[0])
    first = mistakes(run)[0]
    (build.root / "images" / first.name).unlink()
    again = mistakes(run)[0]
    assert again.thumbnail == ""
    assert again.name == first.name


def test_other_images_are_refused(build) -> None:
    before = build.run(build.root / "before", np.ones(60, dtype=bool))
    build.per_class = 10
    after = build.run(build.root / "after", np.ones(30, dtype=bool))
    with pytest.raises(RunError, match=r"before and .*after were tested on different images"):
        flips(read_run(before), read_run(after))
