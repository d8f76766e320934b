"""Adapters of any kind in the inference process, read when they are first asked for; frozen models are shared."""

from __future__ import annotations

import hashlib
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Lock, RLock
from typing import Any

import torch
from torch import Tensor

from petiole.backbones.base import Backbone
from petiole.backbones.registry import load_backbone
from petiole.data.image import decode
from petiole.data.preprocessing import evaluate_transform
from petiole.device import device as resolved
from petiole.engine.adapter import MANIFEST, Adapter, Manifest, descends, find, read_manifest
from petiole.engine.model_card import ModelCard
from petiole.errors import AdapterError, ConfigError, PetioleError
from petiole.files import write_sealed
from petiole.serving.exports import Engine
from petiole.serving.look import look
from petiole.serving.mixed import compatible
from petiole.serving.onnx_graph import open_graph
from petiole.serving.pool import AdapterPool
from petiole.tasks.classification.adapter import ClassificationAdapter, predictions_of
from petiole.tasks.classification.doubt import Doubt
from petiole.tasks.classification.export.session import OnnxSession
from petiole.tasks.classification.model import Predictions

GRAPH_BYTES = 2 * 2**30
"""Of the graphs that ``auto`` opens: each holds a backbone of its own, which adapters in torch share."""
Row = Mapping[str, Any]


class AdapterLibrary:
    """Answers rows, each of which names the folder of its adapter.

    A row is ``{do, folder, ...}``: ``label`` with ``top``, ``coverage`` and ``abstain``; ``look`` with ``label``; ``embed`` with
    ``adapted``; ``ask`` with ``question`` and ``task``. Its image is a blob.

    Args:
        device: of all models: auto, cpu, cuda, ...
        most: adapters in memory; the least lately used is let go.
        pixels: of one image.
        engine: torch; onnx where an adapter has a graph for ONNX Runtime, or auto, which bounds the memory of graphs.
        trusted: public key of who must have signed the adapters, if any.

    Attributes:
        reads: how many adapters were read.
    """

    def __init__(
        self,
        device: str,
        most: int,
        pixels: int,
        engine: Engine = "torch",
        trusted: Path | None = None,
    ) -> None:
        self.device, self.most, self.pixels = resolved(device), most, pixels
        self.engine, self.trusted = engine, trusted
        self.reads = 0
        self._opened: OrderedDict[str, Adapter] = OrderedDict()
        self._places: dict[str, Path] = {}
        self._graphs: dict[str, OnnxSession] = {}
        self._pools: dict[str, AdapterPool] = {}
        self._cards: dict[str, ModelCard] = {}
        self._lock, self._opening = RLock(), Lock()

    def describe(self, folder: Path) -> dict[str, Any]:
        """What the manifest says, in short; the seal is checked.

        Raises:
            AdapterError: there is none, or it is damaged.
        """
        manifest = read_manifest(find(folder), trusted=self.trusted)
        asked = not descends(manifest.kind, "classification")
        return {
            "kind": manifest.kind,
            "does": ["ask"] if asked else ["predict", "embed"],
            "method": manifest.method,
            "backbone": manifest.backbone.name,
            "classes": manifest.classes,
            "tasks": [task.name for task in manifest.tasks],
            "calibrated": bool(manifest.details.get("calibration")),
            "sha256": manifest.tensors_sha256,
            "engine": "torch",
            "engine_note": self._why_torch(asked),
        }

    def _why_torch(self, asked: bool) -> str:
        """Why an adapter is not exported; empty where it may be."""
        if self.engine == "torch":
            return "as was asked for"
        if asked:
            return "adapters that write texts are not exported"
        if self.device != "cpu":
            return f"ONNX Runtime is the engine of CPUs here, and {self.device} computes"
        missing = [one for one in ("onnx", "onnxruntime", "onnxscript") if find_spec(one) is None]
        return f"{', '.join(missing)}: pip install 'petiole[onnx]'" if missing else ""

    def use(self, folder: str, place: Path) -> None:
        """Answer with the graph of an adapter from now on.

        Raises:
            AdapterError: it is damaged, or, for auto, graphs fill their memory.
        """
        graph = open_graph(place, threads=torch.get_num_threads())
        with self._lock:
            held = (self._places[known] for known in self._graphs.keys() - {folder})
            if self.engine == "auto" and sum(map(_size, (*held, place))) > GRAPH_BYTES:
                raise AdapterError(
                    f"Graphs of other adapters fill {GRAPH_BYTES // 2**30} GiB; --engine onnx has no such bound."
                )
            self._places[folder] = place
            if folder in self._opened:
                self._graphs[folder] = graph

    def load(self, backbones: Iterable[str]) -> None:
        """Load frozen models that adapters to come may be for.

        Raises:
            BackboneError: one cannot be loaded.
        """
        for name in backbones:
            backbone = load_backbone(name, device=self.device)
            card = ModelCard.of(backbone)
            self._pools[_key(card)], self._cards[_key(card)] = AdapterPool(backbone), card

    def warm(self, folders: Iterable[Path]) -> None:
        """Open one adapter of every frozen model, so that the first request does not wait for it."""
        known: set[str] = set()
        for folder in folders:
            key = _key(read_manifest(find(folder)).backbone)
            if key not in known:
                self.open(str(folder))
                known.add(key)

    def open(self, folder: str) -> Adapter:
        """The adapter of a folder, from memory if it is there.

        Raises:
            AdapterError: it is damaged or does not fit.
        """
        with self._lock:
            if adapter := self._opened.get(folder):
                self._opened.move_to_end(folder)
                return adapter
        with self._opening:
            with self._lock:
                if adapter := self._opened.get(folder):
                    return adapter
            adapter = self._load(Path(folder))
            with self._lock:
                self._keep(folder, adapter)
            if place := self._places.get(folder):
                with suppress(AdapterError):  # torch answers
                    self.use(folder, place)
            return adapter

    def admit(self, folder: Path) -> dict[str, Any]:
        """Check an adapter that came from elsewhere, open it, and return its description.

        It must be for a frozen model that is here already: nothing is fetched, and no path in it is followed. Its manifest then
        names the model as it is named here.

        Raises:
            AdapterError: damaged, of another kind, or for another model.
        """
        folder = find(folder)
        manifest = read_manifest(folder, kind="classification")
        card = self._cards.get(_key(manifest.backbone))
        if card is None:
            known = ", ".join(sorted({one.name for one in self._cards.values()})) or "none"
            raise AdapterError(
                f"The adapter is for {manifest.backbone.name} with fingerprint {manifest.backbone.fingerprint[:12]}, which is "
                f"not served here (served: {known}). Start the server with an adapter of that model."
            )
        own = manifest.model_copy(update={"backbone": card})
        write_sealed(folder / MANIFEST, own.model_dump(mode="json"))
        self.open(str(folder))
        return self.describe(folder)

    def forget(self, folder: str) -> None:
        """Let an adapter go; one that is asked for again is read again. Not while ``answer`` runs."""
        with self._lock:
            self._close(folder)
            self._places.pop(folder, None)

    def _close(self, folder: str) -> None:
        adapter = self._opened.pop(folder, None)
        self._graphs.pop(folder, None)
        if isinstance(adapter, ClassificationAdapter):
            self._pool_of(adapter).remove(folder)

    def groups(self, folders: Iterable[str]) -> dict[str, str]:
        """By folder: adapters with the same name of a group can share a forward."""
        with self._lock:
            return {
                f: f"onnx:{f}" if f in self._graphs else _group(f, self._opened[f])
                for f in folders
                if f in self._opened
            }

    def answer(self, rows: Sequence[Row], images: Sequence[bytes]) -> list[dict[str, Any]]:
        """One answer a row, or ``error`` and ``kind`` for a row that has none. One thread at a time."""
        answers: dict[int, dict[str, Any]] = {}
        given: dict[int, Tensor] = {}
        doubts: dict[int, Doubt] = {}
        for i, (row, image) in enumerate(zip(rows, images, strict=True)):
            try:
                adapter = self.open(row["folder"])
                _check_use(row["do"], adapter)
                if row["do"] == "ask":
                    answers[i] = {"answer": self._ask(adapter, row, image)}
                    continue
                if row["do"] == "look":
                    answers[i] = look(
                        adapter, self._see(adapter, image, row["image"]), row["label"]
                    )
                    continue
                if row["do"] == "label":
                    doubts[i] = _doubt(row, adapter)
                given[i] = self._see(adapter, image, row["image"])
            except PetioleError as error:
                answers[i] = {"error": str(error), "kind": type(error).__name__}
        graphs = {
            i: self._graphs[f]
            for i in given
            if i in doubts and (f := rows[i]["folder"]) in self._graphs
        }
        by_torch = {i: image for i, image in given.items() if i not in graphs}
        for i, found in (self._run(graphs, given) | self._forward(rows, by_torch)).items():
            adapter = self._opened[rows[i]["folder"]]
            answers[i] = (
                _labels(adapter, found, rows[i], doubts[i])
                if i in doubts
                else {"vector": found.vectors.tolist()}
            )
        self._trim()
        return [answers[i] for i in range(len(rows))]

    def _run(
        self, graphs: Mapping[int, OnnxSession], seen: Mapping[int, Tensor]
    ) -> dict[int, Predictions]:
        """Vectors and logits of rows by ONNX Runtime, those of one graph together."""
        by_graph: dict[OnnxSession, list[int]] = {}
        for i, graph in graphs.items():
            by_graph.setdefault(graph, []).append(i)
        found: dict[int, Predictions] = {}
        for graph, indices in by_graph.items():
            vectors, logits = graph.outputs(torch.stack([seen[i] for i in indices]).numpy())
            rows = map(Predictions, torch.from_numpy(vectors), torch.from_numpy(logits))
            found |= zip(indices, rows, strict=True)
        return found

    def _forward(self, rows: Sequence[Row], seen: Mapping[int, Tensor]) -> dict[int, Predictions]:
        """Vectors and logits of rows by torch, those of one frozen model together."""
        by_pool: dict[int, list[int]] = {}
        pools = {i: self._pool_of(self._opened[rows[i]["folder"]]) for i in seen}
        for i, pool in pools.items():
            by_pool.setdefault(id(pool), []).append(i)
        found: dict[int, Predictions] = {}
        for indices in by_pool.values():
            pool = pools[indices[0]]
            names = [rows[i]["folder"] if rows[i].get("adapted", True) else None for i in indices]
            images = torch.stack([seen[i] for i in indices]).to(pool.backbone.device)
            for i, one in zip(indices, pool.mixed(images, names), strict=True):
                found[i] = Predictions(one.vector.float().cpu(), one.logits.float().cpu())
        return found

    def _see(self, adapter: Adapter, image: bytes, name: str) -> Tensor:
        backbone: Backbone = adapter.adapted.backbone
        return evaluate_transform(backbone.preprocessing)(decode(image, name, self.pixels))

    def _ask(self, adapter: Adapter, row: Row, image: bytes) -> str:
        ask = _ASKS[next(kind for kind in _ASKS if descends(adapter.manifest.kind, kind))]
        with tempfile.TemporaryDirectory() as place:
            paths = []
            if image:
                decode(image, row["image"], self.pixels)
                paths = [Path(place, "image")]
                paths[0].write_bytes(image)
            return ask(adapter, row["question"], paths, row["task"])

    def _load(self, folder: Path) -> Adapter:
        self.reads += 1
        manifest = read_manifest(find(folder))
        if descends(manifest.kind, "classification"):
            return self._share(folder, manifest)
        return Adapter.load(folder, trusted=self.trusted, device=self.device)

    def _share(self, folder: Path, manifest: Manifest) -> ClassificationAdapter:
        key = _key(manifest.backbone)
        pool = self._pools.get(key)
        options = {"backbone": pool.backbone} if pool else {"device": self.device}
        adapter = ClassificationAdapter.load(folder, trusted=self.trusted, **options)
        if pool is None:
            with self._lock:
                self._pools[key] = AdapterPool(adapter.adapted.backbone)
                self._cards[key] = manifest.backbone
        return adapter

    def _keep(self, folder: str, adapter: Adapter) -> None:
        if isinstance(adapter, ClassificationAdapter):
            self._pool_of(adapter).add(folder, adapter)
        self._opened[folder] = adapter

    def _trim(self) -> None:
        with self._lock:
            while len(self._opened) > self.most:
                self._close(next(iter(self._opened)))

    def _pool_of(self, adapter: Adapter) -> AdapterPool:
        return self._pools[_key(adapter.manifest.backbone)]


def _key(card: ModelCard) -> str:
    """Adapters whose frozen model is the same have the same key."""
    seen = card.preprocessing.digest() if card.preprocessing else ""
    return f"{card.fingerprint}:{seen}:{card.image_size}"


def _size(place: Path) -> int:
    return sum(file.stat().st_size for file in place.glob("model.onnx*"))


def _group(folder: str, adapter: Adapter) -> str:
    if not isinstance(adapter, ClassificationAdapter):
        return folder
    shared = repr((_key(adapter.manifest.backbone), compatible(adapter.adapted)))
    return hashlib.sha256(shared.encode()).hexdigest()[:16]


def _check_use(do: str, adapter: Adapter) -> None:
    labels = isinstance(adapter, ClassificationAdapter)
    if do == "ask" and labels:
        raise ConfigError("This adapter labels images and answers no questions: use /v1/predict.")
    if do != "ask" and not labels:
        raise ConfigError("This adapter answers questions and labels no images: use /v1/ask.")


def _doubt(row: Row, adapter: Adapter) -> Doubt:
    assert isinstance(adapter, ClassificationAdapter)
    name = f"Adapter {row['name']!r}"
    return Doubt(adapter.calibration, row["coverage"], row["abstain"], adapter=name)


def _labels(adapter: Adapter, found: Predictions, row: Row, doubt: Doubt) -> dict[str, Any]:
    assert isinstance(adapter, ClassificationAdapter)
    outputs = Predictions(*(value[None] for value in found))
    said = predictions_of([Path(row["image"])], outputs, adapter.classes, adapter.calibration)[0]
    ranked = list(said.probabilities.items())[: row["top"]]
    return {
        "label": said.label,
        "probability": said.probability,
        "probabilities": dict(ranked),
        "label_set": doubt.label_set(said.label, said.probabilities),
        "outside": said.outside,
        "abstain": doubt.abstain(said.probability, said.outside),
        "notes": doubt.notes,
    }


def _ask_text(adapter: Any, question: str, images: list[Path], task: str) -> str:
    from petiole.tasks.text.training import ask

    return ask(adapter, question, images, task)


def _ask_codebook(adapter: Any, question: str, images: list[Path], task: str) -> str:
    from petiole.tasks.codebook.training import ask

    if task:
        raise ConfigError("This adapter has no tasks to choose from. Leave task out.")
    if len(images) != 1:
        raise ConfigError("A question to a tuned encoder is about one image. Give one.")
    return ask(adapter, images[0], question)


_ASKS: dict[str, Callable[[Any, str, list[Path], str], str]] = {
    "text": _ask_text,
    "codebook": _ask_codebook,
}
