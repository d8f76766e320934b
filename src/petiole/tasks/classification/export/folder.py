"""The exported folder: model, preprocessing, classes, calibration, golden input, usage script, and a manifest over all.

    model...        what the format writes
    golden.npz      an input, and the logits and the image vector that the exported model gave for it
    predict.py      labels images, without Petiole
    export.json     all that is known about them, and the digest of every file

The folder appears whole, after the exported model has been compared with the adapter.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch

from petiole.backbones.at_hand import licence_of
from petiole.data.dataset import Dataset
from petiole.data.preprocessing import Preprocessing
from petiole.engine.adapter import TOLERANCE
from petiole.engine.model_card import FrozenModel
from petiole.errors import AdapterError, ConfigError, boundary
from petiole.files import replacing, sha256, write_sealed, write_text
from petiole.tasks.classification.adapter import ClassificationAdapter, golden_image
from petiole.tasks.classification.calibration import Calibration
from petiole.tasks.classification.export.format import FORMATS, Format
from petiole.tasks.classification.export.parity import Comparison, Parity, coloured
from petiole.tasks.classification.export.usage import script
from petiole.tasks.classification.novelty import Novelty
from petiole.version import __version__

MANIFEST, GOLDEN, USAGE = "export.json", "golden.npz", "predict.py"
COVERAGES = (0.8, 0.9, 0.95, 0.99)


class Doubt(FrozenModel):
    """What an exported model knows of its errors.

    Attributes:
        temperature: T; probabilities are softmax(z / T).
        label_sets: coverage -> bound; the set of an image holds the labels with 1 - p <= bound, and the most probable one.
        novelty: class means of image vectors, and the cosine to the nearest below which an image looks out of distribution;
            ``None`` where nothing is known, or where the format's own vectors are others.
        ood_threshold: what stands in without it: an image whose largest logit z lies below it looks out of distribution.
        images: left-out images that all of it was fitted on.
    """

    temperature: float
    label_sets: dict[str, float | None]
    ood_threshold: float | None
    novelty: Novelty | None = None
    images: int

    @classmethod
    def of(cls, known: Calibration, *, vectors: bool) -> Doubt:
        """From an adapter's calibration; a bound is ``None`` where images were too few, and a set holds all labels then.

        Args:
            vectors: whether the exported model gives the adapter's image vectors.
        """
        bounds = {f"{c:g}": known.bound(c) for c in COVERAGES}
        finite = {c: bound if np.isfinite(bound) else None for c, bound in bounds.items()}
        return cls(
            temperature=known.temperature,
            label_sets=finite,
            ood_threshold=known.threshold,
            novelty=known.novelty if vectors else None,
            images=known.images,
        )


class ExportManifest(FrozenModel):
    """export.json.

    Attributes:
        form: name of the format.
        options: of the format.
        needs: packages that use it.
        reads: pixels (B, 3, H, W) in fp32, preprocessed; or raw images (B, height, width, 3) in uint8.
        classes: names in the order of the logits.
        preprocessing: what the model expects of its pixels, or does itself.
        calibration: ``None`` where the adapter has none: its probabilities rank classes, no more.
        method: of adaptation, with what was set.
        backbone, fingerprint: frozen model that was adapted.
        licence: of the backbone's weights; empty where it is not known here.
        parity: what was seen before it was written.
        files: name -> SHA-256.
    """

    format: Literal[1] = 1
    petiole: str = __version__
    form: str
    options: dict[str, Any]
    needs: tuple[str, ...]
    reads: Literal["pixels", "images"]
    classes: list[str]
    preprocessing: Preprocessing
    calibration: Doubt | None
    method: str
    settings: dict[str, Any]
    backbone: str
    fingerprint: str
    licence: str
    parity: Parity
    files: dict[str, str]


def make_format(name: str, options: Mapping[str, Any]) -> Format:
    """A format by name, ready to write.

    Raises:
        ConfigError: an unknown name, an option that it has no use for, or a library that is missing.
    """
    kind = FORMATS.find(name)
    given = {key: value for key, value in options.items() if value not in (None, False)}
    if unused := given.keys() - {field.name for field in fields(kind)}:
        takers = [
            n for n, other in FORMATS.all().items() if unused <= {f.name for f in fields(other)}
        ]
        flags = ", ".join(f"--{one.replace('_', '-')}" for one in sorted(unused))
        hint = f"It is for {', '.join(takers)}. " if takers else ""
        raise ConfigError(f"The format {name} has no use for {flags}. {hint}Leave it out.")
    chosen = kind(**given)
    chosen.check()
    return chosen


def export(
    adapter: ClassificationAdapter,
    out: Path,
    name: str,
    options: Mapping[str, Any] | None = None,
    data: Dataset | None = None,
) -> ExportManifest:
    """Write an adapter in a format, once the result has been seen to say the same.

    Args:
        adapter: opened.
        out: folder that does not exist yet.
        name: of the format.
        options: of the format.
        data: labelled images to compare on as well.

    Raises:
        AdapterError: it has no such form, or what was written says something else.
        ConfigError: ``out`` exists, or the format's name or options are wrong.
    """
    chosen = make_format(name, options or {})
    if stored := adapter.adapted.backbone.quantized:
        raise AdapterError(
            f"The backbone's weights are stored as {stored}, for which no format of export has a form. Train without --quantize and "
            "export that; --format onnx --int8 quantises what it writes."
        )
    if (backbone := adapter.adapted.backbone).preprocessing.patch:
        raise AdapterError(
            f"{backbone.name} gives each image a grid of its own shape, for which no format of export has a form. Serve it with petiole, "
            "or train on a backbone whose images have one size."
        )
    if out.exists():
        raise ConfigError(f"{out} exists already. Move it away, or choose another --out.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=".tmp-") as temporary:
        staging = Path(temporary) / out.name
        staging.mkdir()
        with boundary(
            out, "Export it in another format.", AdapterError, f"cannot be written as {name}"
        ):
            chosen.write(adapter, staging)
        parity = _compared(adapter, chosen, name, staging, data)
        if text := script(chosen):
            write_text(staging / USAGE, text)
        manifest = _manifest(adapter, chosen, name, parity, staging)
        write_sealed(staging / MANIFEST, manifest.model_dump(mode="json"))
        os.replace(staging, out)
    return manifest


def _compared(
    adapter: ClassificationAdapter, chosen: Format, name: str, folder: Path, data: Dataset | None
) -> Parity:
    """Compare, and write the golden input with its answer."""
    with boundary(
        folder.name, "Export it in another format.", AdapterError, f"cannot be opened as {name}"
    ):
        run = chosen.open(folder, adapter)
    parity = Comparison(adapter, run, chosen.raw).parity(data)
    worst = max(found.relative for found in (parity.made_up, parity.given) if found)
    if not worst <= TOLERANCE and not chosen.approximate:
        raise AdapterError(
            f"Written as {name}, the model gives logits that differ by {worst:.2g} (relative; allowed {TOLERANCE:g}), so it is "
            f"not the adapter. Nothing is left of it; export as {'torch-export' if name == 'onnx' else 'onnx'}."
        )
    golden = _golden(adapter, chosen)
    said = run(torch.from_numpy(golden))
    answer = {_reads(chosen): golden, "logits": said.logits.numpy(), "vector": said.vectors.numpy()}
    with replacing(folder / GOLDEN) as temporary, open(temporary, "wb") as file:
        np.savez(file, **answer)  # type: ignore[arg-type]
    return parity


def _golden(adapter: ClassificationAdapter, chosen: Format) -> np.ndarray[Any, Any]:
    """The adapter's own golden image, or for raw images the first made-up one."""
    if chosen.raw:
        return np.array(coloured(adapter.adapted)[0])[None]
    return golden_image(adapter.adapted.backbone)


def _reads(chosen: Format) -> Literal["pixels", "images"]:
    return "images" if chosen.raw else "pixels"


def _manifest(
    adapter: ClassificationAdapter, chosen: Format, name: str, parity: Parity, folder: Path
) -> ExportManifest:
    card, known = adapter.manifest.backbone, adapter.calibration
    near = parity.made_up.vectors
    vectors = near is not None and (near <= TOLERANCE or bool(chosen.approximate))
    written = sorted(file for file in folder.rglob("*") if file.is_file())
    return ExportManifest(
        form=name,
        options={field.name: getattr(chosen, field.name) for field in fields(chosen)},
        needs=chosen.needs,
        reads=_reads(chosen),
        classes=adapter.classes,
        preprocessing=adapter.adapted.backbone.preprocessing,
        calibration=Doubt.of(known, vectors=vectors) if known else None,
        method=adapter.manifest.method,
        settings=adapter.manifest.settings,
        backbone=card.name,
        fingerprint=card.fingerprint,
        licence=licence_of(card.name),
        parity=parity,
        files={file.relative_to(folder).as_posix(): sha256(file) for file in written},
    )
