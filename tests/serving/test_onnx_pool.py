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
from petiole.serving import onnx_adapter, onnx_backbone, onnx_pool
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


@pytest.mark.parametrize("linear", [True, False])
def test_an_adapter_of_a_pool_is_its_factors_its_head_and_their_digests(
    linear: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def head(_: Any) -> Any:
        if linear:
            return torch.ones(2, 3), torch.zeros(2)
        raise AdapterError("it is curved")

    def parameters(file: Path, values: Any) -> None:
        file.write_text(" ".join(values))

    monkeypatch.setattr(onnx_adapter, "low_rank", lambda _: {"q.a": torch.ones(1)})
    monkeypatch.setattr(onnx_adapter, "linear_head", head)
    monkeypatch.setattr(onnx_adapter, "_write_parameters", parameters)
    monkeypatch.setattr(onnx_adapter, "_write_head", lambda _, file: file.write_text("graph"))
    adapted = SimpleNamespace(head=None, backbone=SimpleNamespace(fingerprint="f"))
    adapter: Any = SimpleNamespace(adapted=adapted, classes=["x"], calibration=None, manifest=SimpleNamespace(method="m"))  # fmt: skip
    folder = tmp_path / "a/b"
    if not linear:
        folder.mkdir(parents=True)
    for _ in range(2):
        place = onnx_adapter.write_adapter(adapter, folder, "n")
    assert place == folder / "n.json"
    entry = onnx_pool.read_kept(place, onnx_adapter.PoolEntry, "")
    assert (entry.classes, entry.method, entry.fingerprint) == (["x"], "m", "f")
    written = {"n.onnx_adapter": "q.a head.weight head.bias" if linear else "q.a"}
    written |= {} if linear else {"n.head.onnx": "graph"}
    assert {name: (folder / name).read_text() for name in entry.files} == written
    assert entry.files == {name: onnx_pool.sha256(folder / name) for name in written}


def test_a_pool_is_its_graph_and_what_is_known_of_it(
    vit: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(onnx_pool, "write_backbone", lambda _, file: file.write_text("graph"))
    monkeypatch.setattr(OnnxPool, "__init__", lambda _, place, *, threads: opened.append((place, threads)))  # fmt: skip
    for place in (tmp_path / "a/b", tmp_path):
        OnnxPool.create(vit, place, threads=3)
        assert opened.pop() == (place, 3)
        about = onnx_pool.read_kept(place / onnx_pool.ABOUT, onnx_pool.PoolBackbone, "")
        assert (about.name, about.fingerprint, about.preprocessing) == (vit.name, vit.fingerprint, vit.preprocessing)  # fmt: skip
        assert about.graph_sha256 == onnx_pool.sha256(place / onnx_pool.GRAPH)
        with pytest.raises(ConfigError, match="exists already"):
            OnnxPool.create(vit, place)


def test_a_graph_takes_its_inputs_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head is last, the slots before it; all have values that change nothing."""
    from onnx import helper, load, numpy_helper, save

    given: dict[str, torch.Tensor] = {}
    slot = onnx_backbone._Slot(given, "q")
    backbone: Any = SimpleNamespace(
        module=torch.nn.Identity(), vector="v", depth=1, width=3, site=lambda _: SimpleNamespace(width=3),
        upper=lambda state, roles: {roles[0]: slot(state["images"])},
    )  # fmt: skip
    names = ["q.a", "q.b", onnx_backbone.WEIGHT, onnx_backbone.BIAS]
    values = [torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[1.0], [0.0], [3.0]]), torch.tensor([[1.0, 1.0, 2.0]]), torch.tensor([0.5])]  # fmt: skip
    model = onnx_backbone._Slotted(backbone, given, names)
    logits, vector = model(torch.tensor([[1.0, 1.0, 9.0]]), *values)
    assert (vector.tolist(), logits.tolist()) == ([[3.0, 0.0, 9.0]], [[21.5]])
    asked: list[Any] = []

    def export(program: str, **how: Any) -> Any:
        asked.append((program, how))
        graph = helper.make_graph([], "g", [], [])
        return SimpleNamespace(save=lambda file: save(helper.make_model(graph), file))

    monkeypatch.setattr(onnx_backbone, "_traced", lambda *_: "program")
    monkeypatch.setattr(onnx_backbone.torch.onnx, "export", export)
    onnx_backbone.write_backbone(backbone, tmp_path / "g.onnx")
    slots = [f"block.0.attn.{part}.{half}" for part in "qkv" for half in "ab"]
    inputs = [*slots, onnx_backbone.WEIGHT, onnx_backbone.BIAS]
    [(program, how)] = asked
    assert program == "program"
    assert how == {"dynamo": True, "input_names": ["pixels", *inputs], "output_names": ["logits", "vector"], "verbose": False}  # fmt: skip
    stored = {one.name: numpy_helper.to_array(one) for one in load(tmp_path / "g.onnx").graph.initializer}  # fmt: skip
    assert list(stored) == inputs
    assert [one.shape for one in stored.values()] == [*[(1, 3), (3, 1)] * 3, (1, 3), (1,)]
    assert not any(one.any() for one in stored.values())
