"""``petiole sweep rank`` from end to end on small images."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import petiole
from petiole.cli import main
from petiole.engine.record import RECORD


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sweep") / "photos"
    rng = np.random.default_rng(0)
    for label, level in (("dark", 60), ("light", 180)):
        (root / label).mkdir(parents=True)
        for i in range(24):
            pixels = np.clip(level + rng.normal(0, 25, (40, 40, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(root / label / f"{i}.png")
    return root


def test_a_sweep_from_the_command_line(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", "rank", photos, "--backbone", "petiole/tiny-vit", "--values", 1, 2]
    command += ["--fractions", 0.5, 1, "--seeds", 2, "--test-fraction", 0.1]
    command += ["--set", "steps=1", "--set", "views=0", "--set", "batch_size=4"]
    command += ["--set", "blocks=last:1", "--cache-dir", tmp_path / "cache"]
    command += ["--out", tmp_path / "out"]

    def say(*more: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as done:
            main([str(a) for a in (*command, *more)])
        return int(done.value.code or 0), *capsys.readouterr()

    code, out, err = say()
    assert code == 0, err
    assert "training 8 runs, 8 steps" in err  # what it will cost, before it starts
    for said in (
        "Rank",
        "one-SE",
        "Kneedle",
        "No rank can be advised: 2 seeds are too few",
        "The elbow should grow",
        "elbow.png",
    ):
        assert said in out
    assert (tmp_path / "out" / "elbow.png").read_bytes().startswith(b"\x89PNG")
    assert "| marginal gain |" in (tmp_path / "out" / "elbow.md").read_text()

    code, _, err = say()
    assert code == 1
    assert "--resume" in err

    times = {f: f.stat().st_mtime_ns for f in (tmp_path / "out").rglob(RECORD)}
    code, out, err = say("--resume", "--quiet", "--json")
    assert (code, err) == (0, "")
    got = json.loads(out)
    assert [f["fraction"] for f in got["fractions"]] == [0.5, 1.0]
    assert got["fractions"][1]["one_se"] in (1, 2)
    assert len(times) == 8
    assert all(f.stat().st_mtime_ns == t for f, t in times.items())


def test_the_same_verb_refuses_a_method_without_rank_before_it_looks_at_images() -> None:
    with pytest.raises(petiole.PetioleError, match="has no rank to sweep"):
        petiole.sweep("rank", Path("nowhere"), method="knn")
