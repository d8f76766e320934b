"""Exported models say what the adapter says, without Petiole; what has no such form is refused with its reason."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image

import petiole
from builders.cli import say
from builders.images import write_images
from petiole.backbones.base import Backbone
from petiole.backbones.frozen_network import IMAGES
from petiole.backbones.vision.vit import wrap
from petiole.data.preprocessing import Preprocessing, evaluate_transform
from petiole.errors import AdapterError, ConfigError
from petiole.files import read_sealed, read_tensors, sha256
from petiole.tasks.classification.calibration import Calibration
from petiole.tasks.classification.doubt import Doubt
from petiole.tasks.classification.export.format import FORMATS
from petiole.tasks.classification.export.int8 import quantise
from petiole.tasks.classification.export.network import traced
from petiole.tasks.classification.export.onnx import Onnx
from petiole.tasks.classification.export.parity import Comparison
from petiole.tasks.classification.export.pixels import prepend
from petiole.tasks.classification.export.plain import linear_head
from petiole.tasks.classification.export.session import OnnxSession, onnx_session
from petiole.tasks.classification.module import AdaptedBackbone
from petiole.tasks.classification.novelty import Novelty
from petiole.testing import backbones
from petiole.testing.random_weights import images as noise
from petiole.testing.random_weights import seeded, shaken

CLASSES = ("ash", "birch", "cedar")
CALIBRATION = Calibration(temperature=0.5, scores=[0.1] * 30, threshold=0.25, images=30, folds=5)


def adapted(backbone: Backbone, method: str, **settings: Any) -> AdaptedBackbone:
    """A model whose adapter is no identity."""
    with seeded():
        model = petiole.adapt(backbone, method, classes=CLASSES, **settings)
        shaken(model)
    return model.eval()


@pytest.fixture(scope="module")
def vit() -> Backbone:
    """An architecture that timm and transformers build by name, with one block."""
    with seeded():
        module = shaken(timm.create_model("test_vit", depth=1, num_classes=0, img_size=32))
    return wrap("timm/test_vit", module, backbones.preprocessing(32))


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image whose vector is the only class mean of the model."""
    root = write_images(tmp_path_factory.mktemp("seen"), 1, 5, classes=("ash",), side=40)
    return next(root.rglob("*.png"))


@pytest.fixture(scope="module")
def model(vit: Backbone, seen: Path) -> AdaptedBackbone:
    """LoRA in every block, calibrated."""
    made = adapted(vit, "lora-qkv", rank=2)
    with torch.no_grad():
        mean = torch.nn.functional.normalize(
            made.adapted({IMAGES: made.preprocess(Image.open(seen))[None]}).vector, dim=-1
        )
    means = base64.b64encode(mean.numpy().astype("<f2").tobytes()).decode()
    novelty = Novelty(means=means, width=vit.width, threshold=0.975)
    made.calibration = CALIBRATION.model_copy(update={"novelty": novelty})
    return made


@pytest.fixture(scope="module")
def folders(model: AdaptedBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It in every format, in a folder of the format's name."""
    root = tmp_path_factory.mktemp("exported")
    for name in FORMATS.built_in:
        model.export(root / name, name)
    return root


def without_petiole(code: str, *arguments: object) -> str:
    """Run Python in which petiole cannot be imported; what it prints."""
    blocked = "import sys; sys.modules['petiole'] = None\n" + code
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", blocked, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


RUN_ALL = """
import json, runpy
from pathlib import Path
import numpy as np
root = Path(sys.argv[1])
said = {}
for folder in sorted(root.iterdir()):
    if (folder / "predict.py").is_file():
        script = runpy.run_path(str(folder / "predict.py"))
        golden = np.load(folder / "golden.npz")
        [reads] = set(golden) - {"logits", "vector"}
        found = dict(zip(("logits", "vector"), script["outputs"](golden[reads])))
        width = golden["vector"].shape[1]
        said[folder.name] = {
            "difference": [float(abs(v[:, :width] - golden[k]).max()) for k, v in found.items()],
            "rows": [script["predict"](image, 0.9, 0.01) for image in sys.argv[2:]],
        }
print(json.dumps(said))
"""


def test_every_format_is_used_without_petiole(
    folders: Path, model: AdaptedBackbone, seen: Path, tmp_path: Path
) -> None:
    drawn = write_images(tmp_path / "i", 1, 0, classes=("ash",), side=50)
    images = [seen, *drawn.rglob("*.png")]
    said = json.loads(without_petiole(RUN_ALL, folders, *images))
    assert said.keys() == {*FORMATS.built_in} - {"safetensors-merged"}
    rows = model.predict(images)
    assert [row.outside for row in rows] == [False, True]
    doubt = Doubt(model.calibration, 0.9, 0.01, adapter="it")
    for found in said.values():
        assert max(found["difference"]) < 1e-5
        for one, row in zip(found["rows"], rows, strict=True):
            want = row.probabilities
            assert list(one["probabilities"]) == list(want)
            assert one["probabilities"] == pytest.approx(want, abs=1e-4)
            assert one["label_set"] == doubt.label_set(row.label, want)
            assert (one["label"], one["outside"], one["abstain"]) == (
                row.label,
                row.outside,
                doubt.abstain(row.probability, row.outside),
            )


def test_merged_weights_are_those_of_the_architecture(
    folders: Path, model: AdaptedBackbone, vit: Backbone
) -> None:
    weights, about = read_tensors(folders / "safetensors-merged" / "backbone.safetensors")
    head, _ = read_tensors(folders / "safetensors-merged" / "head.safetensors")
    assert about["architecture"] == vit.name
    bare = timm.create_model("test_vit", depth=1, num_classes=0, img_size=32).eval()
    bare.load_state_dict(weights)
    images = noise(vit)
    with torch.no_grad():
        got = bare(images) @ head["weight"].T + head["bias"]
        torch.testing.assert_close(got, model(images), atol=1e-5, rtol=1e-4)


def test_the_manifest_ties_and_tells_everything(folders: Path, model: AdaptedBackbone) -> None:
    for name in FORMATS.built_in:
        about = read_sealed(folders / name / "export.json")
        inside = {p.name for p in (folders / name).iterdir()} - {"export.json"}
        assert about["files"] == {f: sha256(folders / name / f) for f in inside}
        assert about["form"] == name
        assert about["classes"] == list(CLASSES)
        assert about["fingerprint"] == model.backbone.fingerprint
        assert about["preprocessing"] == model.backbone.preprocessing.model_dump(mode="json")
        doubt = about["calibration"]
        assert (doubt["temperature"], doubt["ood_threshold"]) == (0.5, 0.25)
        assert doubt["label_sets"]["0.9"] == pytest.approx(CALIBRATION.bound(0.9))
        assert doubt["label_sets"]["0.99"] is None  # 30 images are too few
        assert doubt["novelty"] == model.calibration.novelty.model_dump()  # type: ignore[union-attr]
        assert about["parity"]["made_up"]["vectors"] < 1e-4
        assert about["parity"]["made_up"]["same_label"] == 1


@pytest.mark.parametrize(
    ("backbone", "method"),
    [
        ("vit", "cls-residual-lora"),
        ("vit", "adaptertune"),
        ("vit", "vpt-deep"),
        ("vit", "bitfit"),
        ("vit", "peft:loha"),
        ("clip", "maple"),
        ("clip", "clip-lora"),
        ("resnet", "linear-probe"),
    ],
)
def test_every_kind_of_method_is_one_graph(backbone: str, method: str) -> None:
    one_block = wrap("test/vit", backbones.timm_vit(depth=1), backbones.preprocessing())
    made = adapted(one_block if backbone == "vit" else backbones.TIMM[backbone](), method)
    program = traced(made.adapted)
    for count in (1, 5):
        images = noise(made.backbone, count)
        with torch.no_grad():
            got, want = program.module()(images), made.adapted({IMAGES: images})
        for value, wanted in zip(got, (want.logits, want.vector), strict=True):
            torch.testing.assert_close(value, wanted, atol=1e-5, rtol=1e-5)
    text = [name for name in program.state_dict if "text_model" in name]
    assert not text  # class names are a matrix, and their tower stays behind


def test_the_session_is_the_adapter(tiny: Callable[..., Backbone]) -> None:
    model = adapted(tiny(), "cls-residual-lora")
    session = onnx_session(model._adapter())
    images = noise(model.backbone, 3)
    with torch.no_grad():
        np.testing.assert_allclose(session.predict(images.numpy()), model(images), atol=1e-5)


@pytest.mark.parametrize("int8", ["dynamic", "weights"])
def test_int8_is_smaller_and_close(
    folders: Path, model: AdaptedBackbone, tmp_path: Path, int8: Any
) -> None:
    whole = folders / "onnx" / "model.onnx"
    file = Path(shutil.copy(whole, tmp_path))
    quantise(file, int8)
    assert file.stat().st_size < 0.75 * whole.stat().st_size
    chosen = Onnx(int8=int8)
    assert "8 bits" in chosen.approximate
    parity = Comparison(
        model._adapter(), chosen.open(tmp_path, model._adapter()), raw=False
    ).parity()
    assert 1e-5 < parity.made_up.largest_difference < 0.5
    assert parity.made_up.same_label > 0.8


def test_given_images_are_compared_and_scored(model: AdaptedBackbone, tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", 2, 0, classes=CLASSES)
    parity = model.export(tmp_path / "out", "safetensors-merged", data=photos).parity
    hits = [row.label == row.path.parent.name for row in model.predict(photos)]
    assert parity.accuracy == parity.adapter_accuracy == pytest.approx(sum(hits) / 6)
    assert parity.given is not None
    assert (parity.given.images, parity.given.same_label) == (6, 1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("shape", [(40, 57), (28, 20), (301, 200)])
def test_a_graph_prepares_images_as_pillow_does(
    tmp_path: Path, interpolation: Any, shape: tuple[int, int]
) -> None:
    stated = Preprocessing(
        size=(28, 28),
        crop=0.875,
        interpolation=interpolation,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
    )
    prepend(identity(tmp_path / "model.onnx"), stated)
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    got = OnnxSession(tmp_path / "model.onnx").predict(np.stack([image, image]))
    want = evaluate_transform(stated)(Image.fromarray(image)).numpy()
    levels: NDArray[Any] = abs(got - want) * 255 * np.float32(stated.std)[:, None, None]
    assert got.shape == (2, *want.shape)
    assert levels.max() < 1.01  # Pillow rounds between its two passes
    assert levels.mean() < 0.1


def identity(file: Path) -> Path:
    """A model that gives its pixels."""
    import onnx
    from onnx import parser

    onnx.save(
        parser.parse_model(
            """<ir_version: 10, opset_import: ["" : 20]>
            same (float[batch, 3, 28, 28] pixels) => (float[batch, 3, 28, 28] logits) { logits = Identity (pixels) }"""
        ),
        file,
    )
    return file


def test_the_command_writes_checks_and_tells(tmp_path: Path) -> None:
    adapted(petiole.load("petiole/tiny-vit"), "lora-qkv").save(tmp_path / "adapter")
    photos = write_images(tmp_path / "photos", 2, 0, classes=CLASSES)
    out = tmp_path / "out"
    command = ("export", tmp_path / "adapter", "--out", out, "--format")
    said = say(*command, "safetensors-merged", "--data", photos, "--json").json
    assert said["files"].keys() == {p.name for p in out.iterdir()}
    assert (said["images"], said["same_label"], said["test_evaluations"]) == (32 + 6, 1, 1)
    assert 0 < said["largest_difference"] < 1e-4
    assert say(*command, "timm", "--preprocess").err.endswith(
        "The format timm has no use for --preprocess. It is for onnx. Leave it out."
    )
    assert "Did you mean onnx" in say(*command, "onxx").err
    assert say(*command, "torch-export").err.endswith("Move it away, or choose another --out.")


def test_what_has_no_such_form_says_why(tmp_path: Path, vit: Backbone) -> None:
    residual = adapted(backbones.plain(), "cls-residual-lora")
    with pytest.raises(AdapterError, match=r"Residual and CosineHead.*no linear map"):
        residual.export(tmp_path / "a", "safetensors-merged")
    prompts = adapted(vit, "vpt-shallow")
    with pytest.raises(AdapterError, match=r"no weight holds tokens.*onnx or torch-export"):
        prompts.export(tmp_path / "a", "timm")
    with pytest.raises(AdapterError, match=r"timm builds no test/vit"):
        adapted(backbones.plain(), "linear-probe").export(tmp_path / "a", "timm")
    with pytest.raises(AdapterError, match="no classifier"):
        adapted(backbones.two_towers(), "linear-probe").export(tmp_path / "a", "hf")
    with pytest.raises(AdapterError, match="depend on the image"):
        adapted(backbones.two_towers(), "cocoop").export(tmp_path / "a", "torch-export")
    assert not list(tmp_path.iterdir())
    (tmp_path / "a").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        adapted(vit, "linear-probe").export(tmp_path / "a", "timm")


def test_a_model_that_says_something_else_is_not_left_behind(
    tmp_path: Path, model: AdaptedBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(made: Any) -> Any:
        weight, bias = linear_head(made)
        return weight, bias + 1

    monkeypatch.setattr("petiole.tasks.classification.export.plain.linear_head", wrong)
    with pytest.raises(AdapterError, match=r"differ by .* not the adapter"):
        model.export(tmp_path / "a", "safetensors-merged")
    assert not list(tmp_path.iterdir())


def test_dinov2_becomes_a_classifier_of_transformers(tmp_path: Path) -> None:
    made = adapted(backbones.dinov2(tmp_path / "model"), "ssf")
    done = made.export(tmp_path / "out", "hf")
    assert done.parity.made_up.relative < 1e-5
    assert json.loads((tmp_path / "out" / "config.json").read_text())["id2label"]["1"] == "birch"
