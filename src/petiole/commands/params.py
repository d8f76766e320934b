"""``petiole params``: the ledger of a method on a backbone, from a meta device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table

from petiole.commands.options import CommandResult, Settings, pairs
from petiole.commands.verb import verb
from petiole.ranges import PositiveFraction

if TYPE_CHECKING:
    from petiole.methods.base import Method

CLASSES = 10
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

    def text(self) -> RenderableType:
        many = ", ".join(f"{n} {what.replace('_', ' ')}" for what, n in self.of.items())
        table = Table(
            title=f"{self.of_method} on {self.of_backbone}, {many}",
            title_justify="left",
            caption=DENOMINATORS if "codes" in self.counts["parts"] else None,
            caption_justify="left",
            show_header=False,
        )
        table.add_column()
        table.add_column(justify="right")
        for name, value in self.counts.items():
            for words, shown in _lines(name.replace("_", " "), value, self._unit):
                table.add_row(words, shown)
        if self.counts["flops_question"] is None:
            return table
        pruned = self.counts["flops_pruned"]
        return Group(table, _question(self.counts["flops_question"], pruned))

    @property
    def _unit(self) -> str:
        return "one image" if "images" in self.counts["unit"] else "one sample"


def _lines(words: str, value: Any, unit: str) -> Iterator[tuple[str, str]]:
    """Rows of one field: several of a dictionary, none of what the network does not have."""
    if isinstance(value, dict):
        if words in ("parts", "trained parts", "unit"):
            for part, number in value.items():
                yield f"{words.removesuffix('s')}: {part.replace('_', ' ')}", f"{number:,}"
    elif words.startswith("flops"):
        if value is not None:
            whose = "all class names" if "classes" in words else unit
            yield f"{words} (G, {whose})", f"{value / 1e9:,.4f}"
    elif isinstance(value, float):
        yield words.replace("percent of", "% of"), f"{value:.3f}"
    elif isinstance(value, int):
        yield words, f"{value:,}"
    elif value:
        yield words, ", ".join(value)


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
    classes: int | None = None,
    settings: Settings = None,
    image_size: int | None = None,
    quantize: Literal["int8"] | None = None,
    keep: PositiveFraction | None = None,
    text_tokens: int | None = None,
    visual_tokens: int | None = None,
    answer_tokens: int | None = None,
) -> Params:
    """Count parameters and FLOPs by role, without loading any weights.

    Args:
        backbone: name or folder, as for fit or multitask.
        method: registered name; see petiole inspect methods.
        classes: number of classes of an image backbone's task, by default 10; of a language model, set tasks=4 by --set.
        settings: fields of the method that differ from its defaults.
        image_size: for FLOPs, where it differs from the weights' own.
        quantize: store the frozen linear layers in fewer bits, as for fit.
        keep: share of image tokens that a vision-language model over a codebook reads, beside all (0.8).
        text_tokens: that a language model reads: an encoder-decoder's text (20), or everything around the image of a
            question to a model over a codebook (32).
        visual_tokens: of images, that an encoder-decoder reads beside its text (36).
        answer_tokens: of a language model's answer, with its end (10, or 8 over a codebook).

    Raises:
        BackboneError: unknown backbone.
        ConfigError: unknown method or setting, a number out of range, or an option that the backbone has no use for.
    """
    from petiole.backbones.base import Backbone
    from petiole.backbones.codebook_lvlm import LVLM
    from petiole.backbones.registry import LoadRequest, load_any
    from petiole.errors import ConfigError
    from petiole.ledger import Question, ledger
    from petiole.methods.registry import create

    if classes is not None and classes < 1:
        raise ConfigError(f"classes must be at least 1, not {classes}.")
    given = pairs(settings)
    question = Question(
        keep=keep,
        text_tokens=text_tokens,
        visual_tokens=visual_tokens,
        answer_tokens=answer_tokens,
    )
    shape = load_any(
        LoadRequest(backbone, image_size=image_size, quantize=quantize, meta=True), device="meta"
    )
    own: Method
    of: dict[str, int] = {}
    if isinstance(shape, Backbone):
        of = {"classes": classes or CLASSES}
        own = create(method, given)
    elif classes is not None:
        raise ConfigError(
            f"{backbone} is a language model, which has no head over classes. Leave --classes out."
        )
    elif isinstance(shape, LVLM):
        from petiole.tasks.codebook import adapter

        own = adapter.method_of(method, given)
    else:
        from petiole.tasks.text.adapter import method_of

        own = several = method_of(method, given)
        of = {"tasks": several.tasks}
    counts = ledger(shape, own, of.get("classes", 1), question).model_dump(mode="json")
    of |= {name: n for name, n in counts["unit"].items() if name.endswith("_tokens") and n}
    return Params(of_backbone=backbone, of_method=method, of=of, counts=counts)
