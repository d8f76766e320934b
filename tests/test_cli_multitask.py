"""``petiole multitask`` and ``petiole ask`` through the real command line: a tiny BART folder, three tasks on disk."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from multitask_for_tests import COLOURS, COUNTS, TASKS, draw, language, rows_of, task, text_task
from petiole.cli import main


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What was printed, which must be JSON as the standard has it: no NaN, no Infinity."""
        return json.loads(self.out, parse_constant=pytest.fail)


def say(*arguments: object) -> Said:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as done:
        main([str(a) for a in arguments])
    return Said(int(done.value.code or 0), out.getvalue(), " ".join(err.getvalue().split()))


def changed(command: Sequence[object], change: Sequence[object]) -> list[object]:
    """The command with an option's value replaced; a setting, or what it has not, is added."""
    if not change or change[0] == "--set" or change[0] not in command:
        return [*command, *change]
    place = list(command).index(change[0])
    return [*command[:place], *change, *command[place + 2 :]]


class World(NamedTuple):
    """A model, tasks, and a measurement that was made of them."""

    root: Path
    model: Path
    command: list[object]
    out: Path
    said: Said

    def tasks(self, *names: str) -> list[Path]:
        return [self.root / name for name in names]

    def options(self, model: Path | None = None) -> list[object]:
        seen = ["--eyes", "petiole/tiny-vit", "--places", 25, "--cache-dir", self.root / "cache"]
        return [*("--backbone", model or self.model), *seen, "--set", "steps=3", "--quiet"]

    def run(self, row: str = "vl-adapter", seed: int = 0) -> Path:
        return self.out / "runs" / row / f"seed-{seed}"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    model, out = language(root / "model"), root / "out"
    for seed, (name, kind) in enumerate(TASKS.items()):
        task(root / name, kind, seed)
    bare = World(root, model, [], out, Said(0, "", ""))
    command = ["multitask", *bare.tasks(*TASKS), *bare.options(), "--out", out]
    command += ["--methods", "vl-adapter", "vl-lora", "--seeds", 2]
    return bare._replace(command=command, said=say(*command, "--json"))


def test_a_measurement_leaves_a_table_runs_and_the_commonest_answer(world: World) -> None:
    assert world.said.code == 0, world.said.err
    result = world.said.json
    assert json.loads((world.out / "table.json").read_text()) == {
        k: v for k, v in result.items() if k != "folder"
    }
    assert list(result["metrics"]) == list(TASKS.values())
    assert [one["name"] for one in result["lines"]] == ["vl-adapter", "vl-lora"]
    for one in result["lines"]:
        for kind, interval in one["tasks"].items():
            files = [world.run(one["name"], s) / "predictions" / f"{kind}.jsonl" for s in (0, 1)]
            means = [fmean(row["score"] for row in rows_of(file)) for file in files]
            assert 100 * interval["mean"] == pytest.approx(fmean(means))
        assert one["average"]["mean"] == pytest.approx(
            fmean(interval["mean"] for interval in one["tasks"].values())
        )
        assert 0 < one["trainable"] < one["total"]
    for row, seed in ((row, seed) for row in ("vl-adapter", "vl-lora") for seed in (0, 1)):
        assert len(rows_of(world.run(row, seed) / "openings.jsonl")) == len(TASKS)
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


def test_the_same_seed_gives_the_same_start_and_another_seed_another(world: World) -> None:
    one, two = (
        load_file(world.run(seed=seed) / "adapter" / "adapter.safetensors") for seed in (0, 1)
    )
    assert one.keys() == two.keys()
    assert any((one[name] != two[name]).any() for name in one)


def test_results_are_not_written_over(world: World) -> None:
    before = (world.out / "table.json").read_bytes()
    said = say(*world.command)
    assert said.code == 1
    assert "already holds results. Add --resume" in said.err
    assert say(*world.command, "--resume").code == 0
    assert (world.out / "table.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--seeds", 3], "another measurement (seeds: 2 -> 3)"),
        (["--mode", "mixed"], "another measurement (mode: 'proportional' -> 'mixed')"),
        (["--set", "lr=0.5"], "other settings (settings.lr: "),
        (["--places", 16], "model.places: 25 -> 16"),
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
from petiole.engine import descent
run, save = descent.Descent.run, descent.Descent._save
def often(self, watch, **rest):
    watch.every = 0
    run(self, watch, **rest)
def slowly(self, *rest):
    save(self, *rest)
    time.sleep(60)
descent.Descent.run, descent.Descent._save = often, slowly
from petiole.cli import main
main(sys.argv[1:])
"""


def test_a_killed_measurement_resumes_to_the_same_adapters(world: World, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    command = ["multitask", *world.tasks("colours", "pairs"), *world.options(), "--seeds", 1]
    command += ["--methods", "vl-adapter"]
    assert say(*command, "--out", whole).code == 0
    tokens = [str(a) for a in (*command, "--out", cut)]
    stopped = subprocess.Popen([sys.executable, "-c", SLOW, *tokens], stderr=subprocess.PIPE)
    place = Path("runs/vl-adapter/seed-0")
    deadline = time.monotonic() + 120
    while not (cut / place / "checkpoint.safetensors").exists():
        assert stopped.poll() is None, stopped.communicate()[1].decode()
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


def test_ask_gives_what_was_predicted_also_in_a_fresh_process(world: World) -> None:
    command: list[object] = []
    answer: dict[str, str] = {}
    for name, kind in TASKS.items():
        rows = rows_of(world.run() / "predictions" / f"{kind}.jsonl")
        samples = rows_of(world.root / name / "test.jsonl")
        images = samples[1].get("images") or [samples[1]["image"]]
        shown = [t for n in images for t in ("--image", world.root / name / "images" / n)]
        question = samples[1].get("question", "")
        command = ["ask", world.run(), question, *shown, "--task", kind, "--json"]
        answer = {"task": kind, "question": question, "answer": rows[1]["prediction"]}
        assert say(*command).json == answer
    fresh = subprocess.run(
        [sys.executable, "-m", "petiole.cli", *map(str, command)],
        capture_output=True,
        text=True,
        cwd=world.root,
        check=True,
    )
    assert json.loads(fresh.stdout) == answer


def test_the_answer_depends_on_question_and_picture(world: World) -> None:
    """Or the test above would pass with a model that is blind or deaf."""
    rows = rows_of(world.run() / "predictions" / "answers.jsonl")
    image = world.root / "colours" / "images" / "test0a.png"
    blind = say("ask", world.run(), "what is a dog", "--json").json["answer"]
    other = say("ask", world.run(), "two cat no", "--image", image, "--json").json["answer"]
    assert blind != rows[0]["prediction"]
    assert other != rows[0]["prediction"]


def test_what_ask_refuses(world: World, tmp_path: Path) -> None:
    image = world.root / "colours" / "images" / "test0a.png"
    said = say("ask", world.run(), "what", "--task", "answer")
    assert said.code == 1
    assert "Unknown task of this adapter 'answer'. Did you mean answers?" in said.err
    (tmp_path / "broken.png").write_bytes(image.read_bytes()[:60])
    said = say("ask", world.run(), "what", "--image", tmp_path / "broken.png")
    assert (said.code, str(tmp_path / "broken.png") in said.err) == (1, True)
    said = say("ask", tmp_path, "what")
    assert said.code == 1
    assert "No adapter at" in said.err


def test_a_damaged_adapter_is_refused(world: World, tmp_path: Path) -> None:
    copied = shutil.copytree(world.run() / "adapter", tmp_path / "adapter")
    file = copied / "adapter.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    said = say("ask", copied, "what")
    assert said.code == 1
    assert "checksum differs" in said.err
    file.write_bytes((world.run() / "adapter" / file.name).read_bytes())
    manifest = json.loads((copied / "adapter.json").read_text())
    manifest["golden"][0] += 1
    (copied / "adapter.json").write_text(json.dumps(manifest))
    assert "golden input gives scores that differ" in say("ask", copied, "what").err
    (copied / "adapter.json").write_text(json.dumps(manifest)[:-9])
    assert "is damaged or of another version" in say("ask", copied, "what").err


def test_another_language_model_or_other_eyes_are_refused(world: World, tmp_path: Path) -> None:
    model = Path(shutil.copytree(world.model, tmp_path / "model"))
    out = tmp_path / "out"
    command = ["multitask", world.root / "colours", *world.options(model), "--out", out]
    assert say(*command, "--seeds", 1).code == 0
    adapter = out / "runs" / "vl-adapter" / "seed-0" / "adapter"
    file = model / "model.safetensors"
    before = file.read_bytes()
    tensors = load_file(file)
    tensors["model.shared.weight"][5, 5] += 1
    save_file(tensors, file, {"format": "pt"})
    said = say("ask", adapter, "what")
    assert said.code == 1
    assert "was trained on" in said.err
    assert "fingerprint" in said.err
    file.write_bytes(before)
    assert say("ask", adapter, "what").code == 0
    manifest = json.loads((adapter / "adapter.json").read_text())
    manifest["model"]["eyes_fingerprint"] = "0" * 64
    (adapter / "adapter.json").write_text(json.dumps(manifest))
    image = world.root / "colours" / "images" / "test0a.png"
    said = say("ask", adapter, "what", "--image", image)
    assert said.code == 1
    assert "petiole/tiny-vit with fingerprint 000000000000" in said.err
    shutil.rmtree(model)
    assert str(model) in say("ask", adapter, "what").err


def test_adapters_for_images_and_for_language_say_which_verb_is_theirs(
    world: World, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for colour in COLOURS:
            for i in range(3):
                draw(tmp_path / "images" / part / colour / f"{i}.png", colour, rng)
    fit = ["fit", tmp_path / "images", "--method", "linear-probe", "--out", tmp_path / "run"]
    fit += ["--backbone", "petiole/tiny-vit", "--cache-dir", tmp_path / "cache", "--quiet"]
    assert say(*fit, "--shots", 2, "--set", "steps=2", "--set", "views=0").code == 0
    said = say("ask", tmp_path / "run", "what")
    assert said.code == 1
    assert "holds an adapter for images. Use petiole predict" in said.err
    image = world.root / "colours" / "images" / "test0a.png"
    said = say("predict", world.run(), image)
    assert said.code == 1
    assert "holds an adapter for a language model. Use petiole ask" in said.err


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
    assert request["tasks"][0]["samples"] == {"train": 7, "val": 4, "test": 5}
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
        (None, ["--reference", "vl-lora"], ["reference 'vl-lora' is not among vl-adapter"]),
        (None, ["--set", "stepz=4"], ["stepz", "steps"]),
        (None, ["--set", "lr=-1"], ["lr"]),
        (None, ["--fraction", 0], ["fraction"]),
        (None, ["--seeds", 0], ["seeds"]),
        (None, ["--visual", "box=grid"], ["box"]),
        (None, ["--places", 17], ["17"]),
        (None, ["--eyes", ""], ["no eyes of its own", "--eyes"]),
        (None, ["--eyes", "petiole/tiny-vat"], ["petiole/tiny-vat"]),
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
    said = say(*command, "--no-prefixes", "--validation", "--json")
    assert said.code == 0, said.err
    assert said.json["lines"][0]["average"]["sd"] is None, "one value has no spread"
    run = out / "runs" / "vl-adapters" / "seed-0"
    request = json.loads((run / "request.json").read_text())
    assert (request["mode"], request["scored"]) == ("mixed", "val")
    assert {one["fraction"] for one in request["tasks"]} == {0.5}
    assert request["model"]["prefixes"] is False
    assert not (run / "openings.jsonl").exists()
    assert len(rows_of(run / "predictions" / "answers.jsonl")) == COUNTS["val"]
    notes = " ".join(said.json["notes"])
    assert "50 % of the training samples" in notes
    assert "scored once on val" in notes
    assert "all methods without hard prompts" in notes


def test_two_folders_of_one_kind_are_told_apart_by_their_names(
    world: World, tmp_path: Path
) -> None:
    other = task(tmp_path / "seen", "caption", 9)
    out = tmp_path / "out"
    command = ["multitask", world.root / "tell", other, *world.options(), "--out", out]
    assert say(*command, "--seeds", 1, "--methods", "vl-adapters").code == 0
    run = out / "runs" / "vl-adapters" / "seed-0"
    manifest = json.loads((run / "adapter" / "adapter.json").read_text())
    assert manifest["tasks"] == [
        {"name": "caption", "kind": "caption"},
        {"name": "seen", "kind": "caption"},
    ]
    row, sample = (
        rows_of(file)[0] for file in (run / "predictions" / "seen.jsonl", other / "test.jsonl")
    )
    image = other / "images" / sample["image"]
    said = say("ask", run, "", "--image", image, "--task", "seen", "--json")
    assert said.json["answer"] == row["prediction"]
    again = task(tmp_path / "again" / "seen", "caption", 9)
    said = say(*command[:2], other, again, *command[3:], "--seeds", 1)
    assert "Two tasks are called seen" in said.err


def test_a_task_in_the_folder_where_one_stands_has_a_name(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(task(tmp_path / "here", "answers", 5))
    out = tmp_path / "out"
    command = ["multitask", world.root / "colours", ".", *world.options(), "--out", out]
    said = say(*command, "--seeds", 1, "--json")
    assert list(said.json["metrics"]) == ["answers", "here"]


def stored_features(root: Path, kind: str) -> Path:
    """VQA in the reference's layout: annotations, and a 7 x 7 grid of features an image."""
    rng = np.random.default_rng(0)
    names = {part: [f"COCO_{part}_{i}" for i in range(n)] for part, n in COUNTS.items()}
    grids = {n: rng.standard_normal((49, 6)).astype(np.float16) for v in names.values() for n in v}
    (root / "vqa").mkdir(parents=True)
    for part, images in names.items():
        rows = [
            {
                "question_id": f"{part}{i}",
                "sent": "what is red",
                "img_id": image,
                "label": {"two": 1.0},
                "answers": [{"answer": "two"}] * 10,
            }
            for i, image in enumerate(images)
        ]
        (root / "vqa" / f"karpathy_{part}.json").write_text(json.dumps(rows))
    if kind == "h5":
        import h5py

        folder = root / "COCO" / "clip_features" / "data_clip_RN101_att"
        folder.mkdir(parents=True)
        for name, grid in grids.items():
            with h5py.File(folder / f"{name}.h5", "w") as file:
                file[f"{name}/features"] = grid
        return root
    import pyarrow as arrow
    from pyarrow import parquet

    folder = root / "features" / "COCO" / "data_clip_RN101_att"
    folder.mkdir(parents=True)
    columns = {"id": list(grids), "features": [grid.tolist() for grid in grids.values()]}
    halves = arrow.list_(arrow.list_(arrow.float16()))
    shard = arrow.table(
        {"id": columns["id"], "features": arrow.array(columns["features"], type=halves)}
    )
    parquet.write_table(shard, folder / "0.parquet")
    return root


@pytest.mark.parametrize("kind", ["h5", "parquet"])
def test_stored_features_are_used_in_the_references_layout(
    world: World, tmp_path: Path, kind: str
) -> None:
    root, out = stored_features(tmp_path / "datasets", kind), tmp_path / "out"
    command = ["multitask", f"vqa={root}", "--features", root, "--backbone", world.model]
    command += ["--set", "steps=3", "--seeds", 1, "--places", 9, "--out", out, "--json", "--quiet"]
    said = say(*command, "--cache-dir", tmp_path / "cache")
    assert said.code == 0, said.err
    assert said.json["metrics"] == {"vqa": "vqa_accuracy"}
    assert said.json["majority"] == {"vqa": 1.0}
    run = out / "runs" / "vl-adapter" / "seed-0"
    card = json.loads((run / "adapter" / "adapter.json").read_text())["model"]
    assert (card["vision_width"], card["places"], card["eyes"]) == (6, 9, "")
    image = world.root / "colours" / "images" / "test0a.png"
    said = say("ask", run, "what", "--image", image)
    assert said.code == 1
    assert "was trained on given features" in said.err


def test_a_model_of_text_alone_is_shown_no_picture(world: World, tmp_path: Path) -> None:
    data = text_task(tmp_path / "text")
    out = tmp_path / "out"
    assert say("multitask", data, *world.options(), "--seeds", 1, "--out", out).code == 0
    run = out / "runs" / "vl-adapter" / "seed-0"
    prediction = rows_of(run / "predictions" / "answers.jsonl")[1]["prediction"]
    assert say("ask", run, "what is two", "--json").json["answer"] == prediction
    image = world.root / "colours" / "images" / "test0a.png"
    said = say("ask", run, "what is two", "--image", image)
    assert said.code == 1
    assert "was trained on text alone" in said.err


def test_trained_eyes_answer_as_they_were_scored(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["multitask", world.root / "colours", *world.options(), "--out", out, "--seeds", 1]
    said = say(*command, "--set", "eyes=norms")
    assert said.code == 0, said.err
    run = out / "runs" / "vl-adapter" / "seed-0"
    rows = rows_of(run / "predictions" / "answers.jsonl")
    sample = rows_of(world.root / "colours" / "test.jsonl")[3]
    image = world.root / "colours" / "images" / sample["image"]
    said = say("ask", run, sample["question"], "--image", image, "--json")
    assert said.json["answer"] == rows[3]["prediction"]


def test_the_words_after_a_measurement_are_a_command_that_works(world: World) -> None:
    said = say(*world.command, "--resume")
    after = next(row for row in said.out.splitlines() if row.startswith("next"))
    tokens = after.removeprefix("next").split(maxsplit=2)
    assert tokens[:2] == ["petiole", "ask"]
    assert tokens[2] == f'{world.run() / "adapter"} "a question" --image IMAGE'
    assert os.path.isdir(world.run() / "adapter")
