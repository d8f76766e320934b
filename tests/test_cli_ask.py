"""Questions by ``petiole predict`` through the real command line, and what a language adapter says of itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from builders.multitask import (
    COLOURS,
    COUNTS,
    TASKS,
    World,
    answer_of,
    ask,
    draw,
    measured,
    rows_of,
    say,
    task,
    text_task,
)
from builders.processes import petiole_process
from petiole.files import write_sealed


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return measured(tmp_path_factory.mktemp("world"), "--seeds", 1)


def test_ask_gives_what_was_predicted_also_in_a_fresh_process(world: World) -> None:
    command: list[object] = []
    answer: dict[str, object] = {}
    for name, kind in TASKS.items():
        rows = rows_of(world.run() / "predictions" / f"{kind}.jsonl")
        samples = rows_of(world.root / name / "test.jsonl")
        images = samples[1].get("images") or [samples[1]["image"]]
        shown = [world.root / name / "images" / n for n in images]
        question = samples[1].get("question", "")
        command = ["predict", world.run(), *shown, "--question", question, "--task", kind, "--json"]
        answer = {
            "path": " ".join(map(str, shown)),
            "label": rows[1]["prediction"],
            "probability": None,
            "probabilities": {},
            "label_set": [],
            "outside": None,
            "abstain": None,
            "question": question,
            "labels": None,
            "value": None,
            "values": None,
            "shares": None,
            "mask": None,
        }
        assert say(*command).json["predictions"] == [answer]
    out, _ = petiole_process(*command, cwd=world.root).communicate()
    assert json.loads(out)["predictions"] == [answer]


def test_the_answer_depends_on_question_and_picture(world: World) -> None:
    """Or the test above would pass with a model that is blind or deaf."""
    rows = rows_of(world.run() / "predictions" / "answers.jsonl")
    image = world.root / "colours" / "images" / "test0a.png"
    blind = answer_of(ask(world.run(), "what is a dog"))
    other = answer_of(ask(world.run(), "two cat no", image))
    assert blind != rows[0]["prediction"]
    assert other != rows[0]["prediction"]


def test_what_is_no_question_is_refused(world: World, tmp_path: Path) -> None:
    image = world.root / "colours" / "images" / "test0a.png"
    said = ask(world.run(), "what", task="answer")
    assert said.code == 1
    assert "Unknown task of this adapter 'answer'. Did you mean answers?" in said.err
    (tmp_path / "broken.png").write_bytes(image.read_bytes()[:60])
    said = ask(world.run(), "what", tmp_path / "broken.png")
    assert (said.code, str(tmp_path / "broken.png") in said.err) == (1, True)
    said = ask(tmp_path, "what")
    assert said.code == 1
    assert "No adapter at" in said.err


def test_a_damaged_adapter_is_refused(world: World, tmp_path: Path) -> None:
    copied = shutil.copytree(world.run() / "adapter", tmp_path / "adapter")
    file = copied / "adapter.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    said = ask(copied, "what")
    assert said.code == 1
    assert "checksum differs" in said.err
    file.write_bytes((world.run() / "adapter" / file.name).read_bytes())
    manifest = json.loads((copied / "adapter.json").read_text())
    manifest["golden"][0] += 1
    write_sealed(copied / "adapter.json", manifest)
    assert "golden input gives values that differ" in ask(copied, "what").err
    (copied / "adapter.json").write_text(json.dumps(manifest)[:-9])
    assert "is damaged or of another version" in ask(copied, "what").err


def test_another_language_model_or_other_vision_are_refused(world: World, tmp_path: Path) -> None:
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
    said = ask(adapter, "what")
    assert said.code == 1
    assert "was trained on" in said.err
    assert "fingerprint" in said.err
    file.write_bytes(before)
    assert ask(adapter, "what").code == 0
    manifest = json.loads((adapter / "adapter.json").read_text())
    manifest["backbone"]["vision_backbone"]["fingerprint"] = "0" * 64
    write_sealed(adapter / "adapter.json", manifest)
    image = world.root / "colours" / "images" / "test0a.png"
    said = ask(adapter, "what", image)
    assert said.code == 1
    assert "petiole/tiny-vit with fingerprint 000000000000" in said.err
    shutil.rmtree(model)
    assert str(model) in ask(adapter, "what").err


def test_adapters_for_images_and_for_language_say_what_is_theirs(
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
    image = world.root / "colours" / "images" / "test0a.png"
    said = ask(tmp_path / "run", "what", image)
    assert said.code == 1
    assert "--question means nothing to an adapter of the kind classification" in said.err
    said = say("predict", world.run(), image)
    assert said.code == 1
    assert "is an adapter of a language model, which needs a question: --question" in said.err


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
    assert answer_of(ask(run, "", image, task="seen")) == row["prediction"]
    again = task(tmp_path / "again" / "seen", "caption", 9)
    said = say(*command[:2], other, again, *command[3:], "--seeds", 1)
    assert "Two tasks are called seen" in said.err


def test_a_model_of_text_alone_is_shown_no_picture(world: World, tmp_path: Path) -> None:
    data = text_task(tmp_path / "text")
    out = tmp_path / "out"
    assert say("multitask", data, *world.options(), "--seeds", 1, "--out", out).code == 0
    run = out / "runs" / "vl-adapter" / "seed-0"
    prediction = rows_of(run / "predictions" / "answers.jsonl")[1]["prediction"]
    assert answer_of(ask(run, "what is two")) == prediction
    image = world.root / "colours" / "images" / "test0a.png"
    said = ask(run, "what is two", image)
    assert said.code == 1
    assert "was trained on text alone" in said.err


def test_trained_vision_answer_as_they_were_scored(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["multitask", world.root / "colours", *world.options(), "--out", out, "--seeds", 1]
    said = say(*command, "--set", "vision=norms")
    assert said.code == 0, said.err
    run = out / "runs" / "vl-adapter" / "seed-0"
    rows = rows_of(run / "predictions" / "answers.jsonl")
    sample = rows_of(world.root / "colours" / "test.jsonl")[3]
    image = world.root / "colours" / "images" / sample["image"]
    assert answer_of(ask(run, sample["question"], image)) == rows[3]["prediction"]


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
    command += [
        "--set",
        "steps=3",
        "--seeds",
        1,
        "--visual-tokens",
        9,
        "--out",
        out,
        "--json",
        "--quiet",
    ]
    said = say(*command, "--cache-dir", tmp_path / "cache")
    assert said.code == 0, said.err
    assert said.json["metrics"] == {"vqa": "vqa_accuracy"}
    assert said.json["majority"] == {"vqa": 1.0}
    run = out / "runs" / "vl-adapter" / "seed-0"
    card = json.loads((run / "adapter" / "adapter.json").read_text())["backbone"]
    assert (card["vision_width"], card["visual_tokens"]) == (6, 9)
    assert card["vision_backbone"] is None
    image = world.root / "colours" / "images" / "test0a.png"
    said = ask(run, "what", image)
    assert said.code == 1
    assert "was trained on given features" in said.err
