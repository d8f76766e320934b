"""``petiole inspect``: what a name or a folder is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from petiole.verbs.common import Result


class Inspection(Result):
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


def inspect(
    what: str, /, *, image_size: int | None = None, images: Path | None = None
) -> Inspection:
    """Show a backbone's roles and cuts, a method's settings, an adapter or a run.

    An adapter of TextRefiner shows how its cache is read; with --images, if it was trained with
    keep_alignment=true, also which patches its entries stand for.

    Args:
        what: a backbone's name, a method's name, ``methods``, ``tables``, or a folder.
        image_size: of a backbone.
        images: whose patches are compared with the entries of an adapter's cache.

    Raises:
        PetioleError: nothing of that name.
    """
    from petiole.methods.registry import families, find, methods

    if what == "methods":
        facts = {name: entry.about for name, entry in methods().items()}
        facts |= {f"{prefix}:...": about for prefix, about in families().items()}
        return Inspection(what="methods", facts=facts)
    if what == "tables":
        from petiole.claims import titles

        return Inspection(what="tables", facts=titles())
    if what in methods() or what.partition(":")[0] in families():
        from petiole.methods.registry import create, settings_of

        return Inspection(what=f"{what}: {find(what).about}", facts=settings_of(create(what)))
    folder = Path(what)
    if folder.is_dir() and not (folder / "config.json").is_file():
        return _folder(folder, images)
    return _backbone(what, image_size)


def _folder(folder: Path, images: Path | None) -> Inspection:
    from petiole.engine.record import RECORD, read_record

    if (folder / RECORD).is_file():
        record = read_record(folder)
        facts: dict[str, Any] = {
            "method": record.request.method,
            "backbone": record.request.backbone.name,
            "images": record.request.data.images,
            "shots": record.request.data.shots,
            "draw": record.request.data.draw,
            "seed": record.request.seed,
            "selection": record.selection,
            "test set opened": f"{record.test_openings}x",
            **{name: f"{value:.4f}" for name, value in record.scores.items()},
            "created": record.created,
            **_cache(folder, record.request.settings, images),
        }
        return Inspection(what=f"run {folder}", facts=facts)
    from petiole.engine.adapter import find, read_manifest

    manifest = read_manifest(find(folder))
    facts = {
        "method": manifest.method,
        "classes": manifest.classes,
        "backbone": manifest.backbone.name,
        "fingerprint": manifest.backbone.fingerprint,
        "preprocessing": manifest.backbone.preprocessing,
        "parameters kept": f"{manifest.ledger.inference:,}",
        "settings": manifest.settings,
        **_cache(folder, manifest.settings, images),
    }
    return Inspection(what=f"adapter {folder}", facts=facts)


def _cache(folder: Path, settings: Any, images: Path | None) -> dict[str, Any]:
    """What is known of a TextRefiner's cache; nothing for other methods."""
    if settings.get("cache", "none") == "none" or "entries" not in settings:
        return {}
    from petiole.engine.adapter import Adapter
    from petiole.engine.introspection import describe

    found = describe(Adapter.load(folder), images)
    facts = {
        "entries": found.entries,
        "effective rank": f"{found.effective_rank:.1f}",
        "mean cosine of entries": f"{found.cosine:.3f}",
        "entropy of reads": "differs by image: give --images"
        if found.read_entropy is None
        else f"{found.read_entropy:.4f} of 1 (all classes read alike)",
    }
    for j, (share, nearest) in enumerate(zip(found.usage, found.nearest, strict=True)):
        places = (
            f"{path.parent.name}/{path.name} ({row}, {column}) {c:.2f}"
            for path, row, column, c in nearest
        )
        facts[f"entry {j}"] = f"{100 * share:.1f} % of tokens; " + "; ".join(places)
    return facts


def _backbone(name: str, image_size: int | None) -> Inspection:
    from petiole.backbones.registry import load

    shape = load(name, image_size=image_size, device="meta")
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
