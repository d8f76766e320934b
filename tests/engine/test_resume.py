"""A run that was killed or interrupted goes on to the same bits."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from builders.processes import petiole_process
from petiole.engine import checkpoint
from petiole.engine.record import LOG, REQUEST, read_log, read_record
from petiole.engine.run import CHECKPOINT, RunSpec, run
from petiole.errors import RunError
from petiole.files import sealed, sha256
from petiole.tasks.classification.workspace import Classification, Subset
from training_for_tests import learned

STEPS = 150
SETTINGS = {"steps": STEPS, "views": 1}


def adapter_of(folder: Path) -> str:
    return sha256(folder / "adapter" / "adapter.safetensors")


@pytest.fixture(scope="module")
def whole(bench: Classification, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunSpec, str]:
    """An uninterrupted run and its adapter's checksum."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    options = Subset(3, calibration_folds=None)  # as the command's
    job = RunSpec(bench, "cls-residual-lora", folder, SETTINGS, options)
    run(job)
    assert learned(load_file(folder / "adapter" / "adapter.safetensors"))
    return job, adapter_of(folder)


def test_a_checkpoint_that_a_finished_run_left_is_taken_away(whole: tuple[RunSpec, str]) -> None:
    """It was killed between its record and the end."""
    job, _ = whole
    (job.folder / CHECKPOINT).write_bytes(b"anything")
    run(replace(job, resume=True))
    assert not (job.folder / CHECKPOINT).exists()


def command(job: RunSpec, folder: Path) -> list[str]:
    b = job.task
    settings = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    return [
        *("fit", str(b.images), "--source", str(b.source)),
        *("--method", job.method),
        *("--image-size", "32", "--cache-dir", str(b.cache), "--shots", "3", *settings),
        *("--checkpoint-seconds", "0", "--out", str(folder), "--quiet"),
    ]


def stop(job: RunSpec, folder: Path, how: signal.Signals, after: int) -> tuple[int, str]:
    """Start a fit, send a signal once ``after`` steps are logged; exit code and what it said."""
    process = petiole_process(*command(job, folder))
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if len(read_log(folder)) * 10 > after:
            process.send_signal(how)
            break
        time.sleep(0.005)
    _, said = process.communicate(timeout=120)
    return process.returncode, said


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=lambda s: s.name)
def test_a_stopped_run_resumes_to_the_same_bits(
    whole: tuple[RunSpec, str], tmp_path: Path, how: signal.Signals
) -> None:
    job, wanted = whole
    folder = tmp_path / "run"
    code, said = stop(job, folder, how, after=random.randrange(15, 60))
    if how == signal.SIGINT:
        assert code == 130, said
        assert "--resume" in said
        assert "Traceback" not in said
    else:
        assert code == -signal.SIGKILL, said
    assert not (folder / "record.json").exists()
    assert (folder / "checkpoint.safetensors").exists()
    with pytest.raises(RunError, match=r"(?i)finish it with --resume"):
        read_record(folder)

    record = run(replace(job, folder=folder, resume=True))
    assert adapter_of(folder) == wanted
    assert record.test_evaluations == 1
    assert not (folder / "checkpoint.safetensors").exists()
    steps = [row["step"] for row in read_log(folder)]
    assert steps == [*range(0, STEPS, 10), STEPS - 1]
    assert read_log(folder) == read_log(job.folder)


def test_a_finished_run_is_returned_not_repeated(whole: tuple[RunSpec, str]) -> None:
    job, _ = whole
    before = {p: p.stat().st_mtime_ns for p in job.folder.rglob("*") if p.is_file()}
    record = run(replace(job, resume=True))
    assert record == read_record(job.folder)
    after = {p: p.stat().st_mtime_ns for p in job.folder.rglob("*") if p.is_file()}
    del before[job.folder / ".lock"], after[job.folder / ".lock"]
    assert after == before


def test_a_used_folder_needs_resume(whole: tuple[RunSpec, str]) -> None:
    with pytest.raises(RunError, match=r"already holds a run.*--resume.*--out"):
        run(whole[0])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"settings": {**SETTINGS, "lr": 0.5}}, "settings.lr: 0.001 -> 0.5"),
        ({"options": Subset(3, 2)}, "data.split_seed: 0 -> 2"),
        ({"method": "cosine"}, "method: 'cls-residual-lora' -> 'cosine'"),
    ],
    ids=["seed", "setting", "draw", "method"],
)
def test_other_settings_are_named(
    whole: tuple[RunSpec, str], change: dict[str, object], told: str
) -> None:
    with pytest.raises(RunError) as caught:
        run(replace(whole[0], resume=True, **change))
    assert told in str(caught.value)
    assert "--out" in str(caught.value)


def test_what_was_left_unfinished_beside_a_complete_run_is_swept(
    whole: tuple[RunSpec, str],
) -> None:
    """As a command does that is killed while it writes its configuration, after the record."""
    left = whole[0].folder / ".tmp-0-config.toml"
    left.write_text("")
    run(replace(whole[0], resume=True))
    assert not left.exists()


def test_a_damaged_request_is_explained(whole: tuple[RunSpec, str], tmp_path: Path) -> None:
    (tmp_path / REQUEST).write_text("{")
    with pytest.raises(RunError, match=r"request.json is damaged"):
        run(replace(whole[0], folder=tmp_path, resume=True))


LOCK = """
import sys, filelock
lock = filelock.FileLock(sys.argv[1] + "/.lock")
lock.acquire()
print("locked", flush=True)
sys.stdin.readline()
"""


def test_a_folder_in_use_is_refused(whole: tuple[RunSpec, str], tmp_path: Path) -> None:
    job = replace(whole[0], folder=tmp_path, method="linear-probe", settings={"steps": 1})
    with subprocess.Popen(
        [sys.executable, "-c", LOCK, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(RunError, match="Another process works in"):
            run(job)
        os.kill(holder.pid, signal.SIGKILL)
    run(job)


def test_a_folder_that_cannot_be_made_is_explained(
    whole: tuple[RunSpec, str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="--out"):
        run(replace(whole[0], folder=tmp_path / "file" / "run"))


def trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for _ in range(3):
        model(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def test_a_checkpoint_restores_model_and_moments(tmp_path: Path) -> None:
    model, optimizer = trained()
    checkpoint.save(tmp_path / "c", 3, "me", model, optimizer)
    fresh = torch.nn.Linear(3, 2)
    other = torch.optim.AdamW(fresh.parameters(), fused=True)
    assert checkpoint.load(tmp_path / "c", "me", fresh, other) == 3
    x = torch.randn(4, 3)
    for m, o in ((model, optimizer), (fresh, other)):
        m(x).square().sum().backward()
        o.step()
    assert torch.equal(model.weight, fresh.weight)
    assert torch.equal(model.bias, fresh.bias)


def test_a_checkpoint_of_another_request_is_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c", 3, "me", *trained())
    with pytest.raises(RunError, match="other settings, data or weights"):
        checkpoint.load(tmp_path / "c", "you", *trained())


@pytest.mark.parametrize("keep", [0, 5, 200, -9])
def test_a_truncated_checkpoint_is_explained(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "c"
    checkpoint.save(file, 3, "me", *trained())
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(RunError, match=r"is damaged.*Delete this file"):
        checkpoint.load(file, "me", *trained())


def test_a_checkpoint_of_another_shape_is_explained(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c", 3, "me", *trained())
    model = torch.nn.Linear(4, 2)
    with pytest.raises(RunError, match="is damaged"):
        checkpoint.load(tmp_path / "c", "me", model, torch.optim.AdamW(model.parameters()))


def test_the_log_reads_each_step_once_and_passes_over_a_torn_line(tmp_path: Path) -> None:
    rows = [
        {"step": step, "loss": loss, "lr": 0.1} for step, loss in ((0, 3.0), (10, 2.0), (20, 1.5))
    ]
    text = "".join(json.dumps(sealed(r)) + "\n" for r in [*rows, {**rows[1], "loss": 2.5}])
    (tmp_path / LOG).write_text(text + '{"step": 20, "lo')
    with pytest.warns(UserWarning, match="line 5: left unfinished") as caught:
        found = read_log(tmp_path)
    assert caught[0].filename == __file__, "it names who asked"
    assert [(r["step"], r["loss"]) for r in found] == [(0, 3.0), (10, 2.5), (20, 1.5)]
    assert read_log(tmp_path / "absent") == []
