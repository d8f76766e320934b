"""``torchrun petiole fit``: two processes leave what one leaves, once, and end together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import petiole
from builders.images import write_images
from builders.processes import Started, alone, petiole_process, two_ranks
from petiole.engine.feature_store import load_shard
from petiole.engine.record import read_log
from petiole.engine.share import Share
from petiole.errors import ConfigError

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="torch without distribution"
)


def start(place: Path, out: str, environment: dict[str, str]) -> Started:
    return petiole_process(
        "fit", "photos", "--source", "drawn", "--method", "lora-cosine-contrastive",
        "--backbone", "petiole/tiny-vit", "--set", "steps=12", "--set", "views=0", "--set", "lr=0.001", "--shots", "3",
        "--calibration-folds", "0", "--out", out, "--cache-dir", f"cache-{out}", "--json", cwd=place, environment=environment,
    )  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("together")
    for name, seed in (("photos", 0), ("drawn", 1)):
        write_images(root / name, 5, seed=seed)
    return root


def test_two_processes_fit_what_one_fits(place: Path) -> None:
    ranks = [start(place, "two", environment) for environment in two_ranks()]
    one = start(place, "one", alone())
    outputs = [process.communicate() for process in (*ranks, one)]
    assert [p.returncode for p in (*ranks, one)] == [0, 0, 0], [e[-1500:] for _, e in outputs]
    first, second = outputs[0], outputs[1]
    record = json.loads(first[0])["record"]
    assert record["test_evaluations"] == 1
    assert second == ("", "") or "features" not in second[1]
    assert second[0] == ""

    apart, together = (
        load_file(place / name / "adapter" / "adapter.safetensors") for name in ("one", "two")
    )
    for name, value in apart.items():
        gap = (together[name] - value).abs()
        # Where a gradient nearly vanishes, AdamW divides rounding by rounding: at most a few steps' size.
        assert float((gap > 1e-4).double().mean()) < 0.02, name
        assert float(gap.max()) < 0.02, name
    assert {p.name for p in (place / "two").iterdir()} == {
        p.name for p in (place / "one").iterdir()
    }
    for key in (place / "cache-two").iterdir():  # each process has computed its share alone
        held = [load_shard(shard)[0] for shard in key.glob("*.safetensors")]
        whose = [{Share(1, 2).takes(image) for image in ids} for ids in held]
        assert sorted(whose, key=str) == [{False}, {True}], key
    losses, together_losses = (
        [row["loss"] for row in read_log(place / name)] for name in ("one", "two")
    )
    assert together_losses == pytest.approx(losses, rel=1e-3)


def test_what_one_process_alone_meets_before_training_ends_all_and_is_said_once(
    place: Path, tmp_path: Path
) -> None:
    main, other = two_ranks()
    ranks = [start(place, "early", main), start(tmp_path, "early", other)]  # no photos there
    said = [process.communicate(timeout=120)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [1, 1]
    assert said[0].strip() == "error: photos: no such folder. Check the path."
    assert said[1] == ""
    assert not (place / "early").exists()


def test_many_runs_and_auto_are_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for verb, words in (("compare", {"methods": ["linear-probe"]}), ("fit", {})):
        with pytest.raises(ConfigError, match="2 processes"):
            getattr(petiole, verb)(place / "photos", backbone="petiole/tiny-vit", **words)
