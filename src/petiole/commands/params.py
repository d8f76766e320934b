"""``petiole params``: the ledger of a method on a backbone, from a meta device."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from petiole.commands.options import CommandResult, Settings, pairs
from petiole.commands.verb import verb

DENOMINATORS = (
    "VL-Adapter's tables are in % of total; its first version, and perhaps the rows of 1.14 and 1.18 % (V->L block "
    "alone, with norms), in % of language model."
)
QUESTION = (
    "An image is seen once, whatever the tokens kept. Prefill gives the first token of the answer, decoding the others; "
    "attention is counted as full squares."
)
FLOPS = (
    "encoder",
    "quantiser",
    "projector",
    "prefill",
    "per_token",
    "decoding",
    "language",
    "total",
)


class Params(CommandResult):
    """The ledger's fields, with what they were counted for: so many classes, tasks, or tokens of text."""

    of_backbone: str
    of_method: str
    of: dict[str, int]
    counts: dict[str, Any]

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """Flat: names first, then every number of the ledger."""
        flat = super().model_dump(**options)
        of, counts = flat.pop("of"), flat.pop("counts")
        return {**flat, **of, **counts}

    @property
    def _one(self) -> str:
        return "one sample" if "language" in self.counts else "one image"

    def text(self) -> RenderableType:
        many = ", ".join(f"{n} {what.replace('_', ' ')}" for what, n in self.of.items())
        table = Table(
            title=f"{self.of_method} on {self.of_backbone}, {many}",
            title_justify="left",
            caption=DENOMINATORS if "codes" in self.counts else None,
            caption_justify="left",
            show_header=False,
        )
        table.add_column()
        table.add_column(justify="right")
        for name, value in self.counts.items():
            words = name.replace("_", " ")
            if isinstance(value, dict):
                continue
            if name.startswith("flops"):
                whose = "all class names" if "classes" in name else self._one
                table.add_row(f"{words} (G, {whose})", f"{value / 1e9:,.4f}")
            elif isinstance(value, float):
                table.add_row(words.replace("percent of", "% of"), f"{value:.3f}")
            elif isinstance(value, int):
                table.add_row(words, f"{value:,}")
            else:
                table.add_row(words, ", ".join(value))
        if "flops_pruned" not in self.counts:
            return table
        return Group(table, _question(self.counts["flops"], self.counts["flops_pruned"]))


def _question(whole: dict[str, Any], pruned: dict[str, Any]) -> Table:
    """FLOPs of one question with all image tokens beside those that are kept."""
    table = Table(
        title="GFLOPs of one question",
        title_justify="left",
        caption=QUESTION,
        caption_justify="left",
    )
    table.add_column()
    for heading in ("all tokens", f"keep {pruned['keep']:g}", "change in % of all"):
        table.add_column(heading, justify="right")
    for name in ("image_tokens", "text_tokens", "answer_tokens"):
        table.add_row(name.replace("_", " "), str(whole[name]), str(pruned[name]), "")
    for name in FLOPS:
        before, after = whole[name], pruned[name]
        change = f"{100 * (after / before - 1):+.1f}" if before else ""
        words = name.replace("_", " ")
        table.add_row(words, f"{before / 1e9:,.6f}", f"{after / 1e9:,.6f}", change)
    share = "image_percent_of_language_flops"
    table.add_row("image tokens, % of language", f"{whole[share]:.1f}", f"{pruned[share]:.1f}", "")
    return table


@verb
def params(
    *,
    backbone: str = "petiole/efficientnet-lite0",
    method: str = "cls-residual-lora",
    classes: int = 10,
    settings: Settings = None,
    image_size: int | None = None,
    keep: float = 0.8,
    text_tokens: int = 32,
    answer_tokens: int = 8,
) -> Params:
    """Count parameters and FLOPs by role, without loading any weights.

    Args:
        backbone: name or folder, as for fit or multitask.
        method: registered name; see petiole inspect methods.
        classes: number of classes of the task; of a language model, set tasks=4 by --set.
        settings: fields of the method that differ from its defaults.
        image_size: for FLOPs, where it differs from the weights' own.
        keep: share of image tokens that a vision-language model over a codebook reads, beside all.
        text_tokens: of the question to such a model, with everything around the image.
        answer_tokens: of its answer, with the end.

    Raises:
        BackboneError: unknown backbone.
        ConfigError: unknown method or setting, a number out of range.
    """
    from petiole.backbones.base import Backbone
    from petiole.backbones.codebook_lvlm import LVLM
    from petiole.backbones.registry import LoadRequest, load_any
    from petiole.errors import ConfigError
    from petiole.ledger import language_ledger, ledger, lvlm_ledger
    from petiole.methods.language.base import language_of
    from petiole.methods.registry import create

    if classes < 1:
        raise ConfigError(f"classes must be at least 1, not {classes}.")
    given = pairs(settings)
    shape = load_any(LoadRequest(backbone, image_size=image_size, meta=True), device="meta")
    if isinstance(shape, Backbone):
        counts = ledger(shape, create(method, given), classes).model_dump(mode="json")
        of = {"classes": classes}
    elif isinstance(shape, LVLM):
        from petiole.tasks.codebook import adapter

        text = {"text_tokens": text_tokens, "answer_tokens": answer_tokens}
        own = adapter.method_of(method, given)
        counts = lvlm_ledger(shape, own, keep=keep, **text).model_dump(mode="json")
        of = text
    else:
        from petiole.tasks.text.adapter import method_of

        several = method_of(method, given)
        counts = language_ledger(language_of(shape), several).model_dump(mode="json")
        of = {"tasks": several.tasks}
    return Params(of_backbone=backbone, of_method=method, of=of, counts=counts)
