"""``petiole inspect``: what a name or a folder is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from petiole.commands.options import CommandResult
from petiole.commands.verb import verb
from petiole.errors import ConfigError
from petiole.ranges import PositiveInt

if TYPE_CHECKING:
    from petiole.backbones.frozen_network import FrozenNetwork
    from petiole.engine.model_card import ModelCard
    from petiole.engine.record import Record


class Inspection(CommandResult):
    """Facts about one thing, by name."""

    what: str
    facts: dict[str, Any]

    def text(self) -> RenderableType:
        title = Text(self.what)
        table = Table(title=title, title_justify="left", show_header=False, box=None)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, value in self.facts.items():
            joined = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            table.add_row(Text(name), Text(joined))
        return table


@verb
def inspect(
    what: str, /, *, image_size: PositiveInt | None = None, images: Path | None = None
) -> Inspection:
    """Show a backbone's or language model's roles, a method's settings, an adapter or a run.

    An adapter of TextRefiner shows how its cache is read; with --images also how many answers change if all classes read the
    same, and, if it was trained with keep_alignment=true, which patches its entries stand for.

    Args:
        what: the name of a backbone, of a language model or of a method, ``methods``, ``tables``, or a folder.
        image_size: of a backbone.
        images: that an adapter's cache is looked into with.

    Raises:
        PetioleError: nothing of that name, or an option that nothing of it depends on.
    """
    from petiole.methods.registry import abouts, find, is_known

    if what in ("methods", "tables") or is_known(what):
        _refuse(what, image_size=image_size, images=images)
    if what == "methods":
        return Inspection(what="methods", facts=dict(abouts()))
    if what == "tables":
        from petiole.claims import titles

        return Inspection(what="tables", facts=titles())
    if is_known(what):
        from petiole.methods.registry import create, settings_of

        return Inspection(what=f"{what}: {find(what).about}", facts=settings_of(create(what)))
    from petiole.backbones.registry import CONFIGS

    folder = Path(what)
    if folder.is_dir() and not any((folder / name).is_file() for name in CONFIGS):
        _refuse(what, image_size=image_size)
        return _folder(folder, images)
    _refuse(what, images=images)
    return _backbone(what, image_size)


def _refuse(what: str | Path, **options: Any) -> None:
    """Raise ConfigError for options that were given and that nothing which is shown depends on."""
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if given:
        raise ConfigError(f"Nothing of {what} depends on {' or '.join(given)}. Leave it out.")


def _folder(folder: Path, images: Path | None) -> Inspection:
    from petiole.engine.adapter import find, kind_of, read_manifest
    from petiole.engine.record import RECORD, read_record

    if (kind := kind_of(folder)) in ("text", "codebook"):
        _refuse(folder, images=images)
        return _speaker(folder) if kind == "text" else _encoder(folder)
    if (folder / RECORD).is_file():
        record = read_record(folder)
        facts: dict[str, Any] = {
            "method": record.request.method,
            "backbone": record.request.backbone.name,
            **_weights(record.request.backbone),
            "images": record.request.data.samples,
            "shots": record.request.data.shots,
            "split seed": record.request.data.split_seed,
            "seed": record.request.seed,
            "selection": record.selection,
            "test set opened": f"{record.test_evaluations}x",
            **{
                name: f"{value:.0f}" if name == "n" else f"{value:.4f}"
                for name, value in record.main.items()
            },
            "created": record.created,
            **_files(folder, record),
            **_cache(folder, record.request.settings, images),
        }
        return Inspection(what=f"run {folder}", facts=facts)
    manifest = read_manifest(find(folder))
    facts = {
        "method": manifest.method,
        "classes": manifest.classes,
        "backbone": manifest.backbone.name,
        **_weights(manifest.backbone),
        "fingerprint": manifest.backbone.fingerprint,
        "preprocessing": manifest.backbone.preprocessing,
        "parameters kept": f"{manifest.ledger.inference:,}",
        "settings": manifest.settings,
        **_cache(folder, manifest.settings, images),
    }
    return Inspection(what=f"adapter {folder}", facts=facts)


def _weights(card: ModelCard) -> dict[str, Any]:
    """How a backbone's weights are stored, where not as floats."""
    return {"quantize": card.quantize} if card.quantize else {}


def _encoder(folder: Path) -> Inspection:
    """A tuned encoder: what it was trained with, and which language models it fits."""
    from petiole.engine.adapter import find, read_manifest
    from petiole.engine.record import RECORD, read_record
    from petiole.tasks.codebook.adapter import CodebookDetails

    manifest = read_manifest(find(folder), kind="codebook")
    details, scores = CodebookDetails.model_validate(manifest.details), {}
    if (folder / RECORD).is_file():
        record = read_record(folder)
        scores = {
            f"exact match, {name}": f"{known['exact_match']:.2f}"
            for name, known in record.scores.items()
            if "exact_match" in known
        } | _files(folder, record)
    spec = details.codebook
    only = f"{manifest.backbone.name} only" if details.language else "every one over this codebook"
    facts = {
        "method": manifest.method,
        "trained before": manifest.backbone.name,
        "language models": only,
        "codebook": f"{spec.depth} x {spec.entries} entries of width {spec.width}, {spec.sha256[:12]}",
        "image tokens": f"{spec.grid[0]} x {spec.grid[1]}, after block {spec.tap}",
        "trained parameters": manifest.ledger.trainable,
        **scores,
        "settings": manifest.settings,
    }
    return Inspection(what=f"encoder {folder}", facts=facts)


def _speaker(folder: Path) -> Inspection:
    """Of a language model: a run with its scores, or an adapter."""
    from petiole.engine.adapter import find, read_manifest
    from petiole.engine.record import RECORD, read_record
    from petiole.tasks.text.adapter import TextDetails

    manifest = read_manifest(find(folder), kind="text")
    details, card = TextDetails.model_validate(manifest.details), manifest.backbone
    vision = card.vision_backbone
    facts: dict[str, Any] = {
        "method": manifest.method,
        "folded": "yes" if details.folded else "no",
        "tasks": [task.name for task in manifest.tasks],
        "language model": card.name,
        "fingerprint": card.fingerprint,
        "images seen by": vision.name
        if vision
        else ("given features" if card.vision_width else "none"),
        "answers": f"{len(details.answers):,}, chosen" if details.answers else "written",
        "parameters trained": f"{manifest.ledger.trainable:,}",
        "settings": manifest.settings,
    }
    if not (folder / RECORD).is_file():
        return Inspection(what=f"adapter {folder}", facts=facts)
    record = read_record(folder)
    scores = {
        f"{task} {name}": f"{value:.2f} %"
        for task, metrics in record.scores.items()
        for name, value in metrics.items()
    }
    facts |= {"seed": record.request.seed, "scored": record.request.data.scored, **scores}
    facts |= {"created": record.created, **_files(folder, record)}
    return Inspection(what=f"run {folder}", facts=facts)


def _files(folder: Path, record: Record) -> dict[str, Any]:
    """Whether a run's files are those that it wrote."""
    from petiole.engine.record import changed_files

    changed = changed_files(folder, record)
    said = f"changed or missing: {', '.join(changed)}" if changed else "as they were written"
    return {"files": said}


def _cache(folder: Path, settings: Any, images: Path | None) -> dict[str, Any]:
    """What is known of a TextRefiner's cache; nothing for other methods."""
    if settings.get("cache", "none") == "none" or "entries" not in settings:
        _refuse(folder, images=images)
        return {}
    from petiole.tasks.classification.adapter import ClassificationAdapter
    from petiole.tasks.classification.refiner_cache import describe

    found = describe(ClassificationAdapter.load(folder), images)
    facts = {
        "entries": found.entries,
        "effective rank": f"{found.effective_rank:.1f}",
        "mean cosine of entries": f"{found.cosine:.3f}",
        "entropy of reads": "differs by image: give --images"
        if found.read_entropy is None
        else f"{found.read_entropy:.4f} of 1 (all classes read alike)",
    }
    if found.changed:
        facts["with the mean read"] = "{} of {} answers change".format(*found.changed)
        if not found.usage:
            facts["patches"] = "not compared: --set keep_alignment=true keeps what that needs"
    for j, (share, nearest) in enumerate(zip(found.usage, found.nearest, strict=True)):
        places = (
            f"{path.parent.name}/{path.name} ({row}, {column}) {c:.2f}"
            for path, row, column, c in nearest
        )
        facts[f"entry {j}"] = f"{100 * share:.1f} % of tokens; " + "; ".join(places)
    return facts


def _backbone(name: str, image_size: int | None) -> Inspection:
    from petiole.backbones.base import Backbone
    from petiole.backbones.registry import LoadRequest, load_any

    shape = load_any(LoadRequest(name, image_size=image_size, meta=True), device="meta")
    if not isinstance(shape, Backbone):
        return Inspection(what=name, facts=_language(shape))
    block = [role for role in shape.sites if role.startswith("block.0.")]
    facts = {
        "parameters": f"{shape.parameter_count:,}",
        "width": shape.width,
        "blocks": shape.depth,
        "preprocessing": shape.preprocessing,
        "roles of a block": block or "none",
        "final roles": shape.finals,
        "cuts": ("images", *shape.cuts, *shape.finals),
    }
    return Inspection(what=name, facts=facts)


def _language(shape: FrozenNetwork) -> dict[str, Any]:
    """Of an encoder-decoder, whose roles are those of its first blocks."""
    from petiole.methods.text import encoder_decoder_of

    model = encoder_decoder_of(shape)
    firsts = ("encoder.block.0.", "decoder.block.0.")
    roles = [[role for role in model.roles if role.startswith(first)] for first in firsts]
    return {
        "parameters": f"{model.parameter_count:,}",
        "width": model.width,
        "blocks": "{} in the encoder, {} in the decoder".format(*model.depths),
        "visual features": f"{model.vision_width} wide" if model.vision_width else "none",
        "images seen by": model.vision_backbone or "a backbone to be named (--vision-backbone)",
        "vocabulary": f"{model.config.vocab_size:,}",
        "roles of the input": [role for role in model.roles if ".block." not in role],
        "roles of an encoder block": roles[0],
        "roles of a decoder block": roles[1],
    }
