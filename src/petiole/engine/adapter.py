"""The adapter file: a small folder with everything trained, that proves its fit when it is opened.

    adapter.json          kind, method and settings, backbone and its fingerprint, class or task names, ledger,
                          the golden values
    adapter.safetensors   every tensor that prediction needs

Opening compares the backbone's fingerprint and replays a golden input: an adapter on the wrong weights is
refused, not used. Nothing is unpickled. What the three kinds of adapter add lies with their tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from petiole.backbones.frozen_network import FrozenNetwork
from petiole.engine.adapter_limits import (
    CLASSES,
    MANIFEST_BYTES,
    bounded_build,
    check_fits,
    read_header,
    regular,
)
from petiole.engine.model_card import FrozenModel, ModelCard
from petiole.engine.task import adapter_class, kinds
from petiole.errors import AdapterError, ConfigError, boundary
from petiole.files import read_sealed, read_tensors, sha256, write_sealed, write_tensors
from petiole.ledger import Ledger
from petiole.printable import composed
from petiole.signatures import check_signature
from petiole.version import __version__

MANIFEST, TENSORS = "adapter.json", "adapter.safetensors"
TOLERANCE = 1e-3
"""Largest difference of a golden value, relative to 1 + |value|: far above rounding, far below use."""


class TaskName(FrozenModel):
    """One task of an adapter: its name there, and which task it is."""

    name: str
    kind: str


class Manifest(FrozenModel):
    """The JSON part of an adapter file.

    Attributes:
        kind: of the task: classification, text, codebook.
        petiole: version that wrote it.
        method, settings: what ``petiole.methods.create`` takes.
        backbone: frozen model.
        classes: names in the order of the logits; none where answers are texts.
        tasks: in the order of their numbers, where the model reads texts.
        ledger: what it adds.
        details: of the kind.
        golden: what a fixed input gives.
        tensors_sha256: of the tensors' file.
    """

    format: Literal[2] = 2
    kind: str
    petiole: str = __version__
    method: str
    settings: dict[str, Any]
    backbone: ModelCard
    classes: list[str] = Field(default_factory=list)
    tasks: list[TaskName] = Field(default_factory=list)
    ledger: Ledger
    details: dict[str, Any] = Field(default_factory=dict)
    golden: list[float]
    tensors_sha256: str = ""

    @field_validator("classes")
    @classmethod
    def _each_once(cls, classes: list[str]) -> list[str]:
        names = list(map(composed, classes))
        if twice := sorted(name for name, n in Counter(names).items() if n > 1):
            raise ValueError(
                f"class names that occur twice, so that predictions would be ambiguous: {', '.join(twice[:5])}"
            )
        return names


class Adapter(ABC):
    """A trained adapter on its backbone.

    ``Adapter.load`` opens any kind; a kind's own class opens that kind alone.

    Attributes:
        kind: of the task.
        manifest: what the file says.
        adapted: the model that it makes of the backbone.
    """

    kind: ClassVar[str] = ""

    def __init__(self, manifest: Manifest, adapted: Any) -> None:
        self.manifest, self.adapted = manifest, adapted

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the logits."""
        return self.manifest.classes

    @classmethod
    def load(cls, path: str | Path, *, trusted: Path | None = None, **options: Any) -> Self:
        """Open an adapter folder, or the one inside a run folder.

        Args:
            path: folder with adapter.json, a run folder, or ``hf:OWNER/NAME@REVISION`` on the Hugging Face Hub.
            trusted: public key of who must have signed it (see ``petiole.signatures``).
            options: of the kind: ``backbone`` (already loaded, to share it), ``weights`` (where they lie now),
                ``device``, ``vision_backbone``, ``language_model``; ``None`` and "" say nothing.

        Raises:
            AdapterError: missing, damaged, incomplete, of another kind, or made for other weights.
            SignatureError: not signed, or not by ``trusted``.
        """
        folder = find(path)
        manifest = read_manifest(folder, kind=cls.kind, trusted=trusted)
        own = adapter_class(manifest.kind)
        known = {name: value for name, value in options.items() if value not in (None, "")}
        if unused := known.keys() - own.options:
            raise ConfigError(
                f"{folder} holds {a_kind(manifest.kind)}, which has no use for {', '.join(sorted(unused))}. Leave it out."
            )
        adapter = own.open(folder, manifest, **known)
        adapter.replay(folder)
        return cast(Self, adapter)

    options: ClassVar[frozenset[str]] = frozenset()
    """What ``open`` takes."""

    @classmethod
    @abstractmethod
    def open(cls, folder: Path, manifest: Manifest, *args: Any, **options: Any) -> Adapter:
        """Build the model and fill it, without a look at the golden values."""

    @property
    @abstractmethod
    def frozen(self) -> dict[str, Any]:
        """The loaded models underneath, as ``load`` takes them."""

    @abstractmethod
    def golden_values(self) -> Tensor:
        """What a fixed input gives, (n,) fp32 on the CPU."""

    def contents(self) -> nn.Module:
        """What is stored."""
        module: nn.Module = self.adapted
        return module

    def save(self, folder: Path) -> None:
        """Write the file; the manifest comes last, so a folder with one is complete."""
        write_tensors(folder / TENSORS, self.contents().state_dict())
        digest = sha256(folder / TENSORS)
        self.manifest = self.manifest.model_copy(update={"tensors_sha256": digest})
        write_sealed(folder / MANIFEST, self.manifest.model_dump(mode="json"))

    def fill(self, folder: Path) -> None:
        """Load the tensors of a file into the model.

        Raises:
            AdapterError: missing, not those of the manifest, or not fitting.
        """
        file = folder / TENSORS
        if not file.is_file() or sha256(file) != self.manifest.tensors_sha256:
            raise AdapterError(
                f"{file} is missing or not the one that {MANIFEST} describes (checksum differs). "
                "Copy the adapter folder again, whole."
            )
        wanted = self.contents()
        check_fits(file, read_header(file), wanted.state_dict())
        remedy, what = "Copy the adapter folder again, whole.", f"does not fit its own {MANIFEST}"
        with boundary(file, remedy, AdapterError, what=what):
            wanted.load_state_dict(read_tensors(file)[0])

    def replay(self, folder: Path) -> None:
        """Raise AdapterError unless the golden input gives the golden values."""
        worst = difference(self.golden_values(), torch.tensor(self.manifest.golden))
        if not worst <= TOLERANCE:
            raise AdapterError(
                f"{folder}: the golden input gives values that differ by {worst:.2g} (relative; "
                f"allowed {TOLERANCE:g}), so predictions would not be those of the training. The "
                "backbone, its library or the arithmetic differs: train again on this one."
            )


def difference(got: Tensor, want: Tensor) -> float:
    """Largest difference relative to 1 + |want|; infinite where shapes differ."""
    if got.shape != want.shape:
        return float("inf")
    return float(((got - want).abs() / (1 + want.abs())).max())


def check_fingerprint(folder: Path, card: ModelCard, model: FrozenNetwork) -> None:
    """Raise AdapterError unless a model has the weights of the training."""
    if model.quantized != card.quantize:
        have, want = model.quantized or "floats", card.quantize or "floats"
        raise AdapterError(
            f"{folder} was trained on {card.name} with weights stored as {want}, but this one stores them as {have}. Load the "
            f"backbone with quantize={card.quantize!r}, or train a new adapter."
        )
    if model.fingerprint != card.fingerprint:
        raise AdapterError(
            f"{folder} was trained on {card.name} with fingerprint {card.fingerprint[:12]}, but "
            f"{model.name} has {model.fingerprint[:12]}. Load the original weights (--weights) "
            "or train a new adapter."
        )


@contextmanager
def building(folder: Path, manifest: Manifest) -> Iterator[None]:
    """Within it, what a file asks for is built: no larger than its tensors, and with torch's generator left as it was.

    Raises:
        AdapterError: this version cannot build it, or it would be larger.
    """
    try:
        with bounded_build(folder, read_header(folder / TENSORS)):
            yield
    except ConfigError as error:
        raise AdapterError(
            f"{folder / MANIFEST} asks for what this petiole ({__version__}; the file is from "
            f"{manifest.petiole}) cannot build: {error}"
        ) from error


def find(path: str | Path) -> Path:
    """Return the folder that holds adapter.json: ``path`` itself or ``path/adapter``, or what ``hf:OWNER/NAME`` names on the hub."""
    if str(path).startswith("hf:"):
        from petiole.engine.hub import download

        return find(download(str(path)))
    path = Path(path)
    for folder in (path, path / "adapter"):
        if (folder / MANIFEST).is_file():
            return folder
    raise AdapterError(
        f"No adapter at {path}: neither {path / MANIFEST} nor {path / 'adapter' / MANIFEST} exists. "
        "Give the folder that petiole fit wrote."
    )


def read_manifest(folder: Path, *, kind: str = "", trusted: Path | None = None) -> Manifest:
    """Read and check adapter.json.

    Raises:
        AdapterError: damaged, of another kind than ``kind``, or written by another petiole.
        SignatureError: not signed by the owner of the public key ``trusted``, where one is given.
    """
    file = folder / MANIFEST
    regular(file, MANIFEST_BYTES)
    with boundary(
        file,
        "Copy the adapter folder again, or update petiole.",
        AdapterError,
        what="is damaged or of another version",
    ):
        value = read_sealed(file)
        if trusted:
            check_signature(file, value, trusted)
        found = value.get("kind")
        if kind and found in kinds() and not descends(str(found), kind):
            raise AdapterError(
                f"{folder} holds {a_kind(str(found))}, and {a_kind(kind)} is wanted here."
            )
        if len(value.get("classes", ())) > CLASSES:
            raise AdapterError(
                f"{file} names {len(value['classes']):,} classes; at most {CLASSES:,} are read. Train on fewer."
            )
        return Manifest.model_validate(value)


def kind_of(path: str | Path) -> str:
    """Which kind of adapter lies in this folder, or in the run folder that it is; empty where none can be read."""
    with suppress(AdapterError):
        return read_manifest(find(path)).kind
    return ""


def descends(kind: str, other: str) -> bool:
    """Whether adapters of a kind are those of another, perhaps as a subclass, and so do all that those do."""
    return kind == other or issubclass(adapter_class(kind), adapter_class(other))


def a_kind(kind: str) -> str:
    """How a kind of adapter is called in a sentence."""
    return f"an adapter of the kind {kind}"
