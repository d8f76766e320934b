"""``petiole generalise`` and ``petiole fold`` through the real command line, on a tiny CLIP folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from builders.cli import run
from petiole import claims
from petiole.engine.record import read_record
from petiole.metrics.harmonic import harmonic_mean
from petiole.protocols import domain_shift
from petiole.protocols.reproduction import on_data
from petiole.testing import dual_encoder as clips

NAMES = ("ash", "birch", "cedar", "elm", "fir")


def write_images(root: Path, names: tuple[str, ...] = NAMES, seed: int = 0, count: int = 6) -> Path:
    """Class folders below train/ and test/, a colour a class."""
    rng = np.random.default_rng(seed)
    for index, name in enumerate(names):
        for part in ("train", "test"):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(0, 60, (32, 32, 3))
                noise[..., index % 3] += 40 * index
                Image.fromarray(noise.astype(np.uint8)).save(root / part / name / f"{i}.png")
    return root


def textures(tmp_path: Path) -> Path:
    """The class folders laid out as CoOp's dtd/."""
    root = write_images(tmp_path / "images")
    data = tmp_path / "data" / "dtd"
    (data / "images").mkdir(parents=True)
    parts: dict[str, list[tuple[str, int, str]]] = {"train": [], "val": [], "test": []}
    for part in ("train", "test"):
        shutil.copytree(root / part, data / "images" / part)
        for label, name in enumerate(NAMES):
            files = sorted((data / "images" / part / name).iterdir())
            parts[part] += [(f"{part}/{name}/{file.name}", label, name) for file in files]
    (data / "split_zhou_DescribableTextures.json").write_text(json.dumps(parts))
    return data


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.folder(tmp_path_factory.mktemp("clip") / "model", tokenizer=True)


def options(backbone: Path, tmp_path: Path) -> list[object]:
    return [
        *("--backbone", backbone, "--cache-dir", tmp_path / "cache", "--quiet"),
        *("--seeds", 2, "--shots", 4, "--set", "steps=3", "--set", "views=1"),
    ]


def test_base_to_novel(backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, out = write_images(tmp_path / "trees"), tmp_path / "out"
    methods = ("zero-shot", "coop", "maple+textrefiner", "promptkd")
    command = ["generalise", images, "--methods", *methods, "--out", out, "--json"]
    command += options(backbone, tmp_path)
    assert run(*command) == 0
    result = json.loads(capsys.readouterr().out)
    assert [line["name"] for line in result["rows"]] == list(methods)
    assert [line["transductive"] for line in result["rows"]] == [False, False, False, True]
    for line in result["rows"]:
        base, novel = (line["scores"][place]["mean"] for place in ("base", "novel"))
        assert line["hm_of_means"] == pytest.approx(harmonic_mean(base, novel))
        folder = out / "runs" / line["name"] / "seed-0"
        request = json.loads((folder / "request.json").read_text())
        taught = NAMES if line["transductive"] else NAMES[:3]  # ceil(5 / 2) base classes
        assert request["data"]["classes"] == list(taught)
        novel_file = json.loads((folder / "transfer" / "novel.json").read_text())
        assert novel_file["classes"] == list(NAMES[3:])
        assert novel_file["scores"]["n"] == 12
        assert novel_file["test_evaluations"] == 1
        opened = (folder / "test_evaluations.jsonl").read_text().splitlines()
        assert len(opened) == 2 + line["transductive"]
        assert (folder / "transfer" / "base.json").exists() == line["transductive"]
    markdown = (out / "table.md").read_text()
    assert "promptkd (transductive)" in markdown
    zero = result["rows"][0]["scores"]["base"]
    pair = result["rows"][1]["difference"]
    expected = f"[{100 * pair['low']:.1f}, {100 * pair['high']:.1f}]".replace("-", "−")
    assert expected in markdown
    row = next(line for line in markdown.splitlines() if line.startswith("| **zero-shot**"))
    assert f"| {100 * zero['mean']:.1f} ± {100 * zero['sd']:.1f} |" in row
    assert "do not compare them with the others" in markdown
    room = result["headroom"]
    assert {m: {h: len(v) for h, v in halves.items()} for m, halves in room.items()} == {
        "zero-shot": {"base": 1, "novel": 1},
        "class-means": {"base": 2, "novel": 2},
        "logistic-regression": {"base": 2, "novel": 2},
    }
    assert room["zero-shot"]["base"] == [zero["mean"]]
    probe = read_record(out / "headroom/novel/logistic-regression/seed-1")
    assert probe.scores["test"]["accuracy"] == room["logistic-regression"]["novel"][1]
    assert probe.request.data.classes == list(NAMES[3:])
    assert f"Room to move: zero-shot {100 * zero['mean']:.1f} base, " in markdown

    before = (out / "table.json").read_bytes()
    assert run(*command, "--resume") == 0
    assert (out / "table.json").read_bytes() == before
    capsys.readouterr()
    assert run(*command) == 1
    assert "already holds a measurement" in capsys.readouterr().err
    assert run(*command, "--reference", "coop", "--resume") == 1


def test_elsewhere(backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = write_images(tmp_path / "trees")
    other = write_images(tmp_path / "herbs", ("mint", "sage"), seed=1)
    out = tmp_path / "out"
    command = ["generalise", images, "--to", other, "--methods", "zero-shot", "coop"]
    assert run(*command, "--out", out, "--json", *options(backbone, tmp_path)) == 0
    lines = json.loads(capsys.readouterr().out)["rows"]
    assert set(lines[0]["scores"]) == {"source", "herbs"}
    herbs = json.loads((out / "runs/coop/seed-1/transfer/herbs.json").read_text())
    assert herbs["classes"] == ["mint", "sage"]
    zero = [
        json.loads((out / f"runs/zero-shot/seed-{i}/transfer/herbs.json").read_text())
        for i in (0, 1)
    ]
    assert zero[0]["scores"] == zero[1]["scores"]


def test_two_data_sets_of_one_name_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their scores would be filed under one name."""
    to = [tmp_path / "a" / "herbs", tmp_path / "b" / "herbs"]
    command = ["generalise", tmp_path / "trees", "--methods", "coop", "--out", tmp_path / "out"]
    assert run(*command, "--to", to[0], "--to", to[1]) == 1
    assert "Two data sets are called herbs" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_fixed_head_cannot_name_novel_classes(
    backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_images(tmp_path / "trees")
    command = ["generalise", images, "--methods", "linear-probe", "--out", tmp_path / "out"]
    assert run(*command, *options(backbone, tmp_path)) == 1
    assert not (tmp_path / "out").exists()
    assert "linear-probe has a fixed set of classes" in " ".join(capsys.readouterr().err.split())


def test_a_folded_adapter_predicts_alike_without_the_text_tower(
    backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_images(tmp_path / "trees")
    fit = ["fit", images, "--method", "coop+textrefiner", "--out", tmp_path / "run", "--shots", 4]
    model_options = ["--backbone", backbone, "--cache-dir", tmp_path / "cache", "--quiet"]
    assert run(*fit, *model_options, "--set", "steps=3", "--set", "views=0") == 0
    folded = tmp_path / "folded"
    assert run("fold", tmp_path / "run", "--out", folded) == 0
    capsys.readouterr()
    picture = images / "test" / "elm" / "0.png"
    answers = []
    for adapter in (tmp_path / "run", folded):
        assert run("predict", adapter, picture, "--json") == 0
        answers.append(json.loads(capsys.readouterr().out)["predictions"][0])
    assert answers[0]["label"] == answers[1]["label"]
    assert answers[0]["probability"] == pytest.approx(answers[1]["probability"], abs=1e-5)
    assert run("fold", tmp_path / "run", "--out", folded) == 1
    assert "exists already" in capsys.readouterr().err


def test_a_student_learns_from_a_teacher_of_another_backbone(
    backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The teacher's lesson is computed once; the student alone predicts afterwards."""
    images = write_images(tmp_path / "trees")
    model_options = [
        "--backbone",
        backbone,
        "--cache-dir",
        tmp_path / "cache",
        "--quiet",
        "--shots",
        4,
    ]
    teacher = tmp_path / "teacher"
    fit = ["fit", images, "--set", "steps=3", "--set", "views=1"]
    assert run(*fit, "--method", "coop", "--out", teacher, *model_options) == 0
    student = ["--method", "promptkd", "--set", f"teacher={teacher}", "--out", tmp_path / "student"]
    assert run(*fit, *student, *model_options) == 0
    request = json.loads((tmp_path / "student" / "request.json").read_text())
    manifest = json.loads((teacher / "adapter" / "adapter.json").read_text())
    assert request["options"]["teacher"] == manifest["tensors_sha256"]
    shutil.rmtree(teacher)
    capsys.readouterr()
    assert run("predict", tmp_path / "student", images / "test" / "elm" / "0.png", "--json") == 0
    assert json.loads(capsys.readouterr().out)["predictions"][0]["label"] in NAMES
    assert run(*fit, *student[:-1], tmp_path / "again", *model_options) == 1
    assert "No adapter at" in capsys.readouterr().err
    wrong = ["--method", "promptkd", "--set", f"teacher={tmp_path / 'probe'}", "--out"]
    assert run(*fit, "--method", "linear-probe", "--out", tmp_path / "probe", *model_options) == 0
    capsys.readouterr()
    assert run(*fit, *wrong, tmp_path / "third", *model_options) == 1
    assert "has no one vector for each class name" in " ".join(capsys.readouterr().err.split())


def test_few_shot(backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, out = write_images(tmp_path / "trees"), tmp_path / "out"
    command = ["few-shot", images, "--methods", "zero-shot", "tip-adapter", "coop"]
    command += ["--shots", 4, 1, "--out", out, "--json", "--backbone", backbone, "--quiet"]
    command += ["--cache-dir", tmp_path / "cache", "--seeds", 2, "--set", "steps=2"]
    assert run(*command) == 0
    lines = json.loads(capsys.readouterr().out)["rows"]
    assert [list(line["scores"]) for line in lines] == [["1", "4"]] * 3
    for shots in (1, 4):
        request = json.loads((out / f"runs/coop/shots-{shots}/seed-0/request.json").read_text())
        assert request["data"]["shots"] == shots
    assert lines[0]["scores"]["1"] == lines[0]["scores"]["4"], "zero-shot sees no shots"
    before = (out / "table.json").read_bytes()
    assert run(*command, "--resume") == 0
    assert (out / "table.json").read_bytes() == before
    capsys.readouterr()
    assert run(*command[:6], 0, 1, *command[8:], "--resume") == 1


def test_few_shot_as_published(
    backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The announcement, the records and the table's notes say what was taken from the papers."""
    images, out = textures(tmp_path), tmp_path / "out"
    command = ["few-shot", images, "--methods", "zero-shot", "coop", "--shots", 1, "--published"]
    command += ["--out", out, "--backbone", backbone, "--cache-dir", tmp_path / "cache"]
    assert run(*command, "--seeds", 1, "--set", "views=0") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "zero-shot: templates=['{} texture.'], as published" in said
    assert "coop, 1 shots: context=16, phrase='', epochs=50, as published" in said
    settings = [
        json.loads((out / f"runs/{name}/shots-1/seed-0/request.json").read_text())["settings"]
        for name in ("zero-shot", "coop")
    ]
    assert settings[0]["templates"] == ["{} texture."]
    assert (settings[1]["epochs"], settings[1]["context"]) == (50, 16)
    assert json.loads((out / "generalisation.json").read_text())["published"]
    markdown = (out / "table.md").read_text()
    assert "the template published for DescribableTextures" in markdown
    assert "trained as published for each number of shots" in markdown


def test_a_published_table_beside_ours(
    backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = textures(tmp_path)
    command = ["reproduce", "textrefiner/base-to-novel", "--data", data.parent, "--json", "--quiet"]
    command += ["--backbone", backbone, "--methods", "zero-shot", "llamp", "--seeds", 2]
    assert run(*command, "--cache-dir", tmp_path / "cache", "--out", tmp_path / "out") == 0
    result = json.loads(capsys.readouterr().out)
    assert [one["what"] for one in result["found"]] == ["base", "novel", "HM"]
    assert [one["claimed"] for one in result["found"]] == pytest.approx([0.5324, 0.599, 0.5637])
    assert {one["verdict"] for one in result["found"]} == {"another backbone"}
    said = "\n".join(result["missing"])
    assert "LLaMP: not part of petiole" in said
    assert "data set EuroSAT: eurosat/ in CoOp's format" in said
    assert "DTD" not in said
    assert "weights of hf/openai/clip-vit-base-patch16" in said
    zero = tmp_path / "out" / "DTD" / "runs" / "zero-shot" / "seed-0" / "request.json"
    assert json.loads(zero.read_text())["settings"]["templates"] == ["{} texture."]


def test_a_row_takes_what_was_published_for_one_data_set_alone() -> None:
    """CoOp (Zhou et al., 2022) trains 50 epochs on ImageNet, 200 on the others."""
    table = claims.table("textrefiner/base-to-novel", "base-to-novel")
    (row,) = domain_shift.rows_of(["coop"])
    assert on_data("ImageNet", row, table).settings == {"epochs": 50}
    assert on_data("EuroSAT", row, table).settings == {}


def test_a_pair_is_made_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from backbones.test_tower_kinds import encoder_folder

    text = encoder_folder(tmp_path / "text", "bert")
    images = write_images(tmp_path / "pets", names=("cat", "dog", "a photo", "a cat", "a dog"))
    table = tmp_path / "captions.csv"
    files = sorted((images / "train").rglob("*.png"))
    rows = [f"{file},a photo of a cat number {i}" for i, file in enumerate(files)]
    table.write_text("\n".join(["path,label", *rows]) + "\n")
    command = ["pair", tmp_path / "pair", "--text", text, "--image", "petiole/tiny-vit"]
    assert run(*command, "--captions", table, "--json", "--quiet") == 0
    assert json.loads(capsys.readouterr().out)["texts"] == len(files)
    assert run(*command, "--captions", table, "--quiet") == 1
    assert "exists already" in capsys.readouterr().err
    out = tmp_path / "out"
    command = ["generalise", images, "--backbone", tmp_path / "pair", "--out", out]
    assert run(*command, *options(backbone, tmp_path)[2:], "--methods", "zero-shot", "coop") == 0
