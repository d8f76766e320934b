"""The log of a run as lines of JSON."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from petiole.engine.loggers import LOG, LOGGERS, logger
from petiole.errors import ConfigError


def test_a_run_is_logged_line_by_line_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    first = logger("jsonl", tmp_path / "run")
    first.start({"method": "cosine", "steps": 3})
    first.log(0, {"loss": 2.5, "lr": 1e-3})
    file = tmp_path / "run" / LOG
    with file.open("a") as log:
        log.write('{"event": "st')  # killed in the middle of a line
    again = logger("jsonl", tmp_path / "run")
    again.start({"method": "cosine", "steps": 3})
    again.log(1, {"loss": float("nan"), "lr": float("inf")})
    again.finish({"id": "7", "scores": {"accuracy": 0.5}, "files": {"a": "b"}})
    lines = file.read_text().splitlines()
    assert lines.pop(2) == '{"event": "st'
    rows = [json.loads(line) for line in lines]
    assert [row.pop("event") for row in rows] == ["start", "step", "start", "step", "finish"]
    assert rows[0] == {"request": {"method": "cosine", "steps": 3}}
    assert rows[1] == {"step": 0, "loss": 2.5, "lr": 1e-3}
    assert rows[3] == {"step": 1, "loss": "nan", "lr": "inf"}
    assert rows[4] == {"id": "7", "scores": {"accuracy": 0.5}}


def test_loggers_are_known_by_name(tmp_path: Path) -> None:
    assert "log.jsonl" in LOGGERS.about("jsonl")
    with pytest.raises(ConfigError, match=r"Unknown logger 'json'. Did you mean jsonl"):
        logger("json", tmp_path)


REQUEST = {
    "method": "cosine",
    "settings": {"rank": 4, "recipe": {"lr": 0.1}},
    "data": {"classes": ["a"]},
}
RECORD = {"id": "7", "scores": {"test": {"accuracy": 0.5, "ece": 0.1}}}


def tell(name: str, folder: Path) -> None:
    """A run that is interrupted after one step and goes on."""
    first = logger(name, folder)
    first.start(REQUEST)
    first.log(0, {"loss": 2.5, "lr": 1e-3})
    again = logger(name, folder)
    again.start(REQUEST)
    again.log(1, {"loss": 1.5, "lr": 1e-3})
    again.finish(RECORD)


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tell("tensorboard", tmp_path / "run")
    read = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in read.Scalars("train/loss")] == [(0, 2.5), (1, 1.5)]
    assert [e.value for e in read.Scalars("test/accuracy")] == [0.5]


def test_tensorboard_has_the_request_and_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            heard.append(folder)

        def __getattr__(self, name: str) -> Any:
            return lambda *given: heard.append((name, *given))

    monkeypatch.setitem(
        sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer)
    )
    one = logger("tensorboard", tmp_path)
    one.start({"steps": 3})
    one.log(4, {"lr": 0.5})
    one.finish(RECORD)
    assert heard == [
        str(tmp_path / "tensorboard"), ("add_text", "request", '```json\n{\n  "steps": 3\n}\n```'),
        ("add_scalar", "train/lr", 0.5, 4), ("add_scalar", "test/accuracy", 0.5), ("add_scalar", "test/ece", 0.1), ("close",),
    ]  # fmt: skip


def test_files_of_mlflow_are_beside_the_run_unless_a_server_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refuses files unless it is told that they are meant."""
    made: list[str] = []
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=made.append))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "")
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there")
    logger("mlflow", tmp_path / "run")
    assert "MLFLOW_ALLOW_FILE_STORE" not in os.environ
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    logger("mlflow", tmp_path / "run")
    assert os.environ["MLFLOW_ALLOW_FILE_STORE"] == "true"
    assert made == ["http://there", (tmp_path.resolve() / "mlruns").as_uri()]


def test_mlflow_keeps_one_run_of_an_interrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    tell("mlflow", tmp_path / "run")
    client = mlflow.MlflowClient((tmp_path / "mlruns").as_uri())
    [run] = client.search_runs([client.get_experiment_by_name("petiole").experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    assert run.data.params["settings.recipe.lr"] == "0.1"
    assert run.data.metrics["test/accuracy"] == 0.5
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(0, 2.5), (1, 1.5)]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_calls_of_weights_and_biases(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []
    run = SimpleNamespace(
        log=lambda values, step=None: heard.append((step, values)),
        finish=lambda: heard.append("finish"),
    )
    made: list[dict[str, Any]] = []
    fake = SimpleNamespace(init=lambda **given: (made.append(given), run)[1])
    monkeypatch.setitem(sys.modules, name, fake)
    tell(name, tmp_path / "run")
    assert heard[0] == (0, {"train/loss": 2.5, "train/lr": 1e-3})
    assert heard[-2:] == [(None, {"test/accuracy": 0.5, "test/ece": 0.1}), "finish"]
    one, two = made
    assert one == two  # so that the second goes on with the first
    assert (one["project"], one["resume"]) == ("petiole", "allow")
    assert one["config"]["settings.rank"] == 4
    own = hashlib.sha256(str((tmp_path / "run").resolve()).encode()).hexdigest()
    if name == "trackio":
        assert one["name"] == f"run-{own[:6]}"
    else:
        assert (one["name"], one["id"], one["dir"]) == (
            "run",
            own[:16],
            str((tmp_path / "run").resolve()),
        )


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:///nowhere")
    with pytest.raises(ConfigError, match="pip install mlflow"):
        logger("mlflow", tmp_path)
