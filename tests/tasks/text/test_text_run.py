"""A run on texts: training on several tasks, its record and adapter, interruption, processes."""

import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import log_softmax

from builders.processes import alone, start, two_ranks
from petiole.engine.record import read_record
from petiole.engine.run import RunSpec, run
from petiole.errors import AdapterError, ConfigError, RunError
from petiole.tasks.text.adapter import TextAdapter, method_of
from petiole.tasks.text.collator import Collator
from petiole.tasks.text.model import AdaptedTextModel, GenerationLoss
from petiole.tasks.text.registry import find
from petiole.tasks.text.training import answers
from petiole.tasks.text.workspace import TextWorkspace
from petiole.testing import encoder_decoder as tiny
from training_for_tests import learned

SETTINGS = {"steps": 6, "batch_size": 4, "lr": 3e-3, "dropout": True}


def text_run(folder: Path, method: str = "vl-adapter") -> tuple[RunSpec, TextWorkspace]:
    return tiny.text_run(folder, method, SETTINGS)


def adapted(method: str = "vl-adapters", *, tasks: int = 3) -> AdaptedTextModel:
    model = tiny.model()
    torch.manual_seed(0)
    return AdaptedTextModel(model, method_of(method, {"tasks": tasks}).plan(model))


def rows_of(tasks: list, count: int = 4) -> list:  # type: ignore[type-arg]
    return [(n, data.parts["train"][i]) for i in range(count) for n, data in enumerate(tasks)]


def test_a_run_leaves_scores_predictions_an_adapter_and_checksums(tmp_path: Path) -> None:
    record = run(*text_run(tmp_path))
    assert list(record.scores) == ["vqa", "nlvr", "caption"]
    assert [next(iter(m)) for m in record.scores.values()] == ["vqa_accuracy", "accuracy", "cider"]
    lines = (tmp_path / "predictions" / "nlvr.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert {row["prediction"] for row in rows} <= {"true", "false"}
    assert np.mean([row["score"] for row in rows]) == pytest.approx(
        record.scores["nlvr"]["accuracy"]
    )
    assert read_record(tmp_path) == record
    assert not (tmp_path / "checkpoint.safetensors").exists()
    # Three tasks were opened, each once.
    assert len((tmp_path / "test_evaluations.jsonl").read_text().splitlines()) == 3


def test_the_loss_is_the_published_one() -> None:
    """Sample means times soft scores for VQA and NLVR, one token mean for captions, by B_t / B."""
    made, tasks = adapted(), tiny.tasks()
    collator, rows = Collator(made.model, tasks), rows_of(tasks)
    batch = collator.batch(rows, np.random.default_rng(3))
    loss_module = GenerationLoss(made).eval()
    with torch.no_grad():
        got = float(loss_module(batch))
        scores = log_softmax(made(batch.inputs, batch.labels, batch.tasks).double(), dim=-1)
    rng = np.random.default_rng(3)
    drawn = []
    for _, sample in rows:
        left, chosen = rng.random() * sum(sample.targets.values()), None
        for answer, weight in sample.targets.items():
            if chosen is None and left < weight:
                chosen = (answer, weight)
            left -= weight
        drawn.append(chosen)
    total = {"sample": 0.0, "token": [0.0, 0]}
    for i, (number, _) in enumerate(rows):
        text, weight = drawn[i]  # type: ignore[misc]
        ids = collator.tokenizer(text)
        nll = -sum(float(scores[i, j, token]) for j, token in enumerate(ids))
        if number == 2:
            total["token"][0] += nll  # type: ignore[index]
            total["token"][1] += len(ids)  # type: ignore[index]
        else:
            total["sample"] += weight * nll / len(ids)  # type: ignore[operator]
    summed, count = total["token"]  # type: ignore[misc]
    want = total["sample"] / len(rows) + 4 / len(rows) * summed / count  # type: ignore[operator]
    assert got == pytest.approx(want, rel=1e-5)


def test_a_mixed_batch_is_its_tasks_one_by_one() -> None:
    """Scores of each row, and the gradient: sum over tasks of B_t / B times that of the task alone."""
    made, tasks = adapted(), tiny.tasks()
    collator, rows = Collator(made.model, tasks), rows_of(tasks)
    batch = collator.batch(rows, np.random.default_rng(0))
    loss_module = GenerationLoss(made).eval()
    with torch.no_grad():
        mixed = made(batch.inputs, batch.labels, batch.tasks)
    torch.autograd.backward(loss_module(batch))
    got = {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}
    made.zero_grad()
    labels, weights = batch.labels, batch.weights
    for number in range(3):
        chosen = [i for i, (n, _) in enumerate(rows) if n == number]
        alone = collator.batch([rows[i] for i in chosen], np.random.default_rng(0))
        with torch.no_grad():
            single = made(alone.inputs, labels[chosen], alone.tasks)
        torch.testing.assert_close(mixed[chosen], single, rtol=0, atol=2e-6)
        same = replace(alone, labels=labels[chosen], weights=weights[chosen])
        torch.autograd.backward(loss_module(same))
    for name, p in made.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, got[name], rtol=1e-4, atol=1e-6)


def test_a_task_alone_trains_its_own_layers_only() -> None:
    made, tasks = adapted(), tiny.tasks()
    batch = Collator(made.model, tasks).batch(
        [(1, s) for s in tasks[1].parts["train"]], np.random.default_rng(0)
    )
    torch.autograd.backward(GenerationLoss(made)(batch))
    touched = {
        n.split(".layers.")[1][0]
        for n, p in made.named_parameters()
        if ".layers." in n and p.grad is not None
    }
    assert touched == {"1"}


def test_a_saved_adapter_answers_alike_in_a_fresh_model(tmp_path: Path) -> None:
    task = find("vqa")
    spec, workspace = text_run(tmp_path)
    run(spec, workspace)
    again = TextAdapter.load(tmp_path, backbone=tiny.model())
    collator = Collator(again.adapted.model, workspace.tasks)
    test = workspace.tasks[0].parts["test"]
    said = answers(again.adapted, collator, 0, test)
    rows = (tmp_path / "predictions" / "vqa.jsonl").read_text().splitlines()
    assert said == [json.loads(row)["prediction"] for row in rows]
    assert task.by_sample(test, said)
    tensors = load_file(tmp_path / "adapter" / "adapter.safetensors")
    # Complete: the V->L block with its untrained codes, norms, adapters.
    assert "tuned.visual/codes" in tensors
    assert any("layer_norm" in name for name in tensors)


def test_another_model_is_refused(tmp_path: Path) -> None:
    run(*text_run(tmp_path))
    other = tiny.model()
    with torch.no_grad():
        other.module.language.get_parameter("model.shared.weight")[5, 5] += 1
    with pytest.raises(AdapterError, match="fingerprint"):
        TextAdapter.load(tmp_path, backbone=other)


def test_a_method_for_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="vl-"):
        run(*text_run(tmp_path, "houlsby"))


def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path: Path) -> None:
    whole = run(*text_run(tmp_path / "whole"))
    spec, workspace = text_run(tmp_path / "cut")
    file = tmp_path / "cut" / "checkpoint.safetensors"
    stopped = start(SLOW, tmp_path / "cut", cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 120
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    stopped.send_signal(signal.SIGKILL)
    stopped.wait()
    assert file.exists()
    with pytest.raises(RunError, match="--resume"):
        run(spec, workspace)
    record = run(replace(spec, resume=True), workspace)
    name = "adapter/adapter.safetensors"
    assert record.files[name] == whole.files[name]
    assert learned(load_file(tmp_path / "whole" / name))
    with pytest.raises(RunError, match=r"settings\.lr"):
        run(replace(spec, resume=True, settings={**SETTINGS, "lr": 1e-4}), workspace)


SLOW = """
import sys, time
from pathlib import Path
sys.path[:0] = ["tasks/text", "."]
from petiole.engine.run import run
from petiole.engine.trainer import Trainer
save = Trainer._save
def slowly(self, *rest):
    save(self, *rest)
    time.sleep(30)
Trainer._save = slowly
from test_text_run import text_run
run(*text_run(Path(sys.argv[1])))
"""

TOGETHER = """
import sys
from pathlib import Path
sys.path[:0] = ["tasks/text", "."]
import torch
from petiole.testing import encoder_decoder as tiny
from petiole.tasks.text.training import TextOptions, train
from petiole.engine.trainer import Callbacks
from petiole.tasks.text.adapter import method_of
from petiole.tasks.text.collator import Collator
from petiole.files import write_tensors
model, options = tiny.model(), TextOptions(mode="mixed")
method = method_of("vl-adapter", {"steps": 4, "batch_size": 12, "tasks": 3, "dropout": False, "lr": 1e-3, "clip": 0.0})
torch.manual_seed(0)
from petiole.tasks.text.model import AdaptedTextModel
one = AdaptedTextModel(model, method.plan(model))
train(one, Collator(model, tiny.tasks()), method.recipe, options, seed=0, callbacks=Callbacks(quiet=True))
write_tensors(Path(sys.argv[1]) / sys.argv[2], one.state_dict())
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distribution")
def test_two_processes_average_to_the_step_of_one(tmp_path: Path) -> None:
    started = [
        start(TOGETHER, tmp_path, name, cwd=Path(__file__).parents[2], environment=environment)
        for name, environment in zip(
            ("rank0", "rank1", "alone"), (*two_ranks(), alone()), strict=True
        )
    ]
    assert [p.wait() for p in started] == [0, 0, 0]
    want = load_file(tmp_path / "alone")
    for rank in ("rank0", "rank1"):
        got = load_file(tmp_path / rank)
        for name, tensor in want.items():
            torch.testing.assert_close(got[name], tensor, rtol=0, atol=2e-4)
