"""A run over a codebook: record, files, diagnoses, repetition, interruption, processes."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from builders.processes import start, two_ranks
from petiole.backbones.codebook_lvlm import LVLM, causal
from petiole.backbones.codebook_lvlm.sharded import shard
from petiole.data.readers.jsonl import open_plain
from petiole.data.text_dataset import TextDataset
from petiole.engine import trainer
from petiole.engine.record import Record, read_record
from petiole.engine.run import RunSpec, run
from petiole.engine.run_lock import locked
from petiole.engine.together import open_group
from petiole.errors import BackboneError, ConfigError, DataError, RunError
from petiole.files import SEAL, sha256
from petiole.layers.token_pruning import Pruning
from petiole.methods.base import Changes
from petiole.methods.registry import methods
from petiole.tasks.codebook import task, training
from petiole.tasks.codebook.adapter import CodebookAdapter, build_model, is_lvlm_method, method_of
from petiole.tasks.codebook.images import ImageFolder
from petiole.tasks.codebook.model import AdaptedCodebookModel
from petiole.tasks.codebook.training import CodebookOptions, train
from petiole.tasks.codebook.workspace import CodebookWorkspace
from petiole.testing import codebook_lvlm as tiny
from training_for_tests import learned

SETTINGS = {"steps": 6, "batch_size": 4, "lr": 3e-3}
METHODS = [name for name in methods() if is_lvlm_method(name)]
FILE = "adapter/adapter.safetensors"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of two domains."""
    folder = tmp_path_factory.mktemp("inquiry")
    tiny.data(folder / "sketch", train=12, test=6)
    tiny.data(folder / "base", "base", train=8, test=2)
    return folder


@cache
def models(discrete: bool = True) -> tuple[LVLM, LVLM]:
    """A surrogate and another model, over one tower."""
    tower = tiny.tower()
    return tiny.model(over=tower, discrete=discrete), tiny.model(
        "gpt2", over=tower, discrete=discrete
    )


def codebook_run(
    home: Path,
    folder: Path,
    method: str = "craft",
    *,
    model: LVLM | None = None,
    data: TextDataset | None = None,
    pruning: Pruning | None = None,
    **changes: Any,
) -> tuple[RunSpec, CodebookWorkspace]:
    discrete = getattr(methods()[method].cls, "discrete", None) is not False
    settings = changes.pop("settings", SETTINGS if method != "lvlm-zero-shot" else {})
    return tiny.codebook_run(
        folder,
        model or models(discrete)[0],
        data or open_plain(home / "sketch"),
        method,
        settings,
        options=CodebookOptions(pruning=pruning),
        **changes,
    )


def lines(file: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != SEAL} for row in rows]


def test_a_run_leaves_all_that_it_promises(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task, "EVERY", 3)
    monkeypatch.setattr(trainer, "LOG_EVERY", 1)
    answers, told = training.answers, []

    def overheard(
        adapted: Any, vision_outputs: Any, samples: Any, pruning: Any, p: Any, **rest: Any
    ) -> Any:
        told.append(p)
        return answers(adapted, vision_outputs, samples, pruning, p, **rest)

    monkeypatch.setattr(training, "answers", overheard)
    surrogate, other = models()
    before = tiny.hashes(surrogate), tiny.hashes(other)
    spec, made = codebook_run(home, tmp_path, others=(other,), pruning=Pruning(0.5))
    record = run(spec, made)
    assert (tiny.hashes(surrogate), tiny.hashes(other)) == before
    assert list(record.scores) == ["tiny-llama", "tiny-gpt2"]
    assert all(next(iter(s)) == "exact_match" for s in record.scores.values())
    assert read_record(tmp_path) == record
    assert [row["step"] for row in lines(tmp_path / "diagnostics.jsonl")] == [0, 3, 6]
    first, *_, last = lines(tmp_path / "diagnostics.jsonl")
    assert first.pop("step") == 0
    assert first == record.diagnosis["start"]
    assert first["flip_rate"] == 0
    del last["step"]
    assert last == record.diagnosis["end"]
    assert last["flip_rate"] > 0
    log = lines(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in log] == list(range(6))
    assert all(row.keys() == {"step", "loss", "lr"} for row in log)
    assert {
        "request.json",
        "metrics.jsonl",
        "diagnostics.jsonl",
        "predictions/tiny-llama.jsonl",
        "predictions/tiny-gpt2.jsonl",
        "adapter/adapter.json",
        FILE,
    } == record.files.keys()
    assert all(sha256(tmp_path / name) == digest for name, digest in record.files.items())
    assert not (tmp_path / "checkpoint.safetensors").exists()
    assert len(lines(tmp_path / "test_evaluations.jsonl")) == 1  # opened once, for both models
    opened = CodebookAdapter.load(tmp_path, backbone=other)
    counted = opened.frequencies
    assert not torch.equal(counted.tuned, counted.original)
    assert [torch.equal(p, counted.tuned) for p in told] == [True, True]  # of the tuned encoder
    image_folder = ImageFolder(made.data.root, other.tower)
    assert record.ledger.trainable == sum(p.numel() for p in surrogate.tower.encoder.parameters())
    for adapted in (CodebookAdapter.load(tmp_path, backbone=surrogate).adapted, opened.adapted):
        rows = lines(tmp_path / "predictions" / f"{adapted.model.name}.jsonl")
        assert [row["key"] for row in rows] == [s.key for s in made.data["test"]]
        with torch.no_grad():
            for row, sample in zip(rows, made.data["test"], strict=True):
                said = adapted.answer(
                    adapted.encode_images(image_folder(list(sample.images))),
                    [sample.text],
                    pruning=Pruning(0.5),
                    frequencies=counted.tuned,
                )
                assert row["prediction"] == said[0]
                assert row["references"] == list(sample.references)
        mean = sum(row["score"] for row in rows) / len(rows)
        assert record.scores[adapted.model.name]["exact_match"] == pytest.approx(mean)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs(home: Path, tmp_path: Path, method: str) -> None:
    spec, made = codebook_run(home, tmp_path, method)
    before = tiny.hashes(made.model)
    record = run(spec, made)
    assert tiny.hashes(made.model) == before
    assert (record.ledger.trainable > 0) == (method != "lvlm-zero-shot")
    moved = record.diagnosis["end"]["flip_rate"] > 0
    assert moved == (method in ("craft", "vision-ft-discrete", "vision-ft", "ldifs"))
    bare = AdaptedCodebookModel(made.model, Changes(), Changes())
    tensors = load_file(tmp_path / FILE)
    assert torch.equal(tensors["frequencies.tuned"], tensors["frequencies.original"]) == (not moved)
    assert bare.state_dict() == {}
    if method == "lvlm-zero-shot":
        assert tensors.keys() == {"frequencies.tuned", "frequencies.original"}
        assert not (tmp_path / "metrics.jsonl").exists()


def losses(home: Path, folder: Path, **changes: Any) -> tuple[list[float], Record]:
    chosen = {**SETTINGS, "steps": 10, "encoder": "lora-qkv"}
    record = run(*codebook_run(home, folder, settings=chosen, **changes))
    return [row["loss"] for row in lines(folder / "metrics.jsonl")], record


def test_a_seed_fixes_the_first_ten_losses(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "LOG_EVERY", 1)
    torch.manual_seed(1)
    first, record = losses(home, tmp_path / "a")
    torch.manual_seed(2)  # what happened before plays no part
    again, repeated = losses(home, tmp_path / "b")
    assert len(first) == 10
    assert first == again
    assert record.files[FILE] == repeated.files[FILE]
    assert record.id == repeated.id
    assert record.scores == repeated.scores
    other, third = losses(home, tmp_path / "c", seed=1)
    assert other != first
    assert third.id != record.id


def test_general_images_are_remembered(home: Path, tmp_path: Path) -> None:
    general = open_plain(home / "base")
    weak = run(*codebook_run(home, tmp_path / "without"))
    wish = {**SETTINGS, "remember": 5.0}
    strong = run(*codebook_run(home, tmp_path / "with", settings=wish, general=general))
    assert strong.request.data.digests["general"] == general.digest()
    assert "general" not in weak.request.data.digests

    def forgot(folder: Path) -> float:
        adapted = CodebookAdapter.load(folder, backbone=models()[0]).adapted
        pictures = ImageFolder(general.root, adapted.model.tower)(general.images)
        with torch.no_grad():
            now, was = adapted.encode_images(pictures), adapted.model.tower.encode_images(pictures)
            return float((now.z - was.partials[-1]).square().mean())

    assert forgot(tmp_path / "with") < forgot(tmp_path / "without")
    with pytest.raises(DataError, match="general"):
        run(*codebook_run(home, tmp_path / "none", settings=wish))


def test_wrong_requests_are_refused_before_anything_is_written(home: Path, tmp_path: Path) -> None:
    twin = models(discrete=False)[0]
    with pytest.raises(ConfigError, match="codes"):
        run(*codebook_run(home, tmp_path / "a", model=twin))
    with pytest.raises(ConfigError, match="continuous"):
        run(*codebook_run(home, tmp_path / "a", "vision-ft", model=models()[0]))
    with pytest.raises(BackboneError, match="sha256"):
        run(*codebook_run(home, tmp_path / "a", others=(tiny.model("gpt2", tiny.tower(seed=5)),)))
    with pytest.raises(ConfigError, match="craft"):
        run(*codebook_run(home, tmp_path / "a", "linear-probe"))
    data = open_plain(home / "sketch")
    two = replace(data["train"][0], images=data["train"][0].images * 2)
    data = replace(data, parts={**data.parts, "train": (two,)})
    with pytest.raises(DataError, match="one image"):
        run(*codebook_run(home, tmp_path / "a", data=data))
    assert not (tmp_path / "a").exists()


def test_a_folder_holds_one_run_and_one_writer(home: Path, tmp_path: Path) -> None:
    spec, made = codebook_run(home, tmp_path)
    with locked(tmp_path), pytest.raises(RunError, match="Another process"):
        run(spec, made)
    assert not (tmp_path / "request.json").exists()
    record = run(spec, made)
    stamp = (tmp_path / FILE).stat().st_mtime_ns
    with pytest.raises(RunError, match="--resume"):
        run(spec, made)
    assert run(replace(spec, resume=True), made) == record  # as it is
    assert (tmp_path / FILE).stat().st_mtime_ns == stamp
    assert len(lines(tmp_path / "test_evaluations.jsonl")) == 1
    for change in (
        {"settings": {**SETTINGS, "lr": 1e-4}},
        {"seed": 1},
        {"pruning": Pruning(0.5)},
        {"others": (models()[1],)},
        {"general": made.data},
        {"data": open_plain(home / "base")},
    ):
        with pytest.raises(RunError, match="other settings"):
            run(*codebook_run(home, tmp_path, resume=True, **change))


class Stopped(Exception):
    """Stands for the loss of power."""


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("craft", {}),
        ("craft", {"encoder": "lora-qkv", "encoder_settings": {"dropout": 0.3}}),
        ("llm-lora", {}),
    ],
    ids=str,
)
def test_a_run_cut_anywhere_ends_in_the_same_bits(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, settings: Any
) -> None:
    chosen = {**SETTINGS, **settings}
    whole = run(*codebook_run(home, tmp_path / "whole", method, settings=chosen))
    spec, made = codebook_run(home, tmp_path / "cut", method, settings=chosen)
    save = trainer.Trainer._save
    for last in (2, 5):

        def stops(self: Any, callbacks: Any, step: int, kept: Any, last: int = last) -> None:
            save(self, callbacks, step, kept)
            if step == last:
                raise Stopped

        with monkeypatch.context() as patch:
            patch.setattr(trainer.Trainer, "_save", stops)
            with pytest.raises(Stopped):
                run(replace(spec, resume=last > 2), made)
    record = run(replace(spec, resume=True), made)
    assert record.files[FILE] == whole.files[FILE]
    assert learned(load_file(tmp_path / "whole" / FILE))
    assert record.scores == whole.scores
    assert record.diagnosis == whole.diagnosis
    for name in ("metrics.jsonl", "predictions/tiny-llama.jsonl"):
        rows = lines(tmp_path / "cut" / name)
        assert [r for i, r in enumerate(rows) if r not in rows[:i]] == lines(
            tmp_path / "whole" / name
        )


def test_a_killed_run_resumes_to_the_same_bits(home: Path, tmp_path: Path) -> None:
    """In another process, which also opens the file of this one."""
    whole = run(*codebook_run(home, tmp_path / "whole"))
    file = tmp_path / "cut" / "checkpoint.safetensors"
    stopped = start(SLOW, home, tmp_path, cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 540
    while not file.exists() and time.monotonic() < deadline and stopped.poll() is None:
        time.sleep(0.02)
    stopped.send_signal(signal.SIGKILL)
    stopped.wait()
    assert file.exists()
    assert (tmp_path / "hash").read_text() == tensors_of(tmp_path / "whole")
    spec, made = codebook_run(home, tmp_path / "cut")
    with pytest.raises(RunError, match="--resume"):
        run(spec, made)
    record = run(replace(spec, resume=True), made)
    assert record.files[FILE] == whole.files[FILE]
    assert record.id == whole.id


def tensors_of(folder: Path) -> str:
    """Everything that an opened file holds and sees."""
    opened = CodebookAdapter.load(folder, backbone=models()[0])
    with torch.no_grad():
        vision_output = opened.adapted.encode_images(tiny.pictures())
    tensors = [*opened.adapted.state_dict().values(), vision_output.z, vision_output.codes]
    return str([t.double().sum().item() for t in tensors])


SLOW = """
import sys, time
from pathlib import Path
sys.path[:0] = ["tasks/codebook", "."]
import torch
torch.set_num_threads(1)
from petiole.engine import trainer
save = trainer.Trainer._save
def slowly(self, *rest):
    save(self, *rest)
    time.sleep(60)
trainer.Trainer._save = slowly
from test_codebook_run import codebook_run, run, tensors_of
home, folder = map(Path, sys.argv[1:])
(folder / "hash").write_text(tensors_of(folder / "whole"))
run(*codebook_run(home, folder / "cut"))
"""

SHORT = {"steps": 4, "batch_size": 6, "lr": 1e-3, "contrast": 0, "clip": 0.0}


def together(home: Path, out: Path) -> None:
    """Four steps on answers of one word, so that halves of a batch weigh the same."""
    data = open_plain(home / "sketch")
    short = tuple(replace(s, targets={"red": 1.0}) for s in data["train"])
    method, model = method_of("craft", SHORT), models()[0]
    torch.manual_seed(0)
    adapted = build_model(method, model)
    image_folder = ImageFolder(data.root, model.tower)
    train(adapted, method, image_folder, short, seed=0, callbacks=trainer.Callbacks(quiet=True))
    torch.save(adapted.state_dict(), out)


def sharded(home: Path, folder: Path, fsdp: str = "") -> None:
    """A run of those steps, scored before two language models; where named so, these are spread over the processes."""
    data = open_plain(home / "sketch")
    short = tuple(replace(s, targets={"red": 1.0}) for s in data["train"])
    surrogate, other = models()
    if fsdp:
        open_group("cpu")
        for model in (surrogate, other):
            shard(model, "cpu")
            first = next(causal.blocks(model.module.language)[1].parameters())
            assert first.to_local().numel() < first.numel()  # type: ignore[attr-defined]
    data = replace(data, parts={**data.parts, "train": short})
    run(*codebook_run(home, folder, model=surrogate, settings=SHORT, data=data, others=(other,)))


SHARDED = """
import sys
from pathlib import Path
sys.path[:0] = ["tasks/codebook", "."]
import torch
torch.set_num_threads(1)
from test_codebook_run import sharded
sharded(*map(Path, sys.argv[1:3]), "fsdp")
"""

TOGETHER = """
import sys
from pathlib import Path
sys.path[:0] = ["tasks/codebook", "."]
import torch
torch.set_num_threads(1)
from test_codebook_run import together
together(*map(Path, sys.argv[1:]))
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distribution")
def test_two_processes_average_to_the_step_of_one(home: Path, tmp_path: Path) -> None:
    both = [
        start(
            TOGETHER,
            home,
            tmp_path / f"rank{rank}",
            cwd=Path(__file__).parents[2],
            environment=environment,
        )
        for rank, environment in enumerate(two_ranks())
    ]
    together(home, tmp_path / "alone")
    assert [p.wait() for p in both] == [0, 0]
    want = torch.load(tmp_path / "alone")
    for rank in range(2):
        got = torch.load(tmp_path / f"rank{rank}")
        for name, tensor in want.items():
            torch.testing.assert_close(got[name], tensor, rtol=0, atol=2e-4)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distribution")
def test_language_models_that_are_spread_teach_and_answer_as_whole_ones(
    home: Path, tmp_path: Path
) -> None:
    place = Path(__file__).parents[2]
    both = [
        start(SHARDED, home, tmp_path / "spread", cwd=place, environment=environment)
        for environment in two_ranks()
    ]
    sharded(home, tmp_path / "whole")
    outputs = [process.communicate() for process in both]
    assert [p.returncode for p in both] == [0, 0], [e[-1500:] for _, e in outputs]
    want, got = (load_file(tmp_path / name / FILE) for name in ("whole", "spread"))
    for name, tensor in want.items():
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=2e-4)
    record = read_record(tmp_path / "spread")
    assert record.scores == read_record(tmp_path / "whole").scores
    assert record.test_evaluations == 1


def test_one_process_alone_or_a_language_model_that_is_trained_is_not_spread(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.model(over=models()[0].tower)
    with pytest.raises(ConfigError, match="torchrun"):
        shard(model, "cpu")
    monkeypatch.setattr(model, "sharded", True)
    spec, workspace = codebook_run(home, tmp_path / "no", "projector-ft", model=model)
    with pytest.raises(ConfigError, match="Leave --fsdp out"):
        workspace.prepare(spec)
