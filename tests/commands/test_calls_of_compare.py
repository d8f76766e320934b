"""What ``compare`` hands to the rooms below it, and in which order: they are exchanged for a list of what they were asked."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from builders.asked import PLAIN, Asked, workspace
from petiole.commands import compare as comparing
from petiole.engine.executor import Local
from petiole.engine.run import RunSpec
from petiole.errors import ConfigError
from petiole.protocols.comparison import Comparison
from petiole.tasks.classification.workspace import Classification, Subset


@pytest.fixture
def compared(asked: Asked) -> Asked:
    """``compare`` with everything below it exchanged."""
    task = Classification("b", Path("photos"))
    subset = Subset(7)
    asked.of("petiole.commands.tasks.open_task", (task, subset))
    asked.of("petiole.engine.task.reopened", workspace())
    asked.of("petiole.commands.announce.announce")
    asked.of("petiole.commands.compare._write_configs")
    asked.of("petiole.report.page.write_page", Path("page"))
    asked.of("petiole.report.folder.summarise", "summary")
    asked.of("petiole.protocols.domain_shift.compare")
    asked.of("petiole.protocols.protocol.RowsProtocol.run_all")
    return asked


def test_a_comparison_of_photos(compared: Asked) -> None:
    done = comparing.compare("photos", methods=["lora-qkv"], out=Path("o"), settings=["rank=2"], margin=0.5, **PLAIN)  # fmt: skip
    assert (done.folder, done.report, done.summary) == (Path("o"), Path("page"), "summary")
    (c, jobs, folder, storage), running = compared.one("compare")
    assert isinstance(c, Comparison)
    assert (c.split_seeds, c.seeds, c.shots, c.margin, c.notes) == (5, 1, 7, 0.005, ["n"])
    assert (c.validation, c.trials, c.kind) == (0.0, 0, "classification")
    assert (c.reference, c.headline, c.baseline) == ("lora-qkv", "lora-qkv", "class-means")
    assert [row.name for row in c.rows] == ["lora-qkv", "class-means", "knn", "logistic-regression", "ridge", "averaged-ridge"]  # fmt: skip
    assert (folder, storage) == (Path("o"), None)
    assert running == {"executor": Local(), "resume": False, "quiet": True}
    assert len(jobs) == 5 * len(c.rows)
    assert jobs[0].settings == {"rank": "2"}
    assert compared.one("announce")[0][1] == jobs
    given, _ = compared.one("_write_configs")
    assert given[0] == jobs
    assert given[1] == {"data": "photos", **PLAIN}
    order = [
        "open_task",
        "reopened",
        "announce",
        "compare",
        "_write_configs",
        "write_page",
        "summarise",
    ]
    assert compared.names == order


def test_draws_and_seeds_of_a_comparison(compared: Asked) -> None:
    comparing.compare("photos", methods=["ridge"], split_seeds=2, seeds=3, resume=True, processes=2, out=Path("o"), **PLAIN)  # fmt: skip
    (c, jobs, *_), running = compared.one("compare")
    assert (c.split_seeds, c.seeds) == (2, 3)
    assert running == {"executor": Local(2), "resume": True, "quiet": True}
    assert all(job.resume for job in jobs)
    compared.clear()
    comparing.compare("photos", methods=["lora-qkv"], tune=True, out=Path("o"), **PLAIN)
    (c, _, _, storage), _ = compared.one("compare")
    assert (c.validation, storage) == (0.25, None)
    assert [bool(row.grid) for row in c.rows] == [True] + [False] * 5
    tried = compared.one("announce")[0][1]
    assert len(tried) == 5 * 6 + 4 * len(c.rows[0].grid["lr"])
    compared.clear()
    comparing.compare("photos", methods=["lora-qkv"], tune=True, trials=6, tune_storage="s", validation=0.5, out=Path("o"), **PLAIN)  # fmt: skip
    (c, _, _, storage), _ = compared.one("compare")
    assert (c.validation, c.trials, storage) == (0.5, 6, "s")
    assert [bool(row.ranges) for row in c.rows] == [True] + [False] * 5


def test_a_source_brings_joint_baselines(compared: Asked) -> None:
    compared.of("petiole.engine.task.reopened", workspace(source=object()))
    comparing.compare("photos", methods=["ridge"], source=Path("s"), out=Path("o"), **PLAIN)
    (c, *_), _ = compared.one("compare")
    assert [row.name for row in c.rows][-2:] == ["logistic-regression-joint", "ridge-joint"]
    assert c.baseline == "source-only"


def test_a_comparison_of_other_kinds(compared: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petiole.data.targets.column_of", lambda _: "value")
    compared.of("petiole.commands.tasks.open_task", (Classification("b", Path("t")), Subset(None)))
    comparing.compare("t.csv", out=Path("o"), **PLAIN)
    (_, jobs, folder), running = compared.one("run_all")
    assert [job.method for job in jobs] == ["ridge"] * 3 + ["linear-probe"] * 3
    assert [job.options.split_seed for job in jobs] == [0] * 6
    assert (folder, running["resume"], running["quiet"]) == (Path("o"), False, True)
    for given in ({"split_seeds": 2}, {"split_seeds": 2, "seeds": 3}):
        with pytest.raises(
            ConfigError, match=r"For images with a number each every seed is also a draw"
        ):
            comparing.compare("t.csv", out=Path("o"), **given, **PLAIN)
    with pytest.raises(ConfigError, match=r"seeds"):
        comparing.compare("t.csv", seeds=0, out=Path("o"), **PLAIN)
    with pytest.raises(ConfigError, match=r"--tune is for labelled images"):
        comparing.compare("t.csv", methods=["lora-qkv"], tune=True, out=Path("o"), **PLAIN)
    compared.clear()
    compared.of("petiole.commands.tasks.open_task", (Classification("b", Path("t")), Subset(4)))
    comparing.compare("t.csv", shots=4, split_seeds=2, out=Path("o"), **PLAIN)
    (_, jobs, _), _ = compared.one("run_all")
    assert [(job.options.split_seed, job.seed) for job in jobs] == [(0, 0), (1, 1)] * 2


def test_each_run_of_a_comparison_can_be_repeated_alone(monkeypatch: pytest.MonkeyPatch, asked: Asked) -> None:  # fmt: skip
    asked.of("petiole.commands.config_file.write_config")
    record = SimpleNamespace(request=SimpleNamespace(settings={"rank": 3, "lr": 0.5}))
    monkeypatch.setattr("petiole.engine.record.read_record", lambda _: record)
    monkeypatch.setattr("petiole.methods.registry.create", lambda _: None)
    monkeypatch.setattr("petiole.methods.registry.settings_of", lambda _: {"rank": 3, "lr": 0.1})
    task = Classification("b", Path("p"))
    job = RunSpec(task, "lora-qkv", Path("r"), options=Subset(3, 2), seed=1)
    comparing._write_configs([job], {"data": "photos", "shots": 9})
    (given, _) = asked.one("write_config")
    assert given == (Path("r"), "fit", {
        "data": "photos", "shots": 3, "method": "lora-qkv", "seed": 1, "split_seed": 2, "calibration_folds": 0, "settings": {"lr": 0.5},
    })  # fmt: skip
    record.request.settings = {"rank": 3, "lr": 0.1}
    asked.clear()
    comparing._write_configs([job], {})
    assert "settings" not in asked.one("write_config")[0][2]
