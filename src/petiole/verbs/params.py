"""``petiole params``: the ledger of a method on a backbone, from a meta device."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.table import Table

from petiole.verbs.common import Result, Settings, pairs


class Params(Result):
    """The ledger's fields, with what they were counted for."""

    of_backbone: str
    of_method: str
    classes: int
    counts: dict[str, Any]

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """Flat: names first, then every number of the ledger."""
        flat = super().model_dump(**options)
        counts = flat.pop("counts")
        return {**flat, **counts}

    def text(self) -> RenderableType:
        table = Table(
            title=f"{self.of_method} on {self.of_backbone}, {self.classes} classes",
            title_justify="left",
            show_header=False,
        )
        table.add_column()
        table.add_column(justify="right")
        for name, value in self.counts.items():
            words = name.replace("_", " ")
            if name.startswith("flops"):
                whose = "all class names" if "classes" in name else "one image"
                table.add_row(f"{words} (G, {whose})", f"{value / 1e9:,.4f}")
            elif isinstance(value, float):
                table.add_row(words.replace("percent of", "% of"), f"{value:.3f}")
            elif isinstance(value, int):
                table.add_row(words, f"{value:,}")
            else:
                table.add_row(words, ", ".join(value))
        return table


def params(
    *,
    backbone: str = "petiole/efficientnet-lite0",
    method: str = "cls-residual-lora",
    classes: int = 10,
    settings: Settings = None,
    image_size: int | None = None,
) -> Params:
    """Count parameters and FLOPs by role, without loading any weights.

    Args:
        backbone: name or folder, as for fit.
        method: registered name; see petiole inspect methods.
        classes: number of classes of the task.
        settings: fields of the method that differ from its defaults.
        image_size: for FLOPs, where it differs from the weights' own.

    Raises:
        BackboneError: unknown backbone.
        ConfigError: unknown method or setting.
    """
    from petiole.backbones.registry import load
    from petiole.errors import ConfigError
    from petiole.ledger import ledger
    from petiole.methods.registry import create

    if classes < 1:
        raise ConfigError(f"classes must be at least 1, not {classes}.")
    chosen = create(method, pairs(settings))
    shape = load(backbone, image_size=image_size, device="meta")
    counts = ledger(shape, chosen, classes).model_dump(mode="json")
    return Params(of_backbone=backbone, of_method=method, classes=classes, counts=counts)
