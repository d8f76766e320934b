"""``petiole fit --method craft``, ``eval`` and ``predict`` through the real command line, on the packaged models."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from builders.multitask import say
from builders.processes import petiole_process
from petiole.data.synthetic.boards import write
from petiole.files import sha256

A, B, C = "petiole/tiny-lvlm", "petiole/tiny-lvlm-gpt2", "petiole/tiny-lvlm-lfm2"


def petiole(*words: object, cwd: Path, code: int = 0) -> str:
    """What the command prints; on an error what it says of it."""
    with chdir(cwd):
        said = say(*words)
    assert said.code == code, said.err
    return said.err if code else said.out


def as_json(*words: object, cwd: Path) -> Any:
    return json.loads(petiole(*words, "--json", cwd=cwd))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A few steps on the x-ray domain, scored before two language models."""
    root = tmp_path_factory.mktemp("craft")
    write(root / "xray", "xray", train=96, val=10, test=24)
    command = ["fit", "xray", "--method", "craft", "--set", "steps=6", "--out", "run", "--quiet"]
    record = as_json(*command, "--language-model", B, "--precision", "bf16", cwd=root)["record"]
    return SimpleNamespace(root=root, record=record, image=next((root / "xray/images").iterdir()))


def test_a_run_scores_every_language_model_and_says_how_codes_moved(
    fitted: SimpleNamespace,
) -> None:
    record, root = fitted.record, fitted.root
    assert list(record["scores"]) == [A, B]
    for name, scores in record["scores"].items():
        rows = _rows(root / "run/predictions" / f"{name.replace('/', '-')}.jsonl")
        assert scores["exact_match"] == pytest.approx(sum(r["score"] for r in rows) / len(rows))
    assert record["diagnosis"]["start"]["flip_rate"] == 0 < record["diagnosis"]["end"]["flip_rate"]
    assert [r["step"] for r in _rows(root / "run/diagnostics.jsonl")] == [0]
    assert len(_rows(root / "run/test_evaluations.jsonl")) == 1


def test_predict_says_what_was_scored_and_another_language_model_may_answer(
    fitted: SimpleNamespace,
) -> None:
    root = fitted.root
    first = _rows(root / "run/predictions/petiole-tiny-lvlm.jsonl")[0]
    image = next(r["image"] for r in _rows(root / "xray/test.jsonl") if r["id"] == first["key"])
    asked = [f"xray/{image}", "--question", first["text"], "--language-model"]
    [row] = as_json("predict", "run/adapter", *asked, A, cwd=root)["predictions"]
    assert row["label"] == first["prediction"]
    third = as_json("predict", "run", *asked, C, cwd=root)
    assert third["model"] == C
    assert third["predictions"][0]["label"]


def test_eval_gives_the_record_again_and_counts_test_evaluations(fitted: SimpleNamespace) -> None:
    scored = as_json("eval", "run", "xray", "--language-model", A, B, cwd=fitted.root)
    assert {n: s["exact_match"] for n, s in scored["scores"].items()} == {
        n: s["exact_match"] for n, s in fitted.record["scores"].items()
    }
    assert scored["test_evaluations"] == 1
    pruned = as_json("eval", "run", "xray", "--keep", "0.5", "--route", cwd=fitted.root)
    assert list(pruned["scores"]) == [A]
    assert pruned["test_evaluations"] == 2
    assert 0 <= tuned_share(pruned) <= 1


def test_a_general_picture_is_routed_to_the_original_encoder(fitted: SimpleNamespace) -> None:
    root = fitted.root
    write(root / "base", "base", train=1, val=1, test=24)
    general = as_json("eval", "run", "base", "--route", cwd=root)
    own = as_json("eval", "run", "xray", "--route", cwd=root)
    assert tuned_share(general) < 0.2 < 0.8 < tuned_share(own)


def test_class_folders_are_asked_as_questions(tmp_path: Path) -> None:
    for part, count in (("train", 6), ("test", 3)):
        for i, name in enumerate(("red", "blue")):
            folder = tmp_path / "colours" / part / name
            folder.mkdir(parents=True)
            for k in range(count):
                colour = (200 + k, 0, 0) if i == 0 else (0, 0, 200 + k)
                Image.new("RGB", (60, 50), colour).save(folder / f"{part}{k}.png")
    command = ["fit", "colours", "--method", "craft", "--set", "steps=1", "--quiet"]
    record = as_json(*command, cwd=tmp_path)["record"]
    assert record["request"]["data"]["samples"] == {"train": 12, "test": 6}
    (run,) = (tmp_path / "runs").glob("colours-craft-seed0-*")
    row = _rows(run / "predictions/petiole-tiny-lvlm.jsonl")[0]
    assert row["text"] == "What is shown? Answer with one of: blue, red."


def test_killed_and_resumed_it_is_the_same_encoder(tmp_path: Path) -> None:
    write(tmp_path / "xray", "xray", train=64, val=1, test=4)
    options = ["--method", "craft", "--set", "steps=12", "--set", "batch_size=16", "--quiet"]
    killed = ("--out", "killed", "--checkpoint-seconds", "0")
    running = petiole_process("fit", "xray", *options, *killed, cwd=tmp_path)
    while not (tmp_path / "killed/checkpoint.safetensors").exists():
        assert running.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "killed/record.json").exists()
    petiole("fit", "xray", *options, "--out", "killed", "--resume", cwd=tmp_path)
    petiole("fit", "xray", *options, "--out", "whole", cwd=tmp_path)
    both = [sha256(tmp_path / run / "adapter/adapter.safetensors") for run in ("killed", "whole")]
    assert both[0] == both[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("predict", "run", "xray/images/none.png", "--question", "how many things ?"),
            "none.png",
        ),
        (("predict", "run", "xray/images"), "needs a question"),
        (("predict", "run", "xray/images", "--question", "q"), "is a directory, not an image"),
        (("predict", "run", "a.png", "b.png", "--question", "q"), "is about one image, not 2"),
        (
            ("predict", "run", "x.png", "--question", "q", "--language-model", "petiole/tiny-vl"),
            "needs a frozen codebook",
        ),
        (("fit", "xray", "--method", "vision-ft", "--out", "no"), "continuous features"),
        (("fit", "xray/images", "--method", "craft", "--out", "no"), "holds no questions"),
        (
            ("fit", "xray", "--method", "craft", "--set", "encoder=linear-probe", "--out", "no"),
            "only a head",
        ),
        (("fit", "xray", "--method", "craft", "--out", "run"), "already holds a run"),
        (
            ("fit", "xray", "--method", "craft", "--set", "remember=1", "--out", "no2"),
            "general images",
        ),
        (("eval", "run", "xray", "--keep", "0"), "keep must be more than 0 and at most 1"),
        (("report", "xray"), "record.json is missing"),
    ],
)
def test_what_goes_wrong_is_told(
    fitted: SimpleNamespace, words: tuple[str, ...], said: str
) -> None:
    assert said in " ".join(petiole(*words, cwd=fitted.root, code=1).split())


def test_inspect_tells_what_an_encoder_fits(fitted: SimpleNamespace) -> None:
    facts = as_json("inspect", "run", cwd=fitted.root)["facts"]
    assert facts["language models"] == "every one over this codebook"
    assert facts["method"] == "craft"
    assert float(facts[f"exact match, {A}"]) == round(fitted.record["scores"][A]["exact_match"], 2)


def test_the_page_of_a_run_is_written_again(fitted: SimpleNamespace) -> None:
    page = fitted.root / "run" / "report.html"
    page.unlink()
    assert "run/report.html" in petiole("report", "run", cwd=fitted.root)
    assert B in page.read_text(encoding="utf-8")


def tuned_share(scored: Any) -> float:
    """Share of the images that the tuned encoder has seen, as the note of an evaluation says it."""
    [note] = [n for n in scored["notes"] if "went through the tuned encoder" in n]
    return float(note.partition(" %")[0]) / 100


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]
