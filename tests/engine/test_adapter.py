"""The adapter file: proves its fit when it is opened, refuses whatever differs."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import petiole
from builders.processes import start
from petiole.backbones.registry import load
from petiole.backbones.vision.cnn import ConvNet
from petiole.engine.adapter import read_manifest
from petiole.engine.run import RunSpec, run
from petiole.engine.task import adapter_class, open_workspace
from petiole.errors import AdapterError, ConfigError
from petiole.files import sha256, write_sealed, write_tensors
from petiole.methods.registry import create, methods, settings_of
from petiole.tasks.classification.adapter import ClassificationAdapter, golden_logits
from petiole.tasks.classification.model import AdaptedClassifier, predict
from petiole.tasks.classification.predictions import read_predictions
from petiole.tasks.classification.workspace import Classification, Subset
from petiole.testing import backbones as tiny
from petiole.testing.methods import carries

Tiny = Callable[..., ConvNet]
CNN = tiny.resnet()
ON_A_CNN = [n for n in methods() if n != "full" and carries(CNN, n)]


def build(
    backbone: ConvNet, method: str = "cls-residual-lora", seed: int = 1
) -> ClassificationAdapter:
    """An adapter whose every tensor is random, so that each of them matters."""
    chosen = create(method)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = AdaptedClassifier(backbone, chosen.plan(backbone, 3))
        for p in adapted.parameters():
            torch.nn.init.normal_(p)
    return ClassificationAdapter.of(
        adapted,
        method=method,
        settings=settings_of(chosen),
        classes=["a", "b", "c"],
        weights=None,
        image_size=None,
    )


@pytest.fixture
def saved(tmp_path: Path, tiny: Tiny) -> Path:
    build(tiny()).save(tmp_path / "adapter")
    return tmp_path / "adapter"


def edit(folder: Path, **changes: object) -> None:
    file = folder / "adapter.json"
    manifest = json.loads(file.read_text())
    for path, value in changes.items():
        *parents, leaf = path.split("__")
        place = manifest
        for parent in parents:
            place = place[parent]
        place[leaf] = value
    write_sealed(file, manifest)


def retensor(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors and make the manifest's checksum fit again."""
    tensors = load_file(folder / "adapter.safetensors")
    change(tensors)
    write_tensors(folder / "adapter.safetensors", tensors)
    edit(folder, tensors_sha256=sha256(folder / "adapter.safetensors"))


@pytest.mark.parametrize("method", ON_A_CNN)
def test_what_is_saved_predicts_the_same(tmp_path: Path, tiny: Tiny, method: str) -> None:
    adapter = build(tiny(), method)
    if hasattr(adapter.adapted.head, "solve"):
        head = adapter.adapted.head
        x, y = torch.randn(30, head.width), torch.arange(30) % 3
        head.solve(x, y, y == y)
        golden = golden_logits(adapter.adapted).tolist()
        adapter.manifest = adapter.manifest.model_copy(update={"golden": golden})
    adapter.save(tmp_path)
    again = ClassificationAdapter.load(tmp_path, backbone=tiny())
    state = again.adapted.backbone.lower(torch.randn(5, 3, 16, 16), again.adapted.cut)
    for a, b in zip(
        predict(adapter.adapted, [state]), predict(again.adapted, [state]), strict=True
    ):
        assert torch.equal(a, b)
    kept = set(load_file(tmp_path / "adapter.safetensors"))
    assert not any("projector" in name or "prototype" in name for name in kept)


def test_the_file_is_small_and_drops_the_training_only_part(saved: Path) -> None:
    manifest = json.loads((saved / "adapter.json").read_text())
    assert manifest["ledger"]["training_only"] > 0
    tensors = load_file(saved / "adapter.safetensors")
    assert sum(t.numel() for t in tensors.values()) == manifest["ledger"]["inference"]
    size = (saved / "adapter.safetensors").stat().st_size
    assert manifest["ledger"]["stored_bytes"] <= size < manifest["ledger"]["stored_bytes"] + 2000


def test_loading_leaves_random_state_alone(saved: Path, tiny: Tiny) -> None:
    backbone, before = tiny(), torch.random.get_rng_state()
    ClassificationAdapter.load(saved, backbone=backbone)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_other_weights_are_refused_by_fingerprint(saved: Path, tiny: Tiny) -> None:
    with pytest.raises(AdapterError, match=r"fingerprint.*--weights"):
        ClassificationAdapter.load(saved, backbone=tiny(seed=5))


def test_other_weights_are_refused_by_the_golden_input(saved: Path, tiny: Tiny) -> None:
    liar = tiny(seed=5)
    liar.__dict__["fingerprint"] = tiny().fingerprint
    with pytest.raises(AdapterError, match=r"golden input.*differ"):
        ClassificationAdapter.load(saved, backbone=liar)


def test_other_preprocessing_is_refused(saved: Path, tiny: Tiny) -> None:
    backbone = tiny()
    backbone.preprocessing = backbone.preprocessing.model_copy(update={"crop": 0.5})
    with pytest.raises(AdapterError, match="preprocessing"):
        ClassificationAdapter.load(saved, backbone=backbone)


@pytest.mark.parametrize(
    "logits", [[0.1, 0.2, 0.3], [0.1, 0.2], [float("nan")] * 3], ids=["other", "fewer", "nan"]
)
def test_tampered_golden_logits_are_refused(saved: Path, tiny: Tiny, logits: list[float]) -> None:
    edit(saved, golden=logits)
    with pytest.raises(AdapterError):
        ClassificationAdapter.load(saved, backbone=tiny())


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"format": 1}', "\udcff"],
    ids=["empty", "torn", "list", "fields", "bytes"],
)
def test_a_damaged_manifest_is_explained(saved: Path, tiny: Tiny, text: str) -> None:
    (saved / "adapter.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(AdapterError, match=r"adapter.json: is damaged"):
        ClassificationAdapter.load(saved, backbone=tiny())


@pytest.mark.parametrize(
    "change",
    [{"format": 3}, {"surprise": 1}, {"method": "no-such"}, {"settings__rank": "many"}],
    ids=["format", "field", "method", "setting"],
)
def test_what_this_version_cannot_build_is_explained(
    saved: Path, tiny: Tiny, change: dict[str, object]
) -> None:
    edit(saved, **change)
    with pytest.raises(AdapterError, match=re.escape("adapter.json")):
        ClassificationAdapter.load(saved, backbone=tiny())


def test_no_adapter_at_all_is_explained(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"No adapter at.*petiole fit"):
        ClassificationAdapter.load(tmp_path)


def test_a_kind_of_task_that_is_unknown_is_named() -> None:
    with pytest.raises(ConfigError, match="Unknown kind of task 'classifications'"):
        adapter_class("classifications")


def test_missing_tensors_are_explained(saved: Path, tiny: Tiny) -> None:
    (saved / "adapter.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"adapter.safetensors is missing"):
        ClassificationAdapter.load(saved, backbone=tiny())


def test_damaged_tensors_are_refused_by_checksum(saved: Path, tiny: Tiny) -> None:
    file = saved / "adapter.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(AdapterError, match="checksum differs"):
        ClassificationAdapter.load(saved, backbone=tiny())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: t.update(extra=torch.zeros(1)),
            "1 tensor.* one of the two alone, the first 'ex",
        ),
        (
            lambda t: t.pop("head.weight"),
            "1 tensor.* one of the two alone, the first 'head.weight'",
        ),
        (lambda t: t.update({"head.weight": torch.zeros(4, 8)}), r"adapter\.json.*size mismatch"),
    ],
    ids=["extra", "missing", "shape"],
)
def test_tensors_that_do_not_fit_are_refused(
    saved: Path, tiny: Tiny, change: Callable[[dict[str, torch.Tensor]], object], said: str
) -> None:
    retensor(saved, change)
    with pytest.raises(AdapterError, match=f"(?s)does not fit its own.*{said}"):
        ClassificationAdapter.load(saved, backbone=tiny())


def test_a_changed_weight_is_caught_by_the_golden_input(saved: Path, tiny: Tiny) -> None:
    retensor(saved, lambda t: t["head.weight"].mul_(-1))
    with pytest.raises(AdapterError, match="golden"):
        ClassificationAdapter.load(saved, backbone=tiny())


def test_files_that_are_no_safetensors_are_refused(saved: Path, tiny: Tiny) -> None:
    file = saved / "adapter.safetensors"
    torch.save({"head.weight": torch.zeros(1)}, file)
    edit(saved, tensors_sha256=sha256(file))
    with pytest.raises(AdapterError, match="has a header of"):
        ClassificationAdapter.load(saved, backbone=tiny())


def test_nothing_is_unpickled_anywhere() -> None:
    """One reader of plain pickles, which looks no name up; torch.load weights-only alone."""
    root = Path(petiole.__file__).parent
    for file in root.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"\b(import|from) (dill|joblib|shelve|marshal)\b", text), file
        if file == root / "data" / "readers" / "pickles.py":
            assert re.findall(r"pickle\.\w+\(?", text) == ["pickle.Unpickler"], file
            assert "super().find_class" not in text, file
        else:
            assert not re.search(r"pickle\.(loads?|Unpickler)\b", text), file
        assert not re.search(r"from pickle import (?!UnpicklingError)", text), file
        assert "allow_pickle=True" not in text, file
        for call in re.finditer(r"torch\.load\(([^)]*)\)", text):
            assert file.parent.name == "bundled", file
            assert "weights_only=True" in call.group(1), file


FRESH = """
import json, sys
import petiole
from builders.processes import start
rows = petiole.predict(sys.argv[1], sys.argv[2:]).predictions
print(json.dumps([r.probabilities for r in rows]))
"""


def test_a_fresh_process_predicts_what_the_training_did(
    bench: Classification, tmp_path: Path
) -> None:
    settings = {"steps": 20, "views": 0}
    run(RunSpec(bench, "cls-residual-lora", tmp_path / "run", settings, Subset(3)))
    kept = read_predictions(tmp_path / "run")
    out, _ = start(FRESH, tmp_path / "run", *kept.paths).communicate()
    rows = json.loads(out)
    classes = open_workspace(bench).shift.classes
    got = torch.tensor([[row[name] for name in classes] for row in rows])
    torch.testing.assert_close(got, kept.probabilities, rtol=1e-4, atol=1e-5)


def test_moved_weights_are_found_where_they_are_said_to_be(
    bench: Classification, tmp_path: Path
) -> None:
    """weights= overrides the place that the file remembers; other weights stay refused."""
    whole = load("petiole/efficientnet-lite0", image_size=32)
    import timm

    module = timm.create_model("tf_efficientnet_lite0", num_classes=1000)
    own = module.state_dict()
    own.update(whole.module.state_dict())
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    write_tensors(first, own)
    job = RunSpec(
        replace(bench, weights=first),
        "linear-probe",
        tmp_path / "run",
        {"steps": 1, "views": 0},
        Subset(3),
    )
    run(job)
    first.rename(second)
    with pytest.raises(petiole.PetioleError, match=re.escape(str(first))):
        ClassificationAdapter.load(tmp_path / "run")
    assert ClassificationAdapter.load(tmp_path / "run", weights=second).classes == [
        "ash",
        "birch",
        "cedar",
    ]
    own["conv_stem.weight"] += 0.1
    write_tensors(second, own)
    with pytest.raises(AdapterError, match="fingerprint"):
        ClassificationAdapter.load(tmp_path / "run", weights=second)


def test_what_a_kind_has_no_use_for_is_refused_and_what_says_nothing_is_left_out(
    saved: Path, tiny: Tiny
) -> None:
    backbone = tiny()
    ClassificationAdapter.load(saved, backbone=backbone, language_model=None, vision_backbone="")
    with pytest.raises(ConfigError, match=r"kind classification, which has no use for language_model\. Leave"):  # fmt: skip
        ClassificationAdapter.load(saved, backbone=backbone, language_model="bart")


@pytest.mark.parametrize("kind", ["text", "boards", "classification"])
def test_another_kind_than_is_wanted_is_refused(saved: Path, kind: str) -> None:
    """Of one that is not known here, whoever opens it says so."""
    edit(saved, kind=kind)
    if kind == "text":
        with pytest.raises(AdapterError, match="kind text, and an adapter of the kind classification is"):  # fmt: skip
            read_manifest(saved, kind="classification")
    else:
        assert read_manifest(saved, kind="classification").kind == kind
    assert read_manifest(saved).kind == kind


@pytest.mark.parametrize(("most", "fits"), [(3, True), (2, False)])
def test_so_many_classes_are_read(
    saved: Path, most: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("petiole.engine.adapter.CLASSES", most)
    if fits:
        assert read_manifest(saved).classes == ["a", "b", "c"]
    else:
        with pytest.raises(AdapterError, match="names 3 classes; at most 2 are read"):
            read_manifest(saved)


def test_class_names_that_were_exchanged_or_occur_twice_are_refused(
    saved: Path, tiny: Tiny
) -> None:
    file = saved / "adapter.json"
    manifest = json.loads(file.read_text())
    manifest["classes"].reverse()
    file.write_text(json.dumps(manifest))
    with pytest.raises(AdapterError, match=r"adapter\.json.*changed since it was written.*Copy"):
        ClassificationAdapter.load(saved, backbone=tiny())
    edit(saved, classes=["a", "a", "b"])
    with pytest.raises(AdapterError, match=r"occur twice.*: a"):
        ClassificationAdapter.load(saved, backbone=tiny())
