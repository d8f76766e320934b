"""The commands, end to end on small images, and the same verbs from Python."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

import petiole
from builders import images
from builders.processes import petiole_process
from petiole.cli import VERBS, main
from petiole.data.splits import SPLIT, read_split

FEW = ["--set", "steps=5", "--set", "views=0", "--image-size", "32", "--shots", "3"]
QUICK = ["--method", "cls-residual-lora", *FEW]
Say = Callable[..., tuple[int, str, str]]


def write_images(root: Path, per_class: int, seed: int) -> Path:
    """Two classes, one of them with a name that markup could take for its own."""
    return images.write_images(root, per_class, seed, classes=("ash", "birch [b]"), side=40)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/, renders/ and, after the first fit, run/."""
    root = tmp_path_factory.mktemp("cli [x] in a folder whose name is long enough to wrap")
    write_images(root / "photos", 8, 0)
    write_images(root / "renders", 5, 1)
    return root


@pytest.fixture(autouse=True)
def _cache(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETIOLE_CACHE", str(place / "cache"))


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs a command in this process: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as done:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return int(done.value.code or 0), out, err

    return run


@pytest.fixture(scope="module")
def fitted(place: Path) -> dict[str, Any]:
    """The first fit, in its own process; its JSON."""
    command = ["fit", place / "photos", "--source", place / "renders", *QUICK, "--out", place / "run", "--json"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "petiole", *map(str, command)],
        capture_output=True,
        text=True,
        env={**os.environ, "PETIOLE_CACHE": str(place / "cache")},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for word in ("data", "frozen", "training"):
        assert word in done.stderr, "it says what it will do before it starts"
    parsed: dict[str, Any] = json.loads(done.stdout)
    return parsed


def test_fit_writes_record_report_and_adapter(place: Path, fitted: dict[str, Any]) -> None:
    run = place / "run"
    assert Path(fitted["folder"]) == run
    assert (run / "record.json").is_file()
    assert Path(fitted["report"]).is_file()
    assert (Path(fitted["adapter"]) / "adapter.safetensors").is_file()
    assert fitted["record"]["test_evaluations"] == 1
    assert fitted["record"]["scores"]["test"]["n"] == 8


@pytest.mark.usefixtures("fitted")
def test_fit_prints_paths_that_can_be_copied(place: Path, say: Say) -> None:
    code, out, err = say(
        *("fit", place / "photos", "--source", place / "renders", *QUICK),
        *("--out", place / "run", "--resume", "--quiet"),
    )
    assert code == 0
    assert err == ""
    lines = out.splitlines()
    assert f"adapter  {place / 'run' / 'adapter'}" in lines
    assert any(line.startswith("next     petiole predict '/") for line in lines)
    assert "% correct on 8 held-back images" in lines[0]


@pytest.mark.usefixtures("fitted")
def test_predict_labels_images(place: Path, say: Say) -> None:
    images = [place / "photos" / "ash" / "0.png", place / "photos" / "birch [b]" / "1.png"]
    code, out, _ = say("predict", place / "run", *images, "--json")
    assert code == 0
    rows = json.loads(out)["predictions"]
    assert [Path(r["path"]) for r in rows] == images
    for row in rows:
        assert set(row["probabilities"]) == {"ash", "birch [b]"}
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert row["probability"] == max(row["probabilities"].values())
        assert row["probabilities"][row["label"]] == row["probability"]
    same = petiole.predict(place / "run" / "adapter", images)
    assert json.loads(same.model_dump_json())["predictions"] == rows
    _, text, _ = say("predict", place / "run", *images)
    assert "birch [b]" in text
    assert all(len(line) <= 80 for line in text.splitlines())


@pytest.mark.usefixtures("fitted")
def test_eval_scores_and_counts_its_test_evaluations(place: Path, say: Say) -> None:
    code, out, _ = say("eval", place / "run", place / "photos", "--json")
    first = json.loads(out)
    assert code == 0
    scores = first["scores"]["test"]
    assert scores["n"] == 16
    assert np.sum(first["confusion"]) == 16
    assert np.trace(first["confusion"]) / 16 == pytest.approx(scores["accuracy"])
    _, text, _ = say("eval", place / "run", place / "photos")
    assert f"opened {first['test_evaluations'] + 1}x" in text
    trained = read_split(place / "run" / SPLIT).parts["train"].domains.count("target")
    assert f"{trained} of these 16 images are among those that" in " ".join(text.split())
    again = petiole.evaluate(place / "run", place / "photos")
    assert again.test_evaluations == first["test_evaluations"] + 2
    assert again.scores.keys() == {"test"}
    assert again.scores["test"] == pytest.approx(scores)


def test_report_writes_the_page_again(place: Path, fitted: dict[str, Any], say: Say) -> None:
    page = Path(fitted["report"])
    page.unlink()
    code, out, _ = say("report", place / "run")
    assert code == 0
    assert str(page) in out
    assert page.is_file()
    page.unlink()
    assert petiole.report(place / "run").report == page
    assert page.is_file()


@pytest.mark.usefixtures("fitted")
def test_inspect_shows_backbones_methods_adapters_and_runs(place: Path, say: Say) -> None:
    for what, words in {
        "petiole/efficientnet-lite0": ("final.pooled", "3,371,"),
        "cls-residual-lora": ("bottleneck", "128"),
        "methods": ("linear-probe", "ridge"),
        "tables": ("cls-residual-lora/table1",),
        place / "run": ("selection", "last step"),
        place / "run" / "adapter": ("fingerprint", "birch [b]"),
    }.items():
        code, out, err = say("inspect", what)
        assert code == 0, err
        for word in words:
            assert word in out, (what, word, out)
        assert max(map(len, out.splitlines())) <= 80
    facts = json.loads(say("inspect", place / "run", "--json")[1])["facts"]
    assert facts["method"] == "cls-residual-lora"


@pytest.mark.usefixtures("fitted")
def test_cache_is_listed_verified_and_cleaned(place: Path, say: Say) -> None:
    code, out, _ = say("cache", "--json")
    listed = json.loads(out)
    assert code == 0
    assert sum(entry["images"] for entry in listed["entries"]) >= 18
    assert "final.pooled" in say("cache", "list")[1]
    assert say("cache", "verify")[0] == 0

    shard = next((place / "cache").glob("*/*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    copy = shard.with_name("0" * 64 + ".safetensors")
    copy.write_bytes(content)
    code, out, _ = say("cache", "verify", "--json")
    assert code == 1, "damage is an exit code, too"
    assert sum(entry["damaged"] for entry in json.loads(out)["entries"]) == 1
    code, out, _ = say("cache", "clean")
    assert code == 0
    assert "removed 1 file" in out
    assert not copy.exists()
    assert shard.exists()
    empty = petiole.cache(cache_dir=place / "none")
    assert empty.entries == []


def test_params_prints_the_ledger_as_integers(say: Say) -> None:
    arguments = ("params", "--method", "cls-residual-lora", "--classes", "47", "--json")
    code, out, _ = say(*arguments, "--backbone", "timm/vit_small_patch14_dinov2.lvd142m")
    counts = json.loads(out)
    assert code == 0
    keys = ("backbone", "adapters", "head", "training_only", "trainable", "inference", "total")
    assert all(isinstance(counts[key], int) for key in keys)
    assert counts["backbone"] == 22_056_192  # timm has no mask token
    assert counts["trainable"] == 255_233
    assert counts["inference"] == 123_777
    assert counts["total"] == counts["backbone"] + counts["trainable"]
    for key, value in counts.items():
        if "percent" in key:
            assert "_percent_of_" in key, "a percentage says of what"
            other = key.endswith(("_of_language_model", "_of_encoder"))
            assert value is None if other else isinstance(value, float)
    p4 = ("--set", "rank=4", "--set", "bottleneck=48", "--set", "projection-hidden=384")
    changed = json.loads(say(*arguments, *p4, "--backbone", counts["of_backbone"])[1])
    assert changed["trainable"] == 256_305
    same = petiole.params(
        backbone=counts["of_backbone"],
        method="cls-residual-lora",
        classes=47,
        settings={"rank": 4, "bottleneck": 48, "projection_hidden": 384},
    )
    assert same.model_dump(mode="json") == changed
    text = say("params", "--classes", "47")[1]
    assert "% of backbone" in text
    assert max(map(len, text.splitlines())) <= 80


def test_compare_tests_methods_on_the_same_draws(place: Path, say: Say) -> None:
    out = place / "compare"
    arguments = (
        *("compare", place / "photos", "--source", place / "renders", *FEW),
        *("--methods", "cosine", "linear-probe", "--split-seeds", "2", "--out", out, "--quiet"),
        *("--margin", "2.5"),
    )
    code, printed, err = say(*arguments, "--json")
    assert code == 0, err
    result = json.loads(printed)
    assert Path(result["report"]).is_file()
    assert "lies within ±2.5" in Path(result["report"]).read_text()
    rows = {p.name for p in (out / "runs").iterdir()}
    assert {"cosine", "linear-probe", "source-only", "knn", "ridge"} <= rows
    splits = {p.read_text() for p in out.glob("runs/*/split-0-seed-0/split.csv")}
    assert len(splits) == 1, "every method sees the same images"
    assert len({p.read_text() for p in out.glob("runs/cosine/*/split.csv")}) == 2

    code, _, err = say(*arguments)
    assert code == 1
    assert "--resume" in err
    code, text, err = say(*arguments, "--resume")
    assert code == 0, err
    assert "cosine" in text
    assert str(out / "runs") in text
    code, text, _ = say("report", out)
    assert code == 0
    assert result["report"] in text
    code, planned, err = say("plan", out, "--difference", "2", "--json")
    assert code == 0, err
    assert {row["label"] for row in json.loads(planned)["rows"]} > {"linear-probe"}
    code, _, err = say("plan", out, "--difference", "0")
    assert code == 1
    assert "above 0 points" in err


@pytest.mark.usefixtures("fitted")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "{place}/nowhere"], ["nowhere", "no such folder"]),
        (["fit", "{place}/photos", "--method", "cls-resdual"], ["cls-residual-lora"]),
        (
            ["fit", "{place}/photos", "--method", "lora-qkv", "--set", "rnak=3"],
            ["rnak", "rank"],
        ),
        (["fit", "{place}/photos", "--set", "rank=3"], ["auto", "--method averaged-ridge"]),
        (["fit", "{place}/photos", "--budget", "-1"], ["budget must be at least 0", "-1"]),
        (
            ["fit", "{place}/photos", "--method", "ridge", "--budget", "1"],
            ["--budget is for --method auto", "ridge"],
        ),
        (["fit", "{place}/photos", "--set", "rank"], ["key=value"]),
        (["fit", "{place}/photos", "--backbone", "petiole/tiny-vti"], ["petiole/tiny-vit"]),
        (["fit", "{place}/photos", "--shots", "0"], ["at least 1 a class"]),
        (["predict", "{place}/photos", "x.png"], ["No adapter at", "petiole fit"]),
        (["predict", "{place}/run", "{place}/x.png"], ["x.png", "no such file"]),
        (["report", "{place}/photos"], ["record.json is missing"]),
        (["inspect", "cls-residual-lroa"], ["cls-residual-lroa"]),
        (["params", "--classes", "0"], ["at least 1"]),
        (["compare", "{place}/photos", "--methods", "cosin"], ["cosine"]),
    ],
    ids=lambda value: " ".join(value).replace("{place}/", "") if isinstance(value, list) else None,
)
def test_errors_say_what_to_do(
    place: Path,
    say: Say,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = say(*(a.replace("{place}", str(place)) for a in arguments))
    assert code == 1
    assert out == ""
    assert "error:" in err
    assert "Traceback" not in err
    for word in words:
        assert word in err


def test_an_error_in_its_own_process_has_no_traceback(place: Path) -> None:
    started = petiole_process("fit", place / "no [b] where")
    _, told = started.communicate()
    assert started.returncode == 1
    assert str(place / "no [b] where") in told, "whole, on one line, brackets kept"
    assert "Traceback" not in told


def test_broken_images_are_named_or_counted(tmp_path: Path, say: Say) -> None:
    root = write_images(tmp_path / "photos", 6, 2)
    broken = root / "ash" / "zz.png"
    broken.write_bytes(b"\x89PNG no")
    code, _, err = say("fit", root, *QUICK, "--out", tmp_path / "run", "--quiet")
    assert code == 1
    assert str(broken) in err
    assert "--skip-bad" in err
    code, out, err = say(
        *("fit", root, *QUICK, "--out", tmp_path / "run", "--quiet", "--skip-bad", "--json")
    )
    assert code == 0, err
    notes = json.loads(out)["record"]["request"]["data"]["notes"]
    assert any("1 unreadable image" in note and "zz.png" in note for note in notes)


def test_what_is_left_open_is_chosen(place: Path, say: Say, tmp_path: Path) -> None:
    """Method and backbone by default, and the page says why."""
    given = ("fit", place / "photos", "--shots", "4", "--out", tmp_path / "run", "--quiet")
    backbones = ("--backbone", "petiole/tiny-vit", "petiole/tiny-clip")
    code, out, err = say(*given, *backbones)
    assert code == 0, err
    assert "auto     petiole/tiny-vit: " in out
    assert "auto     averaged-ridge: " in out
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "left-out target images" in page
    code, again, err = say(*given, *backbones, "--resume", "--json")
    assert code == 0, err
    chosen = json.loads(again)
    best = chosen["selection"]["backbones"][0]["name"]
    assert chosen["record"]["request"]["backbone"]["name"] == best
    assert chosen["record"]["test_evaluations"] == 1
    code, out, err = say("backbones", place / "photos", *backbones, "--shots", "4", "--quiet")
    assert code == 0, err
    _, first, second, *rest = out.splitlines()
    assert first.startswith(best)
    assert second.startswith("petiole/tiny-")
    assert rest == ["of 8 left-out target images, by the averaged ridge"]
    code, _, err = say("compare", place / "photos", *backbones)
    assert code == 1
    assert "petiole backbones ranks them" in err.replace("\n", " ")


def test_images_that_changed_since_the_last_call_are_seen(tmp_path: Path) -> None:
    root = write_images(tmp_path / "photos", 6, 3)
    model = petiole.commands.options.ModelOptions(image_size=32, quiet=True)
    options: dict[str, Any] = {"method": "class-means", "shots": 2, "model": model}
    first = petiole.fit(root, out=tmp_path / "1", **options)
    (root / "ash" / "0.png").unlink()
    (root / "ash" / "1.png").unlink()
    second = petiole.fit(root, out=tmp_path / "2", **options)
    images = [r.record["request"]["data"]["samples"] for r in (first, second)]
    assert sum(images[0].values()) > sum(images[1].values())


def test_python_and_command_give_the_same_run(
    place: Path, fitted: dict[str, Any], tmp_path: Path
) -> None:
    model = petiole.commands.options.ModelOptions(image_size=32, quiet=True)
    again = petiole.fit(
        place / "photos",
        source=place / "renders",
        method="cls-residual-lora",
        settings={"steps": 5, "views": 0},
        shots=3,
        out=tmp_path / "run",
        model=model,
    )
    assert again.record["id"] == fitted["record"]["id"]
    name = "adapter/adapter.safetensors"
    assert again.record["files"][name] == fitted["record"]["files"][name]


def test_every_command_explains_itself(say: Say) -> None:
    for verb in VERBS:
        code, out, _ = say(verb, "--help")
        assert code == 0
        assert "Usage: petiole " + verb in out
        assert not re.search(r"default: (\(|\[|False|None)", out), "defaults that say nothing"
    assert say("--version")[1].strip() == petiole.__version__


def test_doctor_finds_something(say: Say) -> None:
    code, out, _ = say("doctor", "--json")
    found = json.loads(out)["checks"]
    checks = {c["name"]: c["level"] for c in found}
    assert checks["libraries"] == "ok"
    speed = next(c["finding"] for c in found if c["name"] == "speed")
    assert re.search(r"matrix product [\d,.]+ [GT]FLOP/s.* [1-9]\d*% of it", speed), speed
    assert code == int("bad" in checks.values())


LIGHT = """
import sys, time
start = time.process_time()
from petiole.cli import main
try:
    main(["--help"])
except SystemExit as done:
    assert not done.code
heavy = {"torch", "pydantic", "numpy", "sklearn", "matplotlib", "timm"} & set(sys.modules)
print(sorted(heavy), time.process_time() - start, file=sys.stderr)
"""


def test_help_is_quick_and_light() -> None:
    seconds = []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True)
        heavy, taken = done.stderr.strip().rsplit(" ", 1)
        assert heavy == "[]"
        assert "Train one adapter" in done.stdout
        seconds.append(float(taken))
    assert median(seconds) < 0.5, "processor seconds, which a busy machine does not stretch"


IMPORTED = """
import sys
from petiole.cli import main
try:
    main(sys.argv[1:])
except SystemExit as done:
    assert done.code == 0, done.code
names = {"torch", "torch._dynamo", "timm", "transformers", "sklearn", "scipy", "matplotlib", "accelerate", "peft"}
print(*sorted(names & set(sys.modules)), file=sys.stderr)
print(*sorted(name for name in sys.modules if name.startswith("petiole.")), file=sys.stderr)
"""
TINY = "petiole/tiny-vit"


@pytest.mark.parametrize(
    ("command", "needed", "other"),
    [
        ("--help", set(), {"methods", "backbones"}),
        ("fit --help", set(), {"methods", "backbones"}),
        ("inspect methods", set(), {"methods.base", "methods.peft", "backbones"}),
        ("inspect tables", set(), {"methods.base", "backbones"}),
        ("inspect lora-qkv", {"torch"}, {"methods.peft.adaptertune", "methods.language"}),
        (
            f"params --backbone {TINY} --method adaptertune --classes 10",
            {"torch", "timm"},
            {"methods.peft.lora", "backbones.vision.cnn", "tasks"},
        ),
        (f"inspect {TINY}", {"torch", "timm"}, {"backbones.bundled.tiny_clip", "methods.base"}),
    ],
)
def test_a_command_imports_no_more_than_it_uses(
    command: str, needed: set[str], other: set[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, *command.split()], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    heavy, own = done.stderr.splitlines()[-2:]
    assert set(heavy.split()) <= needed
    assert not {f"petiole.{name}" for name in other} & set(own.split())


@pytest.mark.usefixtures("fitted")
def test_predict_imports_no_compiler_no_algebra_and_no_statistics(place: Path) -> None:
    script = IMPORTED.replace('"torch", ', '"torch", "sympy", ')
    command = ["predict", str(place / "run"), str(place / "photos" / "ash" / "0.png")]
    done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stderr.splitlines()[-2].split()) == {"torch", "timm"}


CLASH = """
import petiole.report.formatting
import petiole.engine.record
import petiole
assert petiole.ledger.count and petiole.report.formatting
try:
    petiole.report("/nowhere")
except petiole.PetioleError as error:
    assert "nowhere" in str(error)
    petiole.report.formatting
else:
    raise SystemExit(2)
import petiole.report.page as page
from petiole import ledger, report
shape = petiole.load("petiole/efficientnet-lite0", device="meta")
from petiole.methods.registry import create
assert ledger(shape, create("linear-probe"), 3).head == 3 * 1280 + 3
assert petiole.fit is petiole.fit and not hasattr(petiole, "nonsense")
assert set(petiole.__all__) == set(dir(petiole))
for name in petiole.__all__:
    getattr(petiole, name)
"""


def test_verbs_that_share_a_name_with_a_submodule_are_both() -> None:
    done = subprocess.run([sys.executable, "-c", CLASH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
