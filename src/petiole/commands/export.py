"""``petiole export``: an adapter as files that need no Petiole."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Literal

from rich.console import Group, RenderableType

from petiole.commands.options import CommandResult, Data, fact, images_of, plural
from petiole.commands.verb import verb


class Exported(CommandResult):
    """What was written, and how it compares with the adapter.

    Attributes:
        folder: model, manifest, golden input and usage script.
        format: name.
        files: names, with their bytes.
        largest_difference: of a logit, on made-up images and on those given.
        same_label: share of these images whose most probable class is the same.
        images: how many.
        approximate: why logits differ by more than rounding; empty where they do not.
        accuracy, adapter_accuracy: of the exported model and of the adapter, on the images that were given.
        test_evaluations: how often these have been scored with this adapter.
    """

    folder: Path
    format: str
    files: dict[str, int]
    largest_difference: float
    same_label: float
    images: int
    approximate: str
    accuracy: float | None = None
    adapter_accuracy: float | None = None
    test_evaluations: int | None = None

    def text(self) -> RenderableType:
        size = sum(self.files.values()) / 2**20
        lines = [
            fact("folder", f"{self.folder} ({self.format}, {size:.1f} MB)"),
            fact(
                "parity",
                f"logits differ by {self.largest_difference:.2g} at most; {self.same_label:.1%} of "
                f"{plural(self.images, 'image')} get the same label",
            ),
        ]
        if self.approximate:
            lines.append(fact("note", f"it is not exact: {self.approximate}"))
        if self.accuracy is not None and self.adapter_accuracy is not None:
            pair = f"{self.accuracy:.1%}, and {self.adapter_accuracy:.1%} of the adapter"
            lines.append(fact("accuracy", pair))
        if "predict.py" in self.files:
            script = quote(str(self.folder / "predict.py"))
            lines.append(fact("next", f"python {script} IMAGE..."))
        return Group(*lines)


@verb
def export(
    adapter: Path,
    /,
    *,
    out: Path,
    format: str = "onnx",
    data: Data = (),
    int8: Literal["dynamic", "weights"] | None = None,
    preprocess: bool = False,
    weights: Path | None = None,
    skip_bad: bool = False,
) -> Exported:
    """Write an adapter with its backbone as files that need no Petiole, once they are seen to say the same.

    The folder holds the model, how images are prepared, class names, temperature, bounds of label sets, licence and origin, an input
    with its answer, a script that labels images, and the digest of every file. Formats: onnx, torch-export, safetensors-merged,
    timm, hf, and those of plug-ins.

    Args:
        adapter: adapter folder, or the run folder around it.
        out: folder to write; must not exist.
        format: name of the format.
        data: labelled images, as for eval, to compare accuracy on as well.
        int8: of onnx: matrices in 8 bits; dynamic multiplies in int8, weights only stores them so.
        preprocess: of onnx: the graph takes raw images and resizes, crops and normalises them.
        weights: where the weights of the backbone lie now, if they were moved.
        skip_bad: leave unreadable images of ``data`` out, and count them.

    Raises:
        AdapterError: the adapter is damaged or of another kind, has no such form, or what was written says something else.
        ConfigError: an unknown format, an option that it has no use for, a missing library, or ``out`` exists.
        DataError: images that cannot be read, or of classes that the adapter does not know.
    """
    from petiole.commands.kinds import served_as
    from petiole.data.inputs import as_dataset
    from petiole.engine.adapter import find, read_manifest
    from petiole.engine.record import count_test_evaluation
    from petiole.tasks.classification.adapter import ClassificationAdapter
    from petiole.tasks.classification.export.folder import MANIFEST, make_format
    from petiole.tasks.classification.export.folder import export as write

    options = {"int8": int8, "preprocess": preprocess}
    chosen = make_format(format, options)
    served_as(Path(adapter), read_manifest(find(adapter)).kind, ["classification"])
    opened = ClassificationAdapter.load(adapter, weights=weights)
    images, count = None, None
    if data:
        images = as_dataset(images_of(data), classes=opened.classes, skip_bad=skip_bad)
        count = count_test_evaluation(find(adapter), images.digest(), len(images), "petiole export")
    done = write(opened, Path(out), format, options, images)
    seen = [found for found in (done.parity.made_up, done.parity.given) if found]
    total = sum(found.images for found in seen)
    return Exported(
        folder=Path(out),
        format=format,
        files={name: (Path(out) / name).stat().st_size for name in (*done.files, MANIFEST)},
        largest_difference=max(found.largest_difference for found in seen),
        same_label=sum(found.same_label * found.images for found in seen) / total,
        images=total,
        approximate=chosen.approximate,
        accuracy=done.parity.accuracy,
        adapter_accuracy=done.parity.adapter_accuracy,
        test_evaluations=count,
    )
