"""Adapters over one ONNX session give what each gives alone, one at a time, and nothing else."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import petiole
from petiole.backbones.base import Backbone
from petiole.backbones.vision.vit import wrap
from petiole.errors import AdapterError, ConfigError
from petiole.serving import onnx_adapter, onnx_pool
from petiole.serving.onnx_pool import OnnxPool
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.testing import backbones
from petiole.testing.random_weights import images, seeded, shaken


def made(
    backbone: Backbone, method: str, classes: int, **settings: object
) -> ClassificationAdapter:
    with seeded(classes):
        model = petiole.adapt(backbone, method, classes=classes, **settings)
        shaken(model)
    return model.eval()._adapter()


@pytest.fixture(scope="module")
def vit() -> Backbone:
    return wrap("test/vit", backbones.timm_vit(depth=1), backbones.preprocessing())


@pytest.fixture(scope="module")
def adapters(vit: Backbone) -> dict[str, ClassificationAdapter]:
    """Two ranks, two numbers of classes, a part of the slots, and a head that is no linear map."""
    return {
        "small": made(vit, "lora-qkv", 3, rank=2, scale=0.5),
        "large": made(vit, "lora-qkv", 5, rank=7, targets="q,v"),
        "probe": made(vit, "linear-probe", 4),
        "residual": made(vit, "cls-residual-lora", 6),
    }


@pytest.fixture(scope="module")
def pool(
    vit: Backbone,
    adapters: dict[str, ClassificationAdapter],
    tmp_path_factory: pytest.TempPathFactory,
) -> OnnxPool:
    pool = OnnxPool.create(vit, tmp_path_factory.mktemp("pool") / "here", threads=1)
    for name, adapter in adapters.items():
        pool.add(name, adapter)
    return pool


def test_each_adapter_is_itself_and_none_is_the_bare_backbone(
    pool: OnnxPool, vit: Backbone, adapters: dict[str, ClassificationAdapter]
) -> None:
    pixels = images(vit, 3)
    for name in (*adapters, None, *reversed(adapters)):
        got = pool(pixels, name)
        if name is None:
            torch.testing.assert_close(got.vector, vit(pixels), atol=1e-5, rtol=1e-5)
            assert got.logits.shape == (3, 0)
            continue
        with torch.no_grad():
            want = adapters[name].adapted({"images": pixels})
        torch.testing.assert_close(got.logits, want.logits, atol=2e-5, rtol=1e-5)
    assert not torch.allclose(pool(pixels, "small").vector, pool(pixels, "large").vector, atol=1e-3)


def test_a_mixed_batch_gives_every_image_its_own(pool: OnnxPool, vit: Backbone) -> None:
    names = ["large", "probe", None, "large", "small"]
    pixels = images(vit, len(names))
    rows = pool.mixed(pixels, names)
    assert [row.adapter for row in rows] == names
    for pixel, name, row in zip(pixels, names, rows, strict=True):
        torch.testing.assert_close(
            row.logits, pool(pixel[None], name).logits[0], atol=1e-5, rtol=1e-5
        )
    assert len(rows[0].probabilities) == 5
    with pytest.raises(ConfigError, match="as many names"):
        pool.mixed(pixels, names[:2])


def test_files_are_opened_again_and_bad_ones_refused(pool: OnnxPool, vit: Backbone) -> None:
    again = OnnxPool(pool.folder, threads=1)
    entries = pool.folder / "adapters"
    again.add("other", entries / "small.json")
    pixels = images(vit, 2)
    torch.testing.assert_close(again(pixels, "other").logits, pool(pixels, "small").logits)
    with pytest.raises(AdapterError, match="already"):
        again.add("other", entries / "small.json")
    again.remove("other")
    with pytest.raises(AdapterError, match="one adapter, named by a string"):
        again(pixels, ("small", "large"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="exists already"):
        OnnxPool.create(vit, pool.folder)
    file = entries / "probe.onnx_adapter"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(AdapterError, match="checksum differs"):
        again.add("probe", entries / "probe.json")


def test_what_fits_no_slot_says_why(pool: OnnxPool, vit: Backbone, tmp_path: Path) -> None:
    for method, reason in (
        ("adaptertune", r"Bottleneck at block.0.out fits no slot"),
        ("dora", r"DoRA at block.0.attn.q fits no slot"),
        ("bitfit", "changes the backbone's own weights"),
    ):
        with pytest.raises(AdapterError, match=rf"{reason}.*petiole export"):
            pool.add("new", made(vit, method, 3))
    other = wrap("test/other", backbones.timm_vit(depth=1, embed_dim=48), backbones.preprocessing())
    with pytest.raises(AdapterError, match="pool of its own"):
        pool.add("new", made(other, "linear-probe", 3))
    with pytest.raises(AdapterError, match=r"OnnxPool\.create"):
        OnnxPool(tmp_path)
    assert "new" not in pool.names


def test_nothing_is_written_where_onnx_runtime_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    def fails() -> None:
        raise ConfigError("no ONNX Runtime")

    monkeypatch.setattr(onnx_pool, "onnxruntime", fails)
    with pytest.raises(ConfigError, match="no ONNX Runtime"):
        OnnxPool.create("backbone", tmp_path / "pool")  # type: ignore[arg-type]
    assert not (tmp_path / "pool").exists()


def test_an_adapter_of_a_pool_is_called_by_its_name() -> None:
    empty = object.__new__(OnnxPool)
    empty._members = {"birds": "member"}  # type: ignore[dict-item]
    assert empty._member("birds") == "member"  # type: ignore[comparison-overlap]
    with pytest.raises(AdapterError, match="Did you mean birds"):
        empty._member("bird")
    with pytest.raises(AdapterError, match=r"named by a string, not \['birds'\]"):
        empty._member(["birds"])  # type: ignore[arg-type]


def test_what_was_written_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = onnx_adapter.onnxruntime()
    given = {"b": np.arange(6, dtype=np.float32).reshape(2, 3).T, "a": np.ones((1, 2), np.float32)}
    onnx_adapter._write_parameters(file := tmp_path / "x.onnx_adapter", given)
    read = runtime.AdapterFormat.read_adapter(str(file))
    assert (read.get_adapter_version(), read.get_model_version()) == (1, 1)
    assert {name: one.numpy().tolist() for name, one in read.get_parameters().items()} == {
        name: one.tolist() for name, one in given.items()
    }

    class Torn:
        """Forgets what it is given."""

        @staticmethod
        def read_adapter(_: str) -> Any:
            return SimpleNamespace(get_parameters=lambda: {n: SimpleNamespace(numpy=lambda: np.zeros((1, 2))) for n in given})  # fmt: skip

        def __getattr__(self, name: str) -> Any:
            return (lambda file: Path(file).write_text("")) if name == "export_adapter" else lambda _: None  # fmt: skip

    monkeypatch.setattr(onnx_adapter, "onnxruntime", lambda: SimpleNamespace(AdapterFormat=Torn, OrtValue=runtime.OrtValue))  # fmt: skip
    with pytest.raises(AdapterError, match=r"y\.onnx_adapter: b did not survive writing\."):
        onnx_adapter._write_parameters(tmp_path / "y.onnx_adapter", given)
    assert [one.name for one in tmp_path.iterdir()] == ["x.onnx_adapter"]


def test_a_head_of_its_own_is_traced_for_batches_of_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    done: list[Any] = []

    def export(top: Any, given: Any, **how: Any) -> str:
        done.append((top(torch.ones(1, 3)).tolist(), [tuple(one.shape) for one in given], how["strict"]))  # fmt: skip
        assert not any(part.training for part in top.modules())
        assert not torch.is_grad_enabled()
        ((sizes,),) = (how["dynamic_shapes"],)
        assert (list(sizes), sizes[0].__name__) == ([0], "batch")
        return "program"

    monkeypatch.setattr(onnx_adapter.torch.export, "export", export)
    monkeypatch.setattr(onnx_adapter, "save", lambda *given, **how: done.append((*given, how)))
    plan = SimpleNamespace(reads=("v",), pool=torch.nn.Identity(), refine=torch.nn.Dropout(0.9), head=torch.nn.Flatten())  # fmt: skip
    adapter: Any = SimpleNamespace(adapted=SimpleNamespace(plan=plan, backbone=SimpleNamespace(vector="v", width=3)))  # fmt: skip
    for _ in range(2):
        onnx_adapter._write_head(adapter, file := tmp_path / "a/b/x.head.onnx")
        assert file.parent.is_dir()
        assert done == [([[1, 1, 1]], [(2, 3)], False), ("program", file, {"inputs": ("vector",)})]
        done.clear()
