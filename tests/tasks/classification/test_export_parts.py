"""Forms of an exported model without the libraries that make them: with what they are asked, and what is made of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from petiole.errors import AdapterError, ConfigError
from petiole.tasks.classification.export import (
    hf,
    int8,
    onnx,
    pixels,
    plain,
    session,
    timm,
    torch_export,
)

ADAPTER: Any = SimpleNamespace(adapted=SimpleNamespace(backbone=SimpleNamespace(width=3)))


@pytest.mark.parametrize(
    ("made", "rounded", "said"),
    [
        (onnx.Onnx(), None, ""),
        (onnx.Onnx("weights"), "weights", "its weights are rounded to 8 bits"),
        (onnx.Onnx("dynamic", True), "dynamic", "its weights are rounded to 8 bits, and its resize rounds otherwise than Pillow's"),
    ],
)  # fmt: skip
def test_a_graph_is_rounded_and_then_prepares_images(
    made: onnx.Onnx, rounded: str | None, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done: list[Any] = []
    monkeypatch.setattr(onnx, "traced", lambda adapted: f"traced {adapted}")
    monkeypatch.setattr(onnx, "save", lambda *given, **how: done.append(("save", given, how)))
    monkeypatch.setattr(int8, "quantise", lambda *given: done.append(("round", given)))
    monkeypatch.setattr("petiole.tasks.classification.export.pixels.prepend", lambda *given: done.append(("prepend", given)))  # fmt: skip

    class Adapted(SimpleNamespace):
        def __str__(self) -> str:
            return "adapted"

    adapted = Adapted(backbone=SimpleNamespace(preprocessing="how"))
    made.write(SimpleNamespace(adapted=adapted), tmp_path)  # type: ignore[arg-type]
    file = tmp_path / onnx.FILE
    wanted: list[Any] = [("save", ("traced adapted", file), {"outputs": ("logits", "vector")})]
    wanted += [("round", (file, rounded))] * bool(rounded)
    wanted += [("prepend", (file, "how"))] * made.preprocess
    assert done == wanted
    assert (made.approximate, made.raw) == (said, made.preprocess)
    with pytest.raises(ConfigError, match=r"^int8 is dynamic or weights, not 'half'\.$"):
        onnx.Onnx("half")  # type: ignore[arg-type]


def test_a_graph_has_a_free_first_dimension(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []

    def export(program: str, *, dynamic_shapes: Any, **how: Any) -> Any:
        done.append((program, how, {n: {k: d.__name__ for k, d in s.items()} for n, s in dynamic_shapes.items()}))  # fmt: skip
        return SimpleNamespace(save=done.append)

    monkeypatch.setattr(onnx.torch.onnx, "export", export)
    onnx.save("program", Path("m.onnx"), inputs=("a",), outputs=("b", "c"))  # type: ignore[arg-type]
    how = {"dynamo": True, "input_names": ["a"], "output_names": ["b", "c"], "verbose": False}
    assert done == [("program", how, {"a": {0: "batch"}}), Path("m.onnx")]


def test_weights_are_rounded_by_onnx_runtime_s_own_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []

    class Quantizer:
        def __init__(self, model: str, **how: Any) -> None:
            done.append((model, how))
            self.model = SimpleNamespace(save_model_to_file=done.append)

        def process(self) -> None:
            done.append("process")

    ort = pytest.importorskip("onnxruntime.quantization")
    kinds = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer")
    monkeypatch.setattr(ort, "quantize_dynamic", lambda *given, **how: done.append((given, how)))
    monkeypatch.setattr(kinds, "MatMulNBitsQuantizer", Quantizer)
    monkeypatch.setattr("onnx.load", lambda file: f"of {file}")
    file = Path("m.onnx")
    int8.quantise(file, "dynamic")
    kind = ort.QuantType.QInt8
    assert done == [((file, file), {"op_types_to_quantize": ["MatMul", "Gemm"], "weight_type": kind})]  # fmt: skip
    done.clear()
    int8.quantise(file, "weights")
    assert done == [("of m.onnx", {"bits": 8, "block_size": 32, "is_symmetric": True}), "process", "m.onnx"]  # fmt: skip


@pytest.mark.parametrize("form", ["timm", "hf"])
def test_what_is_opened_again_is_as_in_prediction(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def opened(*given: Any, **more: Any) -> nn.Module:
        asked.append((given, more))
        return nn.Sequential(nn.Dropout(0.5)).train()

    monkeypatch.setattr("timm.create_model", opened)
    monkeypatch.setattr("transformers.AutoModelForImageClassification.from_pretrained", opened)
    module: Any = {"timm": timm, "hf": hf}[form]
    monkeypatch.setattr(module, "of_module", lambda model, width: (model, width))
    made = {"timm": timm.Timm, "hf": hf.HuggingFace}[form]()
    model, width = made.open(Path("/f"), ADAPTER)  # type: ignore[misc]
    assert not any(part.training for part in model.modules())
    assert width == 3
    assert asked == [(("local-dir:/f",), {"pretrained": True}) if form == "timm" else ((Path("/f"),), {})]  # fmt: skip


@pytest.mark.parametrize("wrapped", [False, True])
def test_vectors_are_what_the_last_layer_reads(wrapped: bool) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> Any:
            z = self.head(self.body(x))
            return SimpleNamespace(logits=z) if wrapped else z

    network, x = Network(), torch.rand(3, 4)
    found = timm.of_module(network, 3)(x)
    assert torch.equal(found.vectors, network.body(x)[:, :3])
    assert torch.equal(found.logits, network.head(network.body(x)))
    assert not found.vectors.requires_grad
    assert not found.logits.requires_grad


def test_a_program_gives_logits_and_vectors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    layer, written = nn.Linear(2, 2), list[Any]()
    program = SimpleNamespace(module=lambda: lambda x: (layer(x), 3 * layer(x)))
    monkeypatch.setattr(torch.export, "load", lambda file: program if file == tmp_path / torch_export.FILE else None)  # fmt: skip
    found = torch_export.TorchExport().open(tmp_path, ADAPTER)(torch.ones(1, 2))
    assert torch.equal(found.vectors, 3 * found.logits)
    assert not found.logits.requires_grad
    monkeypatch.setattr(torch_export, "traced", lambda adapted: written.append(adapted) or "program")  # fmt: skip
    monkeypatch.setattr(torch.export, "save", lambda program, file: file.write(program.encode()))
    torch_export.TorchExport().write(ADAPTER, tmp_path)
    assert (tmp_path / torch_export.FILE).read_text() == "program"
    assert written == [ADAPTER.adapted]


def test_a_session_is_over_a_graph_that_is_written_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Any] = []
    monkeypatch.setattr(onnx.Onnx, "write", lambda _, adapter, folder: written.append((adapter, folder.is_dir(), folder)))  # fmt: skip
    monkeypatch.setattr(session, "OnnxSession", lambda file, *, threads: (file, threads))
    file, threads = session.onnx_session(ADAPTER, threads=3)  # type: ignore[misc]
    ((adapter, there, folder),) = written
    assert (adapter, there, file, threads) == (ADAPTER, True, folder / onnx.FILE, 3)


def test_timm_builds_what_it_knows_by_name() -> None:
    backbone = SimpleNamespace(name="mine", module=nn.Linear(1, 1))
    adapter: Any = SimpleNamespace(adapted=SimpleNamespace(backbone=backbone))
    with pytest.raises(AdapterError, match=r"^timm builds no mine by name"):
        timm.write_timm(adapter, Path("f"))


def test_what_has_no_plain_form_is_said_with_what_has_one(monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    def fails(_: Any) -> Any:
        raise AdapterError("It has prompts.")

    monkeypatch.setattr(plain, "merge", fails)
    monkeypatch.setattr(plain, "linear_head", lambda _: ("W", "b"))
    adapted: Any = SimpleNamespace(plan=SimpleNamespace(attach=(1,), tune=(), injected=None))
    with pytest.raises(AdapterError, match=rf"^It has prompts\. {plain.REMEDY[:20]}"):
        plain.plain(adapted)


@pytest.mark.parametrize("shown", [False, True])
def test_bars_of_transformers_are_as_before(shown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.utils import logging

    done: list[str] = []
    monkeypatch.setattr(logging, "is_progress_bar_enabled", lambda: shown)
    monkeypatch.setattr(logging, "disable_progress_bar", lambda: done.append("off"))
    monkeypatch.setattr(logging, "enable_progress_bar", lambda: done.append("on"))
    with pytest.raises(ZeroDivisionError), hf._no_bars():
        1 / len(done[1:])
    assert done == ["off", *(["on"] * shown)]


def test_transformers_wraps_a_folder_of_timm_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    def write(adapter: Any, folder: Path) -> None:
        assert adapter is ADAPTER
        known = {"architecture": "vit", "model_args": {"num_classes": 3, "depth": 2}}
        (folder / "config.json").write_text(json.dumps(known))

    monkeypatch.setattr(hf, "write_timm", write)
    network = SimpleNamespace(pretrained_cfg={"architecture": "vit"})
    monkeypatch.setattr(ADAPTER.adapted.backbone, "module", network, raising=False)
    hf.HuggingFace().write(ADAPTER, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "architecture": "vit", "model_args": {"depth": 2}, "model_type": "timm_wrapper",
        "architectures": ["TimmWrapperForImageClassification"],
    }  # fmt: skip
    ADAPTER.adapted.backbone.module = nn.Linear(1, 1)
    with pytest.raises(AdapterError, match=r"reads the image vector of Linear as this adapter does"):  # fmt: skip
        hf.HuggingFace().write(ADAPTER, tmp_path)


def test_a_dinov2_reads_its_vector_beside_patches_that_weigh_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    made: list[Any] = []

    class Classifier(nn.Module):
        def __init__(self, config: Any) -> None:
            super().__init__()
            made.append(config.known)
            self.dinov2 = SimpleNamespace(load_state_dict=made.append)
            self.classifier = nn.Linear(6, 2)

        def save_pretrained(self, folder: Path) -> None:
            made.append((folder, self.classifier.weight.tolist(), self.classifier.bias.tolist()))

    class Config:
        def __init__(self, **known: Any) -> None:
            self.known = known

        def to_dict(self) -> Any:
            return self.known

    monkeypatch.setattr("transformers.Dinov2ForImageClassification", Classifier)
    weight, bias = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), torch.tensor([7.0, 8.0])
    monkeypatch.setattr(hf, "plain", lambda _: plain.Plain({"w": 1}, weight, bias))  # type: ignore[dict-item]
    stated = SimpleNamespace(size=(98, 112), crop=0.875, interpolation="bicubic", mean=(0.5,) * 3, std=(0.25,) * 3)  # fmt: skip
    adapter: Any = SimpleNamespace(adapted=SimpleNamespace(backbone=SimpleNamespace(preprocessing=stated)), classes=["x", "y"])  # fmt: skip
    hf._write_dinov2(adapter, SimpleNamespace(config=Config(depth=3)), tmp_path)
    assert made == [
        {"depth": 3, "id2label": {0: "x", 1: "y"}}, {"w": 1},
        (tmp_path, [[1, 2, 3, 0, 0, 0], [4, 5, 6, 0, 0, 0]], [7, 8]),
    ]  # fmt: skip
    told = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert told == {
        "image_processor_type": "BitImageProcessor", "do_convert_rgb": True, "size": {"shortest_edge": 112},
        "crop_size": {"height": 98, "width": 112}, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.25] * 3,
    }  # fmt: skip


def test_a_resize_that_a_graph_does_not_know_is_refused(tmp_path: Path) -> None:
    stated: Any = SimpleNamespace(interpolation="lanczos")
    with pytest.raises(AdapterError, match=r"^ONNX has no lanczos resize, which these weights want\."):  # fmt: skip
        pixels.prepend(tmp_path / "none.onnx", stated)


@pytest.mark.parametrize("linear", [True, False])
def test_a_folder_of_timm_s_is_its_own_network_with_a_new_end(linear: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    written: list[Any] = []

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pretrained_cfg = {"architecture": "known"}
            self.body, self.head = nn.Linear(2, 3), nn.Identity()

        def reset_classifier(self, count: int) -> None:
            self.head = nn.Linear(3 if linear else 4, count)  # type: ignore[assignment]

        def get_classifier(self) -> nn.Module:
            return self.head

    network = Network()
    weight, bias = torch.arange(6.0).reshape(2, 3), torch.tensor([7.0, 8.0])
    merged = {"body.weight": torch.ones(3, 2), "body.bias": torch.zeros(3)}
    stated = SimpleNamespace(size=(20, 30), crop=0.9, interpolation="bicubic", mean=(0.1,) * 3, std=(0.2,) * 3)  # fmt: skip
    backbone = SimpleNamespace(name="b", module=network, preprocessing=stated)
    adapter: Any = SimpleNamespace(adapted=SimpleNamespace(backbone=backbone), classes=["x", "y"])
    monkeypatch.setattr("timm.is_model", lambda name: name == "known")
    monkeypatch.setattr("timm.models.save_for_hf", lambda model, place, **how: written.append((model.state_dict(), place, how)))  # fmt: skip
    monkeypatch.setattr(timm, "plain", lambda _: plain.Plain(merged, weight, bias))
    if not linear:
        with pytest.raises(AdapterError, match=r"^timm's known ends in no linear layer on the image vector"):  # fmt: skip
            timm.write_timm(adapter, Path("f"))
        return
    timm.write_timm(adapter, Path("f"))
    [(state, place, how)] = written
    assert {name: value.tolist() for name, value in state.items()} == {
        name: value.tolist() for name, value in {**merged, "head.weight": weight, "head.bias": bias}.items()
    }  # fmt: skip
    data = {"input_size": (3, 20, 30), "crop_pct": 0.9, "interpolation": "bicubic", "mean": (0.1,) * 3, "std": (0.2,) * 3}  # fmt: skip
    assert (place, how) == ("f", {"model_config": {"label_names": ["x", "y"]}, "safe_serialization": True, "data_config": data})  # fmt: skip
    assert isinstance(network.head, nn.Identity), "the backbone stays as it is"
