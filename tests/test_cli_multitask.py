"""``petiole multitask`` through the real command line: a tiny BART folder, three tasks on disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import pytest
from safetensors.torch import load_file

from builders.multitask import (
    COUNTS,
    TASKS,
    World,
    measured,
    rows_of,
    say,
    task,
)
from builders.processes import start


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return measured(
        tmp_path_factory.mktemp("world"), "--methods", "vl-adapter", "vl-lora", "--seeds", 2
    )


def changed(command: Sequence[object], change: Sequence[object]) -> list[object]:
    """The command with an option's value replaced; a setting, or what it has not, is added."""
    if not change or change[0] == "--set" or change[0] not in command:
        return [*command, *change]
    place = list(command).index(change[0])
    return [*command[:place], *change, *command[place + 2 :]]


def test_a_measurement_leaves_a_table_runs_and_the_commonest_answer(world: World) -> None:
    assert world.said.code == 0, world.said.err
    result = world.said.json
    assert json.loads((world.out / "table.json").read_text()) == {
        k: v for k, v in result.items() if k != "folder"
    }
    assert list(result["metrics"]) == list(TASKS.values())
    assert [one["name"] for one in result["rows"]] == ["vl-adapter", "vl-lora"]
    for one in result["rows"]:
        for kind, interval in one["scores"].items():
            files = [world.run(one["name"], s) / "predictions" / f"{kind}.jsonl" for s in (0, 1)]
            means = [fmean(row["score"] for row in rows_of(file)) for file in files]
            assert 100 * interval["mean"] == pytest.approx(fmean(means))
        assert one["headline"]["mean"] == pytest.approx(
            fmean(interval["mean"] for interval in one["scores"].values())
        )
        assert 0 < one["trainable"] < one["total"]
    for row, seed in ((row, seed) for row in ("vl-adapter", "vl-lora") for seed in (0, 1)):
        assert len(rows_of(world.run(row, seed) / "test_evaluations.jsonl")) == len(TASKS)
        record = json.loads((world.run(row, seed) / "record.json").read_text())
        assert record["request"]["seed"] == seed
        assert not (world.run(row, seed) / "checkpoint.safetensors").exists()
    # What is right is counted here, from the files alone.
    answers = [row["answer"] for row in rows_of(world.root / "colours" / "train.jsonl")]
    commonest = max(sorted(set(answers)), key=answers.count)
    right = [row["answer"] == commonest for row in rows_of(world.root / "colours" / "test.jsonl")]
    assert result["majority"]["answers"] == pytest.approx(fmean(right))
    markdown = (world.out / "table.md").read_text()
    row = next(row for row in markdown.splitlines() if row.startswith("| the commonest answer"))
    assert f"| {100 * fmean(right):.1f} |" in row


def test_another_seed_is_another_adapter(world: World) -> None:
    one, two = (
        load_file(world.run(seed=seed) / "adapter" / "adapter.safetensors") for seed in (0, 1)
    )
    assert one.keys() == two.keys()
    assert any((one[name] != two[name]).any() for name in one)


def test_results_are_not_written_over(world: World) -> None:
    before = (world.out / "table.json").read_bytes()
    said = say(*world.command)
    assert said.code == 1
    assert "already holds a measurement. Add --resume" in said.err
    assert say(*world.command, "--resume").code == 0
    assert (world.out / "table.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--seeds", 3], "another measurement (seeds: 2 -> 3)"),
        (["--mode", "mixed"], "another measurement (mode: 'proportional' -> 'mixed')"),
        (["--set", "lr=0.5"], "other settings (settings.lr: "),
        (["--visual-tokens", 16], "backbone.visual_tokens: 25 -> 16"),
    ],
)
def test_another_request_is_refused_and_the_difference_named(
    world: World, change: list[object], words: str
) -> None:
    said = say(*changed(world.command, change), "--resume")
    assert said.code == 1
    assert words in said.err


SLOW = """
import sys, time
from petiole.engine.trainer import Trainer
run, save = Trainer.run, Trainer._save

def often(self, callbacks, **rest):
    callbacks.every = 0
    run(self, callbacks, **rest)
def slowly(self, *rest):
    save(self, *rest)
    time.sleep(60)

Trainer.run, Trainer._save = often, slowly
from petiole.cli import main
main(sys.argv[1:])
"""


def test_a_killed_measurement_resumes_to_the_same_adapters(world: World, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    command = ["multitask", *world.tasks("colours", "pairs"), *world.options(), "--seeds", 1]
    command += ["--methods", "vl-adapter"]
    assert say(*command, "--out", whole).code == 0
    stopped = start(SLOW, *command, "--out", cut)
    place = Path("runs/vl-adapter/seed-0")
    deadline = time.monotonic() + 120
    while not (cut / place / "checkpoint.safetensors").exists():
        assert stopped.poll() is None, stopped.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    stopped.send_signal(signal.SIGKILL)
    stopped.communicate()
    assert say(*command, "--out", cut, "--resume").code == 0
    one, two = (
        (root / place / "adapter" / "adapter.safetensors").read_bytes() for root in (whole, cut)
    )
    assert one == two
    predictions = (root / place / "predictions" / "answers.jsonl" for root in (whole, cut))
    assert len({file.read_bytes() for file in predictions}) == 1


def copied(world: World, tmp_path: Path, name: str = "colours") -> Path:
    return Path(shutil.copytree(world.root / name, tmp_path / name))


def test_a_broken_image_is_named_and_may_be_left_out(world: World, tmp_path: Path) -> None:
    data, out = copied(world, tmp_path), tmp_path / "out"
    broken = [data / "images" / name for name in ("train1a.png", "test2a.png")]
    broken[0].write_bytes(broken[0].read_bytes()[:60])
    broken[1].unlink()
    command = ["multitask", data, *world.options(), "--out", out, "--seeds", 1]
    said = say(*command)
    assert said.code == 1
    assert all(file.name in said.err for file in broken)
    assert not (out / "table.md").exists()
    assert say(*command, "--skip-bad").code == 0
    run = out / "runs" / "vl-adapter" / "seed-0"
    request = json.loads((run / "request.json").read_text())
    assert request["data"]["samples"] == {
        "answers/train": 7,
        "answers/val": 4,
        "answers/test": 5,
    }
    keys = [row["key"] for row in rows_of(run / "predictions" / "answers.jsonl")]
    assert keys == ["1", "2", "4", "5", "6"]


def test_files_that_changed_are_read_again_in_the_same_process(
    world: World, tmp_path: Path
) -> None:
    data = copied(world, tmp_path)
    command = ["multitask", data, *world.options(), "--seeds", 1]
    assert say(*command, "--out", tmp_path / "a").code == 0
    lines = (data / "test.jsonl").read_text().splitlines(keepends=True)
    (data / "test.jsonl").write_text("".join(lines[:2]))
    assert say(*command, "--out", tmp_path / "b").code == 0
    found = tmp_path / "b" / "runs" / "vl-adapter" / "seed-0" / "predictions" / "answers.jsonl"
    assert len(rows_of(found)) == 2


def without_test(data: Path) -> None:
    (data / "test.jsonl").unlink()


def without_answers(data: Path) -> None:
    (data / "test.jsonl").write_text('{"image": "test0a.png", "question": "what"}\n')


def with_task(text: str) -> Callable[[Path], None]:
    return lambda data: (data / "task.json").write_text(text) and None


@pytest.mark.parametrize(
    ("damage", "options", "words"),
    [
        (None, ["--methods", "vl-adaptor"], ["Unknown method 'vl-adaptor'", "vl-adapter"]),
        (None, ["--methods", "houlsby"], ["houlsby adapts image backbones", "vl-"]),
        (None, ["--methods", "vl-lora", "vl-lora"], ["a row is named twice"]),
        (None, ["--reference", "vl-lora"], ["'vl-lora' is not among vl-adapter"]),
        (None, ["--set", "stepz=4"], ["stepz", "steps"]),
        (None, ["--set", "lr=-1"], ["lr"]),
        (None, ["--fraction", 0], ["fraction"]),
        (None, ["--seeds", 0], ["seeds"]),
        (None, ["--visual", "box=grid"], ["box"]),
        (None, ["--visual-tokens", 17], ["17"]),
        (None, ["--vision-backbone", ""], ["no image backbone of its own", "--vision-backbone"]),
        (None, ["--vision-backbone", "petiole/tiny-vat"], ["petiole/tiny-vat"]),
        (without_test, [], ["'answers' has no samples of the part 'test', only of train, val"]),
        (without_answers, [], ["Sample '1' of task 'answers' has no reference"]),
        (with_task("{"), [], ["task.json", "not JSON"]),
        (with_task("{}"), [], ["task.json", "task"]),
        (with_task('{"task": "answer"}'), [], ["colours", "Unknown task 'answer'", "answers"]),
        (with_task('{"task": "vqa"}'), [], ["one human answer", "Use the task 'answers'"]),
    ],
)
def test_a_wrong_request_is_refused_with_the_remedy(
    world: World,
    tmp_path: Path,
    damage: Callable[[Path], None] | None,
    options: list[object],
    words: list[str],
) -> None:
    data = copied(world, tmp_path)
    if damage:
        damage(data)
    command = ["multitask", data, *world.options(), "--seeds", 1, "--out", tmp_path / "out"]
    said = say(*changed(command, options))
    assert said.code == 1, said
    assert all(word in said.err for word in words), said.err
    assert not (tmp_path / "out" / "runs").exists()


def test_a_folder_that_is_not_there_is_called_so(world: World, tmp_path: Path) -> None:
    for name in (str(tmp_path / "nothing"), f"vqa={tmp_path / 'nothing'}"):
        said = say("multitask", name, *world.options(), "--out", tmp_path / "out")
        assert said.code == 1
        assert f"{tmp_path / 'nothing'}: no such folder" in said.err


def test_mixed_batches_of_a_share_with_the_test_part_closed(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["multitask", *world.tasks(*TASKS), *world.options(), "--out", out, "--seeds", 1]
    command += ["--methods", "vl-adapters", "--mode", "mixed", "--fraction", 0.5]
    said = say(*command, "--no-prefixes", "--validation-part", "--json")
    assert said.code == 0, said.err
    assert said.json["rows"][0]["headline"]["sd"] is None, "one value has no spread"
    run = out / "runs" / "vl-adapters" / "seed-0"
    request = json.loads((run / "request.json").read_text())
    assert (request["options"]["mode"], request["data"]["scored"]) == ("mixed", "val")
    assert request["data"]["fraction"] == 0.5
    assert request["options"]["prefixes"] is False
    assert not (run / "test_evaluations.jsonl").exists()
    assert len(rows_of(run / "predictions" / "answers.jsonl")) == COUNTS["val"]
    notes = " ".join(said.json["notes"])
    assert "50 % of the training samples" in notes
    assert "scored once on val" in notes
    assert "all methods without hard prompts" in notes


def test_a_task_in_the_folder_where_one_stands_has_a_name(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(task(tmp_path / "here", "answers", 5))
    out = tmp_path / "out"
    command = ["multitask", world.root / "colours", ".", *world.options(), "--out", out]
    said = say(*command, "--seeds", 1, "--json")
    assert list(said.json["metrics"]) == ["answers", "here"]


def test_the_words_after_a_measurement_are_a_command_that_works(world: World) -> None:
    said = say(*world.command, "--resume")
    after = next(row for row in said.out.splitlines() if row.startswith("next"))
    tokens = after.removeprefix("next").split(maxsplit=2)
    assert tokens[:2] == ["petiole", "predict"]
    assert tokens[2] == f'{world.run() / "adapter"} IMAGE --question "..."'
    assert os.path.isdir(world.run() / "adapter")
