"""What the engine tells people: cut where it would be long, counted where it is left out, and nothing of this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from petiole.engine import hub, hub_card, record
from petiole.engine.adapter import TOLERANCE, Adapter, Manifest, check_fingerprint, difference
from petiole.engine.adapter_limits import TENSOR_COUNT, Stored, check_fits, regular
from petiole.engine.feature_store import _cannot_write
from petiole.engine.loggers import params_of, scores_of
from petiole.engine.model_card import ModelCard
from petiole.engine.record import RECORD
from petiole.engine.use_check import _few
from petiole.errors import AdapterError, ConfigError


@pytest.mark.parametrize(
    ("names", "said"),
    [("abc", "a, b, c"), ("abcd", "a, b, c, d"), ("abcde", "a, b, c, d and 1 more"), ("abcdef", "a, b, c, d and 2 more")],
)  # fmt: skip
def test_few_names_are_told_and_the_others_counted(names: str, said: str) -> None:
    assert _few(list(names)) == said


def test_a_request_becomes_parameters_of_bounded_length() -> None:
    long = "x" * 501
    assert params_of({"a": {"b": {"c": 1.5, "n": None}}, "s": long, "l": [1, 2], "f": True}) == {
        "a.b.c": 1.5, "s": "x" * 500, "l": "[1, 2]", "f": True
    }  # fmt: skip
    assert scores_of({}) == {}


def test_a_value_on_a_card_stays_in_its_cell() -> None:
    assert hub_card._plain("a|b\n<c>") == "a\\|b &lt;c>"


@pytest.mark.parametrize(("count", "more"), [(50, ""), (51, ", and 1 more"), (2050, ", and 2,000 more")])  # fmt: skip
@pytest.mark.parametrize("kind", ["classes", "tasks"])
def test_fifty_names_are_on_the_card(count: int, more: str, kind: str) -> None:
    names = [f"n{i}" for i in range(count)]
    parts = {"classes": [], "tasks": [], kind: names if kind == "classes" else [SimpleNamespace(name=n) for n in names]}  # fmt: skip
    told = hub_card._names(SimpleNamespace(**parts))  # type: ignore[arg-type]
    assert told == ", ".join(names[:50]) + more


def scored(**more: Any) -> Any:
    data = SimpleNamespace(
        samples={"train": 1200, "test": 50}, shots=None, split_seed=3, scored="test", digests={"test": "0123456789abcdefgh"}
    )  # fmt: skip
    return SimpleNamespace(
        **{"request": SimpleNamespace(data=data, seed=2), "scores": {"test": {"accuracy": 0.8, "ece": 0.0256}},
           "selection": "last step", "test_evaluations": 1, "costs": SimpleNamespace(train_seconds=61.6), "created": "now", **more}
    )  # fmt: skip


def test_a_card_tells_its_record_with_wilson_s_interval() -> None:
    told = hub_card._recorded(scored())
    for part in (
        "| samples | train 1,200, test 50 |", "| shots a class | all |", "| seed, split seed | 2, 3 |",
        "evaluated once in that folder", "test `0123456789abcdef` |", "| training | 62 s, now |",
        "| test | accuracy | 0.8000 | [0.6696, 0.8876] |", "| test | ece | 0.0256 |  |",
    ):  # fmt: skip
        assert part in told
    assert "evaluated 2 times in" in hub_card._recorded(scored(test_evaluations=2))
    assert hub_card._interval(scored(), "accuracy", 1.0).endswith(", 1.0000]")
    without = scored()
    without.request.data.samples = {"train": 9}
    assert hub_card._interval(without, "accuracy", 0.5) == ""


@pytest.mark.parametrize("text", ["", "first " + "x" * 300 + "\nsecond"])
def test_what_the_hub_says_is_told_on_one_line(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **how: Any) -> str:
        assert how == {"revision": "v1", "allow_patterns": [*hub.FILES]}
        raise OSError(text)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fails)
    with pytest.raises(AdapterError) as caught:
        hub.download("hf:ann/leaves@v1")
    said = text.splitlines()[0][:200] if text else "no reason given"
    assert f"(OSError: {said}). Check owner" in str(caught.value)
    for name in ("hf:ann", "hf:ann/leaves@", "hf:a/b/c"):
        with pytest.raises(AdapterError, match="is no name on the hub"):
            hub.download(name)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: f"/cache/{name}")
    assert hub.download("hf:ann/leaves@v1") == Path("/cache/ann/leaves")

    monkeypatch.setattr("huggingface_hub.HfApi", lambda: SimpleNamespace(create_repo=refuse))
    monkeypatch.setattr(hub, "_forget_places", lambda _: None)
    monkeypatch.setattr(hub, "card", lambda *_: "")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(text)

    with pytest.raises(ConfigError) as refused:
        hub.push(tmp_path, None, "ann/leaves")
    assert f"did not take ann/leaves (OSError: {said}). Check the name" in str(refused.value)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("place", ["/home/ann/w.safetensors", None])
def test_a_signature_goes_with_what_it_signed(
    signed: bool, place: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was of the manifest with the paths of this machine."""
    seen = ModelCard(name="vit", fingerprint="0", weights=place, vision_backbone=ModelCard(name="t", fingerprint="1"))  # fmt: skip
    stated = lambda update: SimpleNamespace(model_dump=lambda mode: {"b": update["backbone"].weights, "m": mode})  # noqa: E731  # fmt: skip
    manifest = SimpleNamespace(backbone=seen, model_copy=stated)
    monkeypatch.setattr(hub, "read_manifest", lambda _: manifest)
    signature = tmp_path / (hub.MANIFEST + hub.SIGNATURE)
    if signed:
        signature.write_text("of what it was")
    hub._forget_places(tmp_path)
    assert signature.exists() == (signed and place is None)
    assert (tmp_path / hub.MANIFEST).exists() == (place is not None)


@pytest.mark.parametrize("kind", ["classification", "text"])
@pytest.mark.parametrize("recorded", [True, False])
def test_a_card_tells_its_manifest(
    kind: str, recorded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = SimpleNamespace(
        kind=kind, method="lora", settings={"rank": 4, "recipe": {"lr": 1}, "on": "q|v"}, classes=["ash"],
        ledger=SimpleNamespace(inference=1200, fixed=34), backbone=SimpleNamespace(name="vit", fingerprint="f0"), petiole="9.9",
    )  # fmt: skip
    monkeypatch.setattr(hub_card, "read_manifest", lambda _: manifest)
    monkeypatch.setattr(hub_card, "read_record", lambda run: ("record of", run))
    monkeypatch.setattr(hub_card, "_recorded", str)
    monkeypatch.setattr(hub_card, "licence_of", lambda _: "Apache-2.0" if recorded else "")
    if recorded:
        (tmp_path / RECORD).touch()
    told = hub_card.card(tmp_path / "adapter", tmp_path, "ann/leaves")
    labels = kind == "classification"
    for part, there in (
        ("# leaves\n", True), (": 1,234 numbers on the frozen backbone `vit`", True),
        ("| settings | rank=4, on=q\\|v |", True), ("| classes or tasks | ash |", True),
        ("pipeline_tag: image-classification", labels), ("petiole predict hf:ann/leaves", labels),
        ('petiole.load_adapter("hf:ann/leaves")', labels), ('petiole.Adapter.load("hf:ann/leaves")', not labels),
        (f"('record of', {tmp_path!r})", recorded), ("without the record", not recorded),
        ("license: apache-2.0", recorded), ("| Apache-2.0 |", recorded), ("not known here", not recorded),
    ):  # fmt: skip
        assert (part in told) == there, part


@pytest.mark.parametrize("private", [True, False])
def test_a_repository_is_made_if_it_is_not_there(
    private: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    class Api:
        def create_repo(self, repo: str, **how: Any) -> None:
            asked.append((repo, how))

        def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> Any:
            files = sorted(p.relative_to(folder_path).as_posix() for p in folder_path.rglob("*") if p.is_file())  # fmt: skip
            asked.append((repo_id, files, commit_message))
            return SimpleNamespace(commit_url="there")

    (tmp_path / "peft").mkdir()
    for name in ("adapter.json", "adapter.safetensors", "notes.txt", "peft/a.json"):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr(hub, "_forget_places", lambda _: None)
    monkeypatch.setattr(hub, "card", lambda *of: f"card of {of[1:]}")
    assert hub.push(tmp_path, None, "ann/leaves", private=private) == "there"
    files = ["README.md", "adapter.json", "adapter.safetensors", "peft/a.json"]
    assert asked == [
        ("ann/leaves", {"private": private, "exist_ok": True}),
        ("ann/leaves", files, "Adapter written by petiole"),
    ]
    for repo in ("leaves", "ann/leaves@v1"):
        with pytest.raises(ConfigError, match="Write OWNER/NAME"):
            hub.push(tmp_path, None, repo)


def test_class_names_that_occur_twice_are_told() -> None:
    with pytest.raises(ValueError, match=r"occur twice, so that predictions would be ambiguous: a, b, c, d, e$"):  # fmt: skip
        Manifest._each_once([name for name in "fedcba" for _ in range(2)])  # type: ignore[operator]
    assert Manifest._each_once(["a", "b"]) == ["a", "b"]  # type: ignore[operator]
    with pytest.raises(ValueError, match="occur twice"):
        Manifest._each_once(["e\u0301", "\u00e9"])  # type: ignore[operator]


def test_other_weights_are_named_by_twelve_letters() -> None:
    card: Any = SimpleNamespace(name="vit", quantize=None, fingerprint="0123456789abcdef")
    check_fingerprint(Path("a"), card, SimpleNamespace(quantized=None, fingerprint=card.fingerprint))  # type: ignore[arg-type]  # fmt: skip
    other = SimpleNamespace(name="own", quantized=None, fingerprint="fedcba9876543210")
    with pytest.raises(AdapterError, match=r"fingerprint 0123456789ab, but own has fedcba987654. "):
        check_fingerprint(Path("a"), card, other)  # type: ignore[arg-type]
    other.quantized = "int8"
    with pytest.raises(AdapterError, match="stored as floats, but this one stores them as int8"):
        check_fingerprint(Path("a"), card, other)  # type: ignore[arg-type]


@pytest.mark.parametrize(("error", "fits"), [(0.0, True), (0.9 * TOLERANCE, True), (1.1 * TOLERANCE, False), (float("nan"), False)])  # fmt: skip
def test_golden_values_may_differ_by_rounding(error: float, fits: bool) -> None:
    want = torch.tensor([1.0, -3.0])
    got = want + error * torch.tensor([0.0, 4.0])
    adapter: Any = SimpleNamespace(golden_values=lambda: got, manifest=SimpleNamespace(golden=want.tolist()))  # fmt: skip
    if fits:
        Adapter.replay(adapter, Path("a"))
        assert difference(got, want) == pytest.approx(error, abs=1e-6)
    else:
        with pytest.raises(AdapterError, match="the golden input gives values that differ"):
            Adapter.replay(adapter, Path("a"))
    assert difference(want[:1], want) == float("inf")


def test_the_tolerance_itself_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petiole.engine.adapter.TOLERANCE", 0.5)
    adapter: Any = SimpleNamespace(golden_values=lambda: torch.tensor([0.5]), manifest=SimpleNamespace(golden=[0.0]))  # fmt: skip
    Adapter.replay(adapter, Path("a"))


def test_files_of_adapters_are_regular_and_bounded(tmp_path: Path) -> None:
    file = tmp_path / "f"
    with pytest.raises(AdapterError, match="f is missing"):
        regular(file)
    file.write_bytes(b"12345")
    assert regular(file) == regular(file, 5) == 5
    with pytest.raises(AdapterError, match="has 5 bytes; at most 4 are read"):
        regular(file, 4)
    with pytest.raises(AdapterError, match="is no regular file"):
        regular(tmp_path)


def test_a_header_names_what_the_model_has_and_little_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petiole.engine.adapter_limits.SLACK", 3)
    wanted = {"w": torch.zeros(2)}
    for numbers in (2, 11):
        check_fits(Path("a"), {"w": Stored("F32", (numbers,))}, wanted)
    with pytest.raises(AdapterError, match="holds 12 numbers, and at most 11 are read"):
        check_fits(Path("a"), {"w": Stored("F32", (12,))}, wanted)
    with pytest.raises(
        AdapterError, match=r"2 tensor\(s\) are in one of the two alone, the first 'v'"
    ):
        check_fits(Path("a"), {"v": Stored("F32", (2,))}, wanted)
    assert TENSOR_COUNT == 65_536


def test_what_could_not_be_stored_is_told_in_megabytes() -> None:
    tensors = {"a": torch.zeros(1000, 500), "b": torch.zeros(500_000, dtype=torch.float16)}
    said = str(_cannot_write(OSError(13, "Permission denied"), Path("there"), tensors))
    assert said.startswith(
        "Could not store 3.0 MB of features in there: [Errno 13] Permission denied."
    )
    many = torch.zeros(1).expand(2 * 10**12)  # as large as that: a millionth more would be told
    assert "store 8000000.0 MB" in str(_cannot_write(OSError(13, ""), Path("there"), {"a": many}))


@pytest.mark.parametrize(("changed", "told"), [("", "abc"), (" M file\n", "abc+")])
def test_the_commit_is_told_and_whether_files_were_changed(
    changed: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def run(command: list[str], **how: Any) -> Any:
        asked.append(how)
        return SimpleNamespace(stdout="abc\n" if "rev-parse" in command else changed)

    monkeypatch.setattr(subprocess, "run", run)
    assert record._code() == told
    here = Path(record.__file__).parent
    assert asked == [{"cwd": here, "capture_output": True, "text": True, "check": True, "timeout": 10}] * 2  # fmt: skip

    def fails(*_: Any, **__: Any) -> Any:
        raise subprocess.CalledProcessError(128, "git")

    monkeypatch.setattr(subprocess, "run", fails)
    assert record._code() == ""


def test_the_environment_says_which_python() -> None:
    known = record.environment()
    assert known["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "timm", "threads", "platform", "petiole"} <= set(known)
